"""A run's name covers the source of everything that decides its figures."""

from __future__ import annotations

from eval.runner import MEASURED_BY, MEASURING
from models.code import ROOT, imports, sources

# What the rest is named by, in a run's identity or not at all.
ELSEWHERE = {
    "data.inputs": "the inputs' fingerprint",
    "eval.config": "options",
    "eval.variants": "the method's, corrector's and policy's specs, options and code",
    "stage.environment": "names of versions; no figure",
    "stage.ledger": "seconds of the whole run, which no record holds",
    "stage.session": "weights, tokenizer, inputs and what chunks stand behind",
}


def test_what_an_item_is_measured_with_is_in_the_runs_name():
    """Whatever its files import is hashed, too, or its outcome is."""
    named = set(MEASURING).union(*map(sources, MEASURED_BY))
    direct = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for file in MEASURING
        for path in imports(file)
        if path not in named and path.name != "__init__.py"
    }
    assert direct == ELSEWHERE.keys()


def test_every_file_of_an_item_is_in_the_runs_name():
    assert {ROOT / "eval" / "evaluator.py", *(ROOT / "eval" / "item").glob("*.py")} == set(
        MEASURING
    )
