"""What a prefill leaves: logits, a first token, how it was reached, and how long that took."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from models.flight import Flight
from models.prompt import Prompt


@dataclass
class Prefill:
    """What a prefill leaves: the first token, how it was reached, and how long that took.

    The cache itself stays in the engine, ready to decode from, until the next prefill.

    Attributes
    ----------
    prompt : what was prefilled.
    full : whether all of it was computed in context.
    logits : float32 ``[vocabulary]`` of the last prompt row.
    first_token : its most likely id.
    recomputed : ``[R]`` sorted positions that were computed in context through the last layer.
    passes : every group of rows that was run, and through how many layers it went.
    ttft_ms : token ids in memory → first token id on the host.
    parts_ms : the same time by part, see :data:`models.timing.PARTS`.
    queries : ``[H, q, D]`` of the question's rows in every layer, where they were watched.
    observed : ``[H, q, D]`` of the prompt's last rows in every layer, as far as they were computed
        and asked for (:attr:`Engine.observes`).
    """

    prompt: Prompt
    full: bool
    logits: Tensor
    first_token: int
    recomputed: Tensor
    passes: list[tuple[Tensor, int]]
    ttft_ms: float
    parts_ms: dict[str, float]
    queries: list[Tensor] | None = None
    observed: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)


def seen(flight: Flight, prompt: Prompt) -> list[Tensor] | None:
    """Queries of the question's rows in all layers, where those were watched to the end."""
    first, end = prompt.question
    rows = end - first
    if not 0 < rows <= flight.watched or len(flight.queries) != flight.layer:
        return None  # not watched, or rows that began above the first layer
    if len(flight.positions) < rows or int(flight.positions[-rows]) != first:
        return None
    return [queries[:, -rows:] for queries in flight.queries]
