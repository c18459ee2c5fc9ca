"""Compiling the kernel: once, kept whole, and one line where it cannot be had."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from models.attention import library, native
from models.attention.masked import MaskedRows
from models.attention.registry import choose_backend
from models.engine import Engine
from models.errors import UserError
from models.linear import table
from tests.conftest import build, random_prompt

CPU = torch.device("cpu")
REASON = native.obstacle(torch.float32, 64)
needs_kernel = pytest.mark.skipif(REASON is not None, reason=f"no kernel: {REASON}")


@pytest.fixture
def bin(tmp_path, monkeypatch) -> Path:
    """The only folder on the PATH beside the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cp", "echo", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    fresh(monkeypatch)
    return folder


def fresh(monkeypatch) -> None:
    """As in another process: nothing is known about the kernel yet."""
    for module, name in ((library, "_key"), (native, "_found")):
        monkeypatch.setattr(module, name, cache(getattr(module, name).__wrapped__))


def compiler(folder: Path, body: str) -> None:
    """A ``g++`` that tells its version and then runs ``body``, with the target in ``$target``."""
    script = folder / "g++"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "g++ 99" && exit 0\n'
        f'while [ "$1" != -o ]; do shift; done; target=$2\n{body}\n'
    )
    script.chmod(0o755)


def copied(tmp_path: Path, monkeypatch) -> list[Path]:
    """The kernel's sources, in a folder where they may be changed."""
    folder = tmp_path / "sources"
    folder.mkdir()
    files = [library.SOURCE, *library.SOURCE.parent.glob("*.h")]
    monkeypatch.setattr(library, "SOURCE", folder / library.SOURCE.name)
    return [Path(shutil.copy(path, folder)) for path in files]


@pytest.fixture(scope="session")
def built() -> Path:
    """The real library's path."""
    library.load()
    return library.cache_dir() / "native" / f"attention-{library._key(library.SOURCE)}.so"


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "native").iterdir())


def falls_back(match: str) -> None:
    """Everything runs without the kernel, which says why in one line."""
    reason = native.obstacle(torch.float32, 64)
    assert re.search(match, reason), reason
    assert "\n" not in reason
    engine = Engine(build("llama"))
    assert engine.backend == "blocked"
    engine.full_prefill(random_prompt(3, [20], 5))
    with pytest.raises(UserError, match=r"^BACKEND=native cannot be used: "):
        choose_backend(CPU, torch.float32, 64, "native")


def test_without_a_compiler(bin):
    falls_back(r"no g\+\+ here: install it")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("echo 'x.cpp:1: error: no such flag' >&2; exit 1", "failed .*no such flag.*newer one"),
        ("exit 1", "g\\+\\+ failed"),
        ("sleep 9", "does not run here .*timed out"),
        ("exit 0", "left no library"),
        ("echo nonsense > $target", "cannot be loaded"),
    ],
    ids=["error", "silent", "hangs", "writes nothing", "writes nonsense"],
)
def test_with_a_compiler_that_fails(bin, monkeypatch, body, match):
    monkeypatch.setattr(library, "SECONDS", 0.5)
    compiler(bin, body)
    falls_back(match)


def test_on_another_kind_of_cpu(bin, tmp_path, monkeypatch):
    compiler(bin, "exit 0")
    info = tmp_path / "cpuinfo"
    for text in ("", "model name\t: Old\nflags\t\t: fpu sse2 avx\n"):
        info.write_text(text)
        monkeypatch.setattr(library, "CPUINFO", info)
        fresh(monkeypatch)
        falls_back("written for x86 CPUs")
    monkeypatch.setattr(library, "CPUINFO", tmp_path / "none")
    fresh(monkeypatch)
    falls_back("written for x86 CPUs")


@needs_kernel
def test_where_the_cache_cannot_be_written(bin, built, tmp_path):
    compiler(bin, f"cp {built} $target")
    (tmp_path / "cache").write_text("a file")
    falls_back("cannot write .*KVFUSE_CACHE=")


@needs_kernel
def test_it_is_compiled_once_and_says_so(bin, built, tmp_path, monkeypatch, capfd):
    compiler(bin, f"cp {built} $target; echo compiled >> {tmp_path}/log")
    for _ in range(3):
        fresh(monkeypatch)
        assert choose_backend(CPU, torch.float32, 64) == "native"
    assert (tmp_path / "log").read_text().split() == ["compiled"]
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert [path.suffix for path in kept(tmp_path)] == [".so"]


