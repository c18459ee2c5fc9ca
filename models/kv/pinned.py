"""Pinned host memory made before a clock runs: the system takes long to give and to pin it.

PyTorch keeps freed pinned blocks and gives them out again by size, rounded up to a power of two. So
it is enough that a block of a size was once taken and given back; what needs one then finds it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# The item that is being read, and the one before it, whose copies may not have been let go of yet.
AT_ONCE = 2


def warm(sizes: Iterable[int], device: torch.device) -> list[int]:
    """Take and give back blocks for so many bytes each; gives the sizes that were taken."""
    classes = sorted({1 << (size - 1).bit_length() for size in sizes if size > 0})
    if device.type != "cuda":
        return []
    for size in classes:
        blocks = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(AT_ONCE)]
        blocks.clear()
    return classes
