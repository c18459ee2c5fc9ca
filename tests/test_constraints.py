"""What ``make setup`` installs is within what the metadata says the engine runs on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
)
VERSIONS = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PINNED.items()}


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["gpu"]])
def test_every_dependency_is_pinned_within_its_range(text):
    needed = Requirement(text)
    assert needed.specifier.contains(VERSIONS[re.sub(r"[-_.]+", "-", needed.name).lower()])


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        ("torch", "2.11.0", True),
        ("torch", "2.14.0", False),
        ("transformers", "5.17.0", True),
        ("huggingface_hub", "1.5.0", True),  # what transformers 5.17 asks for
        ("flashinfer-python", "0.7.0", False),  # its workspace overflows ours
        ("cuda-python", "12.6.2", False),  # bindings of another CUDA than the libraries'
    ],
)
def test_the_ranges_are_those_that_were_looked_at(name, version, fits):
    texts = [*PROJECT["dependencies"], *EXTRAS["gpu"]]
    (needed,) = [found for found in map(Requirement, texts) if found.name == name]
    assert needed.specifier.contains(version) == fits


def test_setup_installs_by_them():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line and " -e " in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