@needs_kernel
def test_another_compiler_source_or_cpu_is_another_library(bin, built, tmp_path, monkeypatch):
    compiler(bin, f"cp {built} $target")
    info = tmp_path / "cpuinfo"
    names = set()

    def name() -> None:
        fresh(monkeypatch)
        names.add(library._key(library.SOURCE))

    name()
    name()
    assert len(names) == 1
    (bin / "g++").write_text((bin / "g++").read_text().replace("g++ 99", "g++ 100"))
    name()
    info.write_text(library.CPUINFO.read_text().replace("model name\t: ", "model name\t: New "))
    monkeypatch.setattr(library, "CPUINFO", info)
    name()
    sources = copied(tmp_path, monkeypatch)
    for source in sources:
        source.write_text(source.read_text() + "// changed\n")
        name()
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
    name()
    assert len(names) == 4 + len(sources)


@needs_kernel
@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "text"])
def test_a_damaged_library_is_compiled_again(bin, built, tmp_path, monkeypatch, damage):
    compiler(bin, f"cp {built} $target; echo compiled >> {tmp_path}/log")
    library.load()
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "cut": whole[:-1],
        "bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "text": b"not a library",
    }[damage]
    path.unlink()  # this process has the old file mapped: writing into it would be felt
    path.write_bytes(damaged)
    fresh(monkeypatch)
    assert choose_backend(CPU, torch.float32, 64) == "native"
    assert path.read_bytes() == whole
    assert len((tmp_path / "log").read_text().split()) == 2


@needs_kernel
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("lanes.h", "all(0.240222421f)", "all(0.34f)"),
        ("call.h", "store(to + most, top)", "store(to + most, top + all(9))"),
        ("one_row.h", "= averages[h", "= (HALF ? 1.1f : 1) * averages[h"),
    ],
    ids=["powers", "three parts", "one row of bfloat16"],
)
def test_a_library_that_computes_nonsense_is_not_used(
    bin, tmp_path, monkeypatch, name, right, wrong
):
    for source in copied(tmp_path, monkeypatch):
        text = source.read_text()
        assert text.count(right) == (source.name == name)
        source.write_text(text.replace(right, wrong))
    monkeypatch.setenv("PATH", os.defpath)
    falls_back("what it computed here was wrong")


@pytest.mark.parametrize("kernel", [native, table])
def test_the_check_holds_no_earlier_answer_for_the_kernels(kernel):
    seen = []

    def writes_nothing(call, _):
        seen.append(ctypes.c_float.from_address(call._obj.out).value)

    assert not kernel._agrees(writes_nothing)
    assert math.isnan(*seen)


@needs_kernel
def test_processes_that_begin_at_once_agree(bin, built, tmp_path):
    compiler(bin, f"sleep 0.3; cp {built} $target")
    ask = "import torch; from models.attention import native as n; "
    ask += "print(n.obstacle(torch.float32, 64))"
    running = [
        subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["None"] * 3
    assert [path.suffix for path in kept(tmp_path)] == [".so"]


@needs_kernel
@pytest.mark.parametrize(
    "flags", [["-march=haswell"], ["-mno-avx512bf16"]], ids=["AVX2", "AVX-512 without bfloat16"]
)
def test_builds_for_lesser_cpus(tmp_path, flags):
    target = tmp_path / "lesser.so"
    subprocess.run(
        [library.COMPILER, *library.FLAGS, *flags, str(library.SOURCE), "-o", str(target)],
        check=True,
    )
    kernel = ctypes.CDLL(str(target)).kvfuse_attend
    kernel.restype = None
    assert native._agrees(kernel)
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        for positions in (torch.arange(700), torch.arange(3, 700, 5), torch.tensor([650])):
            query = torch.randn(1, 6, len(positions), 48, generator=generator).to(dtype)
            key, value = torch.randn(2, 1, 2, 700, 48, generator=generator).to(dtype)
            found = query.new_empty(1, len(positions), 6, 48)
            native._attend(kernel, query, key, value, 0.2, positions, found)
            wanted = MaskedRows(positions, 700).attend(
                query.double(), key.double(), value.double(), 0.2
            )
            assert (found - wanted).abs().max() < tolerance
