"""What ``make ppl`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models import eviction
from models.errors import UserError
from models.eviction import BasePolicy
from models.load import source
from stage.config import MODEL, MachineOptions
from stage.options import option

TASKS = ("text", "needle", "passkey")
POSITIONS = ("seen", "length")
ORDERS = ("time", "score")


@dataclass
class PplConfig(MachineOptions):
    """Compress a context once, score what follows it at its true positions, over kept shares."""

    model: str = option(MODEL, "alias of config/models.yaml, hub id, local folder or .gguf file")
    outputs: str = option("outputs", "folder of the results")
    drop: list[str] = option(
        ["streaming", "snapkv", "pyramidkv", "knorm", "h2o", "rkv"], "policies, with their options"
    )
    keeps: list[float] = option([0.95, 0.9, 0.75, 0.5, 0.25, 0.1], "kept shares of the context")
    task: str = option("text", "text: what follows; needle, passkey: a fact, asked for afterwards")
    haystack: str | None = option(None, "folder of text (Paul Graham's essays)")
    context: int = option(1024, "tokens of the context that is compressed (1024)")
    follow: int = option(256, "text: tokens that follow it (256)")
    limit: int = option(8, "passages of the text (8)")
    timed: int = option(1, "passages that times are taken of; 0: none (1)")
    batch: int = option(8, "rows that decode together for the throughput (8)")
    positions: str = option(
        "seen", "where the next token stands: seen (right), or length: the cache's (wrong)"
    )
    order: str = option("time", "of kept rows in the cache: time, or score: as they were chosen")
    seed: int = option(0, "seed of the intervals and of the keys that are hidden (0)")

    def __post_init__(self) -> None:
        source.check(self.model)
        self.check_threads()
        for name, least in (("context", 64), ("follow", 2), ("limit", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name.upper()}={getattr(self, name)} must be {least} or more")
        for name, known in (("task", TASKS), ("positions", POSITIONS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name.upper()} is {', '.join(known)}, not {getattr(self, name)}")
        if not 0 <= self.timed <= self.limit:
            raise UserError(f"TIMED={self.timed}: give 0 to {self.limit}, the passages of LIMIT")
        if self.seed < 0:
            raise UserError(f"SEED={self.seed} must be at least 0")
        for name, given in (("BACKEND", self.backend != "auto"), ("FAST", self.fast)):
            if given:
                raise UserError(
                    f"{name}= is the engine's; ppl runs the library's own forward, by its sdpa: "
                    "leave it out"
                )
        self.cases()

    def cases(self) -> list[tuple[str, float, BasePolicy | None]]:
        """Every policy at every kept share, in order, and nothing evicted before them.

        Policies evict once, behind the context, so their buffers are left aside.

        Raises
        ------
        UserError : no such policy or option, or a share outside 0 to 1.
        """
        found: list[tuple[str, float, BasePolicy | None]] = [(eviction.NONE, 1.0, None)]
        for spec in dict.fromkeys(self.drop):
            policy = eviction.build(spec)
            if policy is None:
                continue
            default = type(policy)()
            if (policy.keep, policy.budget) != (default.keep, default.budget):
                raise UserError(f"DROP={spec}: here KEEPS says how much stays; leave it out")
            for keep in sorted(set(self.keeps), reverse=True):
                found.append((spec, keep, replace(policy, keep=keep, buffer=0)))
        return found
