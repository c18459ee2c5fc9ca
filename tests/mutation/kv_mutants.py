"""Mistakes in how KVs are encoded, read and timed that would still print plausible figures.

Plain data, as in :mod:`tests.mutation.engine_mutants`.
"""

from __future__ import annotations

from tests.mutation.engine_mutants import Row, _in_file

CODECS = "tests/models/test_codecs.py"
OVERLAP = "tests/models/test_read_ahead.py"
CHUNKED = "tests/models/test_chunked.py"
TIMING = "tests/models/test_timing.py"

MUTANTS: list[Row] = [
    *_in_file(
        "models/codecs/affine.py",
        (CODECS,),
        ("codes are cut off", "steps.round_().clamp_", "steps.floor_().clamp_"),
        ("a group has a level too many", "/ levels, levels)", "/ (levels + 1), levels)"),
        ("scales overflow", "return half if bool(enough.all()) else scale", "return half"),
        ("the last group is left out", "    if rest:\n", "    if rest > 1:\n"),
        ("the second number of a byte is lost", "low | (high << 4)", "low"),
    ),
    *_in_file(
        "models/codecs/base.py",
        (CODECS,),
        ("NaN is written", "        require_finite(rows, what)\n", ""),
        ("float16 overflows", "rows = rows.clamp(-largest, largest)", "pass"),
    ),
    *_in_file(
        "models/codecs/grouped.py",
        (CODECS,),
        ("the last layers are not spared", "min(layer, n_layers - 1 - layer)", "layer"),
        ("keys are grouped as values are", "if kind == KEYS else", "if kind > KEYS else"),
    ),
    *_in_file(
        "models/codecs/fp8.py",
        (CODECS,),
        ("the sign is lost", "bitwise_and_(-0x78100000)", "bitwise_and_(0x07F00000)"),
    ),
    *_in_file(
        "models/kv/overlap.py",
        (OVERLAP,),
        ("what was waited for is not charged", "self.watch.charge(part, ", "str("),
        ("a thread's errors are lost", "                self._error = error\n", ""),
        ("a layer is used before it is there", "            self._wait(layer)\n", ""),
        ("hidden reading is charged", "min(max(cut, begun), done)", "cut"),
        ("a reading goes on for nobody", "        self._stop = True\n", ""),
    ),
    *_in_file(
        "models/kv/whole.py",
        (OVERLAP,),
        ("keys are read as values", "(kind * self.layers + layer)", "layer"),
        (
            "a file that was replaced is read",
            "if not os.path.samestat(os.fstat(file), os.stat(path)):",
            "if False:",
        ),
    ),
    *_in_file(
        "models/kv/disk.py",
        (OVERLAP,),
        ("a short read passes", 'raise EOFError("the file ends early")', "break"),
        ("a slow disk has no window", "self._taken + self.window)", "1e30)"),
    ),
    *_in_file(
        "models/kv/keys.py",
        (CHUNKED,),
        ("a key leaves out what stood in front", '        "front": piece.front,\n', ""),
        ("a key leaves out the dtype", '"tokenizer", "dtype", "rope"', '"tokenizer", "rope"'),
        ("a key leaves out a codec's version", '        "version": type(codec).version,\n', ""),
    ),
    *_in_file(
        "models/kv/chunked.py",
        (CHUNKED,),
        (
            "the prefix lies under the codec",
            "if 0 < index < last else plain",
            "if index < last else plain",
        ),
        ("another item's manifest passes", "if differs := difference(", "if differs := None and ("),
    ),
    *_in_file(
        "models/kv/layers.py",
        (CHUNKED,),
        ("values are read where keys belong", "rows = out[kind, :,", "rows = out[0, :,"),
        ("what went past memory is not in it", "if self._read == self.layers:", "if False:"),
    ),
    *_in_file(
        "models/timing.py",
        (TIMING,),
        ("what is aside within is charged twice", "* 1e3 - within)", "* 1e3)"),
    ),
]
