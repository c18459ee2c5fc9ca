"""Mistakes in the report's page and in ``kvfuse compare``: figures in another's place."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, in_file

PAGE = ("tests/stages/test_page.py",)
MUTANTS: list[Mutant] = [
    *in_file(
        "eval/analysis/pairwise.py",
        ("tests/eval/test_pairwise.py",),
        (
            "a mirrored cell keeps its side",
            '"estimate": -whole["estimate"]',
            '"estimate": whole["estimate"]',
        ),
        ("a mirrored interval keeps its ends", "[-high + 0.0, -low + 0.0]", "[low, high]"),
        ("a mirrored claim is not turned", 'MIRROR[whole["verdict"]]', 'whole["verdict"]'),
        (
            "a matrix is corrected for nothing",
            "zip(found, found.values(), corrected, strict=True)",
            'zip(found, found.values(), [c["p"] for c in found.values()], strict=True)',
        ),
        ("runs of two rates meet", "rate(results[p]) in (None, wanted)", "True"),
    ),
    *in_file(
        "eval/analysis/stats.py",
        ("tests/eval/test_pairwise.py",),
        (
            "resamples of one mean count another's items",
            "items + n * np.arange(len(items))[:, None]",
            "items + n * np.arange(len(items))[::-1, None] * 0",
        ),
    ),
    *in_file(
        "eval/compare/__main__.py",
        ("tests/eval/test_compare_runs.py",),
        (
            "items are paired by their order",
            "(a.items[item].get(measure.key), b.items[item].get(measure.key)) for item in shared",
            "(x.get(measure.key), y.get(measure.key)) "
            "for x, y in zip(a.items.values(), b.items.values(), strict=False)",
        ),
        (
            "more time is better",
            '"TTFT ms", RULES["ttft_ready_ms"]',
            '"TTFT ms", RULES["ttft_ready_ms"]._replace(higher_is_better=True)',
        ),
    ),
    *in_file(
        "eval/compare/lmcache.py",
        ("tests/eval/test_compare_runs.py",),
        (
            "an unparsed answer is told but not counted",
            "    if not sample.parsed:\n        return 0.0\n",
            "    if not sample.parsed:\n        return 100.0\n",
        ),
        ("seconds for milliseconds", "1e3 * float(seconds or 0.0)", "1.0 * float(seconds or 0.0)"),
        (
            "the time of a failed request counts",
            "math.isfinite(seconds) and seconds > 0",
            "math.isfinite(seconds)",
        ),
    ),
    *in_file(
        "eval/report/page/overview.py",
        PAGE,
        (
            "the share of the limit is turned round",
            "100 * speedup / limit",
            "100 * limit / speedup",
        ),
        (
            "a failed gate is not marked",
            'if others or not result["gate"].get("passed"):',
            'if not result["gate"].get("passed"):',
        ),
    ),
    *in_file(
        "eval/report/page/curves.py",
        PAGE,
        (
            "the limit is the speed-up itself",
            "full_ms / limit if limit",
            'times["median"] / limit if limit',
        ),
        (
            "a score has the interval of the time",
            'line.y_ci.append(row[f"{measure}_ci95"])',
            'line.y_ci.append(times["ci95"])',
        ),
    ),
    *in_file(
        "eval/report/page/write.py",
        PAGE,
        ("text may end its script", '"[<>&\\u2028\\u2029]"', '"[&\\u2028\\u2029]"'),
        (
            "figures of earlier charts stay",
            "        if path.name not in kept:\n            path.unlink()\n",
            "        pass\n",
        ),
    ),
    *in_file(
        "eval/report/page/texts.py",
        PAGE,
        (
            "surprisal of other weights is shown",
            '        "weights": config["weights"],\n        "dtype"',
            '        "dtype"',
        ),
        (
            "surprisal behind another context is shown",
            '"chunking": {**chunking, **({"front": digest(fronts)} if fronts else {})},',
            "",
        ),
    ),
    *in_file(
        "eval/report/groups.py",
        PAGE,
        (
            "runs of two machines stand side by side",
            '"machine": {key: environment.get(key) for key in MACHINE}',
            '"machine": None',
        ),
    ),
]
