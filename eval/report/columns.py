"""The columns of all tables: name, side, how a row's figure is written, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from eval.report.figures import Row, name


class Column(NamedTuple):
    """One column.

    Attributes
    ----------
    side : ``<`` (left) or ``>`` (right).
    cell : the text of a row (``figures.report``).
    meaning : its part of the legend.
    where : the rows that it says anything of; a table without such a row leaves it out.
    """

    name: str
    side: str
    cell: Callable[[Row], str]
    meaning: str = ""
    where: Callable[[Row], bool] = lambda row: True


def show(value: float | None, digits: int, unit: str = "") -> str:
    """A figure with its unit, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _percent(value: float | None, digits: int) -> str:
    return show(None if value is None else 100 * value, digits)


def _median(times: dict[str, Any] | None) -> str:
    return show(None if times is None else times["median"], 0)


def _interval(row: Row) -> str:
    low, high = row["score_ci95"] or (None, None)
    return "-" if low is None else f"{low:.1f} to {high:.1f}"


SPEED = "speed-up: median full prefill / median TTFT, KVs in memory"
DISTANCE = (
    "KL: distance (nats) from the full prefill, of the first token's distribution and in the mean "
    "along the full prefill's own answer"
)

RUN = Column("method", "<", lambda row: name(row) + "*" * row["oracle"])
METHOD = Column("method", "<", lambda row: row["method"] + "*" * row["oracle"])
CONTEXT = Column(
    "behind",
    "<",
    lambda row: row["context"] or "-",
    "behind: what each chunk was captured behind",
    lambda row: bool(row["context"]),
)


def _coded(row: Row) -> bool:
    return row["codec"] not in (None, "none")


CODEC = Column(
    "codec",
    "<",
    lambda row: row["codec"] or "-",
    "codec: how KVs of documents lie on disk",
    _coded,
)
STORED = Column(
    "B/token",
    ">",
    lambda row: show(row["stored_bytes_per_token"], 0),
    "B/token: bytes on disk of a token's keys and values, the prompt over",
    _coded,
)
LOAD = Column(
    "load ms",
    ">",
    lambda row: show(row["load_ms"], 0),
    "load: reading KVs from disk and decoding them, before the first method",
    _coded,
)
RATE = Column("rate", ">", lambda row: "" if row["rate"] is None else f"{row['rate']:g}")
SPEEDUP = Column("speed-up", ">", lambda row: show(row["speedup_ready"], 2, "x"), SPEED)
SPEEDUP_COLD = Column(
    "(cold)", ">", lambda row: show(row["speedup_cold"], 2, "x"), "(cold): KVs read from disk"
)
LIMIT = Column(
    "limit",
    ">",
    lambda row: show(row["flop_limit"], 2, "x"),
    "limit: the speed-up by arithmetic alone",
)
TTFT = Column("TTFT ms", ">", lambda row: _median(row["ttft_ready_ms"]))
TTFT_COLD = Column("(cold)", ">", lambda row: _median(row["ttft_cold_ms"]))
SELECT = Column(
    "select",
    ">",
    lambda row: show(row["select_ms"], 1),
    "select: ms of TTFT that the choice takes",
)
CORRECT = Column(
    "correct",
    ">",
    lambda row: show(row["correct_ms"], 1),
    "correct: ms of TTFT that the corrector takes",
    lambda row: bool(row["correct_ms"]),
)


def _drops(row: Row) -> bool:
    return bool(row["drop"] != "none")


TPOT = Column(
    "TPOT ms",
    ">",
    lambda row: show(row["tpot_ms"], 1),
    "TPOT: a token after the first, its share of all evictions included",
    _drops,
)
EVICT = Column(
    "evict",
    ">",
    lambda row: show(row["evict_ms"], 1),
    "evict: ms of an answer that evictions take, after its first token and later",
    _drops,
)
KV = Column(
    "KV MB",
    ">",
    lambda row: show(None if row["kv_bytes"] is None else row["kv_bytes"] / 1e6, 1),
    "KV: keys and values of the rows that the first step after the first token finds",
    _drops,
)
KL_FIRST = Column("KL first", ">", lambda row: show(row["kl_first"], 3), DISTANCE)
KL_ANSWER = Column("KL answer", ">", lambda row: show(row["kl_mean"], 3), DISTANCE)
AGREE = Column(
    "agree %",
    ">",
    lambda row: _percent(row["top1_agreement"], 1),
    "agree: share of that answer's tokens that the method ranks first too",
)
SCORE = Column("score", ">", lambda row: show(row["score"], 1))
INTERVAL = Column("95% interval", ">", _interval)
RETENTION = Column(
    "retention %",
    ">",
    lambda row: _percent(row["retention"], 0),
    "retention: score as a share of the full prefill's",
)
ANSWERED = Column(
    "answered %",
    ">",
    lambda row: _percent(row["retention_answered"], 0),
    "answered: the same over the items that the full prefill answers",
    lambda row: row.get("retention_answered") is not None,
)
DECIDES = Column(
    "decides %",
    ">",
    lambda row: _percent(row["decision_agreement"], 0),
    "decides: share of classes, and of yes and no, that are the full prefill's",
    lambda row: row.get("decision_agreement") is not None,
)
AFTER = (TPOT, EVICT, KV)
QUALITY = (KL_FIRST, KL_ANSWER, AGREE, DECIDES, SCORE, INTERVAL, RETENTION, ANSWERED)
RUNS = (
    RUN, CONTEXT, CODEC, STORED, SPEEDUP, SPEEDUP_COLD, LIMIT, TTFT, TTFT_COLD, SELECT, CORRECT,
    *AFTER, *QUALITY,
)  # fmt: skip
POINTS = (
    METHOD, CONTEXT, CODEC, STORED, LOAD, RATE, SPEEDUP, LIMIT, TTFT, SELECT, CORRECT, *AFTER,
    *QUALITY,
)  # fmt: skip
