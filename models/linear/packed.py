"""A linear layer whose weight lies as oneDNN reads it: packed once, in blocks."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from models.load.settings import dtype_name

# The rows that the blocks are laid out for. Laid out for 16 to 512 rows they are equally fast at
# any number of rows; laid out for one they are up to twice as slow at 2 and more (float32).
ROWS = 64


class PackedLinear(nn.Module):
    """``x @ weight.T + bias`` over a packed copy of a linear layer's weight.

    The same weights, NaN and infinities included, and the same products summed in another order.
    One form serves any number of rows, so no method takes another path than its neighbours.

    Parameters
    ----------
    linear : the layer to take the place of, on a CPU where :func:`lacking` finds nothing. It is
        not kept: its weight is freed with it, unless something else is tied to it.

    Attributes
    ----------
    weight : opaque ``[out, in]``, as large as the plain one; ``to_dense`` gives that back.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., in]`` → ``[..., out]``."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden, self.weight, self.bias, "none", [], ""
        )
        return product

    def extra_repr(self) -> str:
        """As ``nn.Linear`` shows itself."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def plain(self) -> nn.Linear:
        """The library's own layer with exactly these weights, in memory of its own."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear


@cache
def lacking(dtype: torch.dtype) -> str | None:
    """Why layers of this dtype cannot be packed here, None where they can.

    Where the operators are present a product is tried and compared with the library's.
    """
    if not torch.backends.mkldnn.is_available():
        return "PyTorch was built without oneDNN"
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return "this PyTorch has no packed linear layers"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"oneDNN packs no {dtype_name(dtype)} here"
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(48, 40, dtype=dtype, device="meta")
    layer.weight = nn.Parameter(torch.randn(40, 48, generator=generator).to(dtype))
    layer.bias = nn.Parameter(torch.randn(40, generator=generator).to(dtype))
    hidden = torch.randn(5, 48, generator=generator).to(dtype)
    try:
        with torch.inference_mode():
            found, right = PackedLinear(layer)(hidden), layer(hidden)
    except RuntimeError as error:
        return f"oneDNN refuses: {str(error).splitlines()[0]}"
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    if not bool(((found - right).abs() <= tolerance).all()):
        return "oneDNN's packed product is wrong here"
    return None
