"""What ``make bench`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from bench.prompts import PREFIX_TOKENS, QUESTION_TOKENS
from models import selectors
from models.errors import UserError
from models.load import source
from models.selectors import BaseSelector
from stage.config import MachineOptions
from stage.options import option

SHORTEST = PREFIX_TOKENS + QUESTION_TOKENS + 32


@dataclass(frozen=True)
class Method:
    """A selector's spec and the longest prompt, in tokens, that it is timed on; None: all."""

    spec: str
    up_to: int | None = None

    @classmethod
    def parse(cls, text: str) -> Method:
        """``debug:check=cached`` or ``random@4096``.

        Raises
        ------
        UserError : no such method or option, an oracle, or a limit that is no number.
        """
        spec, _, limit = text.partition("@")
        selector = selectors.build(spec)
        if selector.oracle:
            raise UserError(f"{spec} is an oracle, an upper bound whose time means nothing")
        if limit and not limit.isdecimal():
            raise UserError(f"{text}: after @ stands the longest prompt in tokens, not {limit!r}")
        return cls(selectors.spec_of(selector), int(limit) if limit else None)

    def runs_at(self, n: int) -> bool:
        """Whether prompts of ``n`` tokens are within its limit."""
        return self.up_to is None or n <= self.up_to

    def selector(self) -> BaseSelector:
        """The selector that it names."""
        return selectors.build(self.spec)


@dataclass
class BenchConfig(MachineOptions):
    """Measure precompute, prefill and decoding at several prompt lengths."""

    model: str = option(
        "smollm2-135m", "alias of config/models.yaml, hub id, local folder or .gguf file"
    )
    kvs: str = option("kvs", "folder in which KVs lie while they are timed")
    outputs: str = option("outputs", "folder of the results")
    # 8,128 and not 8,192: the embedded model has 8,192 positions, and the decoded tokens need some.
    lengths: list[int] = option([1024, 2048, 4096, 8128], "prompt lengths in tokens")
    # A run costs most on the longest prompt: only what the figure shows is timed there.
    methods: list[str] = option(
        [
            "full",
            "random@4096",
            "epic@4096",
            "surprisal_chunk@4096",
            "debug:check=cached",
            "debug",
            "blend@4096",
            "prophet@2048",
        ],
        "methods to time, spelled as in REUSE; NAME@N only at lengths up to N. The first without "
        "a limit, full reuse aside, is that of the figure and of the break-even lines",
    )
    rate: float = option(0.15, "share of document positions that is recomputed")
    sweep_length: int = option(4096, "the one of the lengths at which rates are swept; 0: none")
    sweep_rates: list[float] = option([0.05, 0.3, 0.5], "rates of the sweep, besides --rate")
    sweep_methods: list[str] = option(["debug"], "methods of the sweep")
    rounds: int = option(5, "interleaved rounds after the warm-up")
    chunk_size: int = option(512, "tokens of a chunk")
    decode_tokens: int = option(16, "tokens decoded after each prompt")
    # Slower than both float32 prefills on the short prompts tried: the longest would take minutes.
    llamacpp_up_to: int = option(4096, "longest prompt for llama.cpp, where it is installed")

    def __post_init__(self) -> None:
        source.check(self.model)
        self.check_threads()
        self.check_unswitched()
        for name, least in (("rounds", 1), ("chunk_size", 2), ("decode_tokens", 2)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} must be {least} or more")
        for rate in (self.rate, *self.sweep_rates):
            if not 0 <= rate <= 1:
                raise UserError(f"rate {rate} is not a share: give 0 to 1")
        if min(self.lengths) < SHORTEST:
            raise UserError(f"--lengths {min(self.lengths)}: give {SHORTEST} or more")
        self.lengths = sorted(set(self.lengths))
        idle = [n for n in self.lengths if not any(m.runs_at(n) for m in self.timed)]
        if idle:
            raise UserError(f"no method of --methods runs at --lengths {' '.join(map(str, idle))}")
        self.cases(self.sweep_length)

    @property
    def timed(self) -> list[Method]:
        """All methods, in the order given."""
        return list(dict.fromkeys(map(Method.parse, self.methods)))

    @property
    def headline(self) -> str:
        """The spec of the figure and of the break-even lines; it runs at all lengths."""
        running = [m for m in self.timed if m.runs_at(self.lengths[-1])]
        others = [m for m in running if m.spec != "full"]
        unlimited = [m for m in others if m.up_to is None]
        return (unlimited or others or running)[0].spec

    def cases(self, n: int) -> list[tuple[Method, float]]:
        """Every method and rate that is timed at ``n`` tokens."""
        cases = [(Method(m.spec), self.rate) for m in self.timed if m.runs_at(n)]
        if n == self.sweep_length:
            swept = [Method(Method.parse(text).spec) for text in self.sweep_methods]
            cases += [(method, rate) for method in swept for rate in self.sweep_rates]
        return list(dict.fromkeys(cases))

    def check_room(self, positions: int) -> None:
        """Raise :class:`UserError` where the model's ``positions`` do not hold the longest."""
        room = positions - self.decode_tokens
        if self.lengths[-1] > room:
            raise UserError(
                f"--lengths {self.lengths[-1]}: {self.model} holds {positions} tokens, "
                f"{self.decode_tokens} of them to be decoded; give {room} or fewer"
            )
