"""``make bench``: speed of precompute, prefill and decoding here, beside the library's own.

Run it from the repository root with nothing else running: ``python -m bench``. Contestants take
turns, so that a slow minute hits all of them; medians are reported, with the fastest and slowest
round. It leaves ``outputs/bench/bench.json`` and ``bench.png``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from bench import breakeven, table
from bench.config import BenchConfig
from bench.decode import decode_row
from bench.precompute import precompute_row
from bench.prefill import PrefillBench
from bench.stand import Stand
from bench.throughput import throughput_row
from models.atomic import disk_errors, writing
from stage.environment import describe, machine
from stage.options import command

SCRATCH = ".bench-"


def main(config: BenchConfig) -> None:
    """Measure, print the tables, and write the results and the figure."""
    stand = Stand.build(config)
    print(stand.llama_note, flush=True)
    precompute = precompute_row(stand)
    print(table.precompute_line(precompute) + "\n\n" + table.header(), flush=True)
    rows: list[dict[str, Any]] = []
    decode: list[dict[str, Any]] = []
    throughput: list[dict[str, Any]] = []
    for n in config.lengths:
        at_n, decoded, items = _at(stand, n)
        rows += at_n
        decode.append(decoded)
        throughput.append(items)
        print(*map(table.line, at_n), sep="\n", flush=True)
    method = config.headline
    points = breakeven.points(rows, method, config.rate, precompute["tokens_per_s"])
    folder = Path(config.outputs) / "bench"
    loaded = stand.loaded
    modules = stand.engine().modules
    environment = describe(
        machine(loaded.device, loaded.linear),
        loaded.device,
        loaded.dtype,
        modules.backend,
        modules.head_dim,
    )
    result = {
        "environment": environment,
        "model": stand.loaded.name,
        "rounds": config.rounds,
        "chunk_size": config.chunk_size,
        "llama_cpp": stand.llama_note,
        "precompute": precompute,
        "rows": rows,
        "decode": decode,
        "throughput": throughput,
        "break_even": {
            "method": method,
            "rate": config.rate,
            "disks": breakeven.break_even(points),
        },
    }
    with writing(folder / "bench.json") as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")
    firsts = {row["n"]: row for row in reversed(rows)}
    print("", *map(table.full_line, (firsts[n] for n in sorted(firsts))), sep="\n")
    print("", *map(table.decode_line, decode), sep="\n")
    print("", *map(table.throughput_line, throughput), "", table.cold_line(rows), sep="\n")
    print(*table.break_even_lines(points, method, config.rate), sep="\n")
    from bench import figure  # brings matplotlib in, which no measurement needs

    title = (
        f"{stand.loaded.name}, {environment['dtype']}, {environment['device']}, "
        f"{environment['threads']} threads"
    )
    figure.draw(rows, method, config.rate, title, folder / "bench.png")
    print(f"\nbench: {folder / 'bench.json'}, {folder / 'bench.png'}")


def _at(stand: Stand, n: int) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Prefill rows, decoding and throughput at one length; its KVs lie in ``KVS=`` meanwhile."""
    config = stand.config
    with _scratch(Path(config.kvs)) as folder:
        bench = PrefillBench(stand, n, config.cases(n), Path(folder))
        return bench.rows(), decode_row(bench), throughput_row(bench)


def _scratch(root: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in ``root`` for this process; those of processes that ended without theirs go."""
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{SCRATCH}*"):
            owner = left.name.removeprefix(SCRATCH).partition("-")[0]
            if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
                shutil.rmtree(left, ignore_errors=True)
        return tempfile.TemporaryDirectory(dir=root, prefix=f"{SCRATCH}{os.getpid()}-")


if __name__ == "__main__":
    sys.exit(command("bench", BenchConfig, main))
