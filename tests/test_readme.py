"""What the README shows must work as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from kvfuse.__main__ import COMMANDS
from models.gate import reader
from models.kv.capture import capture
from tests.conftest import random_prompt

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_selector_example_runs(llama):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {"__name__": "seventh"}
    exec(compile(code, "README.md", "exec", dont_inherit=True), scope)
    prompt = random_prompt(5, [60, 40], 9)
    kv = capture(llama.engine.modules, prompt, [1]).kv
    prefill = llama.engine.fused_prefill(
        prompt, reader(kv), scope["Selector"](), 0.1, torch.Generator()
    )
    assert prefill.recomputed.tolist() == [*[*range(5, 75, 7)][:10], *range(105, 114)]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_every_make_target_that_is_named_exists(target):
    (commands,) = re.findall(r"^COMMANDS := (.*)", MAKEFILE, re.MULTILINE)
    assert set(commands.split()) == COMMANDS.keys()
    assert target in COMMANDS or re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_every_file_that_is_linked_exists(path):
    assert (ROOT / path).exists()


def test_every_dependency_is_in_the_table():
    declared = re.findall(r'^    "([a-z0-9-]+)[=><]', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared
    for name in declared:
        assert f"`{name}`" in README or f"`{name.replace('-', '_')}`" in README, name
