"""The mutants still fit the source, and the runner tells a killed one from a survivor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import __main__ as runner
from tests.mutation.mutant import Mutant, Stale
from tests.mutation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_every_mutant_still_applies(mutant):
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutant.applied(ROOT)
    assert changed != source
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")
    assert mutant.tests


def test_no_mutant_is_there_twice():
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.text, mutant.replacement) for mutant in MUTANTS}) == len(
        MUTANTS
    )


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of one function and one test, which looks at half of what it does."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x + 0\n")
    (tmp_path / "tests" / "test_double.py").write_text(
        "from double import double\n\n\ndef test_double():\n    assert double(1) == 2\n"
    )
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return tmp_path


def mutant(text: str, replacement: str, tests: str = "tests/test_double.py") -> Mutant:
    return Mutant("a mistake", "double.py", text, replacement, (tests,))


@pytest.mark.parametrize(
    ("text", "replacement", "code", "said"),
    [
        ("2 * x", "3 * x", 0, "killed by tests/test_double.py::test_double"),
        ("2 * x", "2 ** x", 1, "SURVIVED"),
        ("2 * x", "2 * )", 1, "BROKEN"),
        ("5 * x", "x", 2, ""),
        ("x", "y", 2, ""),
        ("2 * x", "2 * x", 2, ""),
    ],
)
def test_the_runner(checkout, monkeypatch, capsys, text, replacement, code, said):
    monkeypatch.setattr(runner, "MUTANTS", [mutant(text, replacement)])
    assert runner.main([]) == code
    out, err = capsys.readouterr()
    assert said in out
    assert ("stale" in err) == (code == 2)
    assert (checkout / "double.py").read_text() == "def double(x):\n    return 2 * x + 0\n"


def test_only_what_a_mutant_breaks_has_a_time_limit(checkout, monkeypatch, capsys):
    monkeypatch.setattr(runner, "MUTANTS", [mutant("2 * x", "3 * x")])
    monkeypatch.setattr(runner, "SECONDS", 0.01)
    assert runner.main([]) == 0
    assert "which does not end" in capsys.readouterr().out


def test_tests_that_fail_anyway_show_nothing(checkout, monkeypatch, capsys):
    (checkout / "double.py").write_text("def double(x):\n    return 2 * x + 1\n")
    monkeypatch.setattr(runner, "MUTANTS", [mutant("2 * x", "3 * x")])
    assert runner.main([]) == 2
    assert (
        "without a mutant, too, tests/test_double.py::test_double fails" in capsys.readouterr().err
    )


def test_a_test_file_that_is_gone_makes_a_mutant_stale(checkout):
    with pytest.raises(Stale, match="no test file"):
        mutant("2 * x", "3 * x", "tests/test_other.py").applied(checkout)


def test_words_choose(checkout, monkeypatch, capsys):
    monkeypatch.setattr(runner, "MUTANTS", [mutant("2 * x", "3 * x")])
    assert runner.main(["triple"]) == 2
    assert "no mutant of 1 has 'triple'" in capsys.readouterr().err
    assert runner.main(["double.py", "mistake"]) == 0
