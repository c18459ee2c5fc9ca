"""What is kept of one item under one method: one line of ``records.jsonl``."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.sealed import parse, seal, unseal

Times = dict[str, float]
RUN = "run"


class Record(BaseModel):
    """The keys that every record has; what a benchmark's scores are broken down by comes beside.

    Times are in milliseconds, scores out of 100, KL in nats. Anything that was not measured, or
    that an oracle may not claim, is None. NaN and infinities are refused.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    id: str
    tokens: int
    question_tokens: int
    documents: int
    chunks: int
    recomputed: int
    selected: str
    selected_sha256: str
    answers: list[str]
    prediction: str
    score: float | None
    extra_scores: dict[str, float | None]
    full_score: float | None
    kl_first: float
    kl_mean: float
    top1_agreement: float
    same_decision: bool | None = None
    delta_kv: list[float] | None
    delta_attn: list[float] | None
    ttft_ms: dict[str, float | None]
    ttft_parts_ms: Times | None
    ttft_parts_ready_ms: Times | None
    tpot_ms: float | None
    tpot_parts_ms: Times | None
    evict_ms: float | None
    evictions: int
    kv_bytes: int
    stored_bytes: int | None = None
    flop_limit: float | None
    full_prefill_ms: float
    load_ms: float | None
    answer_kept: bool
    page_cache_dropped: bool | None
    reading: dict[str, float | None] | None = None
    kvfuse: str


def to_line(record: dict[str, Any], run: str = "") -> bytes:
    """A record as a sealed line of JSON, which names the run that it belongs to.

    Raises
    ------
    ValueError : a key is missing, of another type, NaN or infinite; the key is named.
    """
    _validate(record)
    line = seal({RUN: run, **record})
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def from_line(line: bytes, run: str | None = None) -> dict[str, Any]:
    """The record of a line; ValueError where it was cut, damaged, edited or is not of this run."""
    record = unseal(parse(line))
    written = record.pop(RUN, None)
    if run is not None and written != run:
        raise ValueError("of another run")
    _validate(record)
    return record


def _validate(record: dict[str, Any]) -> None:
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None
