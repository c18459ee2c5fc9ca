"""Results as plain columns, as docs/speed.md shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.breakeven import BANDWIDTHS, Point, break_even
from stage import ledger


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _range(row: dict[str, Any]) -> str:
    low, high = row["ready_ms_spread"]
    return f"{_ms(low)}-{_ms(high)}"


def _peak(row: dict[str, Any]) -> str:
    return "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"


Cell = Callable[[dict[str, Any]], str]
COLUMNS: tuple[tuple[str, int, Cell], ...] = (
    ("N", 4, lambda row: str(row["n"])),
    ("method", 18, lambda row: row["method"]),
    ("r", 4, lambda row: f"{row['rate']:g}"),
    ("library", 7, lambda row: _ms(row["library_full_ms"])),
    ("full", 5, lambda row: _ms(row["full_ms"])),
    ("ready", 5, lambda row: _ms(row["ready_ms"])),
    ("min-max", 9, _range),
    ("cold", 5, lambda row: _ms(row["cold_ms"])),
    ("ready x", 7, lambda row: f"{row['speedup_ready']:.2f}"),
    ("cold x", 6, lambda row: f"{row['speedup_cold']:.2f}"),
    ("limit", 5, lambda row: f"{row['flop_limit']:.2f}"),
    ("share", 5, lambda row: f"{100 * row['share_of_limit']:.0f}%"),
    ("peak MB", 7, _peak),
)
FULL_PREFILLS = (("library", "library_full"), ("full", "full"), ("llama.cpp", "llamacpp_full"))


def header() -> str:
    """The names of the columns.

    Times are milliseconds, ``x`` are speed-ups over ``full``, ``share`` is how much of the FLOP
    ``limit`` was reached.
    """
    return _line([name for name, _, _ in COLUMNS])


def line(row: dict[str, Any]) -> str:
    """One row of ``bench.json`` under :func:`header`."""
    return _line([cell(row) for _, _, cell in COLUMNS])


def _line(cells: Sequence[str]) -> str:
    widths = [width for _, width, _ in COLUMNS]
    padded = [
        text.ljust(width) if name == "method" else text.rjust(width)
        for (name, _, _), text, width in zip(COLUMNS, cells, widths, strict=True)
    ]
    return " ".join(padded).rstrip()


def full_line(row: dict[str, Any]) -> str:
    """The full prefills at the row's length with their spread and peak memory, for people."""
    parts = []
    for label, key in FULL_PREFILLS:
        if row[f"{key}_ms"] is not None:
            low, high = row[f"{key}_ms_spread"]
            peak = row.get(f"{key}_peak_mb")
            memory = "" if peak is None else f", peak {peak:.0f} MB"
            parts.append(f"{label} {_ms(row[f'{key}_ms'])} ms ({_ms(low)}-{_ms(high)}{memory})")
    return f"full prefill of {row['n']}: " + "; ".join(parts)


def precompute_line(row: dict[str, Any]) -> str:
    """Stage 2's speed."""
    return (
        f"precompute: {row['tokens_per_s']:.0f} tokens/s, the library's batched forward "
        f"{row['library_tokens_per_s']:.0f} ({row['ratio']:.2f}x)"
    )


def decode_line(row: dict[str, Any]) -> str:
    """Decoding at one cache length."""
    differ = "" if row["same_tokens"] else "; answers differ"
    return (
        f"decode after {row['n']}: {row['ms_per_token']:.1f} ms/token, the library's generate "
        f"{row['library_ms_per_token']:.1f}; {row['side_by_side']} answers side by side "
        f"{row['together_ms_per_token']:.1f}{differ}"
    )


def throughput_line(row: dict[str, Any]) -> str:
    """What one item costs an evaluation at one length."""
    return f"evaluation at {row['n']}, {row['methods']} methods: {ledger.line(row)}"


def cold_line(rows: Sequence[dict[str, Any]]) -> str:
    """Whether the cold runs were cold."""
    known = [row["page_cache_dropped"] for row in rows]
    if all(known):
        return "cold: the page cache was dropped before every run (mincore)"
    if any(dropped is False for dropped in known):
        return "cold: the system did NOT drop the file from memory: cold is not cold here"
    return "cold: whether the file was out of memory cannot be told on this system"


def break_even_lines(points: Sequence[Point], method: str, rate: float) -> list[str]:
    """A few lines: after how many uses, from which length, and on which disk."""
    here, *disks = break_even(points)
    shortest, last = points[0].n, points[-1]
    by_length = [f"{_uses(uses)} at {n}" for n, uses in zip(here["n"], here["uses"], strict=True)]
    by_disk = [
        f"{_uses(disk['uses'][-1])} at {gb:g}" for disk, gb in zip(disks, BANDWIDTHS, strict=True)
    ]
    return [
        f"break-even of {method} (r = {rate:g}, cold): precompute is repaid after so many uses",
        f"    by N: {', '.join(by_length)}",
        f"    the first use repays it {_from(here['first_use_pays_from_n'], shortest)}; "
        f"a cold prefill beats the full one {_from(here['faster_from_n'], shortest)}",
        f"    by GB/s of the disk, at N = {last.n}: {', '.join(by_disk)}; "
        f"below {last.slowest_gb_per_s:.2g} never",
    ]


def _uses(count: float | None) -> str:
    return "never" if count is None else f"{count:.2f}"


def _from(n: float | None, shortest: int) -> str:
    if n is None:
        return "at no length measured"
    return f"from N <= {n:.0f}" if n == shortest else f"from N = {n:.0f}"
