"""The whole flow of ``make gpu-check`` at a tiny size, and that its comparison notices a fault."""

import json
import sys

import pytest
import torch

from bench.gpu import check as gpu_check
from bench.gpu import random_models
from bench.gpu import table as gpu_table
from bench.gpu.check import main
from bench.gpu.config import GpuCheckConfig
from models import engine
from models.attention import equivalence, paged
from models.attention.registry import choose_backend
from models.errors import UserError
from models.tuning import SWITCHES
from stage.options import command
from tests.models.fake_flashinfer import FakeFlashInfer

CPU = torch.device("cpu")
BACKENDS = [*equivalence.BACKENDS, "flashinfer:paged-fa3"]
TINY = {
    "device": "cpu",
    "shape": "tiny",
    "dtypes": ["float32"],
    "head_dims": [64],
    "tokens": [320, 256],
    "methods": ["random", "blend"],
    "chunk_size": 100,
    "rounds": 1,
    "parts": ["gates", "equivalence", "attention", "prefill"],
}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", FakeFlashInfer)
    return FakeFlashInfer


def test_the_whole_flow_runs_and_ends_with_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "GATE_TOKENS", 200)
    families = random_models.FAMILIES
    monkeypatch.setattr(random_models, "FAMILIES", {"qwen3": families["qwen3"]})
    left = paged.workspace(FakeFlashInfer, CPU, torch.float32, 64, "fa2")
    main(GpuCheckConfig(**TINY, outputs=str(tmp_path)))
    assert paged.workspace(FakeFlashInfer, CPU, torch.float32, 64, "fa2") is not left
    result = json.loads((tmp_path / "bench" / "gpu.json").read_text())
    assert [row["model"] for row in result["gates"]] == ["qwen3 float32 64"]
    assert all(row["passed"] for row in result["gates"])
    backend = choose_backend(CPU, torch.float32, 64)
    assert result["environment"]["backend"] == backend
    assert result["equivalence"] == []
    assert {(row["n"], row["attention"]) for row in result["attention"]} == {
        (n, kind) for n in (320, 256) for kind in ("causal", backend)
    }
    kinds = [("no", "-"), *((m, kv) for m in ("random", "blend") for kv in ("device", "host"))]
    found = [(row["n"], row["method"], row["kv"]) for row in result["prefill"]]
    assert found == [(n, *kind) for n in (320, 256) for kind in kinds]
    for row in result["prefill"]:
        documents = row["n"] - 96
        assert row["rows"] == (row["n"] if row["method"] == "no" else documents * 15 // 100 + 64)
        assert row["ms"] > 0
        assert row["agrees"]
        assert (row["parts_ms"]["transfer"] > 0) == (row["kv"] != "-")
        assert ("decode_ms" in row) == (row["method"] == "no")
    printed = capsys.readouterr().out
    last = printed.strip().splitlines()
    assert last[-1] == f"gpu-check: {tmp_path}/bench/gpu.json"
    assert last[-3].split()[:3] == ["256", "blend", "host"]
    assert "speed-up" in printed


def test_parts_can_be_chosen(tmp_path):
    options = {**TINY, "tokens": [256], "parts": ["attention"]}
    main(GpuCheckConfig(**options, outputs=str(tmp_path)))
    result = json.loads((tmp_path / "bench" / "gpu.json").read_text())
    assert len(result["attention"]) == 2
    assert result["gates"] == result["prefill"] == []


def test_what_was_found_is_kept_when_a_later_part_is_killed(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(gpu_check.PROVERS, "prefill", killed)
    options = {**TINY, "tokens": [256, 320], "parts": ["attention", "prefill"]}
    with pytest.raises(KeyboardInterrupt):
        main(GpuCheckConfig(**options, outputs=str(tmp_path)))
    result = json.loads((tmp_path / "bench" / "gpu.json").read_text())
    assert sorted({row["n"] for row in result["attention"]}) == [256, 320]


def test_yardsticks_and_switches_have_a_row_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "COMPILER", "eager")
    monkeypatch.setattr(gpu_check.switches, "GATE_TOKENS", 200)
    options = {**TINY, "tokens": [256], "parts": ["yardsticks", "switches"]}
    main(GpuCheckConfig(**options, outputs=str(tmp_path)))
    result = json.loads((tmp_path / "bench" / "gpu.json").read_text())
    names = [row["yardstick"] for row in result["yardsticks"]]
    assert names[0].startswith("product 256 x 256")
    assert {"our full prefill", "transformers, SDPA", "causal attention alone"} <= set(names)
    assert names[-2:] == [f"a layer's products, {rows} rows" for rows in (88, 128)]
    assert all(row["ms"] > 0 for row in result["yardsticks"])
    product = result["yardsticks"][0]
    assert product["rate"] == pytest.approx(2 * 256**3 / product["ms"] / 1e9)
    kinds = ["none", *SWITCHES, "all"]
    assert [row["switch"] for row in result["switches"]] == kinds
    assert kinds[-2] == "compile", "whatever follows it would run compiled"
    for row in result["switches"]:
        assert row["full_ms"] > 0
        assert row["fused_ms"] > 0
        assert row["decode_ms"] > 0
    assert result["switches"][0]["decode_ms_of_plain"] == 1
    models = [row["model"] for row in result["gates"]]
    assert models == [f"llama, switch {name}" for name in [*SWITCHES, "all"]]
    assert all(row["passed"] for row in result["gates"])
    assert "TFLOP/s" in capsys.readouterr().out


def test_methods_are_spelled_and_limited_as_in_bench(tmp_path):
    methods = ["a3", "full", "debug:check=cached", "surprisal_chunk", "debug@300", "random@256"]
    options = {**TINY, "methods": methods, "layers": 2, "parts": ["prefill"]}
    main(GpuCheckConfig(**options, outputs=str(tmp_path)))
    result = json.loads((tmp_path / "bench" / "gpu.json").read_text())
    found = [(row["n"], row["method"]) for row in result["prefill"] if row["kv"] == "host"]
    always = ["debug", "full", "debug:check=cached", "surprisal_chunk"]
    assert found == [(320, m) for m in always] + [(256, m) for m in [*always, "random"]]
    assert all(row["agrees"] for row in result["prefill"])
    assert {row["rows"] for row in result["prefill"] if row["method"] == "full"} == {64}


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command("gpu-check", GpuCheckConfig, main, []) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-check: no CUDA device here; ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["gate"]}, "--parts gate is none of gates"),
        ({"backend": "flash"}, "--backend flash is none of auto"),
        ({"backends": ["flashinfer", "sdpa"]}, "--backends sdpa is none of flashinfer"),
        ({"methods": ["foo"]}, "unknown method REUSE=foo"),
        ({"methods": ["no"]}, "no is the full prefill"),
        ({"methods": ["debug:chek=cached"]}, "no option 'chek'"),
        ({"methods": ["oracle_kv"]}, "oracle_kv is an oracle"),
        ({"rate": 1.5}, "--rate 1.5 is not a share"),
        ({"rounds": 0}, "--rounds 0: give 1 or more"),
        ({"chunk_size": 0}, "--chunk-size 0: give 1 or more"),
        ({"layers": 0}, "--layers 0: give 1 or more"),
        ({"tokens": [512, 10]}, "--tokens 10: give 256 or more"),
        ({"head_dims": [0]}, "--head-dims 0: give 1 or more"),
        ({"fast": ["warp"]}, "--fast warp is none of events"),
        ({"outputs": ""}, "--outputs names no folder"),
    ],
)
def test_options_that_cannot_be_are_told(options, message):
    with pytest.raises(UserError, match=message) as told:
        GpuCheckConfig(**options)
    assert "\n" not in str(told.value)


