"""Mistakes in what ``eval/analysis`` sets beside what: differences, overlaps, alarms."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, in_file

MUTANTS: list[Mutant] = [
    *in_file(
        "eval/analysis/compare.py",
        ("tests/eval/test_compare.py",),
        (
            "the best is the worst",
            "sign = -1 if measure.higher_is_better",
            "sign = 1 if measure.higher_is_better",
        ),
        (
            "the worst KL is the best",
            "if measure.higher_is_better else 1\n",
            "if measure.higher_is_better else -1\n",
        ),
        ("an oracle is the best method", 'if not results[i]["oracle"]}', "if True}"),
        ("the control of another rate", "if rate(results[place]) in (None, wanted)]", "if True]"),
        (
            "p is not corrected",
            "corrected = dict(zip(family, holm([p[test] for test in family]), strict=True))",
            "corrected = {test: p[test] for test in family}; holm([])",
        ),
        (
            "the choice of the best is not allowed for",
            "for pair in claimed for test in pair.tests()))",
            "for pair in claimed for test in pair.tests()[:1]))",
        ),
        ("claims of what no table shows", "if pair[:2] in shown and", "if pair[:2] and"),
        ("claims by the uncorrected p", "else verdict(p_holm, found", "else verdict(p, found"),
        (
            "the full prefill's values taken for the other method's",
            "measure, full=other == FULL)",
            "measure, full=True)",
        ),
    ),
    *in_file(
        "eval/analysis/measures.py",
        ("tests/eval/test_compare.py",),
        (
            "runs over other items compared",
            'if [i["id"] for i in result["items"]] != [i["id"] for i in results[0]["items"]]:',
            'if len(result["items"]) != len(results[0]["items"]):',
        ),
        (
            "a lower score is better",
            "        higher_is_better=True,",
            "        higher_is_better=False,",
        ),
        ("cold for ready in comparisons", 'item["ttft_ms"]["ready"]', 'item["ttft_ms"]["cold"]'),
        (
            "KL of the first token for that of the answer",
            '"kl_mean": Measure(lambda item: item["kl_mean"]',
            '"kl_mean": Measure(lambda item: item["kl_first"]',
        ),
    ),
    *in_file(
        "eval/analysis/alarms.py",
        ("tests/eval/test_sweep_report.py",),
        ("an alarm where a distance falls", "if after < before or", "if after > before or"),
        (
            "alarms from high rates to low ones",
            "runs.sort(key=lambda run: float(rate(run) or 0))",
            "runs.sort(key=lambda run: -float(rate(run) or 0))",
        ),
        ("alarms where nothing is left to fall", " or after <= ROUNDING", ""),
        (
            "alarms are not corrected",
            "zip(steps, gaps, p, holm(p), strict=True)",
            "zip(steps, gaps, p, holm(p) and p, strict=True)",
        ),
        (
            "every rise is beyond the noise",
            'higher_is_better=False) == "worse"',
            'higher_is_better=False) != "better"',
        ),
    ),
    *in_file(
        "eval/analysis/overlap.py",
        ("tests/eval/test_overlap.py",),
        (
            "overlap's reference and chosen swapped",
            "size = int(reference.sum())",
            "size = int(chosen.sum())",
        ),
        (
            "items with an empty reference overlap by nothing",
            "/ size if size else None",
            "/ size if size else 0.0",
        ),
        ("overlap of union", "(chosen & reference).sum()", "(chosen | reference).sum()"),
        (
            "positions read from the other end of a byte",
            'bitorder="little").astype',
            'bitorder="big").astype',
        ),
    ),
]
