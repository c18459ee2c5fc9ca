"""The hash of the source: what changes it, and what must not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models import code


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name, text in {
        "models/__init__.py": "",
        "models/engine.py": "import torch\nfrom models import flight\n",
        "models/flight.py": "from models.deep.rows import attend\n",
        "models/deep/__init__.py": "",
        "models/deep/rows.py": "def attend():\n    from models import late\n",
        "models/late.py": "",
        "models/other.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.sources.cache_clear()
    yield tmp_path
    code.sources.cache_clear()


def digest() -> str:
    code.sources.cache_clear()
    return code.code_digest("models.engine")


@pytest.mark.parametrize(
    "name",
    ["engine.py", "flight.py", "deep/__init__.py", "deep/rows.py", "late.py", "__init__.py"],
)
def test_whatever_is_imported_counts(tree, name):
    before = digest()
    (tree / "models" / name).open("a").write("\n# changed\n")
    assert digest() != before


def test_what_is_not_imported_does_not(tree):
    before = digest()
    (tree / "models" / "other.py").write_text("x = 1\n")
    assert digest() == before


@pytest.mark.parametrize("name", ["rows.cpp", "lanes.h"])
def test_what_a_module_compiles_counts(tree, name):
    kernel, other = tree / "models" / "deep" / name, tree / "data" / name
    other.parent.mkdir()
    kernel.write_text("int x;")
    before = digest()
    other.write_text("int x;")
    assert digest() == before
    kernel.write_text("int y;")
    assert digest() != before


def test_a_file_of_its_own_counts_by_content(tree, tmp_path):
    path = tmp_path / "seventh.py"
    path.write_text("a = 1\n")
    before = code.code_digest("models.engine", files=[path])
    assert before != digest()
    path.write_text("a = 2\n")
    assert code.code_digest("models.engine", files=[path]) != before


def test_the_place_of_the_checkout_does_not_count(tree, tmp_path, monkeypatch):
    before = digest()
    shutil.copytree(tree / "models", tmp_path / "moved" / "models")
    monkeypatch.setattr(code, "ROOT", tmp_path / "moved")
    assert digest() == before


def test_a_module_that_is_not_there_is_an_error(tree):
    with pytest.raises(ModuleNotFoundError, match=r"models\.gone"):
        code.code_digest("models.gone")


def test_the_engine_brings_its_attention_and_no_method_of_its_own():
    code.sources.cache_clear()
    names = {path.relative_to(code.ROOT).as_posix() for path in code.sources("models.engine")}
    assert {"models/attention/blocked.py", "models/kv/rotary.py", "models/flight.py"} <= names
    assert "models/selectors/debug.py" not in names


def test_a_source_of_its_own_counts_with_what_it_imports_of_ours(tree):
    source = b"import torch\nfrom models import late\n"
    before = code.text_digest(source)
    assert code.text_digest(source + b"# changed\n") != before
    (tree / "models" / "other.py").write_text("x = 1\n")
    assert code.text_digest(source) == before
    (tree / "models" / "late.py").write_text("x = 1\n")
    assert code.text_digest(source) != before
