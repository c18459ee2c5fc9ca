"""Gate 6: every attention back end equals masked SDPA, and that equals arithmetic done plainly."""

from functools import cache

import pytest
import torch

from models.attention import blocked
from models.attention.blocked import BlockedRows
from models.attention.masked import CausalRows, MaskedRows
from models.attention.registry import choose_backend, rows_for, segment_for
from models.engine import Engine
from models.errors import UserError
from tests.conftest import build, random_prompt


def tensors(rows: int, keys: int, dtype=torch.float32, heads: int = 6, kv_heads: int = 2):
    generator = torch.Generator().manual_seed(rows * 1000 + keys)

    def draw(h: int, n: int):
        return torch.randn(1, h, n, 16, generator=generator).to(dtype)

    return draw(heads, rows), draw(kv_heads, keys), draw(kv_heads, keys)


def plainly(query, key, value, positions, scale):
    """Softmax attention row by row in float64, ``[1, R, H, D]``."""
    group = query.shape[1] // key.shape[1]
    out = torch.zeros(1, query.shape[2], query.shape[1], query.shape[3], dtype=torch.float64)
    for row, position in enumerate(positions.tolist()):
        for head in range(query.shape[1]):
            keys = key[0, head // group, : position + 1].double()
            weights = (keys @ query[0, head, row].double() * scale).softmax(0)
            out[0, row, head] = weights @ value[0, head // group, : position + 1].double()
    return out


HERE = ["blocked", "sdpa"]
CASES = {
    "scattered": [0, 3, 4, 17, 60, 61, 62, 63, 64, 99],
    "first": [0],
    "last": [99],
    "all": list(range(100)),
    "tail": list(range(70, 100)),
    "two-blocks": [*range(0, 100, 2), 97, 99],
}


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("case", sorted(CASES))
def test_back_ends_agree_with_plain_arithmetic(backend, case):
    positions = torch.tensor(sorted(set(CASES[case])))
    query, key, value = tensors(len(positions), 100)
    got = rows_for(backend, positions, 100).attend(query, key, value, 0.2)
    assert torch.allclose(got.double(), plainly(query, key, value, positions, 0.2), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", HERE)
def test_back_ends_agree_with_masked_sdpa_in_every_dtype(backend, dtype):
    positions = torch.randperm(700, generator=torch.Generator().manual_seed(0))[:333].sort().values
    query, key, value = tensors(333, 700, dtype)
    got = rows_for(backend, positions, 700).attend(query, key, value, 0.25)
    reference = MaskedRows(positions, 700).attend(query, key, value, 0.25)
    atol = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert torch.allclose(got, reference, atol=atol)


def test_a_whole_prompt_takes_the_causal_kernel():
    positions = torch.arange(80)
    query, key, value = tensors(80, 80)
    rows = rows_for("blocked", positions, 80)
    assert isinstance(rows, CausalRows)
    got = rows.attend(query, key, value, 0.25)
    assert torch.allclose(got, MaskedRows(positions, 80).attend(query, key, value, 0.25), atol=1e-6)


@pytest.mark.parametrize("group", [1, 3, 7])
@pytest.mark.parametrize("first", [0, 1, 63, 200])
@pytest.mark.parametrize("count", [1, 2, 64, 65, 128, 129, 300])
@pytest.mark.parametrize("step", [1, 2])
def test_blocks_meet_without_a_seam(group, first, count, step):
    """Rows one by one or spread, a block's length and around it, from the first key or later."""
    positions = torch.arange(first, first + step * count, step)
    n = int(positions[-1]) + 5
    query, key, value = tensors(count, n, heads=2 * group)
    got = rows_for("blocked", positions, n).attend(query, key, value, 0.25)
    reference = MaskedRows(positions, n).attend(query, key, value, 0.25)
    assert torch.allclose(got, reference, atol=1e-6)


@pytest.mark.parametrize("backend", ["native", "blocked", "sdpa", "flashinfer"])
@pytest.mark.parametrize("length", [1, 7, 130])
@pytest.mark.parametrize("front", [0, 1, 40])
def test_a_captured_segment_sees_its_front_and_itself(backend, length, front):
    query, key, value = tensors(length, front + length)
    rows = segment_for(backend, length, front, torch.device("cpu"))
    got = rows.attend(query, key, value, 0.25)
    wanted = plainly(query, key, value, torch.arange(front, front + length), 0.25)
    assert torch.allclose(got.double(), wanted, atol=1e-5)


def test_back_ends_are_chosen_by_capability(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("models.attention.native._found", lambda: (None, None))
    assert choose_backend(cpu, torch.float32, 64) == "native"
    assert choose_backend(cpu, torch.float16, 64) == "blocked"
    assert choose_backend(cpu, torch.float32, 60) == "blocked"
    monkeypatch.setattr("models.attention.native._found", lambda: (None, "no g++ here"))
    assert choose_backend(cpu, torch.float32, 64) == "blocked"
    with pytest.raises(UserError, match=r"BACKEND=native cannot be used: no g\+\+ here"):
        choose_backend(cpu, torch.float32, 64, "native")
    for name in ("native", "blocked"):
        with pytest.raises(UserError, match="runs on a CPU"):
            choose_backend(torch.device("cuda"), torch.float32, 64, name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("models.attention.kernels.obstacle", lambda *kind: None)
    monkeypatch.setattr("models.attention.flashinfer_rows.find_spec", lambda name: None)
    assert choose_backend(cuda, torch.bfloat16, 128) == "sdpa"
    monkeypatch.setattr("models.attention.flashinfer_rows.find_spec", lambda name: object())
    assert choose_backend(cuda, torch.bfloat16, 128) == "flashinfer"
    assert choose_backend(cuda, torch.float32, 128) == "sdpa"
    assert choose_backend(cuda, torch.bfloat16, 96) == "sdpa"


def test_a_pytorch_without_the_blocked_kernel(monkeypatch):
    """The operation is PyTorch's own affair and may go: everything else must still run."""
    monkeypatch.setattr("models.attention.native._found", lambda: (None, "no g++ here"))
    monkeypatch.setattr(blocked, "KERNEL", "_gone")
    monkeypatch.setattr(blocked, "_kernel", cache(blocked._kernel.__wrapped__))
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.float32, 64) == "sdpa"
    for ask in (
        lambda: choose_backend(cpu, torch.float32, 64, "blocked"),
        lambda: BlockedRows(torch.tensor([1, 3]), 5).attend(*tensors(2, 5), 0.2),
    ):
        with pytest.raises(UserError, match=r"^BACKEND=blocked cannot be used: .*BACKEND=sdpa$"):
            ask()
    engine = Engine(build("llama"))
    assert engine.backend == "sdpa"
    engine.full_prefill(random_prompt(3, [20], 5))


@pytest.mark.parametrize("form", ["single", "paged", "paged-fa3"])
def test_a_back_end_is_asked_for_with_its_form(monkeypatch, form):
    cuda, name = torch.device("cuda"), f"flashinfer:{form}"
    monkeypatch.setattr("models.attention.kernels.obstacle", lambda *kind: None)
    monkeypatch.setattr("models.attention.flashinfer_rows.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_backend(cuda, torch.bfloat16, 128, name) == name
    with pytest.raises(UserError, match=f"BACKEND={name} cannot be used: it needs DTYPE"):
        choose_backend(cuda, torch.float32, 128, name)


def test_hopper_s_kernels_are_refused_elsewhere(monkeypatch):
    monkeypatch.setattr("models.attention.kernels.obstacle", lambda *kind: None)
    monkeypatch.setattr("models.attention.flashinfer_rows.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    cuda = torch.device("cuda")
    assert choose_backend(cuda, torch.bfloat16, 128, "flashinfer:paged") == "flashinfer:paged"
    with pytest.raises(UserError, match="paged-fa3 cannot be used: its fa3 kernels"):
        choose_backend(cuda, torch.bfloat16, 128, "flashinfer:paged-fa3")


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("flash", "unknown back end BACKEND=flash"),
        ("flashinfer:flash", "unknown back end BACKEND=flashinfer:flash"),
        ("flashinfer", "needs a CUDA device"),
        ("flashinfer:paged", "BACKEND=flashinfer:paged cannot be used: it needs a CUDA device"),
    ],
)
def test_a_back_end_that_cannot_be_had_is_told(requested, message):
    with pytest.raises(UserError, match=message):
        choose_backend(torch.device("cpu"), torch.float32, 64, requested)
