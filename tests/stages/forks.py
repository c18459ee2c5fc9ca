"""Stages in processes that may die: a server imports everything once and forks a child per run.

Run as a script this file is the server. It runs no torch operation itself and has one thread, so
forking it is safe; a child is a stage on its own.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Child:
    """A stage that runs in its own process."""

    pid: int
    log: Path
    server: ForkServer
    ended: int | None = None

    def kill(self) -> int:
        """SIGKILL it, whatever it is doing; returns how it ended."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def running(self) -> bool:
        """Whether it still works (a zombie does not)."""
        state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return state.split()[0] != "Z"

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.ended is None:
            self.ended = self.server.ask(wait=self.pid)
        return self.ended


class ForkServer:
    """Starts stages quickly, in processes of their own."""

    def __enter__(self) -> ForkServer:
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=env,
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, **request: Any) -> Any:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        argv: list[str],
        log: Path,
        die: tuple[str, int] | None = None,
        limit: int = 0,
        slow: float = 0,
    ) -> Child:
        """Run a stage.

        Parameters
        ----------
        die : (name, n): the child kills itself at its n-th ``fsync`` or ``replace``, or in the
            middle of its n-th ``save`` of a tensor file.
        limit : bytes that one file may have; 0 for any.
        slow : seconds that each ``fsync`` takes longer.
        """
        stage = argv[0].split("/")[0]
        pid = self.ask(stage=stage, argv=argv, log=str(log), die=die, limit=limit, slow=slow)
        return Child(pid, log, self)


def serve() -> None:
    """Answer requests until stdin ends."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401  imported once, for all children

    torch.set_num_threads(1)
    from tests.stages.harness import STAGES

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _child(STAGES, request)
        print(json.dumps(answer), flush=True)


def _child(stages: dict[str, Any], request: dict[str, Any]) -> None:
    from stage.options import command

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if request["slow"]:
        _delay(request["slow"])
    if request["die"]:
        _die_at(*request["die"])
    code = 1
    try:
        config, main, more = stages[request["stage"]]
        code = command(request["stage"], config, main, request["argv"][1:], more)
    except BaseException:  # noqa: BLE001  the test reads it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _delay(seconds: float) -> None:
    """Let each file of this process lie there for a while before it gets its name."""
    fsync = os.fsync

    def slow(file: int) -> None:
        time.sleep(seconds)
        fsync(file)

    os.fsync = slow


def _die_at(name: str, n: int) -> None:
    """Kill this process at the n-th call of what ``name`` means."""
    import io

    import torch

    calls = 0

    def doomed(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < n:
                return original(*args, **kwargs)
            if name == "save":
                whole = io.BytesIO()
                original(args[0], whole)
                args[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        return call

    if name == "save":
        torch.save = doomed(torch.save)
    elif name == "fsync":
        os.fsync = doomed(os.fsync)
    elif name == "replace":
        Path.replace = doomed(Path.replace)
    else:
        raise ValueError(name)


if __name__ == "__main__":
    serve()
