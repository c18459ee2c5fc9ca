"""Stage 2's forward: run segments alone and keep their unrotated keys and their values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.attention.registry import segment_for
from models.finite import require_finite
from models.kv.front import Asked, Behind, Front
from models.kv.pieces import Ids, Piece, pieces
from models.kv.sinks import SinkRows
from models.modules import Modules
from models.prompt import Headers, Prompt

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


def capture(
    modules: Modules,
    prompt: Prompt,
    sink: Sequence[int],
    scores: Collection[str] = (),
    fronts: Sequence[Front | None] = (),
) -> Captured:
    """Encode each segment of ``prompt`` by itself, see :func:`encode`.

    A segment gets the ``sink`` tokens in front, for an attention sink, and their rows are dropped;
    the segment that begins the prompt needs none, and its KVs are exactly those of the prompt.

    Parameters
    ----------
    fronts : stand before segments in the place of ``sink``: their KVs are there already, and a
        segment's positions go on behind them. The first stands before the first chunk, the second
        before the next segment and so on, the last before all that are left.

    Raises
    ------
    NotFinite : the KVs or the scores hold NaN or infinite values.
    """
    one: Callable[[Ids], Front | None]
    if isinstance(fronts, Asked):
        before, one = tuple(fronts.wanted), fronts.one
    else:
        before = tuple(front.ids if front else () for front in fronts)
        one = ({(): None} | dict(zip(before, fronts, strict=True))).__getitem__
    kv, found = encode(modules, pieces(prompt, sink, before), one, scores)
    return Captured(kv, found, Headers.of(prompt, sink, before))


@torch.inference_mode()
def encode(
    modules: Modules,
    segments: Sequence[Piece],
    front_of: Callable[[Ids], Front | None],
    scores: Collection[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Keys and values of segments side by side, each as if it were the only one, to the last bit.

    A product over more rows may round otherwise, so no two segments share one.

    Parameters
    ----------
    front_of : what was run already of the tokens before a segment; None where there are none.

    Returns
    -------
    ``[2, L, H_kv, N, D]``, and float32 ``[N]`` by the names of ``scores``, N tokens in all.

    Raises
    ------
    NotFinite : the KVs or the scores hold NaN or infinite values.
    """
    total = sum(map(len, segments))
    kv = torch.empty(modules.kv_shape(total), dtype=modules.dtype, device=modules.device)
    found = {name: torch.zeros(total) for name in scores}
    start = 0
    for segment in segments:
        place = slice(start, start := start + len(segment))
        if len(segment):
            rows = {name: values[place] for name, values in found.items()}
            _run(modules, segment, front_of(segment.front), kv[:, :, :, place], rows)
    require_finite(kv, "the captured KVs")
    for name, values in found.items():
        require_finite(values, f"the {name} scores")
    return kv, found


def _run(
    modules: Modules, segment: Piece, front: Front | None, kv: Tensor, scores: dict[str, Tensor]
) -> None:
    """One segment through all layers.

    Fills ``kv`` ``[2, L, H_kv, n, D]`` and ``scores``, float32 ``[n]`` each.
    """
    device, before = modules.device, len(front or ())
    ids = torch.tensor([*segment.header, *segment.ids], device=device)
    length, body = len(ids), slice(len(segment.header), None)
    hidden = modules.embed(ids[None])
    rotary = modules.rotary(hidden, torch.arange(before, before + length, device=device)[None])
    rows = segment_for(modules.backend, length, before, device)
    sinks = None
    if "sinks" in scores:
        sinks = SinkRows(rows, length, len(modules.layers), device, before)
    cache = Behind(front, length) if front else None
    with _hooks(modules, kv, body):
        for layer in modules.layers:
            hidden = layer(
                hidden, position_embeddings=rotary, rows=sinks or rows, past_key_values=cache
            )
    if sinks:
        scores["sinks"].copy_(sinks.received[body])
    if "surprisal" in scores:
        scores["surprisal"].copy_(_surprisal(modules, hidden[0, body], ids[body]))


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
def _hooks(modules: Modules, kv: Tensor, body: slice) -> Iterator[None]:
    """Copy rows ``body`` of every key and value projection into ``kv``."""

    def keep(slot: Tensor) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            rows = output.view(-1, modules.n_kv_heads, modules.head_dim)[body]
            slot.copy_(rows.transpose(0, 1))

        return hook

    handles = []
    try:
        for i in range(len(modules.layers)):
            for kind, source in enumerate(modules.family.sources(i)):
                handles.append(source.register_forward_hook(keep(kv[kind, i])))
        yield
    finally:
        for handle in handles:
            handle.remove()
