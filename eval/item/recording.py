"""From what was measured of an item under a method to the keys of its record."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
from torch import Tensor

from data.inputs import Item
from eval.analysis.fidelity import agreement, kl_divergence, mean_kl
from eval.item.after import After
from eval.item.reference import Reference
from eval.variants import Variant
from models.engine import Prefill
from models.finite import require_finite
from models.kv.overlap import Reading
from models.prompt import Prompt
from stage import environment

DESCRIBED_BY = ("length", "depth", "context_length", "task")


def described(
    item: Item,
    variant: Variant,
    reference: Reference,
    measured: dict[str, Any],
    ready: Prefill,
) -> dict[str, Any]:
    """A record without what only its answer tells, which keeps its place in it."""
    prompt = item.prompt
    return {
        "id": item.id,
        **{name: item.row[name] for name in DESCRIBED_BY if name in item.row},
        "tokens": len(prompt),
        "question_tokens": prompt.question[1] - prompt.question[0],
        "documents": prompt.documents[1] - prompt.documents[0],
        "chunks": len(prompt.chunks),
        "recomputed": len(ready.recomputed),
        "selected": _bits(ready.recomputed, prompt),
        "selected_sha256": _digest(ready.recomputed),
        "answers": item.answers,
        "prediction": "",
        "score": None,
        **measured,
        "extra_scores": {},
        "full_score": reference.score,
        "full_prefill_ms": reference.prefill.ttft_ms,
        "load_ms": reference.load_ms.get(variant.where) if variant.where else None,
        "stored_bytes": reference.stored[variant.where].nbytes if variant.where else None,
        "answer_kept": reference.kept,
        "kvfuse": environment.revision(),
    }


def times(
    cold: Prefill | None,
    ready: Prefill,
    dropped: bool | None,
    flop_limit: float,
    timed: bool = True,
    reading: Reading | None = None,
) -> dict[str, Any]:
    """Times to the first token, and what bounds them; an oracle (not ``timed``) has none.

    Parameters
    ----------
    dropped : whether the page cache was dropped before the cold one.
    flop_limit : how many times less arithmetic it needed than the full prefill.
    reading : what reading from the disk took, cold.
    """
    return {
        "ttft_ms": {
            "cold": cold.ttft_ms if cold and timed else None,
            "ready": ready.ttft_ms if timed else None,
        },
        "ttft_parts_ms": cold.parts_ms if cold and timed else None,
        "ttft_parts_ready_ms": ready.parts_ms if timed else None,
        "flop_limit": flop_limit if timed else None,
        "page_cache_dropped": dropped,
        "reading": {
            "bytes_per_s": reading.bytes_per_s,
            "visible": reading.visible,
            "read_ms": reading.read_ms,
            "decode_ms": reading.decode_ms,
        }
        if reading and timed
        else None,
    }


def distances(reference: Reference, ready: Prefill, after: After) -> dict[str, Any]:
    """From the full prefill, and along its answer; of itself it has none."""
    same = ready is reference.prefill
    whole = same and after.evicting is None
    return {
        "kl_first": 0.0 if same else kl_divergence(reference.prefill.logits, ready.logits),
        "kl_mean": 0.0 if whole else mean_kl(reference.logits, after.logits),
        "top1_agreement": agreement(after.logits, reference.forced),
    }


def check_finite(value: Any, name: str = "") -> None:
    """Refuse a record with a figure that is NaN or infinite, wherever it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_finite(inner, key)
    elif isinstance(value, list):
        for inner in value:
            check_finite(inner, name)
    elif isinstance(value, float):
        require_finite(value, f"the figures of {name}")


def _digest(positions: Tensor) -> str:
    """16 hex over the recomputed positions: equal selections, equal digests."""
    return hashlib.sha256(positions.cpu().numpy().tobytes()).hexdigest()[:16]


def _bits(positions: Tensor, prompt: Prompt) -> str:
    """Base64 of one bit for each document position, little-endian: set where it was recomputed."""
    first, end = prompt.documents
    chosen = positions.cpu().numpy()
    mask = np.zeros(end - first, dtype=bool)
    mask[chosen[(chosen >= first) & (chosen < end)] - first] = True
    return base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode()
