"""Greedy answers of several prefills, decoded side by side: one reading of the weights for all."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from models.attention.masked import Rows
from models.attention.registry import rows_for
from models.decoding.evicting import Evicting
from models.finite import NotFinite, require_finite
from models.kv.cache import FusedCache, FusedLayer
from models.modules import Modules
from models.places import Watched

# Rows of every step. Fewer answers are filled up with idle rows: the products keep their shape, so
# that their rounding, and with it an answer, does not depend on how many others are beside it.
ROWS = 8
# Most bytes of keys and values that answers may hold while they wait for others.
WAITING_BYTES = 1 << 30


class NoAnswer(NotFinite):
    """An answer's logits hold NaN or infinite values; the message begins with its name."""


@dataclass(eq=False)
class Answer:
    """One greedy answer in the making.

    Attributes
    ----------
    cache : rotated keys, and values, of what stands before it, and of its own tokens but the last.
    tokens : the answer so far.
    limit : most tokens of an answer.
    name : what the messages of its troubles begin with.
    stop_token : what ended the answer, None when its length did.
    buffer : memory that the cache lies in and that another answer may have afterwards.
    evicting : what lets rows of the cache go meanwhile.
    """

    cache: FusedCache
    tokens: list[int]
    limit: int
    stop_ids: Collection[int]
    name: str = "the answer"
    stop_token: int | None = None
    buffer: Tensor | None = None
    evicting: Evicting | None = None

    @property
    def done(self) -> bool:
        return self.stop_token is not None or len(self.tokens) >= self.limit

    def add(self, token: int) -> None:
        """The next token: the answer's, or the one that ends it."""
        if token in self.stop_ids:
            self.stop_token = token
        else:
            self.tokens.append(token)


class Together:
    """Answers that advance side by side, each over its own keys and values.

    Linear layers run once for all rows of a step; attention runs for each by the back end's kernel
    for one row.
    """

    def __init__(self, modules: Modules, backend: str) -> None:
        self.modules = modules
        self.backend = backend
        self.active: list[Answer] = []
        self.peak = 0  # most bytes that were ever held for answers
        self._spare: list[Tensor] = []

    def room(self, tokens: int) -> Tensor:
        """Memory for so many tokens' keys and values, as one flat tensor, perhaps a longer one.

        Used again where it can be: a copy into fresh pages takes three times as long.
        """
        need = math.prod(self.modules.kv_shape(tokens))
        fits = [spare for spare in self._spare if spare.numel() >= need]
        if fits:
            found = min(fits, key=Tensor.numel)
            self._spare = [spare for spare in self._spare if spare is not found]
            return found
        self._spare.clear()  # too small, all of them: what is held must not pile up
        self.peak = max(self.peak, self.bytes + need * self.modules.dtype.itemsize)
        return torch.empty(need, device=self.modules.device, dtype=self.modules.dtype)

    def cache(self, tokens: int) -> tuple[FusedCache, Tensor]:
        """A cache with room for so many tokens, and the memory that it lies in."""
        buffer = self.room(tokens)
        shape = self.modules.kv_shape(tokens)
        kv = buffer[: math.prod(shape)].view(shape)
        return FusedCache(self.modules.cache_shape, kv.device, kv.dtype, kv), buffer

    def give_back(self, buffer: Tensor) -> None:
        """Memory that nobody needs any more."""
        self._spare.append(buffer)

    def admits(self, tokens: int) -> bool:
        """Whether an answer may wait with a copy of so many tokens' keys and values.

        Where all copies would take more than :data:`WAITING_BYTES`, those that wait are completed
        first. Where one alone does, it must be decoded where it is.

        Raises
        ------
        NoAnswer : of one that cannot go on; it is dropped.
        """
        need = math.prod(self.modules.kv_shape(tokens)) * self.modules.dtype.itemsize
        if self.bytes + need > WAITING_BYTES:
            self.finish()
            self.clear()
        return need <= WAITING_BYTES

    @property
    def bytes(self) -> int:
        """Bytes of keys and values held for answers, unfinished and finished ones."""
        active = [answer.buffer for answer in self.active if answer.buffer is not None]
        return sum(buffer.nbytes for buffer in [*active, *self._spare])

    def clear(self) -> None:
        """Let go of all answers and their memory."""
        self.active.clear()
        self._spare.clear()

    def advance(self) -> None:
        """Take steps for as long as every row of them has an answer to go on with."""
        while len(self.active) >= ROWS:
            self._step(self.active[:ROWS])

    def finish(self, answer: Answer | None = None) -> None:
        """Take steps until this answer is complete, others beside it, or until all are.

        Raises
        ------
        NoAnswer : of one that cannot go on; it is dropped.
        """
        while self.active if answer is None else not answer.done:
            first = [] if answer is None else [answer]
            others = [one for one in self.active if one is not answer]
            self._step([*first, *others[: ROWS - len(first)]])

    @torch.inference_mode()
    def _step(self, answers: list[Answer]) -> None:
        """One more token for each of these."""
        device = self.modules.device
        idle = [0] * (ROWS - len(answers))
        ids = torch.tensor([*(answer.tokens[-1] for answer in answers), *idle], device=device)
        caches = [answer.cache for answer in answers]
        positions = torch.tensor([*(cache.seen for cache in caches), *idle], device=device)
        embeddings = self.modules.rotary(self.modules.embed.weight, positions[None])
        cache, rows = _Caches(caches), _rows(caches, self.backend, device)
        hidden = self.modules.embed(ids[None])
        queries: list[Tensor] = []
        watching = any(answer.evicting and answer.evicting.steps for answer in answers)
        for layer, alone in zip(self.modules.layers, rows, strict=True):
            seen = Watched(alone, ROWS, queries) if watching else alone
            hidden = layer(hidden, position_embeddings=embeddings, past_key_values=cache, rows=seen)
        logits = self.modules.logits(hidden[0]).float()
        tokens = logits.argmax(-1).tolist()
        trouble = None
        for number, (answer, row, token) in enumerate(zip(answers, logits, tokens, strict=False)):
            try:
                require_finite(row, "the logits")
            except NotFinite as error:
                trouble = trouble or NoAnswer(f"{answer.name}: {error}")
                self._drop(answer)
                continue
            if answer.evicting:
                answer.evicting.passed([one[:, number : number + 1] for one in queries])
            answer.add(token)
            if answer.done:
                self._drop(answer)
        if trouble:
            raise trouble  # now that the others have their token

    def _drop(self, answer: Answer) -> None:
        """Take no more steps for it; its memory is free."""
        self.active.remove(answer)
        if answer.buffer is not None:
            self._spare.append(answer.buffer)


