"""Mistakes in the statistics of ``eval/analysis``: intervals, tests, corrections."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, in_file

MUTANTS: list[Mutant] = [
    *in_file(
        "eval/analysis/stats.py",
        ("tests/eval/test_stats.py",),
        (
            "ends of an interval swapped",
            "    return float(low), float(high)",
            "    return float(high), float(low)",
        ),
        (
            "a 90% interval called 95%",
            "np.percentile(draws, [2.5, 97.5])",
            "np.percentile(draws, [5, 95])",
        ),
        (
            "interval of the mean for a median",
            "    function = np.mean if statistic",
            "    function = np.mean if True or statistic",
        ),
        (
            "mean of differences for their median",
            'np.mean(differences) if statistic == "mean" else np.median(differences)',
            "np.mean(differences)",
        ),
        (
            "differences of other minus method",
            "differences = ours - theirs",
            "differences = theirs - ours",
        ),
        (
            "differences not of the same items",
            "differences = ours - theirs",
            "differences = np.sort(ours) - np.sort(theirs)",
        ),
        (
            "differences of every item to the other's mean",
            "differences = ours - theirs",
            "differences = ours - theirs.mean()",
        ),
        (
            "rounding told apart: no ties",
            "np.abs(differences) <= resolution",
            "np.abs(differences) <= 0",
        ),
        ("ratio turned over", "above.mean() / below.mean()", "below.mean() / above.mean()"),
        (
            "mean of ratios for the ratio of means",
            "float(above.mean() / below.mean())",
            "float(np.mean(above / np.where(below == 0, 1, below)))",
        ),
        (
            "interval of a ratio from items that are not paired",
            "below[items].sum(1)] for items",
            "below[items[::-1]].sum(1)] for items",
        ),
        ("p95 is p5", "np.percentile(values, 95)", "np.percentile(values, 5)"),
        (
            "median of times is their mean",
            '"median": float(np.median(values))',
            '"median": float(np.mean(values))',
        ),
        (
            "the middle item is its neighbour",
            "    half = len(order) // 2",
            "    half = (len(order) - 1) // 2",
        ),
        (
            "another seed draws the same items",
            "rng = np.random.default_rng(seed)",
            "rng = np.random.default_rng(0)",
        ),
    ),
    *in_file(
        "eval/analysis/stats.py",
        ("tests/eval/test_summary.py",),
        (
            "interval of the mean around a median time",
            'list(bootstrap(values, seed, "median"))',
            "list(bootstrap(values, seed))",
        ),
    ),
    *in_file(
        "eval/analysis/significance.py",
        ("tests/eval/test_significance.py",),
        (
            "one-sided p",
            "        vectorized=True,",
            '        vectorized=True,\n        alternative="greater",',
        ),
        ("half of the two-sided p", "np.asarray(found.pvalue)", "np.asarray(found.pvalue) / 2"),
        (
            "one-sided sign test",
            "binomtest(above, above + below).pvalue",
            'binomtest(above, above + below, alternative="greater").pvalue',
        ),
        ("ties counted as losses", "int((row < 0).sum())", "int((row <= 0).sum())"),
        (
            "flips of ranks' sizes lost: a sign test for the mean",
            "    weights = (rows / np.abs(rows).sum(1, keepdims=True)).T",
            "    weights = (np.sign(rows) / m).T",
        ),
        (
            "times tested by their mean",
            'sign_flip(differences, seed) if statistic == "mean" else sign_test(differences)',
            "sign_flip(differences, seed)",
        ),
        (
            "equal sums told apart by rounding",
            "(signs @ weights).round(12)",
            "(signs @ weights + 1e-9 * (signs @ np.arange(m))[..., None])",
        ),
        ("Holm is no correction", "np.arange(len(found), 0, -1)", "1"),
        ("Holm is Bonferroni", "np.arange(len(found), 0, -1)", "len(found)"),
        ("Holm's p may fall again", "np.maximum.accumulate(steps)", "steps"),
        (
            "Holm begins at the largest p",
            'np.argsort(found, kind="stable")',
            'np.argsort(-found, kind="stable")',
        ),
        ("corrected p handed to other comparisons", "corrected[order] = ", "corrected[:] = "),
        ("better is worse", '"better" if (estimate > 0)', '"better" if (estimate < 0)'),
        ("higher is always better", "(estimate > 0) == higher_is_better", "estimate > 0"),
        ("claims at 10%", "ALPHA = 0.05", "ALPHA = 0.1"),
        (
            "the note on too few items forgets the family",
            "return family * 2 / 2**items",
            "return 2 / 2**items",
        ),
    ),
]
