"""Milliseconds per decoded token, beside the library's ``generate`` at the same cache length."""

from __future__ import annotations

from statistics import mean
from typing import Any

from bench.prefill import Case, PrefillBench
from bench.rounds import interleave
from models import selectors
from models.decoding.answers import ROWS, WAITING_BYTES
from models.timing import Stopwatch


def decode_row(bench: PrefillBench) -> dict[str, Any]:
    """Both decode greedily from the same KVs, those of a prefill of ``bench``'s prompt.

    The KVs are a fused prefill's, the cheapest one: what they hold does not change the time.
    """
    stand, engine, n = bench.stand, bench.engine, len(bench.prompt)
    count = stand.config.decode_tokens
    reuse = Case("full", 0.0, selectors.build("full"))
    bench.cold(reuse)
    bench.ready(reuse)
    prefill = reuse.prefill
    assert prefill is not None
    engine.cache.reserve(n + count + 1)
    ids, answers = [*bench.prompt.ids, prefill.first_token], {}

    def ours() -> float:
        decoded = engine.decode(prefill, count + 1, ())
        answers["kvfuse"] = decoded.tokens[1:]
        return mean(decoded.step_ms)

    def library() -> float:
        tokens, step_ms = stand.library.decode(ids, engine.cache.kv[:, :, :, :n], count)
        answers["library"] = tokens
        return mean(step_ms)

    def together() -> float:
        found = [engine.answer(prefill, count + 1, ()) for _ in range(side_by_side)]
        watch = Stopwatch(stand.device)
        engine.together.finish()
        elapsed = watch.total()
        answers["together"] = found[-1].tokens[1:]
        return elapsed / (count * side_by_side)

    side_by_side = max(1, min(ROWS, WAITING_BYTES // bench.kv_bytes))
    contestants = {"library": library, "kvfuse": ours, "together": together}
    timed = interleave(contestants, stand.config.rounds, stand.device, f"decode at {n}")
    engine.together.clear()
    return {
        "n": n,
        "tokens": count,
        "ms_per_token": timed["kvfuse"].median,
        "library_ms_per_token": timed["library"].median,
        "ms_per_token_spread": timed["kvfuse"].spread,
        "library_ms_per_token_spread": timed["library"].spread,
        "side_by_side": side_by_side,
        "together_ms_per_token": timed["together"].median,
        "same_tokens": answers["kvfuse"] == answers["library"] == answers["together"],
    }
