"""C++ kernels as libraries: compiled once for this machine, kept, and checked before use."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from models.atomic import writing
from models.errors import UserError
from models.load.source import cache_dir

SOURCE = Path(__file__).with_name("native.cpp")
COMPILER = "g++"
# The kernel shares PyTorch's OpenMP threads: it asks for the library by the name of the loaded one.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-w",
)
NEEDED = {"avx2", "fma"}
CPUINFO = Path("/proc/cpuinfo")
DIGEST_BYTES = hashlib.sha256().digest_size
SECONDS = 300


class Unavailable(Exception):
    """Why there is no kernel, with the remedy, in one line."""


def load(source: Path | None = None) -> ctypes.CDLL:
    """The library for this CPU, compiler and source; compiled where it is not there or damaged.

    Parameters
    ----------
    source : the file to compile, the attention kernel's where not given. It may include headers of
        its folder, and of this one.

    Raises
    ------
    Unavailable : another kind of CPU, no compiler, one that fails, a folder that cannot be written.
    """
    source = source or SOURCE
    path = cache_dir() / "native" / f"{_name(source)}-{_key(source)}.so"
    if not _is_whole(path):
        print(
            f"compiling the {_name(source)} kernel for this CPU, once, a few seconds -> {path}",
            file=sys.stderr,
            flush=True,
        )
        _compile(source, path)
    before = _openmp_runtimes()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded ({error}): remove it") from error
    # A second runtime has threads of its own, which wait for work by spinning on the first one's.
    if second := _openmp_runtimes() - before:
        raise Unavailable(f"PyTorch's OpenMP is not {COMPILER}'s, which brought {min(second)}")
    return library


def compiler() -> str:
    """The compiler's name and version, or why there is none."""
    try:
        return _version()
    except Unavailable as reason:
        return str(reason)


def _version() -> str:
    if shutil.which(COMPILER) is None:
        raise Unavailable(f"no {COMPILER} here: install it (apt install g++, dnf install gcc-c++)")
    return _run([COMPILER, "--version"]).stdout.partition("\n")[0]


def _name(source: Path) -> str:
    """What a kernel does, in a word."""
    return "attention" if source == SOURCE else source.stem


@cache
def _key(source: Path) -> str:
    """16 hex over all that the compiled library depends on."""
    lacks = NEEDED - set(_cpu()[1].split())
    if platform.machine() not in ("x86_64", "AMD64") or lacks:
        raise Unavailable("it is written for x86 CPUs with AVX-512, or AVX2 and FMA")
    headers = sorted({*source.parent.glob("*.h"), *SOURCE.parent.glob("*.h")})
    sources = [path.read_text("utf-8") for path in (source, *headers)]
    parts = (*sources, _version(), " ".join(FLAGS), *_cpu())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu() -> tuple[str, str]:
    """The first CPU's name and flags, empty where the system does not tell them."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return "", ""
    name, flags = (re.search(rf"^{key}\s*: (.*)$", text, re.M) for key in ("model name", "flags"))
    return name[1] if name else "", flags[1] if flags else ""


def _compile(source: Path, path: Path) -> None:
    """Compile to a folder aside; what is kept is the library with its digest behind it."""
    with tempfile.TemporaryDirectory(prefix="kvfuse-native-") as folder:
        target = Path(folder) / "kernel.so"
        _run([COMPILER, *FLAGS, str(source), "-o", str(target)])
        try:
            content = target.read_bytes()
        except OSError as error:
            raise Unavailable(f"{COMPILER} left no library ({error}): install another") from error
    try:
        with writing(path) as file:
            file.write(content + hashlib.sha256(content).digest())
    except UserError as error:
        raise Unavailable(f"{error}, KVFUSE_CACHE=") from error


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise Unavailable(f"{COMPILER} does not run here ({error}): install another") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise Unavailable(f"{COMPILER} failed ({lines[0].strip()[:200]}): install a newer one")
    return done


def _is_whole(path: Path) -> bool:
    """Whether the file is as it was written: loading a damaged one would end the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return hashlib.sha256(body).digest() == digest


def _openmp_runtimes() -> set[str]:
    """Files of OpenMP runtimes that this process has loaded."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return set(re.findall(r"/\S*lib(?:gomp|iomp|omp)\S*\.so\S*", maps))
