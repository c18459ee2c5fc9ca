"""Mistakes in what ``eval/analysis`` makes of records and logits."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, in_file

MUTANTS: list[Mutant] = [
    *in_file(
        "eval/analysis/summary.py",
        ("tests/eval/test_summary.py",),
        (
            "speed-up turned over",
            "float(np.median(full) / np.median(t))",
            "float(np.median(t) / np.median(full))",
        ),
        (
            "speed-up of means",
            "float(np.median(full) / np.median(t))",
            "float(np.mean(full) / np.mean(t))",
        ),
        (
            "median of the items' own speed-ups",
            "float(np.median(full) / np.median(t))",
            "float(np.median(np.divide(full, t)))",
        ),
        (
            "cold and ready swapped",
            'column("ttft_ms", when) for when',
            'column("ttft_ms", "ready" if when == "cold" else "cold") for when',
        ),
        (
            "cold parts of the item in the middle of the ready times",
            'parts("ttft_parts_ms", times["cold"])',
            'parts("ttft_parts_ms", times["ready"])',
        ),
        (
            "ready parts of the item in the middle of the cold times",
            'parts("ttft_parts_ready_ms", times["ready"])',
            'parts("ttft_parts_ready_ms", times["cold"])',
        ),
        ("parts of the first item", "chosen = middle(times)", "chosen = middle(times)[:0] or [0]"),
        (
            "retention turned over",
            "ratio(score, full_score, seed)",
            "ratio(full_score, score, seed)",
        ),
        (
            "the full prefill's score for the method's",
            '"score": _mean(score)',
            '"score": _mean(full_score)',
        ),
        (
            "KL of the full prefill's answer is a median",
            "summary[name] = float(np.mean(column(name)))",
            "summary[name] = float(np.median(column(name)))",
        ),
        (
            "select of the cold runs",
            'column("ttft_parts_ready_ms") if part is not None]',
            'column("ttft_parts_ms") if part is not None]',
        ),
        (
            "a speed-up from the items that have a time",
            "    return bool(values) and None not in values",
            "    return bool([v for v in values if v is not None])",
        ),
        ("LongBench-E: 4,000 words among the shorter", "words < 4000", "words <= 4000"),
        ("LongBench-E: 8,000 words among the shorter", "words < 8000", "words <= 8000"),
    ),
    *in_file(
        "eval/analysis/summary.py",
        ("tests/eval/test_finite_figures.py",),
        (
            "NaN in a record goes into its summary",
            "        require_finite(record, f\"item {record['id']}\")",
            "        pass",
        ),
    ),
    *in_file(
        "eval/analysis/fidelity.py",
        ("tests/eval/test_fidelity.py",),
        ("KL the other way round", "(p.exp() * (p - q)).sum()", "(q.exp() * (q - p)).sum()"),
        (
            "KL in bits",
            "(p.exp() * (p - q)).sum()",
            "(p.exp() * (p - q)).sum() / torch.log(torch.tensor(2.0))",
        ),
        ("cross-entropy for KL", "(p.exp() * (p - q)).sum()", "(p.exp() * -q).sum()"),
        ("KL of an answer is its sum", "for pair in pairs) / len(reference)", "for pair in pairs)"),
        (
            "agreement with one row for all tokens",
            "if len(logits) != len(answer):",
            "if len(logits) > len(answer):",
        ),
        (
            "agreement off by one token",
            "(logits.argmax(-1).cpu() == torch.tensor(answer)).sum()",
            "(logits.argmax(-1).cpu().roll(1) == torch.tensor(answer)).sum()",
        ),
        (
            "agreement leaves the last token out of its share",
            "float(hits) / len(answer)",
            "float(hits) / max(1, len(answer) - 1)",
        ),
    ),
    *in_file(
        "eval/analysis/fidelity.py",
        ("tests/eval/test_finite_figures.py",),
        (
            "a KL of NaN is 0.0",
            "if not math.isfinite(value) or value < BELOW:",
            "if value < BELOW:",
        ),
        (
            "a negative KL is 0.0",
            "if not math.isfinite(value) or value < BELOW:",
            "if not math.isfinite(value):",
        ),
        (
            "agreement with logits of NaN",
            '    require_finite(logits, "logits along the answer")',
            "    pass",
        ),
    ),
    *in_file(
        "eval/analysis/finite.py",
        ("tests/eval/test_finite_figures.py",),
        ("infinite figures pass", "and not math.isfinite(value):", "and math.isnan(value):"),
    ),
]
