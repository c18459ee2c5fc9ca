"""Decisions of answers, and what a summary makes of them and of what the full prefill answers."""

from __future__ import annotations

import numpy as np
import pytest

from eval.analysis.stats import ratio
from eval.analysis.summary import ANSWERED, summarize
from eval.metrics.decisions import decision, same_decision
from tests.eval.test_summary import HOTPOT, record

CLASSES = ["Date", "City", "Person", "Other location", "Location"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("City", {"City"}),
        ("Type: City or Date", {"City", "Date"}),
        ("Other location", {"Other location"}),
        ("Location", {"Location"}),
        ("nothing of it", set()),
        ("", set()),
        ("\nCity\nQuestion: Date", {"City"}),
    ],
)
def test_the_classes_that_an_answer_names(text, named):
    assert decision(text, CLASSES, first_line=True) == named


def test_a_class_within_a_longer_one_is_not_named():
    assert decision("an Equation of motion", ["Equation", "Equation of motion"], False) == {
        "Equation of motion"
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Yes.", {"yes"}),
        ("no, it is not", {"no"}),
        ("NO", {"no"}),
        ("Nobody knows", set()),
        ("There is no such thing", set()),
        ("", set()),
    ],
)
def test_yes_and_no_are_what_an_answer_begins_with(text, named):
    assert decision(text, frozenset({"yes", "no"}), first_line=False) == named


@pytest.mark.parametrize(
    ("ours", "full", "answers", "classes", "same"),
    [
        ("yes", "Yes, both", ["yes"], None, True),
        ("no", "Yes, both", ["yes"], None, False),
        ("no", "no", ["yes"], None, True),  # wrong alike is the same decision
        ("perhaps", "no", ["no"], None, False),
        ("no", "perhaps", ["no"], None, None),
        ("no", "no", ["no", "Paris"], None, None),
        ("no", "no", [], None, None),
        ("City", "City", ["Date"], CLASSES, True),
        ("City Date", "City", ["Date"], CLASSES, False),
        ("City", "a town", ["City"], CLASSES, None),
        ("no", "no", ["no"], ["no", "yes"], True),
    ],
)
def test_whether_two_answers_decide_alike(ours, full, answers, classes, same):
    found = same_decision(ours, full, answers, first_line=False, all_classes=classes)
    assert found is same


def test_agreement_is_over_the_items_that_decide():
    agrees = [True, None, False, True, None]
    records = [record(i, same_decision=same) for i, same in enumerate(agrees)]
    found = summarize(records, HOTPOT, 3)
    assert found["decisions"] == 3
    assert found["decision_agreement"] == pytest.approx(2 / 3)
    low, high = found["decision_agreement_ci95"]
    assert low < 2 / 3 <= high <= 1
    found = summarize([record(i) for i in range(5)], HOTPOT, 3)
    assert found["decisions"] == 0
    assert found["decision_agreement"] is found["decision_agreement_ci95"] is None


def test_retention_over_what_the_full_prefill_answers():
    """Chosen by its score alone, so that every method has the same items."""
    full = [49.9, 50.0, 100.0, 0.0, 80.0]
    ours = [100.0, 25.0, 90.0, 100.0, 80.0]
    pairs = zip(ours, full, strict=True)
    records = [record(i, score=a, full_score=b) for i, (a, b) in enumerate(pairs)]
    found = summarize(records, HOTPOT, 3)
    assert ANSWERED == 50
    assert found["answered"] == 3
    assert found["retention_answered"] == pytest.approx((25 + 90 + 80) / 230)
    wanted = ratio([25.0, 90.0, 80.0], [50.0, 100.0, 80.0], 3)
    assert found["retention_answered_ci95"] == wanted["ci95"]
    assert found["retention"] == pytest.approx(np.sum(ours) / np.sum(full))


def test_nothing_that_the_full_prefill_answers():
    found = summarize([record(i, full_score=30.0) for i in range(5)], HOTPOT, 3)
    assert found["answered"] == 0
    assert found["retention_answered"] is found["retention_answered_ci95"] is None
    found = summarize([record(i, full_score=None, score=None) for i in range(5)], HOTPOT, 3)
    assert found["answered"] == 0
    assert found["retention_answered"] is None