class _Caches(Cache):
    """The answers' caches as the library's layers see them: one cache with a row for each."""

    def __init__(self, caches: list[FusedCache]) -> None:
        each = zip(*(cache.layers for cache in caches), strict=True)
        super().__init__(layers=[_Layer(list(layers)) for layers in each])


class _Layer(CacheLayerMixin):
    """``update`` writes each row behind its own answer's; idle rows are written nowhere."""

    is_sliding = False

    def __init__(self, layers: list[FusedLayer]) -> None:
        super().__init__()
        self.layers = layers
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the answers' rows exist."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Keys and values of every answer, ``[1, H_kv, length, D]`` each, as two lists."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for row, layer in enumerate(self.layers):
            layer.place(slice(layer.length, layer.length + 1), layer.length + 1)
            one = slice(row, row + 1)
            for full, states in zip(
                found, layer.update(key_states[:, :, one], value_states[:, :, one]), strict=True
            ):
                full.append(states)
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(layer.length for layer in self.layers), 0

    def get_seq_length(self) -> int:
        return max(layer.seen for layer in self.layers)

    def get_max_length(self) -> int:
        return max(layer.get_max_length() for layer in self.layers)


def _rows(caches: list[FusedCache], backend: str, device: torch.device) -> list[_EachItsOwn]:
    """The attention of one more row for each cache, layer by layer.

    Layers of equal lengths share one; so do caches.
    """
    alone: dict[int, Rows] = {}
    together: dict[tuple[int, ...], _EachItsOwn] = {}
    found = []
    for lengths in zip(*(cache.lengths for cache in caches), strict=True):
        if lengths not in together:
            for length in set(lengths).difference(alone):
                slot = torch.tensor([length], device=device)
                alone[length] = rows_for(backend, slot, length + 1)
            together[lengths] = _EachItsOwn([alone[length] for length in lengths])
        found.append(together[lengths])
    return found


class _EachItsOwn:
    """Attention of rows that each see another cache; what idle rows get is zero."""

    def __init__(self, rows: list[Rows]) -> None:
        self.rows = rows

    def attend(self, query: Tensor, key: Any, value: Any, scale: float) -> Tensor:
        """``[1, H, R, D]`` queries over a list of keys and one of values; ``[1, R, H, D]``."""
        out = query.new_zeros(1, query.shape[2], query.shape[1], query.shape[3])
        for row, (rows, keys, values) in enumerate(zip(self.rows, key, value, strict=True)):
            out[:, row : row + 1] = rows.attend(query[:, :, row : row + 1], keys, values, scale)
        return out
