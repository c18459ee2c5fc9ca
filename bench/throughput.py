"""One item as an evaluation does it: where its seconds go, and how many make an hour."""

from __future__ import annotations

from typing import Any

from bench.prefill import PrefillBench
from stage.ledger import Ledger

ANSWER = 32  # tokens of an answer, as many as question answering asks for


def throughput_row(bench: PrefillBench) -> dict[str, Any]:
    """The full prefill and every method timed at this length, each with its answer, once.

    Answers go on side by side; as far as their KVs leave room.
    """
    engine, config, ledger = bench.engine, bench.stand.config, Ledger()
    cases = [case for case in bench.cases if case.rate == config.rate]
    engine.cache.reserve(len(bench.prompt) + ANSWER)
    with ledger.charge("prefill"):
        prefill = engine.full_prefill(bench.prompt)
    with ledger.charge("decode"):
        answer = engine.answer(prefill, ANSWER, (), own=False)
        engine.together.finish(answer)
    with ledger.charge("follow"):
        engine.follow(prefill, answer.tokens)
    for case in cases:
        with ledger.charge("prefill"):
            bench.ready(case)
        assert case.prefill is not None, "it has just run"
        with ledger.charge("follow"):
            engine.follow(case.prefill, answer.tokens)
        with ledger.charge("decode"):
            own = engine.together.admits(len(bench.prompt) + ANSWER)
            theirs = engine.answer(case.prefill, ANSWER, (), own=own)
            if own:
                engine.together.advance()
            else:
                engine.together.finish(theirs)
    with ledger.charge("decode"):
        engine.together.finish()
    engine.together.clear()
    ledger.items = 1
    return {"n": len(bench.prompt), "methods": 1 + len(cases), **ledger.throughput()}
