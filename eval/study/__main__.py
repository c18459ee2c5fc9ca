"""``make study``: the protocol's runs, resumed where they were left, and its claims.

Run it from the repository root: ``python -m eval.study PART=test``. See docs/protocol.md.
"""

from __future__ import annotations

import sys
from chunk.build import ensure
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.config import SweepConfig
from eval.folder import digest, dumps, read_result
from eval.runner import Warm, evaluate_dataset
from eval.study import table
from eval.study.claims import claims
from eval.study.config import StudyConfig
from eval.study.measured import Times, times_of
from eval.study.plan import Part, parts
from eval.variants import make_variants
from models.atomic import writing
from models.errors import UserError
from models.load.source import resolve
from models.sealed import parse
from stage.options import command
from stage.session import begin

# Options of the study that go to its sweeps as they are.
PLACES = ("inputs", "kvs", "outputs", "device", "dtype", "backend", "threads", "fast")


def main(config: StudyConfig) -> None:
    """Every sweep of the part on every model, then one table, one picture and ``study.json``."""
    part = parts()[config.part]
    calm = quiet(config.times, config.models)
    found = {model: run(config, part, model) for model in config.models}
    models = {str(results[0]["config"]["model"]): results for results in found.values()}
    times = {model: times_of(results) for model, results in models.items()} | calm
    tested = claims(models)
    text = [table.standing(model, results, times[model]) for model, results in models.items()]
    if tested:
        text.append(table.primary(tested))
    runs = {model: [r["folder"] for r in results] for model, results in models.items()}
    folder = Path(config.outputs) / "study" / f"{config.part}-{digest(runs)}"
    with writing(folder / "study.json") as file:
        file.write(dumps({"part": part.model_dump(), "runs": runs, "claims": tested}))
    with writing(folder / "study.txt") as file:
        file.write("\n\n".join(text).encode() + b"\n")
    from eval.study import picture  # brings matplotlib in

    picture.draw(models, folder / "study.png", times)
    print("\n" + "\n\n".join(text))
    print(f"\nstudy: {folder}/study.json, study.txt, study.png")


def quiet(path: str | None, models: Sequence[str]) -> dict[str, Times]:
    """TTFTs by model of the study that left this ``study.json``; none where none is named.

    Raises
    ------
    UserError : it, or the results of a run that it names, cannot be read; or it lacks a model.
    """
    if path is None:
        return {}
    try:
        runs = parse(Path(path).read_text(encoding="utf-8"))["runs"].values()
        places = [[Path(folder) / "result.json" for folder in folders] for folders in runs]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TIMES={path} is no study.json: {error!r}") from None
    found = [list(map(read_result, paths)) for paths in places if paths]
    times = {str(results[0]["config"]["model"]): times_of(results) for results in found}
    for model in models:
        if resolve(model).name not in times:
            raise UserError(f"TIMES={path} has no times of {model}; run PART=times on it too")
    return times


def run(config: StudyConfig, part: Part, model: str) -> list[dict[str, Any]]:
    """The results of all sweeps of a part on one model, each method once; it is loaded once."""
    sweeps = list(asked(config, part, model))
    found: dict[str, dict[str, Any]] = {}
    warm: Warm = set()
    for session in begin(sweeps[0], ensure):
        for sweep in sweeps:
            variants = make_variants(sweep)
            results = evaluate_dataset(replace(session, config=sweep), sweep, variants, warm)
            found |= {result["folder"]: result for result in results}
    return list(found.values())


def asked(config: StudyConfig, part: Part, model: str) -> Iterator[SweepConfig]:
    """Each sweep of a part behind each of its contexts; they differ in their methods alone."""
    places = {name: getattr(config, name) for name in PLACES}
    for sweep in part.sweeps:
        for context in sweep.context:
            yield SweepConfig(
                model=model,
                dataset=config.dataset or part.dataset,
                skip=part.skip,
                limit=config.limit or part.limit,
                max_new_tokens=part.max_new_tokens,
                reuse=sweep.reuse,
                rate=sweep.rate,
                context=context,
                correct=sweep.correct,
                deviation=False,
                **places,
            )


if __name__ == "__main__":
    sys.exit(command("study", StudyConfig, main))
