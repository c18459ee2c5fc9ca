"""One of two runs that are compared: its items' figures, and what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.compare import lmcache
from eval.folder import read_result
from eval.report.figures import name, report
from models.errors import UserError
from stage.environment import MACHINE

Figures = dict[str, float | None]
# Settings that two runs have in common where only the method is compared.
SAME = ("dataset", "inputs", "entry", "max_new_tokens", "weights", "dtype", "backend", "code")


@dataclass(frozen=True)
class Side:
    """Items by id, each with ``score`` (of 100), ``kl_mean`` (nats), ``ttft_ms`` and so on.

    A figure that an item does not have is None, or left out.

    Attributes
    ----------
    what : the run in words. metric : of its scores. remarks : what a reader must know of it.
    same : what both runs should have in common, for warnings: a text and its value.
    """

    path: Path
    what: str
    metric: str | None
    items: dict[str, Figures]
    remarks: list[str] = field(default_factory=list)
    same: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> Side:
    """A run of ours, or a file of LMCache's.

    Raises
    ------
    UserError : it is neither, not finished, or damaged.
    """
    if path.is_dir():
        if not (path / "result.json").exists():
            hint = "has not finished" if (path / "records.jsonl").exists() else "is not a run"
            raise UserError(f"{path} {hint}: it holds no result.json; name a finished run's folder")
        return own(path / "result.json")
    if path.name == "result.json":
        return own(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such run folder or file")
    found = lmcache.read(path)
    return Side(
        path=path,
        what=found.what,
        metric="F1",
        items={
            sample.id: {"score": sample.score, "ttft_ms": sample.ttft_ms}
            for sample in found.samples
        },
        remarks=found.remarks,
        same={"LMCache's run_fingerprint": found.fingerprint},
    )


def own(path: Path) -> Side:
    """A finished run, from its ``result.json``."""
    result = read_result(path)
    try:
        found = report([result])
        config, row = result["config"], found["rows"][0]
        items = {item["id"]: _figures(item) for item in result["items"]}
        remarks = [result["note"]] if result["note"] else []
        if result["oracle"]:
            remarks.append("an oracle: an upper bound, without times")
        return Side(
            path=path.parent,
            what=f"{config['model']} on {config['dataset']}, {name(row)}, {config['dtype']}",
            metric=result["metric"],
            items=items,
            remarks=remarks,
            same={
                **{key: config[key] for key in SAME},
                "machine": {key: result["environment"].get(key) for key in MACHINE},
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is of an earlier version ({error}); the same make eval writes it anew"
        ) from None


def _figures(item: dict[str, Any]) -> Figures:
    times = item["ttft_ms"]
    return {
        "score": item["score"],
        "kl_first": item["kl_first"],
        "kl_mean": item["kl_mean"],
        "ttft_ms": times["ready"],
        "ttft_cold_ms": times["cold"],
    }