def test_a_back_end_that_cannot_run_is_told_before_anything_is_measured():
    config = GpuCheckConfig(**TINY, backend="flashinfer:paged")
    with pytest.raises(UserError, match="BACKEND=flashinfer:paged cannot be used: it needs a CUDA"):
        main(config)


def test_what_does_not_hold_ends_with_exit_code_1(tmp_path, monkeypatch, capsys):
    def failing(device, dtypes, head_dims, backend):
        check = {"name": "r = 1", "distance": 9.0, "tokens_equal": False, "passed": False}
        return [{"model": "llama", "backend": "blocked", "passed": False, "checks": [check]}]

    monkeypatch.setattr(gpu_check, "gates", failing)
    with pytest.raises(SystemExit) as stopped:
        main(GpuCheckConfig(**{**TINY, "parts": ["gates"]}, outputs=str(tmp_path)))
    assert stopped.value.code == 1
    output = capsys.readouterr()
    assert output.err == "gpu-check: FAILED: gates of llama\n"
    assert "FAIL" in output.out
    assert (tmp_path / "bench" / "gpu.json").exists()


def test_every_back_end_is_compared_in_every_case(fake):
    kind = (CPU, [torch.float32], [64])
    results = equivalence.run(*kind, lengths=[200], groups=[1, 3], backends=BACKENDS)
    assert len(results) == len(equivalence.cases(200)) * len(BACKENDS) * 2
    assert all(result.passed for result in results), results


@pytest.mark.parametrize("n", [200, 2000])
@pytest.mark.parametrize("direction", ["sees one more", "sees one less"])
def test_a_mask_that_is_off_by_one_key_is_noticed(fake, monkeypatch, n, direction):
    off = 1 if direction == "sees one more" else -1
    plan = paged.rest_mask
    monkeypatch.setattr(paged, "rest_mask", lambda blocks, rows: plan(blocks, rows + off))
    case = {"scattered": equivalence.cases(n)["scattered"]}
    monkeypatch.setattr(equivalence, "cases", lambda n: case)
    results = equivalence.run(CPU, [torch.bfloat16], [64], [n], [4], BACKENDS)
    verdicts = {result.backend: result.passed for result in results}
    assert verdicts["flashinfer:single"]
    assert not verdicts["flashinfer:paged"]
    assert not verdicts["flashinfer:paged-fa3"]


def test_failures_are_listed_one_by_one():
    result = {
        "gates": [{"model": "a", "passed": True}],
        "equivalence": [{"case": "x", "passed": False}, {"case": "y", "passed": True}],
        "prefill": [{"n": 8, "method": "debug", "agrees": False}] * 2,
    }
    assert gpu_table.failures(result) == [
        "equivalence: {'case': 'x', 'passed': False}",
        "KVs from host memory differ: debug at 8",
    ]
