"""What the README and docs/ show must work as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from kvfuse.__main__ import COMMANDS
from models import correctors, selectors
from models.gate import reader
from models.kv.capture import capture
from models.selectors.spec import SELECTORS
from tests.conftest import random_prompt

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = {
    target
    for page in PAGES
    for target in re.findall(r"    make ([a-z-]+)", page.read_text("utf-8"))
}
LINKS = [
    (page, link)
    for page in PAGES
    for link in sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text("utf-8"))))
]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_python_example_runs(capsys, monkeypatch):
    monkeypatch.setattr(SELECTORS, "_registered", {})  # what it registers stays in here
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec", dont_inherit=True), {"__name__": "example"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["full", "seventh", "debug", "full"]
    assert "48213" in lines[-1]


def test_the_examples_run(llama, tmp_path):
    code, corrector = re.findall(r"```python\n(.*?)```", METHODS, re.DOTALL)
    path, mean = tmp_path / "seventh.py", tmp_path / "mean.py"
    path.write_text(code, encoding="utf-8")
    mean.write_text(corrector, encoding="utf-8")
    prompt = random_prompt(5, [60, 40], 9)
    kv = capture(llama.engine.modules, prompt, [1]).kv
    for step, spec in ((7, str(path)), (5, f"{path}:step=5")):
        prefill = llama.engine.fused_prefill(
            prompt, reader(kv), selectors.build(spec), 0.1, torch.Generator()
        )
        assert prefill.recomputed.tolist() == [*[*range(5, 105, step)][:10], *range(105, 114)]
        corrected = llama.engine.fused_prefill(
            prompt,
            reader(kv),
            selectors.build(spec),
            0.1,
            torch.Generator(),
            corrector=correctors.build(str(mean)),
        )
        assert not torch.equal(corrected.logits, prefill.logits)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_make_target_that_is_named_exists(target):
    (commands,) = re.findall(r"^COMMANDS := (.*)", MAKEFILE, re.MULTILINE)
    assert set(commands.split()) == COMMANDS.keys()
    assert target in COMMANDS or re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: str(value).rpartition("/")[2])
def test_every_file_that_is_linked_exists(page, link):
    assert (page.parent / link).exists()


def test_every_dependency_is_in_the_table():
    declared = re.findall(r'^    "([a-z0-9-]+)[=><]', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared
    for name in declared:
        assert f"`{name}`" in README or f"`{name.replace('-', '_')}`" in README, name
