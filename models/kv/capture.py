"""Stage 2's forward: run segments alone and keep their unrotated keys and their values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from models.attention.registry import segments_for
from models.finite import require_finite
from models.kv.front import Asked, Behind, Front
from models.kv.sinks import SinkSegments
from models.modules import Modules
from models.prompt import Headers, Prompt

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
    headers : what stood in front of its chunks.
    """

    kv: Tensor
    scores: dict[str, Tensor]
    headers: Headers = field(default_factory=Headers)


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
    fronts: Sequence[Front | None] = (),
) -> Captured:
    """Encode each segment of ``prompt`` by itself, one forward per segment.

    Segments are packed side by side into forwards of about ``PACK_TOKENS`` tokens, blind to each
    other, positions starting anew; so no padding is computed and no mask can go wrong. A segment
    gets the ``sink`` tokens in front, for an attention sink, and their rows are dropped; the
    segment that begins the prompt needs none, and its KVs are exactly those of the prompt.

    Parameters
    ----------
    fronts : stand before segments in the place of ``sink``: their KVs are there already, and a
        segment's positions go on behind them. The first stands before the first chunk, the second
        before the next segment and so on, the last before all that are left. Each is asked for when
        it is needed.

    Raises
    ------
    NotFinite : the KVs or the scores hold NaN or infinite values.
    """
    kv = torch.empty(modules.kv_shape(len(prompt)), dtype=modules.dtype, device=modules.device)
    found = {name: torch.zeros(len(prompt)) for name in scores}
    groups: dict[int | None, list[_Segment]] = {}
    for index, (start, end) in enumerate(prompt.segments):
        behind = min(index, len(fronts)) - 1 if fronts and start > 0 else None
        header = tuple(sink) if start > 0 and not fronts else ()
        if end > start:
            segment = _Segment(header + prompt.ids[start:end], len(header), start)
            groups.setdefault(behind, []).append(segment)
    for behind, group in groups.items():
        front = None if behind is None else fronts[behind]
        for pack in _packs(group, len(front or ())):
            _forward(modules, pack, kv, found, front)
    require_finite(kv, "the captured KVs")
    for name, values in found.items():
        require_finite(values, f"the {name} scores")
    before = (
        fronts.wanted
        if isinstance(fronts, Asked)
        else [front.ids if front else () for front in fronts]
    )
    return Captured(kv, found, Headers.of(prompt, sink, before))


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
