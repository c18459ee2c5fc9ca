"""What LMCache's ``bench engine --workload rag-qa-quality`` leaves: one file of samples a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import UserError
from models.sealed import parse


class _Sample(BaseModel):
    """One entry of ``per_sample``: F1 from 0 to 1, None where unparsed; seconds."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    sample_id: str | int
    parsed: bool
    f1: float | None = None
    ttft: float | None = None


@dataclass(frozen=True)
class Sample:
    """One answer: its score out of 100 and its time in ms, None where it was not measured."""

    id: str
    score: float
    ttft_ms: float | None


@dataclass(frozen=True)
class Run:
    """A file's samples, what its prompts were made from, and what a reader must know."""

    what: str
    fingerprint: str
    samples: list[Sample]
    remarks: list[str]


def read(path: Path) -> Run:
    """The run of a file.

    An answer that could not be parsed has no F1 there; it counts as 0 here, since leaving it out
    would reward a run for answers that nobody can read. How many they are is a remark. A time that
    is not positive is that of a failed request: none.

    Raises
    ------
    UserError : not such a file, or a sample twice, without its F1, or with one that is none.
    """
    try:
        content = parse(path.read_text(encoding="utf-8"))
        fingerprint, entries = content["run_fingerprint"], content["per_sample"]
        samples = [_Sample.model_validate(entry) for entry in entries]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: a sample's {place}: {first['msg']}; write it anew") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is neither a run folder nor LMCache's rag-qa-quality JSON, which has "
            f"run_fingerprint and per_sample ({error})"
        ) from None
    if not samples:
        raise UserError(f"{path} holds no samples")
    found: dict[str, Sample] = {}
    for sample in samples:
        if (name := str(sample.sample_id)) in found:
            raise UserError(f"{path}: sample {name} stands there twice")
        found[name] = Sample(name, _score(path, sample), _milliseconds(sample.ttft))
    unparsed = sum(not sample.parsed for sample in samples)
    remarks = []
    if unparsed:
        remarks.append(f"{unparsed} of {len(samples)} answers could not be parsed and count as 0")
    if untimed := sum(sample.ttft_ms is None for sample in found.values()):
        remarks.append(f"{untimed} of {len(samples)} samples have no TTFT")
    return Run(_what(content), str(fingerprint), list(found.values()), remarks)


def _score(path: Path, sample: _Sample) -> float:
    if not sample.parsed:
        return 0.0
    if sample.f1 is None or not 0 <= sample.f1 <= 1:
        raise UserError(f"{path}: sample {sample.sample_id} has f1 {sample.f1}, not 0 to 1")
    return 100 * sample.f1


def _milliseconds(seconds: float | None) -> float | None:
    known = seconds is not None and math.isfinite(seconds) and seconds > 0
    return 1e3 * float(seconds or 0.0) if known else None


def _what(content: Any) -> str:
    config = content.get("config")
    dataset = config.get("dataset") if isinstance(config, dict) else None
    parts = [content.get("model"), dataset and f"on {dataset}"]
    return "LMCache: " + (" ".join(str(part) for part in parts if part) or "unnamed run")
