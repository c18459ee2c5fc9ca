"""Rows of a prompt on their way through the decoder layers."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from torch import Tensor

from models.attention.flashinfer_rows import FlashInferRows
from models.errors import UserError
from models.kv.cache import FusedCache
from models.modules import Modules
from models.places import Place, Watched, places


class Flight:
    """Rows on their way through the decoder layers, over one fused cache.

    Parameters
    ----------
    ids, positions : ``[R]`` token ids of the rows, and their sorted global positions.
    n_keys : tokens that they see at most, those that were evicted from the cache counted.
    rotary : ``(cos, sin)``, each ``[1, N, D]``, for all positions of the prompt.
    watched : so many of the last rows have their queries kept, layer by layer.

    Attributes
    ----------
    layer : the next layer to run.
    hidden : ``[1, R, hidden]`` what goes into it.
    passes : every group of rows run so far, and through how many layers.
    places : where the rows go in every layer, and what they see there.
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
        host = positions.cpu().numpy()
        rows = np.searchsorted(self._host, host)
        found = self._host[rows.clip(max=len(self._host) - 1)]
        if (found != host).any() or (rows[1:] <= rows[:-1]).any():
            raise UserError(
                "positions to go on with must be among those that ran below this layer, in order"
            )
        if len(positions) < len(self.positions):
            kept = torch.from_numpy(rows).to(positions.device)
            self.hidden = self.hidden[:, kept]
            self._prepare(positions, host)

    def over(self, keys: Tensor, layers: int) -> Flight:
        """The same rows before the first layer, over some of the keys before them instead of all.

        What they make is kept apart: the cache stays as it is. Their positions count the keys that
        they see; queries and keys are rotated as they were.

        Parameters
        ----------
        keys : ``[K]`` sorted positions. layers : below which the rows will be run.
        """
        seen, n = torch.cat([keys, self.positions]), len(keys)
        _, n_heads, head_dim = self.cache.shape
        cache = FusedCache((layers, n_heads, head_dim), keys.device, self.cache.kv.dtype)
        cache.reserve(len(seen))
        for kind in range(2):
            for layer in range(layers):
                cache.kv[kind, layer, :, :n] = self.cache.rows(kind, layer, keys)
        flight = copy(self)
        flight.cache, flight.n_keys = cache, len(seen)
        flight.rotary = (self.rotary[0][:, seen], self.rotary[1][:, seen])
        flight.passes, flight.queries = [], []
        flight._prepare(torch.arange(n, len(seen), device=keys.device))
        return flight

    def _prepare(self, positions: Tensor, host: np.ndarray | None = None) -> None:
        """Places in every layer's cache, and rotary embeddings, of these rows.

        ``host`` are the positions where they can be looked at: the one time that this waits for the
        device, where it was not done before.
        """
        host = positions.cpu().numpy() if host is None else host
        first, last = int(host[0]), int(host[-1])
        contiguous = last - first + 1 == len(positions)
        self.positions, self._host = positions, host
        span = slice(first, last + 1) if contiguous else positions
        self.places = places(self.cache, positions, span, self.n_keys, self.backend, host)
        if self.modules.plans:
            for rows in {id(place.rows): place.rows for place in self.places}.values():
                if isinstance(rows, FlashInferRows):
                    rows.plan(self.modules)
        self.cos, self.sin = (part[:, span] for part in self.rotary)

    @property
    def place(self) -> Place:
        """The rows' place in the next layer."""
        return self.places[self.layer]

    def run_to(self, layer: int) -> None:
        """Run the rows through the layers below ``layer``; their fresh K/V overwrite the cached."""
        if layer > self.layer:
            self.passes.append((self.positions, layer - self.layer))
        for index in range(self.layer, layer):
            place = self.places[index]
            self.cache.layers[index].place(place.slots, place.length)
            rows = Watched(place.rows, self.watched, self.queries) if self.watched else place.rows
            self.hidden = self.modules.layers[index](
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

    def last_queries(self) -> list[Tensor]:
        """Queries of the rows at the end that follow each other, as far as these were watched.

        ``[H, q, D]`` of every layer.
        """
        end = self.positions[-self.watched :] - int(self.positions[-1])
        behind = end == torch.arange(1 - len(end), 1, device=end.device)
        count = int(behind.flip(0).cumprod(0).sum())
        return [queries[:, -count:] for queries in self.queries]

    def fresh(self, what: str, rows: slice = slice(None)) -> Tensor:
        """``q``, ``k`` (post-RoPE) or ``v`` of the next layer for some rows, ``[heads, n, D]``."""
        states = self.modules.project(self.layer, self.hidden[:, rows], what)
        if what == "v":
            return states
        return self.modules.family.rotate(states, self.cos[:, rows], self.sin[:, rows])

    def head(self) -> Tensor:
        """Logits of the last row only, ``[vocabulary]``, float32."""
        return self.modules.logits(self.hidden[0, -1]).float()
