"""A run, and runs side by side, for people."""

from __future__ import annotations

from typing import Any

from eval.analysis.measures import Results, method, rate
from eval.report import comparison, layout
from eval.report.columns import RUNS
from eval.report.figures import name, report
from stage import ledger


def table(results: Results) -> str:
    """One row per run of the same items, with what they have in common above."""
    return layout.table(report(results), RUNS)


def compared(results: Results) -> str:
    """The table and, where there is something to compare, the differences below it."""
    seed = results[0]["config"]["seed"]
    below = [comparison.table(results, seed)] if len(results) > 1 else []
    return "\n\n".join([table(results), *below])


def label(result: dict[str, Any]) -> str:
    """Method and rate, as tables and titles name a run."""
    return name({"method": method(result), "rate": rate(result)})


def details(result: dict[str, Any]) -> str:
    """The table and below it what it leaves out, for ``result.txt``."""
    memory = result["memory_mb"]
    checks = "; ".join(f"{c['name']}: {c['distance']:.1e}" for c in result["gate"]["checks"])
    tpot = result["tpot_ms"]["median"]
    lines = [
        table([result]),
        "",
        *_times(result),
        f"TPOT median, ms: {tpot:.1f}" + _parts(result)
        if tpot is not None
        else "TPOT: not measured",
        *_kept(result),
        f"peak memory, MB: {memory['peak']:.0f} (weights {memory['weights']:.0f}, largest item's "
        f"KV {memory['kv']:.0f}, allowed {memory['allowed']:.0f})",
        f"throughput: {ledger.line(result['throughput'])}",
        *_more_scores(result),
        f"gate passed, largest distance in logits: {checks}",
        f"made by kvfuse {result['environment']['kvfuse']} from inputs "
        f"{result['config']['inputs']}, weights {result['config']['weights']}",
    ]
    return "\n".join(lines) + "\n"


def _parts(result: dict[str, Any]) -> str:
    """Of what a TPOT is made, where rows left the cache."""
    parts = result.get("tpot_parts_ms")
    if not parts or not parts["evict"]:
        return ""
    return f" (step {parts['step']:.1f}, evict {parts['evict']:.1f})"


def _kept(result: dict[str, Any]) -> list[str]:
    """Bytes of keys and values that stay; results of earlier versions do not tell them."""
    found = result.get("kv_bytes")
    if not found:
        return []
    return [
        f"KV after the first token, MB: {found['median'] / 1e6:.1f}, most {found['max'] / 1e6:.1f}"
    ]


def _times(result: dict[str, Any]) -> list[str]:
    """Parts of TTFT and its 95th percentiles, as far as they were measured."""
    lines = []
    for when, kept in (("cold", "ttft_parts_ms"), ("ready", "ttft_parts_ready_ms")):
        if result[kept]:
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in result[kept].items())
            lines.append(f"{when} TTFT by part, ms: {parts}")
    lines += _reading(result)
    measured = {when: times for when, times in result["ttft_ms"].items() if times}
    measured["full prefill"] = result["full_prefill_ms"]
    p95 = ", ".join(f"{when} {times['p95']:.0f}" for when, times in measured.items())
    dropped = [item["page_cache_dropped"] for item in result["items"]]
    if False in dropped:
        lines.append("the system did NOT drop the KVs from memory: cold is not cold here")
    return [*lines, f"TTFT p95, ms: {p95}"]


def _reading(result: dict[str, Any]) -> list[str]:
    """How fast the disk was, and how much of it showed; results of earlier versions lack it."""
    found = result.get("reading")
    if not found or not {"bytes_per_s", "visible"} <= found.keys():
        return []
    took = f"{found['read_ms']:.1f} ms"
    if found["decode_ms"] >= 0.05:
        took += f", {found['decode_ms']:.1f} ms decoding"
    return [
        f"cold reading: {found['bytes_per_s'] / 1e6:.0f} MB/s, {took}; "
        f"{found['visible'] * 100:.0f}% of the reading was waited for"
    ]


def _more_scores(result: dict[str, Any]) -> list[str]:
    """Further metrics, and LongBench-E's scores by length, where a dataset has them."""
    bands = result["score_by_length"] or {}
    found = result["extra_scores"] | {f"{name} words": score for name, score in bands.items()}
    known = [f"{name} {score:.1f}" for name, score in found.items() if score is not None]
    return [f"further scores: {', '.join(known)}"] if known else []
