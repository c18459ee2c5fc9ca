"""Rows of a prompt on their way through the decoder layers."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attention.flashinfer_rows import FlashInferRows
from models.attention.masked import Rows
from models.attention.registry import rows_for
from models.errors import UserError
from models.kv.cache import FusedCache
from models.modules import Modules


class Flight:
    """Rows on their way through the decoder layers, over one fused cache.

    Parameters
    ----------
    ids, positions : ``[R]`` token ids of the rows, and their sorted global positions.
    rotary : ``(cos, sin)``, each ``[1, N, D]``, for all positions of the prompt.
    watched : so many of the last rows have their queries kept, layer by layer.

    Attributes
    ----------
    layer : the next layer to run.
    hidden : ``[1, R, hidden]`` what goes into it.
    passes : every group of rows run so far, and through how many layers.
    queries : ``[H, watched, D]`` post-RoPE of every layer that was run, where rows are watched.
    """

    def __init__(
        self,
        modules: Modules,
        cache: FusedCache,
        ids: Tensor,
        positions: Tensor,
        n_keys: int,
        rotary: tuple[Tensor, Tensor],
        backend: str,
        watched: int = 0,
    ) -> None:
        self.modules = modules
        self.cache = cache
        self.n_keys = n_keys
        self.rotary = rotary
        self.backend = backend
        self.watched = watched
        self.queries: list[Tensor] = []
        self.layer = 0
        self.passes: list[tuple[Tensor, int]] = []
        self.hidden = modules.embed(ids[None])
        self._prepare(positions)

    def keep(self, positions: Tensor) -> None:
        """Go on with these of the rows in flight only, sorted.

        Raises
        ------
        UserError : some position is not in flight, or they are not sorted.
        """
        rows = torch.searchsorted(self.positions, positions)
        found = self.positions[rows.clamp_max(len(self.positions) - 1)]
        if not bool((found == positions).all() & (rows[1:] > rows[:-1]).all()):
            raise UserError(
                "positions to go on with must be among those that ran below this layer, in order"
            )
        if len(positions) < len(self.positions):
            self.hidden = self.hidden[:, rows]
            self._prepare(positions)

    def _prepare(self, positions: Tensor) -> None:
        """Attention rows, cache slots and rotary embeddings of these rows, for all layers."""
        first, last = int(positions[0]), int(positions[-1])
        contiguous = last - first + 1 == len(positions)
        self.positions = positions
        self.slots = slice(first, last + 1) if contiguous else positions
        self.rows = rows_for(self.backend, positions, self.n_keys)
        if self.modules.plans and isinstance(self.rows, FlashInferRows):
            self.rows.plan(self.modules)
        self.cos, self.sin = (part[:, self.slots] for part in self.rotary)

    def run_to(self, layer: int) -> None:
        """Run the rows through the layers below ``layer``; their fresh K/V overwrite the cached."""
        if layer > self.layer:
            self.passes.append((self.positions, layer - self.layer))
        self.cache.place(self.slots, self.n_keys)
        rows = _Watched(self.rows, self.watched, self.queries) if self.watched else self.rows
        for module in self.modules.layers[self.layer : layer]:
            self.hidden = module(
                self.hidden,
                position_embeddings=(self.cos, self.sin),
                past_key_values=self.cache,
                rows=rows,
            )
        self.layer = layer

    def climb(self, layer: int) -> None:
        """:meth:`run_to` a layer that somebody asked for.

        Raises
        ------
        UserError : the model has no such layer, or the rows are past it.
        """
        last = len(self.modules.layers) - 1
        if not 0 <= layer <= last:
            raise UserError(f"layer {layer} does not exist: the model has layers 0 to {last}")
        if layer < self.layer:
            raise UserError(f"layer {layer} was asked for after layer {self.layer}: ask upwards")
        self.run_to(layer)

    def fresh(self, what: str, rows: slice = slice(None)) -> Tensor:
        """``q``, ``k`` (post-RoPE) or ``v`` of the next layer for some rows, ``[heads, n, D]``."""
        states = self.modules.project(self.layer, self.hidden[:, rows], what)
        if what == "v":
            return states
        return self.modules.family.rotate(states, self.cos[:, rows], self.sin[:, rows])

    def head(self) -> Tensor:
        """Logits of the last row only, ``[vocabulary]``, float32."""
        return self.modules.logits(self.hidden[0, -1]).float()


class _Watched:
    """Rows whose last queries are kept on their way: views, which take memory but no time."""

    def __init__(self, rows: Rows, count: int, kept: list[Tensor]) -> None:
        self.rows, self.count, self.kept = rows, count, kept

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """As the rows themselves."""
        self.kept.append(query[0, :, -self.count :])
        return self.rows.attend(query, key, value, scale)
