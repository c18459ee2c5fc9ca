"""What compiles FlashInfer's kernels here: nvcc, a C++ compiler and ninja, or what is lacking.

The library calls ``ninja`` by that plain name, takes ``nvcc`` from ``CUDA_HOME``, ``CUDA_PATH`` or
``PATH``, and links by ``CXX`` or ``c++``. Its flags (``--compress-mode``) came with nvcc 12.8, and
the CUDA runtime that a kernel is linked with is the one that PyTorch has loaded only where both
are of one major version. Its kernels for Hopper include a header of cuRAND, which small toolkits
leave out and PyTorch's own wheels bring.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from models.load.source import cache_dir

OLDEST = (12, 8)
DEFAULT_HOME = "/usr/local/cuda"
# A heavy translation unit takes up to 3 GB while ptxas works on it.
BYTES_A_JOB = 4 << 30
HEADER = "curand_kernel.h"
SECONDS = 60
CARRIED = "or carry kernels that were built elsewhere: kvfuse gpu-build"


class Lacking(Exception):
    """What is not here, with its remedy, in one line."""


def lack(hopper: bool = True) -> str | None:
    """Why nothing can be compiled here, or None: every tool is there, fits, and runs.

    Parameters
    ----------
    hopper : whether kernels of that generation are wanted too.
    """
    try:
        home, _ = nvcc()
        compilers()
        ninja()
        if hopper:
            headers(home)
    except Lacking as reason:
        return str(reason)
    return None


def prepare() -> None:
    """Let the library find what :func:`lack` looked at, whatever ``PATH`` this process began with.

    ``MAX_JOBS`` stays as it is where it is set, and so does ``CUDA_HOME``.

    Raises
    ------
    Lacking : see there.
    """
    folder = str(_scripts())
    path = os.environ.get("PATH", os.defpath)
    if folder not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([folder, path])
    home, _ = nvcc()
    os.environ.setdefault("CUDA_HOME", str(home))
    os.environ.setdefault("MAX_JOBS", str(jobs()))
    stub = _driver_stub()
    # A plain -lcuda would be dropped again: nothing in the stub is used.
    _add("FLASHINFER_EXTRA_LDFLAGS", f"-L{stub} -L{home}/lib -Wl,--no-as-needed -lcuda")
    with contextlib.suppress(Lacking):
        include = headers(home)
        if include != home / "include":
            _add("FLASHINFER_EXTRA_CUDAFLAGS", f"-isystem {include}")


def _add(variable: str, flags: str) -> None:
    given = os.environ.get(variable, "")
    if flags not in given:
        os.environ[variable] = f"{given} {flags}".strip()


def _driver_stub() -> Path:
    """A folder with a libcuda to link against: a machine without a GPU has none."""
    path = cache_dir() / "flashinfer" / "stub" / "libcuda.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        names = ["-Wl,-soname,libcuda.so.1", "-o", str(path)]
        _run([compilers(), "-shared", "-fPIC", "-x", "c", os.devnull, *names], "c++")
    return path.parent


def headers(home: Path) -> Path:
    """A folder with cuRAND's header: the toolkit's, or that of the wheels that PyTorch needs."""
    found = find_spec("nvidia")
    wheels = found.submodule_search_locations or () if found else ()
    places = [home / "include", *(p for w in wheels for p in sorted(Path(w).glob("*/include")))]
    for place in places:
        if (place / HEADER).is_file():
            return place
    raise Lacking(
        f"the CUDA toolkit in {home} has no {HEADER}: {sys.executable} -m pip install "
        f"nvidia-curand; {CARRIED}"
    )


def jobs() -> int:
    """Compilers to run side by side: as many as cores and free memory carry, at least one."""
    free = psutil.virtual_memory().available
    return max(1, min(os.cpu_count() or 1, int(free // BYTES_A_JOB)))


def nvcc() -> tuple[Path, str]:
    """The CUDA toolkit's folder and its nvcc's version.

    Raises
    ------
    Lacking : none is here, it does not run, is too old, or is of another CUDA than PyTorch's.
    """
    home = _home()
    said = _run([str(home / "bin" / "nvcc"), "--version"], "nvcc")
    found = re.search(r"release (\d+)\.(\d+)", said)
    if not found:
        raise Lacking(f"{home}/bin/nvcc tells no version: {_install()}")
    version = int(found[1]), int(found[2])
    text = ".".join(found.groups())
    if version < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise Lacking(f"nvcc {text} is too old, FlashInfer needs {least} or newer: {_install()}")
    if torch.version.cuda and int(torch.version.cuda.partition(".")[0]) != version[0]:
        raise Lacking(
            f"nvcc {text} does not fit PyTorch, which is built with CUDA {torch.version.cuda}: "
            f"{_install()}"
        )
    return home, text


def compilers() -> str:
    """The C++ compilers: the one that links, and the one that nvcc calls."""
    linker, host = os.environ.get("CXX", "c++"), os.environ.get("CC", "g++")
    for name in dict.fromkeys((linker, host)):
        if _which(name) is None:
            raise Lacking(
                f"no C++ compiler here ({name}): apt install g++, or dnf install gcc-c++; {CARRIED}"
            )
        _run([name, "--version"], name)
    return linker


def ninja() -> str:
    """Ninja's version, from this Python's environment or from ``PATH``."""
    path = _which("ninja")
    if path is None:
        raise Lacking(f"no ninja here: {sys.executable} -m pip install ninja; {CARRIED}")
    return _run([path, "--version"], "ninja").strip()


def _scripts() -> Path:
    """Where this Python's environment has its commands."""
    return Path(sys.executable).parent


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{_scripts()}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def _home() -> Path:
    """The toolkit's folder, as the library looks for it.

    A command in ``PATH`` may be a script that calls the toolkit's own nvcc, so it is asked.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if folder := os.environ.get(name):
            if (Path(folder) / "bin" / "nvcc").is_file():
                return Path(folder)
            raise Lacking(f"{name}={folder} holds no bin/nvcc: {_install()}")
    if path := _which("nvcc"):
        top = re.search(r"^#\$ TOP=(.+)$", _run([path, "--dryrun", "-x", "cu", os.devnull]), re.M)
        places = [Path(top[1].strip()).resolve()] if top else []
        for place in (*places, Path(path).parent.parent):
            if (place / "bin" / "nvcc").is_file():
                return place
        raise Lacking(f"{path} does not tell where its toolkit is: {_install()}")
    if (Path(DEFAULT_HOME) / "bin" / "nvcc").is_file():
        return Path(DEFAULT_HOME)
    raise Lacking(f"no nvcc here: {_install()}")


def _install() -> str:
    cuda = torch.version.cuda
    which = f"{cuda.partition('.')[0]}.x" if cuda else "12.8 or newer"
    return f"install the CUDA toolkit {which} and set CUDA_HOME= to it; {CARRIED}"


def _run(command: list[str], name: str | None = None) -> str:
    """What a tool prints; with a ``name``, a tool that fails is :class:`Lacking`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        if name is None:
            return ""
        raise Lacking(f"{name} does not run here ({error}): install another") from error
    if name and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Lacking(f"{name} does not run here ({said[0][:120]}): install another")
    return done.stdout + done.stderr
