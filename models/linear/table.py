"""An LM head over the embedding table that it is tied to: no copy of it, packed or plain."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.attention.library import Unavailable, load
from models.load.settings import dtype_name

SOURCE = Path(__file__).with_name("table.cpp")
DTYPES = (torch.float32, torch.bfloat16)
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Product(ctypes.Structure):
    """``Product`` of table.cpp."""

    _fields_ = (
        *((name, _POINTER) for name in ("table", "hidden", "out")),
        *((name, _NUMBER) for name in ("words", "dim", "rows")),
        ("half", ctypes.c_bool),
    )


class TableHead(nn.Module):
    """``x @ table.T`` by the project's own kernel, which reads the table as it lies.

    A row's logits are the same to the bit, whatever rows are beside it.

    Parameters
    ----------
    weight : ``[vocabulary, hidden]`` of the embedding, shared with it; :func:`lacking` finds
        nothing for it.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., hidden]`` → ``[..., vocabulary]``."""
        kernel, _ = _found()
        out = hidden.new_empty(*hidden.shape[:-1], len(self.weight))
        _product(kernel, hidden, self.weight, out)
        return out

    def plain(self) -> nn.Linear:
        """The library's own layer, over the same table."""
        words, dim = self.weight.shape
        linear = nn.Linear(dim, words, bias=False, device="meta")
        linear.weight = cast(nn.Parameter, self.weight)
        return linear


def lacking(weight: Tensor) -> str | None:
    """Why no such head can be had for a table here, None where it can.

    Asked for the first time, it may compile for some seconds.
    """
    if weight.dtype not in DTYPES:
        return f"it has no kernel for {dtype_name(weight.dtype)}"
    if weight.device.type != "cpu" or not weight.is_contiguous():
        return "the table does not lie row by row in the CPU's memory"
    return _found()[1]


@cache
def _found() -> tuple[Any, str | None]:
    """The kernel, or why there is none."""
    try:
        kernel = load(SOURCE).kvfuse_product
    except Unavailable as reason:
        return None, str(reason)
    kernel.argtypes, kernel.restype = (ctypes.POINTER(_Product), ctypes.c_int), None
    return kernel, None if _agrees(kernel) else "what it computed here was wrong: use another g++"


def _agrees(kernel: Any) -> bool:
    """Whether a small product is the library's: a compiler may be at fault."""
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in zip(DTYPES, (1e-4, 0.5), strict=True):
        hidden = torch.randn(11, 72, generator=generator).to(dtype)
        table = torch.randn(401, 72, generator=generator).to(dtype)
        # Memory that was free may hold an earlier, right answer.
        found = hidden.new_full((11, 401), torch.nan)
        _product(kernel, hidden, table, found)
        if not torch.allclose(found.double(), hidden.double() @ table.double().T, atol=tolerance):
            return False
    return True


def _product(kernel: Any, hidden: Tensor, table: Tensor, out: Tensor) -> None:
    words, dim = table.shape
    if hidden.shape[-1] != dim or hidden.dtype != table.dtype or hidden.is_cuda:
        raise ValueError(f"no kernel for {hidden.shape} {hidden.dtype} on {table.shape}")
    rows = hidden.reshape(-1, dim).contiguous()
    call = _Product(
        *(x.data_ptr() for x in (table, rows, out)),
        *(words, dim, len(rows)),
        table.dtype == torch.bfloat16,
    )
    kernel(ctypes.byref(call), torch.get_num_threads())
