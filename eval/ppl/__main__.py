"""``make ppl``: perplexity, memory and times over eviction policies and kept shares.

A context is prefilled once; every policy then evicts from the same keys, and what follows is scored
at its true positions, all in one pass. Leaves ``ppl.json`` and ``ppl.png`` in
``outputs/<model>/ppl/<task>``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from eval.ppl.compress import Times, Whole, record, timed
from eval.ppl.config import PplConfig
from eval.ppl.curve import draw
from eval.ppl.passages import passages
from eval.ppl.score import Score, score
from eval.ppl.summary import rises, summarise, table
from models.atomic import writing
from models.errors import UserError
from models.load.source import resolve
from models.load.tokenizer import load_tokenizer
from models.load.weights import load
from stage.environment import describe, machine
from stage.options import command


def main(config: PplConfig) -> None:
    """Measure, print the table, and write the results and the figure."""
    if config.threads:
        torch.set_num_threads(config.threads)
    source = resolve(config.model)
    tokenizer = load_tokenizer(source)
    found, where = passages(config, tokenizer)
    loaded = load(source, tokenizer, config.device, config.dtype)
    longest = max(len(each.context) + len(each.following) for each in found)
    if longest > loaded.max_positions:
        raise UserError(f"{longest} tokens exceed the model's {loaded.max_positions} positions")
    cases = config.cases()
    scores: dict[tuple[str, float], list[Score]] = {case[:2]: [] for case in cases}
    times: dict[tuple[str, float], list[Times]] = {case[:2]: [] for case in cases}
    steps = len(cases) * (len(found) + config.timed)
    with tqdm(total=steps, desc="ppl", unit="case", disable=None, leave=False) as bar:
        for number, passage in enumerate(found):
            context = record(loaded.model, passage.context)
            for name, keep, policy in cases:
                evicts = policy or Whole()
                scores[name, keep].append(score(loaded.model, context, passage, evicts, config))
                bar.update()
                if number < config.timed:
                    of = timed(loaded.model, passage.context, context, evicts, config.batch)
                    times[name, keep].append(of)
                    bar.update()
    whole = scores[cases[0][:2]]
    rows = [summarise(*case, of, whole, times[case], config.seed) for case, of in scores.items()]
    where_run = machine(loaded.device, loaded.linear)
    result = {
        "environment": describe(where_run, loaded.device, loaded.dtype, "sdpa"),
        "config": asdict(config),
        "model": loaded.name,
        "fingerprint": loaded.fingerprint,
        "text": where,
        "rows": rows,
        "rises": rises(rows),
    }
    folder = Path(config.outputs) / loaded.name / "ppl" / _run(config)
    with writing(folder / "ppl.json") as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")
    title = (
        f"{loaded.name}, {config.task}: {len(found)} contexts of {config.context} tokens, "
        f"{rows[0]['tokens']} tokens scored; bars: 95%"
    )
    draw(rows, title, folder / "ppl.png")
    print(table(rows, config.task))
    print(*result["rises"], f"written: {folder}/ppl.json, ppl.png", sep="\n")


def _run(config: PplConfig) -> str:
    """The folder's name: the task, and what makes its figures wrong on purpose."""
    marks = [config.task]
    marks += [f"positions-{config.positions}"] if config.positions != "seen" else []
    marks += [f"order-{config.order}"] if config.order != "time" else []
    return "-".join(marks)


if __name__ == "__main__":
    sys.exit(command("ppl", PplConfig, main))
