"""One packed layer: against float64, in every shape of input, and where it is not to be had."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.linear import packed
from models.linear.packed import PackedLinear, lacking

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (7, 5), (50, 33), (64, 64), (96, 160), (576, 192), (130, 1000)]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}

pytestmark = pytest.mark.skipif(
    any(lacking(dtype) for dtype in DTYPES), reason="this machine cannot pack"
)


def layer(inner: int, outer: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inner * outer)
    return nn.Linear(inner, outer, bias=bias).to(dtype).requires_grad_(False)


def hidden(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def close(found: torch.Tensor, plain: nn.Linear, x: torch.Tensor) -> bool:
    """Within rounding of the sum of products' magnitudes, per element, of the float64 product."""
    weight, bias = plain.weight.double(), plain.bias
    right, size = x.double() @ weight.T, x.double().abs() @ weight.abs().T
    if bias is not None:
        right, size = right + bias.double(), size + bias.double().abs()
    return bool(((found.double() - right).abs() <= ROUNDING[plain.weight.dtype] * size).all())


@pytest.mark.parametrize("rows", [1, 2, 8, 64, 300])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_is_that_of_float64(dtype, bias, rows):
    for shape in SHAPES:
        plain = layer(*shape, dtype, bias)
        x = hidden(rows, shape[0], dtype=dtype)
        found = PackedLinear(plain)(x)
        assert found.dtype == dtype
        assert found.shape == (rows, shape[1])
        assert close(found, plain, x), shape


def test_a_wrong_product_would_be_noticed():
    plain, x = layer(96, 160, torch.float32), hidden(8, 96)
    wrong = PackedLinear(plain)(x)
    wrong[3, 7] += 1e-3
    assert not close(wrong, plain, x)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_shape_of_input(mode):
    plain = layer(50, 33, torch.float32)
    ours, wide = PackedLinear(plain), hidden(6, 100)
    inputs = [
        hidden(50),
        hidden(0, 50),
        hidden(1, 4, 50),
        hidden(2, 3, 5, 50),
        hidden(50, 9).T,
        wide[:, ::2],
        wide[::2, 50:],
        hidden(3, 4, 50).transpose(0, 1),
    ]
    with mode():
        for x in inputs:
            found = ours(x)
            assert found.shape == (*x.shape[:-1], 33)
            assert close(found, plain, x)
            assert not found.requires_grad
            assert found.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 8, 300])
def test_nan_and_infinity_stay_visible(dtype, rows):
    for inner, outer in SHAPES[1:]:
        for value in (torch.nan, torch.inf):
            plain = layer(inner, outer, dtype)
            plain.weight[outer - 1, inner - 1] = value
            found = PackedLinear(plain)(hidden(rows, inner, dtype=dtype))
            assert not torch.isfinite(found[:, -1]).any()
            assert torch.isfinite(found[:, :-1]).all()
            x = hidden(rows, inner, dtype=dtype)
            x[0, inner - 1] = value
            found = PackedLinear(layer(inner, outer, dtype))(x)
            assert not torch.isfinite(found[0]).any()
            assert torch.isfinite(found[1:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_plain_layer_comes_back_bit_for_bit(dtype):
    for shape in SHAPES:
        plain = layer(*shape, dtype)
        plain.weight[0, 0] = torch.nan
        ours = PackedLinear(plain)
        back = ours.plain()
        assert type(back) is nn.Linear
        assert torch.equal(back.weight.view(torch.uint8), plain.weight.view(torch.uint8))
        assert torch.equal(back.bias, plain.bias)
        assert not back.weight.requires_grad
        assert (ours.weight.nbytes, ours.weight.numel()) == (
            plain.weight.nbytes,
            shape[0] * shape[1],
        )
        assert [*ours.state_dict()] == [*plain.state_dict()]
        assert repr(ours) == "Packed" + repr(plain).replace("in_features=", "").replace(
            "out_features=", ""
        )


def probed(monkeypatch, **changes) -> str | None:
    for name, value in changes.items():
        monkeypatch.setattr(packed, name, value)
    return lacking.__wrapped__(torch.float32)


def test_where_packing_is_not_to_be_had(monkeypatch):
    assert lacking(torch.float32) is None
    assert "no float16" in lacking(torch.float16)

    def standing_in(ops, available=True):
        backends = SimpleNamespace(mkldnn=SimpleNamespace(is_available=lambda: available))
        fields = {name: getattr(torch, name) for name in dir(torch) if not name.startswith("_")}
        return SimpleNamespace(
            **{**fields, "backends": backends, "ops": SimpleNamespace(mkldnn=ops)}
        )

    real = torch.ops.mkldnn
    assert "without oneDNN" in probed(monkeypatch, torch=standing_in(real, available=False))
    assert "no packed" in probed(monkeypatch, torch=standing_in(SimpleNamespace()))

    def refusing(*args):
        raise RuntimeError("could not create a primitive\nat a place")

    names = ("_reorder_linear_weight", "_linear_pointwise")
    ops = {name: getattr(real, name) for name in names}
    refused = SimpleNamespace(**{**ops, names[1]: refusing})
    found = probed(monkeypatch, torch=standing_in(refused))
    assert found == "oneDNN refuses: could not create a primitive"
    wrong = SimpleNamespace(**{**ops, names[1]: lambda *args: ops[names[1]](*args) + 1})
    assert "wrong here" in probed(monkeypatch, torch=standing_in(wrong))
    empty = SimpleNamespace(**{**ops, names[1]: lambda *args: ops[names[1]](*args) * torch.nan})
    assert "wrong here" in probed(monkeypatch, torch=standing_in(empty))
