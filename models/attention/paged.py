"""CUDA: scattered rows as requests of FlashInfer's paged kernels that share the prompt's KV.

Sorted rows are cut into blocks that fill one tile of the kernel. The keys of a block fall into two
runs, attended apart and merged by their log-sum-exp:

- *shared*: the whole pages below its first position, which all its rows see. No mask, so the
  kernel spends nothing on masking, and no block visits keys that lie beyond it.
- *rest*: from there to its last position, under a packed mask. With a share ``r`` of the rows these
  are about ``rows / r`` keys, and over all blocks about as many as the prompt has.

A row sees all of its block's shared run and at least one key of the rest, so that neither part of a
row is ever empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAGE = 64
TILE = 128
WORKSPACE_BYTES = 128 << 20
THREAD_BLOCKS = 1024
# The merging kernel takes one block of threads a row, eight numbers of a head a thread.
MERGE_THREADS = 1024
SMALLEST_PIECE = 256 // PAGE


@dataclass(frozen=True)
class Blocks:
    """Sorted rows, cut.

    Attributes
    ----------
    rows : int64 ``[B + 1]``, where each block begins, and the end.
    pages : int64 ``[B]``, whole pages of keys that all rows of a block see; never decreasing.
    visible : int64 ``[B]``, keys that a block's last row sees.
    """

    rows: np.ndarray
    pages: np.ndarray
    visible: np.ndarray

    @classmethod
    def cut(cls, positions: np.ndarray, size: int) -> Blocks:
        """Cut ``[R]`` sorted positions into blocks of ``size`` rows; the last may be shorter."""
        rows = np.append(np.arange(0, len(positions), size), len(positions))
        return cls(rows, positions[rows[:-1]] // PAGE, positions[rows[1:] - 1] + 1)

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each block, ``[B]``."""
        return np.diff(self.rows)

    @property
    def first_sharing(self) -> int:
        """The first block with a shared run; those before it begin within the first page."""
        return int(np.searchsorted(self.pages, 1))

    @property
    def rest_starts(self) -> np.ndarray:
        """First key of each block's rest, ``[B]``."""
        return self.pages * PAGE

    @property
    def rest_lengths(self) -> np.ndarray:
        """Keys of each block's rest, ``[B]``, at least one."""
        return self.visible - self.rest_starts


