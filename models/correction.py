"""A corrector at work: a layer's cached rows are changed just before its attention reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.correctors.base import KEYS, VALUES, BaseCorrector, Change
from models.errors import UserError
from models.foreign import ask, called, told
from models.kv.rotary import rotated, unrotated
from models.prompt import Prompt
from models.timing import Stopwatch


@dataclass(frozen=True)
class Chunk:
    """A chunk of which some rows are recomputed and others not.

    Attributes
    ----------
    start, end : its rows in the prompt.
    positions : ``[n]`` of those that are recomputed.
    rows : where these lie among the rows in flight.
    """

    start: int
    end: int
    positions: Tensor
    rows: slice


class Correction:
    """What a corrector does to one prompt's cache while the chosen rows run through the layers.

    Prefix and question are no chunks. Chunks without a recomputed row stay as they are. So does the
    first layer, whose keys and values know nothing of their context, and layers that ran before the
    choice was known: what ran there is fresh, and what it replaced is gone.

    Parameters
    ----------
    positions : ``[R]`` sorted positions of the rows in flight.
    rotary : ``(cos, sin)``, each ``[1, N, D]``, for all positions of the prompt.
    watch : what the corrector takes is charged to ``correct``.
    """

    def __init__(
        self,
        corrector: BaseCorrector,
        prompt: Prompt,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor],
        watch: Stopwatch,
    ) -> None:
        self.corrector = corrector
        self.cos, self.sin = (part[0].float() for part in rotary)
        self.watch = watch
        self.chunks = list(_chunks(prompt, positions))

    def apply(self, layer: int, cached: Tensor, fresh: tuple[Tensor, Tensor]) -> None:
        """Change a layer's cached rows by what its fresh ones are; to be overwritten with them.

        Parameters
        ----------
        cached : ``[2, H_kv, N, D]`` keys and values of the layer; changed in place.
        fresh : keys and values of the rows in flight, ``[H_kv, R, D]``.

        Raises
        ------
        UserError : the corrector failed, or returned something else than
            :meth:`BaseCorrector.correct` may; names it and says what.
        """
        if not self.chunks or layer == 0:
            return
        with self.watch.aside("correct"):
            for chunk in self.chunks:

                def change(kind: int, chunk: Chunk = chunk) -> Tensor:
                    old = cached[kind].index_select(1, chunk.positions).float()
                    gap = fresh[kind][:, chunk.rows].float() - old
                    if kind != KEYS:
                        return gap
                    at = chunk.positions
                    return unrotated(gap, self.cos[at], self.sin[at])

                span = slice(chunk.start, chunk.end)

                def whole(kind: int, span: slice = span) -> Tensor:
                    rows = cached[kind][:, span].float()
                    if kind != KEYS:
                        return rows
                    return unrotated(rows, self.cos[span], self.sin[span])

                at = chunk.positions - chunk.start
                seen = Change(layer, len(at), change, at, whole)
                for kind, found in self._asked(seen, cached[:, :, span]).items():
                    added = found if found.dim() == 3 else found[:, None]
                    if kind == KEYS:
                        added = rotated(added, self.cos[span], self.sin[span])
                    # Recomputed rows get it too: they are overwritten next, and a slice is quicker.
                    cached[kind][:, span].add_(added)

    def _asked(self, change: Change, chunk: Tensor) -> dict[int, Tensor]:
        """What the corrector adds to a chunk, ``[2, H_kv, length, D]``: shapes that fit."""
        name = called("corrector", self.corrector)
        found = ask(name, self.corrector.correct, change)
        if not isinstance(found, dict) or not found.keys() <= {KEYS, VALUES}:
            raise UserError(f"{name} returned something else than KEYS, VALUES or both to tensors")
        heads, length, width = chunk.shape[1:]
        for added in found.values():
            fits = isinstance(added, Tensor) and added.is_floating_point()
            if not fits or added.shape not in ((heads, width), (heads, length, width)):
                raise UserError(
                    f"{name} returned {told(added)}: corrections are floats, {[heads, width]} or "
                    f"{[heads, length, width]}"
                )
        return found


def _chunks(prompt: Prompt, positions: Tensor) -> Iterator[Chunk]:
    """Chunks of which some rows are recomputed and others not; asks the device once."""
    ends = torch.tensor([end for _, end in prompt.segments[:-1]], device=positions.device)
    bounds = torch.searchsorted(positions, ends).tolist()
    for (start, end), (low, high) in zip(prompt.chunks, pairwise(bounds), strict=True):
        if 0 < high - low < end - start:
            yield Chunk(start, end, positions[low:high], slice(low, high))
