"""Stage 2's forward: run segments alone and keep their unrotated keys and their values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from models.attention.registry import segments_for
from models.finite import require_finite
from models.kv.front import Behind, Front
from models.kv.sinks import SinkSegments
from models.modules import Modules
from models.prompt import Each, Prompt

PACK_TOKENS = 4096
LOGIT_ROWS = 512


@dataclass
class Captured:
    """What one item's segments left behind.

    Attributes
    ----------
    kv : ``[2, L, H_kv, N, D]`` in the model's dtype, keys before RoPE.
    scores : float32 ``[N]`` by name, as far as asked for: ``surprisal``, −log p(x_t | x_<t) within
        the segment in nats; ``sinks``, the attention that a token draws within its segment.
    """

    kv: Tensor
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class _Segment:
    ids: tuple[int, ...]
    header: int
    start: int


@torch.inference_mode()
def capture(
    modules: Modules,
    prompt: Prompt,
    sink: Sequence[int],
    scores: Collection[str] = (),
    front: Front | Each | None = None,
) -> Captured:
    """Encode each segment of ``prompt`` by itself, one forward per segment.

    Segments are packed side by side into forwards of about ``PACK_TOKENS`` tokens, blind to each
    other, positions starting anew; so no padding is computed and no mask can go wrong. A segment
    gets the ``sink`` tokens in front, for an attention sink, and their rows are dropped; the
    segment that begins the prompt needs none, and its KVs are exactly those of the prompt.

    Parameters
    ----------
    front : stands before a segment in the place of ``sink``: its KVs are there already, and a
        segment's positions go on behind it. Where each segment has its own, they are run one by one
        and not kept.

    Raises
    ------
    NotFinite : the KVs or the scores hold NaN or infinite values.
    """
    kv = torch.empty(modules.kv_shape(len(prompt)), dtype=modules.dtype, device=modules.device)
    found = {name: torch.zeros(len(prompt)) for name in scores}
    segments, sink = [], () if front else sink
    for start, end in prompt.segments:
        header = tuple(sink) if start > 0 else ()
        if end > start:
            segments.append(_Segment(header + prompt.ids[start:end], len(header), start))
    for group, before in _behind(modules, prompt, segments, front):
        for pack in _packs(group, len(before or ())):
            _forward(modules, pack, kv, found, before)
    require_finite(kv, "the captured KVs")
    for name, values in found.items():
        require_finite(values, f"the {name} scores")
    return Captured(kv, found)


def _behind(
    modules: Modules, prompt: Prompt, segments: list[_Segment], front: Front | Each | None
) -> Iterator[tuple[list[_Segment], Front | None]]:
    """Segments with what stands before them; what begins the prompt has nothing before it."""
    own: dict[int, tuple[int, ...]] = {}
    if isinstance(front, Each):
        spans = zip(prompt.segments[1:], front, strict=True)
        own = {start: ids for (start, end), ids in spans if start and end > start and ids}
    shared = None if isinstance(front, Each) else front
    yield [s for s in segments if s.start == 0 or not (shared or s.start in own)], None
    yield [s for s in segments if s.start > 0 and shared], shared
    for segment in segments:
        if segment.start in own:
            yield [segment], Front(modules, own[segment.start])


def _packs(segments: list[_Segment], front: int) -> Iterator[list[_Segment]]:
    """Group segments, longest first so that equal lengths meet, into packs of bounded size.

    Parameters
    ----------
    front : tokens before each: they are not computed, but their keys take room as others do.
    """
    pack: list[_Segment] = []
    for segment in sorted(segments, key=lambda s: (-len(s.ids), s.start)):
        if pack and sum(len(s.ids) + front for s in (*pack, segment)) > PACK_TOKENS:
            yield pack
            pack = []
        pack.append(segment)
    if pack:
        yield pack


def _forward(
    modules: Modules,
    pack: list[_Segment],
    kv: Tensor,
    scores: dict[str, Tensor],
    front: Front | None,
) -> None:
    device, before = modules.device, len(front or ())
    lengths = [len(segment.ids) for segment in pack]
    ids = torch.tensor([token for segment in pack for token in segment.ids], device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    positions += before
    bodies = [
        (offset + segment.header, segment.start, length - segment.header)
        for segment, length, offset in zip(
            pack, lengths, accumulate(lengths, initial=0), strict=False
        )
    ]
    source = torch.cat([torch.arange(row, row + n, device=device) for row, _, n in bodies])
    target = torch.cat([torch.arange(start, start + n, device=device) for _, start, n in bodies])
    rows = segments_for(modules.backend, lengths, before)
    sinks = None
    if "sinks" in scores:
        sinks = SinkSegments(rows, lengths, len(modules.layers), device, before)
    cache = Behind(front, lengths) if front else None
    hidden = modules.embed(ids[None])
    rotary = modules.rotary(hidden, positions[None])
    with _hooks(modules, kv, source, target):
        for layer in modules.layers:
            hidden = layer(
                hidden, position_embeddings=rotary, rows=sinks or rows, past_key_values=cache
            )
    for row, start, n in bodies:
        body, place = slice(row, row + n), slice(start, start + n)
        if sinks:
            scores["sinks"][place] = sinks.received[body].cpu()
        if "surprisal" in scores:
            scores["surprisal"][place] = _surprisal(modules, hidden[0, body], ids[body]).cpu()


def _surprisal(modules: Modules, hidden: Tensor, ids: Tensor) -> Tensor:
    """−log p of each token given those before it; 0 for the first. ``[n, hidden]`` → ``[n]``."""
    scores = torch.zeros(len(ids), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(ids) - 1, LOGIT_ROWS):
        stop = min(start + LOGIT_ROWS, len(ids) - 1)
        logits = modules.logits(hidden[start:stop]).float()
        scores[start + 1 : stop + 1] = nn.functional.cross_entropy(
            logits, ids[start + 1 : stop + 1], reduction="none"
        )
    return scores


@contextmanager
def _hooks(modules: Modules, kv: Tensor, source: Tensor, target: Tensor) -> Iterator[None]:
    """Copy rows ``source`` of every key and value projection into columns ``target`` of ``kv``."""

    def keep(slot: Tensor) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            rows = output.view(-1, modules.n_kv_heads, modules.head_dim)[source]
            slot.index_copy_(1, target, rows.transpose(0, 1))

        return hook

    handles = []
    try:
        for i in range(len(modules.layers)):
            key_source, value_source = modules.family.sources(i)
            handles.append(key_source.register_forward_hook(keep(kv[0, i])))
            handles.append(value_source.register_forward_hook(keep(kv[1, i])))
        yield
    finally:
        for handle in handles:
            handle.remove()
