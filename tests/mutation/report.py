"""Mistakes in ``eval/report``: figures in another's place, claims that were not tested."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, in_file

MUTANTS: list[Mutant] = [
    *in_file(
        "eval/report/figures.py",
        ("tests/eval/test_report.py",),
        ("an oracle claims times", 'timed = not result["oracle"]', "timed = True"),
        (
            "cold and ready speed-ups swapped",
            'f"speedup_{when}": value if timed',
            """f"speedup_{'ready' if when == 'cold' else 'cold'}": value if timed""",
        ),
        (
            "cold and ready TTFT swapped",
            'f"ttft_{when}_ms": found and',
            """f"ttft_{'ready' if when == 'cold' else 'cold'}_ms": found and""",
        ),
        ("p95 for the median", '{"median": found["median"],', '{"median": found["p95"],'),
        ("the rate is not in a run's name", "else f\" {row['rate']:g}\"", 'else ""'),
    ),
    *in_file(
        "eval/report/figures.py",
        ("tests/eval/test_sweep_report.py",),
        (
            "what one run is alone in is common to all",
            "if key not in OWN and all(r[",
            "if key not in OWN and any(r[",
        ),
    ),
    *in_file(
        "eval/report/figures.py",
        ("tests/eval/test_finite_figures.py",),
        ("tables of NaN", "    require_finite(row, name(row))", "    pass"),
    ),
    *in_file(
        "eval/report/columns.py",
        ("tests/eval/test_report.py",),
        (
            "cold speed-up under speed-up",
            'show(row["speedup_ready"], 2, "x")',
            'show(row["speedup_cold"], 2, "x")',
        ),
        (
            "ready TTFT under cold",
            '_median(row["ttft_cold_ms"])',
            '_median(row["ttft_ready_ms"])',
        ),
        (
            "the arithmetic's speed-up for the measured one",
            'show(row["flop_limit"], 2, "x")',
            'show(row["speedup_ready"], 2, "x")',
        ),
        (
            "KL of the answer under KL first",
            'show(row["kl_first"], 3), DISTANCE',
            'show(row["kl_mean"], 3), DISTANCE',
        ),
        (
            "KL first under KL of the answer",
            'show(row["kl_mean"], 3), DISTANCE',
            'show(row["kl_first"], 3), DISTANCE',
        ),
        (
            "agreement under retention",
            '_percent(row["retention"], 0)',
            '_percent(row["top1_agreement"], 0)',
        ),
        (
            "ends of the score's interval swapped in the table",
            'else f"{low:.1f} to {high:.1f}"',
            'else f"{high:.1f} to {low:.1f}"',
        ),
    ),
    *in_file(
        "eval/report/layout.py",
        ("tests/eval/test_report.py",),
        (
            "the first method's score for the full prefill's",
            "{report['full_score']:.1f}",
            "{report['rows'][0]['score']:.1f}",
        ),
        ("oracles are not explained", 'if any(row["oracle"] for', 'if all(row["oracle"] for'),
        (
            "a built-in sample is not named",
            'f"*** {report[\'note\']} ***", ""] if report["note"]',
            'f"*** {report[\'note\']} ***", ""] if not report["note"]',
        ),
    ),
    *in_file(
        "eval/report/comparison.py",
        ("tests/eval/test_compare.py",),
        (
            "B for worse and W for better",
            '{"better": "B", "worse": "W"',
            '{"better": "W", "worse": "B"',
        ),
        (
            "the uncorrected p is shown",
            "return f\"{show_p(difference['p_holm'])}",
            "return f\"{show_p(difference['p'])}",
        ),
        (
            "the full prefill in the control's column",
            'row["to"].get(role, {}).get(measure)\n\n    def estimate',
            'row["to"].get("no", {}).get(measure)\n\n    def estimate',
        ),
        (
            "any number of items can be a claim",
            "if hopeless(n, family) else",
            "if not n else",
        ),
        (
            "the rate that a method without one is compared at is not named",
            "at = several_rates and",
            "at = not several_rates and",
        ),
        ("a p of 0.01 is less than 0.001", "if p < 0.001 else", "if p < 0.05 else"),
    ),
    *in_file(
        "eval/report/comparison.py",
        ("tests/eval/test_sweep_report.py",),
        (
            "a sweep shows the uncorrected p",
            "return f\"{word} {show_p(found['p_holm'])}\"",
            "return f\"{word} {show_p(found['p'])}\"",
        ),
    ),
    *in_file(
        "eval/report/grid.py",
        ("tests/eval/test_sweep_report.py",),
        (
            "verdicts of the highest rate at every rate",
            '(d["method"], d["at"]): d["to"] for d in sweep["differences"]',
            '(d["method"], r): d["to"] for d in sweep["differences"] for r in sweep["rates"]',
        ),
        (
            "score and KL swapped beside the control",
            'SHOWN = (("random", "kl_mean"), ("random", "score"))',
            'SHOWN = (("random", "score"), ("random", "kl_mean"))',
        ),
        (
            "a sweep corrects for rows that it does not show",
            "SHOWN, rateless=False)",
            "SHOWN, rateless=True)",
        ),
    ),
    *in_file(
        "eval/report/overview.py",
        ("tests/eval/test_overview.py",),
        (
            "the average's full score is the first dataset's",
            'mean([found["full_score"] for found in members])',
            'mean([members[0]["full_score"]])',
        ),
        (
            "averages over other benchmarks' datasets",
            'if found["suite"] == suite]',
            "if suite]",
        ),
        (
            "a speed-up averaged over the datasets that have one",
            "return None if None in values else float(np.mean(np.asarray(values, dtype=float)))",
            "return float(np.mean([v for v in values if v is not None]))",
        ),
        (
            "an average is the best dataset's",
            "float(np.mean(np.asarray(values, dtype=float)))",
            "float(np.max(np.asarray(values, dtype=float)))",
        ),
        (
            "samples are not marked",
            '"*" * (found["note"] is not None)',
            '"*" * (found["note"] is None)',
        ),
        (
            "a band without items counts as 0",
            'if (s := row["score_by_length"][band]) is not None]',
            'for s in [row["score_by_length"][band] or 0.0]]',
        ),
    ),
    *in_file(
        "eval/report/overlaps.py",
        ("tests/eval/test_overlap.py",),
        (
            "overlap's rows and columns swapped",
            "methods.index(name)][methods.index(reference)]",
            "methods.index(reference)][methods.index(name)]",
        ),
    ),
    *in_file(
        "eval/report/heatmap.py",
        ("tests/eval/test_heatmap.py",),
        (
            "depths and lengths swapped",
            'cell = (record["depth"], record["context_length"])',
            'cell = (record["context_length"], record["depth"])',
        ),
        ("a cell is its best needle", "sum(s) / len(s) if s", "max(s) if s"),
        (
            "a cell without needles is 0",
            "if s else None for s in row]",
            "if s else 0 for s in row]",
        ),
    ),
    *in_file(
        "eval/report/table.py",
        ("tests/eval/test_report.py",),
        (
            "cold and ready parts swapped",
            '(("cold", "ttft_parts_ms"), ("ready", "ttft_parts_ready_ms"))',
            '(("ready", "ttft_parts_ms"), ("cold", "ttft_parts_ready_ms"))',
        ),
        ("the median under p95", "{times['p95']:.0f}", "{times['median']:.0f}"),
        ("a warm time called cold", "if False in dropped:", "if not dropped:"),
    ),
]
