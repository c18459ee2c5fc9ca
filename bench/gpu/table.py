"""What ``make gpu-check`` found, as tables and as a list of what did not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stage.columns import columns


def tables(result: Mapping[str, Any]) -> str:
    """Everything that was found, for people; the figures that were asked for come last."""
    makers = {
        "gates": _gates,
        "equivalence": _equivalence,
        "attention": _attention,
        "yardsticks": _yardsticks,
        "switches": _switches,
        "prefill": _prefill,
    }
    return "\n\n".join(
        "\n".join(columns(make(result[part]), ">")) for part, make in makers.items() if result[part]
    )


def _gates(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    lines = [["model", "back end", "gates", "largest distance"]]
    for row in rows:
        worst = max(check["distance"] for check in row["checks"])
        verdict = "pass" if row["passed"] else "FAIL"
        lines.append([row["model"], row["backend"], verdict, f"{worst:.3f}"])
    return lines


def _equivalence(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    lines = [["back end", "dtype", "width", "cases", "failed", "largest error"]]
    kinds: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["backend"], row["dtype"], row["head_dim"]), []).append(row)
    for (backend, dtype, width), same in sorted(kinds.items()):
        failed = sum(not row["passed"] for row in same)
        worst = max(row["error"] for row in same)
        lines.append([backend, dtype, str(width), str(len(same)), str(failed), f"{worst:.4f}"])
    return lines


def _attention(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    lines = [["N", "rows", "attention", "ms a layer", "ms to build, with a layer"]]
    for row in rows:
        cells = [str(row["n"]), str(row["rows"]), row["attention"]]
        lines.append([*cells, f"{row['layer_ms']:.3f}", f"{row['first_ms']:.3f}"])
    return lines


def _yardsticks(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    lines = [["N", "yardstick", "ms", "rate", ""]]
    for row in rows:
        rate = "-" if row["rate"] is None else f"{row['rate']:.1f}"
        cells = [str(row.get("n", "-")), row["yardstick"], f"{row['ms']:.2f}"]
        lines.append([*cells, rate, row["unit"]])
    return lines


def _switches(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    kinds = ("full", "fused", "decode")
    lines = [["N", "switch", *(f"{kind} ms" for kind in kinds), *(f"{k} / none" for k in kinds)]]
    for row in rows:
        cells = [str(row["n"]), row["switch"], *(f"{row[f'{kind}_ms']:.2f}" for kind in kinds)]
        lines.append([*cells, *(f"{row[f'{kind}_ms_of_plain']:.2f}" for kind in kinds)])
    return lines


def _prefill(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    names = list(rows[0]["parts_ms"])
    lines = [["N", "method", "KV in", "rows", "TTFT ms", "speed-up", *names, "ms a token"]]
    for row in rows:
        cells = [str(row["n"]), row["method"], row["kv"], str(row["rows"])]
        cells += [f"{row['ms']:.1f}", f"{row['speedup']:.2f}x"]
        cells += [f"{row['parts_ms'][name]:.1f}" for name in names]
        lines.append([*cells, f"{row['decode_ms']:.2f}" if "decode_ms" in row else "-"])
    return lines


def failures(result: Mapping[str, Any]) -> list[str]:
    """What did not hold, one line each."""
    bad = [f"gates of {row['model']}" for row in result["gates"] if not row["passed"]]
    bad += [f"equivalence: {row}" for row in result["equivalence"] if not row["passed"]]
    differ = {(row["n"], row["method"]) for row in result["prefill"] if not row["agrees"]}
    bad += [f"KVs from host memory differ: {method} at {n}" for n, method in sorted(differ)]
    return bad
