"""Contestants that take turns, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from tqdm import tqdm

from bench.memory import peak_of


@dataclass
class Timed:
    """One contestant over all rounds.

    Attributes
    ----------
    ms : its milliseconds, one a round.
    peak_mb : peak memory of its warm-up run, which is not timed; None where it cannot be told.
    """

    ms: list[float] = field(default_factory=list)
    peak_mb: float | None = None

    @property
    def median(self) -> float:
        """Milliseconds of the middle round."""
        return median(self.ms)

    @property
    def spread(self) -> list[float]:
        """Fastest and slowest round, in milliseconds: five of them have no better quantiles."""
        return [min(self.ms), max(self.ms)]


def interleave(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    device: torch.device,
    title: str,
    warm: Collection[str] = (),
) -> dict[str, Timed]:
    """Run every contestant once to warm up and to see its memory, then time each once a round.

    Parameters
    ----------
    contestants : what runs, in this order in every round, and returns its own milliseconds.
    warm : those whose warm-up another one's serves, and whose memory nobody asks for.
    """
    gc.collect()  # what earlier measurements left in cycles is nobody's memory here
    timed = {name: Timed() for name in contestants}
    steps = (rounds + 1) * len(contestants) - len(warm)
    with tqdm(total=steps, desc=f"bench: {title}", unit="run", disable=None, leave=False) as bar:
        for name, measure in contestants.items():
            if name not in warm:
                timed[name].peak_mb = peak_of(measure, device)
                bar.update()
        for _ in range(rounds):
            for name, measure in contestants.items():
                timed[name].ms.append(measure())
                bar.update()
    return timed
