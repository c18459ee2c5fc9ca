"""One item whose chunks are kept by key: its manifest, what it lacks, and reading it back."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models import codecs
from models.chunks.file import ChunkFile
from models.chunks.store import ChunkStore
from models.chunks.troubles import ChunkError
from models.codecs import BaseCodec
from models.kv.disk import Disk
from models.kv.format import SCORES, difference, mismatch
from models.kv.keys import KV, described, key_of
from models.kv.layers import Chunk, ChunkLayers, InMemory
from models.kv.overlap import ReadAhead
from models.kv.pagecache import advise, have_left
from models.kv.pieces import Piece
from models.kv.reader import Unusable
from models.timing import Stopwatch

NAMED = "scores"  # the tensor of a file that holds no KVs


class Part(NamedTuple):
    """A segment that holds a token, and how its KVs lie on disk."""

    piece: Piece
    codec: BaseCodec


@dataclass
class ChunkedItem:
    """Writes and reads one item's KVs in a store of chunks, with ``StoredItem``'s interface.

    Every segment that holds a token is a chunk of the store. The prefix, which a dataset's items
    share, and the question, whose cached rows only the selector ``cat`` looks at, lie as they are
    under every codec: no method recomputes the prefix, and the model's attention sink is in it.
    Scores have a file of their own beside each chunk, which is the same under every codec.

    Parameters
    ----------
    owner : ``<dataset-folder>/item_<id>``, by which the store knows the item.
    meta : what the item must be made from, see :func:`models.kv.format.describe`.
    segments : of the prompt, in order, with what stands in front of each.
    codec : of the document chunks.
    remedy : the command that builds what is missing.
    overlap, disk, stream, memory : as of a ``StoredItem``; memory holds what the files hold.
    """

    store: ChunkStore
    owner: str
    meta: dict[str, Any]
    segments: Sequence[Piece]
    codec: BaseCodec
    remedy: str
    overlap: bool = True
    disk: Disk = field(default_factory=Disk, repr=False)
    stream: ReadAhead | None = field(default=None, repr=False)
    memory: ChunkLayers | None = field(default=None, repr=False)
    _keys: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)
    _scores: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def parts(self) -> list[Part]:
        """What is read, in the order of the prompt."""
        plain, last = codecs.build(codecs.NONE), len(self.segments) - 1
        return [
            Part(piece, self.codec if 0 < index < last else plain)
            for index, piece in enumerate(self.segments)
            if len(piece)
        ]

    @cached_property
    def expected(self) -> dict[str, Any]:
        """The meta that the manifest must have."""
        return self.meta | {"codec": described(self.codec)}

    def key(self, part: Part, kind: str = KV) -> str:
        """The key of a segment's KVs or scores."""
        return key_of(self.meta, part.piece, kind, part.codec)

    def keys(self, kinds: Iterable[str]) -> list[str]:
        """The keys of all chunks, kind by kind, in the order of the prompt."""
        found = []
        for kind in kinds:
            if kind not in self._keys:
                self._keys[kind] = [self.key(part, kind) for part in self.parts]
            found += self._keys[kind]
        return found

    @property
    def nbytes(self) -> int:
        """Of the files that hold the KVs."""
        return sum(file.nbytes for file in self._files(KV))

    def has(self, part: Part, kind: str = KV, verify: bool = True) -> bool:
        """Whether a segment's KVs or scores are there, and whole if ``verify``.

        Of a remote's nothing is fetched for that: whether it is whole is seen when it is read.
        """
        return self.store.has(self.key(part, kind), verify and self.store.cache is None)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Within the block nobody removes the item's KVs and scores."""
        return self.store.pin(self.keys([KV, *SCORES]))

    def check(self, scores: Collection[str] = ()) -> None:
        """Raise what reading the KVs and these scores would raise, and verify their bytes.

        Raises
        ------
        Unusable : the manifest or a chunk is missing, damaged, or made from something else.
        """
        kinds = [KV, *scores]
        with self._refusals():
            self._require_ours(self.store.manifest(self.owner), kinds)
            for kind in kinds:
                for _ in self._files(kind, verify=True):
                    pass

    def condition(self, scores: Collection[str] = ()) -> str | None:
        """Why the item must be built: ``missing``, ``of other tokens`` ..., or None.

        Of a remote's chunks nothing is fetched for that.
        """
        try:
            if self.store.cache is None:
                self.check(scores)
                return None
            with self._refusals():
                self._require_ours(self.store.manifest(self.owner), [KV, *scores])
            known = self.keys([KV, *scores])
            return None if all(map(self.store.has, dict.fromkeys(known))) else "missing"
        except Unusable as error:
            return error.reason

    def _require_ours(self, found: dict[str, Any], wanted: Sequence[str]) -> None:
        """Refuse a manifest of something else, or without these kinds of files."""
        name, meta, kinds = f"the manifest of {self.owner}", found.get("meta"), found.get("kinds")
        if not isinstance(meta, dict) or not isinstance(kinds, list):
            raise Unusable("damaged", f"{name} is none of an item; rebuild it: {self.remedy}")
        if differs := difference(meta, self.expected):
            raise Unusable(
                f"of other {differs[0].partition('.')[0]}",
                f"{name} does not fit this run: {mismatch(meta, self.expected)}; "
                f"rebuild it: {self.remedy}",
            )
        if lacking := [kind for kind in wanted if kind not in kinds]:
            raise Unusable("missing", f"{name} has no {lacking[0]}; build it: {self.remedy}")
        if found["chunks"] != self.keys(kinds):
            raise Unusable(
                "of other chunks",
                f"{name} names chunks of another version; rebuild it: {self.remedy}",
            )

    def put(self, part: Part, kv: Tensor) -> int:
        """Keep a segment's KVs ``[2, L, H_kv, n, D]``; returns bytes written, 0 if they were there.

        Raises
        ------
        UserError : NaN or infinity among them; the store cannot be written.
        """
        n_layers = kv.shape[1]
        tensors = {
            f"{layer:03}.{'kv'[kind]}.{name}": tensor
            for layer in range(n_layers)
            for kind in range(2)
            for name, tensor in part.codec.encode(kind, layer, n_layers, kv[kind, layer]).items()
        }
        return self.store.put(self.key(part), tensors, self._about(part, KV))

    def put_all(self, kv: Tensor, scores: Mapping[str, Tensor] | None = None) -> int:
        """Keep all of the prompt's KVs ``[2, L, H_kv, N, D]`` and scores ``[N]``, and name them."""
        scores = scores or {}
        with self.store.pin(self.keys([KV, *scores])):
            written = self.put_parts(self.parts, kv, scores)
            self.refer(list(scores))
        return written

    def put_parts(self, parts: Iterable[Part], kv: Tensor, scores: Mapping[str, Tensor]) -> int:
        """Keep these segments, whose rows lie side by side; returns bytes written."""
        written, start = 0, 0
        for part in parts:
            rows = slice(start, start := start + len(part.piece))
            written += self.put(part, kv[:, :, :, rows])
            written += sum(self.put_scores(part, kind, s[rows]) for kind, s in scores.items())
        return written

    def put_scores(self, part: Part, kind: str, scores: Tensor) -> int:
        """Keep a segment's scores, float32 ``[n]``; returns bytes written."""
        tensors = {NAMED: scores.contiguous()}
        return self.store.put(self.key(part, kind), tensors, self._about(part, kind))

    def refer(self, scores: Collection[str] = ()) -> None:
        """Write the manifest, once all its chunks are there."""
        kinds = [KV, *scores]
        self.store.refer(self.owner, self.keys(kinds), {"meta": self.expected, "kinds": kinds})

    def _about(self, part: Part, kind: str) -> dict[str, Any]:
        """What a chunk's file says of itself, for people and for a second look when it is read."""
        tokens = len(part.piece)
        named = {name: self.meta[name] for name in ("model", "weights", "dtype")}
        coded = {"codec": described(part.codec), "shape": self._shape(tokens)}
        return {"kind": kind, "tokens": tokens, **named, **(coded if kind == KV else {})}

    def _shape(self, tokens: int) -> list[int]:
        return [*self.meta["shape"][:3], tokens, self.meta["shape"][4]]

    def decoded(self, part: Part) -> Tensor:
        """A segment's KVs, ``[2, L, H_kv, n, D]`` in the model's dtype."""
        file = self.store.open(self.key(part), verify=True)
        out = torch.empty(self._shape(len(part.piece)), dtype=getattr(torch, self.meta["dtype"]))
        for layer in range(out.shape[1]):
            for kind in range(2):
                begin = f"{layer:03}.{'kv'[kind]}."
                names = [name for name in file.names if name.startswith(begin)]
                found = {name.removeprefix(begin): file.tensor(name) for name in names}
                part.codec.decode(kind, found, out[kind, layer])
        return out

    def scores(self, name: str) -> Tensor:
        """``surprisal`` or ``sinks``, float32 ``[N]``."""
        if name not in self._scores:
            with self._refusals():
                self._scores[name] = torch.cat([f.tensor(NAMED) for f in self._files(name)])
        return self._scores[name]

    def forget(self) -> bool | None:
        """Drop the files from memory and from the page cache.

        Returns
        -------
        Whether the KVs have really left it; None where nobody can tell.
        """
        self.memory = self.stream = None
        self._scores.clear()
        with self._refusals():
            paths = [file.path for file in self._files(KV)]
        for path in [*paths, *map(self.store.path, self.keys(SCORES))]:
            advise(path, "POSIX_FADV_DONTNEED")
        return have_left(paths)

    def cold(self, watch: Stopwatch, target: Tensor) -> ReadAhead:
        """Disk → ``target`` ``[2, L, H_kv, N, D]``.

        The stream that is returned brings layer by layer. When it is drained, the memory is ready.
        """
        with self._refusals():
            chunks, start = [], 0
            for part, file in zip(self.parts, self._files(KV), strict=True):
                rows = slice(start, start := start + len(part.piece))
                chunks.append(Chunk(file, part.codec, rows))
            cuda = target.device.type == "cuda"
            self.memory = ChunkLayers(chunks, target.shape[1], self.disk, cuda)
        watch.lap("load")
        self.stream = ReadAhead(self.memory, target, watch, threaded=self.overlap).start()
        return self.stream

    def ready(self, watch: Stopwatch, target: Tensor) -> ReadAhead | None:
        """Memory → ``target``; :meth:`cold` comes first and leaves the memory behind.

        Layers that lie under a codec are decoded by a thread while earlier ones compute.
        """
        assert self.memory is not None, "nothing is in memory yet"
        if self.memory.plain and target.device.type != "cuda":
            for layer in range(self.memory.layers):
                self.memory.held(layer, target[:, layer])
            watch.lap("transfer")
            return None
        return ReadAhead(InMemory(self.memory), target, watch, threaded=self.overlap).start()

    def _files(self, kind: str, verify: bool = False) -> Iterator[ChunkFile]:
        """Every segment's file, and whether it is this segment's as far as a glance can tell."""
        for part, key in zip(self.parts, self.keys([kind]), strict=True):
            file = self.store.open(key, verify)
            for name, wanted in self._about(part, kind).items():
                if name != "model" and file.meta.get(name) != wanted:
                    raise Unusable("damaged", f"{file.path} is of another {name}: {self.remedy}")
            yield file

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the store refuses, with the command that mends it."""
        try:
            yield
        except ChunkError as error:
            said = str(error).partition("; make precompute")[0]
            raise Unusable(error.reason, f"{said}; build it: {self.remedy}") from None
