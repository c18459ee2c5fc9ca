"""``make demo``: the whole pipeline on the embedded model, in about the time of a tea."""

from __future__ import annotations

PURPOSE = "a needle grid and 20 HotpotQA questions on the embedded model"
# Everything that changes a result is named, so that another default does not change the demo's.
_COMMON = (
    "MODEL=smollm2-135m",
    "REUSE=no full random debug blend",
    "RATE=0.15",
    "CHUNKING=token",
    "MAX_LENGTH=8160",
    "LIMIT=20",
)
DEMO = (
    (
        *_COMMON,
        "DATASET=needle",
        "CHUNK_SIZE=32",
        "LENGTHS=300 400 500 600",
        "DEPTHS=0 25 50 75 100",
        "DATA_SEED=0",
    ),
    (*_COMMON, "DATASET=hotpotqa_distractor", "CHUNK_SIZE=512"),
)
