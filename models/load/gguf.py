"""A `.gguf` file -> a Hugging Face folder, once.

Loading a GGUF takes 10-30 s, its converted folder 2 s. Quantised weights are stored as float16: a
value is a small integer times a float16 scale, and rounding it to 11 bits moves it by at most
1/2048 of itself, far below the step of the quantisation it came from (1/16 of a block's range at
4 bits), for half the disk of float32 (270 MB instead of 540 MB for SmolLM2-135M); bfloat16 would
round eight times more coarsely. A file without quantised tensors keeps its own float type.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock
from gguf import GGMLQuantizationType, GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from models.errors import UserError
from models.family import FAMILIES
from models.finite import require_finite
from models.load.sealed import content_hash, seal, trouble
from models.load.source import cache_dir, quiet
from models.load.tokenizer import stop_ids

SOURCES = ("gguf.py", "tokenizer.py")  # what a converted folder's content is decided by
ARCHITECTURES = tuple(FAMILIES)
_FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
# Vocabularies that llama.cpp splits digit by digit before the GPT-2 pattern; transformers' reader
# applies the pattern alone, which cuts the spaces before a digit differently from upstream.
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
# Two quantisations of one matrix differ by a few percent (Q2_K: 30%), two matrices by over 100%.
_SAME_MATRIX = 0.4


def convert(path: Path) -> Path:
    """The Hugging Face folder `<cache>/models/<converter>/<stem>-<sha8>` of `path`, made once.

    The folder appears by one rename, so one that exists was complete; whoever comes second waits
    for the lock and finds it. One that is no longer as it was made is made again, and so is one
    that another converter made: older ones may be removed. Raises `UserError` for a file that is
    broken, of an architecture that we do not run or with a RoPE scaling that transformers does not
    restore, and for a lack of memory or disk.
    """
    try:
        models = cache_dir() / "models" / converter()
        models.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w.-]+", "_", path.stem)
        target = models / f"{stem}-{content_hash(path)[:8]}"
        if trouble(target) is None:
            return target
        with FileLock(models / f".{target.name}.lock"):
            reason = trouble(target)
            if reason:
                _make(path, target, reason)
    except OSError as error:
        raise UserError(
            f"cannot convert {path}: {error} (KVFUSE_CACHE= moves the cache)"
        ) from error
    return target


@cache
def converter() -> str:
    """8 hex over what makes a conversion besides its file: this code and the libraries it calls."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
    for package in ("transformers", "gguf"):
        digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()[:8]


def _make(path: Path, target: Path, reason: str) -> None:
    """Convert into a folder aside and put it into its place, which this process has locked."""
    if target.exists():
        print(f"{target} is damaged ({reason}): converting again", file=sys.stderr, flush=True)
    for stale in target.parent.glob(f".{target.name}.tmp*"):  # of a conversion that was killed
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp", dir=target.parent))
    try:
        _convert(path, work)
        seal(work)
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(path: Path, folder: Path) -> None:
    """Write configuration, safetensors, tokenizer and generation config of `path` to `folder`."""
    reader = _read(path)
    fields = {key: reader.fields[key].contents() for key in reader.fields if "tokens" not in key}
    dtype = _check(path, reader, fields)
    print(f"converting {path.name} once, about 20 s per 100 MB ...", file=sys.stderr, flush=True)
    bars = (
        contextlib.nullcontext()
        if sys.stderr.isatty()
        else contextlib.redirect_stderr(io.StringIO())
    )
    try:
        with quiet(), bars:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
            )
    except OSError:
        raise
    except Exception as error:  # the readers of foreign files raise anything
        raise UserError(f"cannot convert {path}: {' '.join(str(error).split())[:300]}") from error
    if fields.get("tokenizer.ggml.pre") in _DIGIT_SPLITS:
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    for name, parameter in model.named_parameters():  # float16 may not reach so far
        require_finite(parameter.detach(), f"the weights {name} of {path}")
    _retie(model)
    model.hf_quantizer = None  # or save_pretrained refuses
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    stops = stop_ids(tokenizer, model.generation_config) | {
        fields.get("tokenizer.ggml.eot_token_id")
    }
    model.generation_config.eos_token_id = sorted(stop for stop in stops if stop is not None)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is not a complete .gguf file: download it again ({error})"
        ) from error


def _check(path: Path, reader: GGUFReader, fields: dict[str, Any]) -> torch.dtype:
    """The dtype to store; raises `UserError` for what cannot be converted faithfully."""
    arch = fields.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise UserError(f"{path} is a '{arch}' model; supported are {', '.join(ARCHITECTURES)}")
    scaling = fields.get(f"{arch}.rope.scaling.type", "none")
    if scaling != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise UserError(
            f"{path} scales its RoPE, which transformers does not restore from a .gguf: "
            "use the model's hub id or folder"
        )
    if fields.get(f"{arch}.attention.sliding_window"):
        raise UserError(f"{path} attends through a sliding window, which is not supported")
    types = {tensor.tensor_type for tensor in reader.tensors}
    halves = [_FLOATS[kind] for kind in types if kind in _FLOATS and kind.name != "F32"]
    quantised = any(kind not in _FLOATS for kind in types)
    dtype = torch.float16 if quantised else (halves or [torch.float32])[0]
    size = sum(int(tensor.n_elements) for tensor in reader.tensors) * dtype.itemsize
    disk, memory = shutil.disk_usage(cache_dir()).free, psutil.virtual_memory().available
    for room, kind, need in ((disk, "disk", size), (memory, "memory", int(size * 1.3))):
        if room < need:
            raise UserError(
                f"converting {path} takes {need / 1e9:.1f} GB of {kind}, "
                f"and {room / 1e9:.1f} GB are free"
            )
    return dtype


def _retie(model: Any) -> None:
    """Tie input and output embeddings again where they are two quantisations of one matrix.

    Qwen GGUFs carry both though upstream ties them; the output's copy is the finer one.
    """
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if inputs.data_ptr() == outputs.data_ptr() or inputs.shape != outputs.shape:
        return
    with torch.no_grad():
        distance = (inputs.float() - outputs.float()).norm() / outputs.float().norm()
        if distance < _SAME_MATRIX:
            inputs.copy_(outputs)
            model.config.tie_word_embeddings = True
            model.tie_weights()
