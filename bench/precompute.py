"""Tokens per second of stage 2, beside the library's batched forward over the same chunks."""

from __future__ import annotations

import time
from typing import Any

from bench.prompts import QUESTION_TOKENS, real_prompt
from bench.rounds import interleave
from bench.stand import Stand
from models.kv.capture import capture
from models.modules import Modules
from models.prompt import Prompt
from models.timing import synchronize

CHUNKS = 4


def precompute_row(stand: Stand) -> dict[str, Any]:
    """Capture of ``CHUNKS`` chunks of equal length, without the disk and without the LM head."""
    size = stand.config.chunk_size
    body = size - len(stand.sink)
    prompt = real_prompt(stand.tokenizer, CHUNKS * body + QUESTION_TOKENS, body, prefix=0)
    bodies = [prompt.ids[slice(*span)] for span in prompt.chunks]
    chunks = [[*stand.sink, *ids] for ids in bodies]
    # One token stands for the question, which is none of stage 2's work; the first chunk begins the
    # prompt, where capture() adds no sink, so it brings its own.
    only_chunks = Prompt.join([], [chunks[0], *bodies[1:]], [prompt.ids[-1]])
    modules = Modules(stand.loaded.model, stand.config.backend)

    def ours() -> float:
        synchronize(stand.device)
        start = time.perf_counter()
        capture(modules, only_chunks, stand.sink, scores=())
        synchronize(stand.device)
        return (time.perf_counter() - start) * 1e3

    timed = interleave(
        {"library": lambda: stand.library.forward_ms(chunks, head=False), "kvfuse": ours},
        stand.config.rounds,
        stand.device,
        "precompute",
    )
    tokens = sum(map(len, chunks))
    rate, library = (tokens / timed[name].median * 1e3 for name in ("kvfuse", "library"))
    return {
        "chunks": CHUNKS,
        "chunk_tokens": size,
        "tokens_per_s": rate,
        "library_tokens_per_s": library,
        "ratio": rate / library,
        "ms_spread": timed["kvfuse"].spread,
        "library_ms_spread": timed["library"].spread,
        "peak_mb": timed["kvfuse"].peak_mb,
    }