def _send(values: np.ndarray, device: torch.device) -> Tensor:
    """To the device, in turn with its work instead of waiting for it."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def ranges(starts: np.ndarray, counts: np.ndarray, device: torch.device) -> Tensor:
    """``start, ..., start + count - 1`` of every pair, one after another.

    Built on the device from a few numbers a block, without asking the device for anything.

    Returns
    -------
    int64 ``[counts.sum()]``.
    """
    total = int(counts.sum())
    shifts = _send(starts - (np.cumsum(counts) - counts), device)
    repeats = _send(counts, device)
    shifts = torch.repeat_interleave(shifts, repeats, output_size=total)
    return shifts + torch.arange(total, device=device)


def rest_mask(blocks: Blocks, positions: Tensor) -> Tensor:
    """Which keys of its block's rest a row sees.

    Parameters
    ----------
    positions : ``[R]``, on the device that gets the mask.

    Returns
    -------
    bool ``[Σ rows·keys]``: block after block, row after row.
    """
    starts = np.repeat(blocks.rest_starts, blocks.sizes)
    counts = np.repeat(blocks.rest_lengths, blocks.sizes)
    keys = ranges(starts, counts, positions.device)
    repeats = _send(counts, positions.device)
    return keys <= torch.repeat_interleave(positions, repeats, output_size=len(keys))


def piece_pages(pages: np.ndarray, limit: int) -> int | None:
    """Pages of a piece into which long shared runs are split, so that no tile runs much longest.

    The finest split, by halves, that makes at most ``limit`` pieces of all blocks; None where even
    the coarsest makes more.
    """
    size = SMALLEST_PIECE
    while size < pages.max():
        if -(-pages // size).sum() <= limit:
            return size
        size *= 2
    return None


def merge_folds(n_heads: int, head_dim: int) -> int:
    """By how many a row's heads are divided, so that each part fits the merging kernel.

    Its limit is 64 heads of 128 numbers, 32 of 256.
    """
    threads = head_dim // 8
    return next(
        parts
        for parts in range(1, n_heads + 1)
        if n_heads % parts == 0 and n_heads // parts * threads <= MERGE_THREADS
    )


def fold(state: Tensor, parts: int) -> Tensor:
    """``[R, H, ...]`` contiguous as ``[R·parts, H / parts, ...]``: heads are merged one by one."""
    rows, heads = state.shape[:2]
    return state.view(rows * parts, heads // parts, *state.shape[2:])


class Workspace:
    """The library's wrappers with their buffers: too dear to make anew for every pass.

    Attributes
    ----------
    owner : whose plan the wrappers hold now.
    """

    def __init__(self, library: Any, device: torch.device, backend: str) -> None:
        # It outlives the pass that makes it: made in inference mode, its buffers could be written
        # in no other.
        with torch.inference_mode(False):
            # One buffer for both: what a run leaves in it is read before the next run begins.
            buffer = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
            wrapper = library.BatchPrefillWithPagedKVCacheWrapper
            self.shared: Any = wrapper(buffer, "HND", backend=backend)
            self.rest: Any = wrapper(buffer, "HND", backend="fa2")
        self.owner: object | None = None


@cache
def workspace(
    library: Any, device: torch.device, dtype: torch.dtype, head_dim: int, backend: str
) -> Workspace:
    """The one workspace of a kind of model on a device."""
    return Workspace(library, device, backend)


class PagedRows:
    """Scattered rows in blocks; what it computes is :class:`~models.attention.masked.MaskedRows`.

    Parameters
    ----------
    library : the module ``flashinfer``.
    positions : ``[R]`` sorted global positions, on the device.
    host : the same on the host.
    backend : kernels of the shared run; only ``fa2`` packs the heads of a group into one tile.
    """

    def __init__(
        self, library: Any, positions: Tensor, host: np.ndarray, backend: str = "fa2"
    ) -> None:
        self.library = library
        self.positions = positions
        self.host = host
        self.backend = backend
        self.sharing_row = 0
        self._planned: tuple[Any, ...] = ()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend ``[1, H, R, D]`` queries over ``[1, H_kv, n, D]`` keys; gives ``[1, R, H, D]``.

        The first call plans for all layers, which waits for the device once.
        """
        space = self.plan(
            query.shape[1], key.shape[1], query.shape[3], query.dtype, scale, query.device
        )
        queries = query[0].transpose(0, 1).contiguous()
        out, lse = space.rest.run(
            queries, _pages(key, value, 1), out=torch.empty_like(queries), return_lse=True
        )
        if self.sharing_row < len(queries):
            rows = slice(self.sharing_row, None)
            shared, shared_lse = space.shared.run(
                queries[rows],
                _pages(key, value, PAGE),
                out=torch.empty_like(queries[rows]),
                return_lse=True,
            )
            folds = merge_folds(queries.shape[1], queries.shape[2])
            states = (fold(x, folds) for x in (out[rows], lse[rows], shared, shared_lse))
            self.library.merge_state_in_place(*states)
        return out[None]

    def plan(
        self,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        scale: float,
        device: torch.device,
    ) -> Workspace:
        """Plan for all layers of a model, unless that is what was planned last.

        Waits for the device once, so it costs least before anything was asked of it.
        """
        space = workspace(self.library, device, dtype, head_dim, self.backend)
        wanted = (n_heads, n_kv_heads, head_dim, dtype, scale)
        if space.owner is self and self._planned == wanted:
            return space
        space.owner = None
        tile = TILE if head_dim < 256 else TILE // 2
        size = max(1, tile * n_kv_heads // n_heads) if self.backend == "fa2" else TILE
        blocks = Blocks.cut(self.host, size)
        first = blocks.first_sharing
        self.sharing_row = int(blocks.rows[first])
        model = {
            "num_qo_heads": n_heads,
            "num_kv_heads": n_kv_heads,
            "head_dim_qk": head_dim,
            "sm_scale": scale,
            "q_data_type": dtype,
            "kv_data_type": dtype,
        }
        # The mask goes in unpacked: given a packed one, the library (up to 0.7.2 at least) takes
        # the requests' offsets in it for bytes though it counts them in bits.
        space.rest.plan(
            *self._requests(blocks.rows, blocks.rest_starts, blocks.rest_lengths),
            page_size=1,
            custom_mask=rest_mask(blocks, self.positions),
            **model,
        )
        if first < len(blocks.pages):
            pages = blocks.pages[first:]
            piece = piece_pages(pages, THREAD_BLOCKS // n_kv_heads)
            space.shared.plan(
                *self._requests(
                    blocks.rows[first:] - self.sharing_row, np.zeros_like(pages), pages, PAGE
                ),
                page_size=PAGE,
                causal=False,
                fixed_split_size=piece,
                disable_split_kv=piece is None,
                **model,
            )
        space.owner, self._planned = self, wanted
        return space

    def _requests(
        self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, page: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row offsets, page offsets, pages and last pages' lengths, as ``plan`` takes them.

        The planner works on the host, so only the pages are built on the device.
        """
        indices = ranges(starts, counts, self.positions.device).int()
        last = torch.full((len(counts),), page, dtype=torch.int32)
        offsets = np.append(0, np.cumsum(counts))
        return _int32(rows), _int32(offsets), indices, last


def _int32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _pages(key: Tensor, value: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Views ``[pages, H_kv, size, D]`` of ``[1, H_kv, n, D]``; an unfinished page is left out."""
    count = key.shape[2] // size
    both = (x[0, :, : count * size].unflatten(1, (count, size)) for x in (key, value))
    keys, values = (x.transpose(0, 1) for x in both)
    return keys, values
