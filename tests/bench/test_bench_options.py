"""What ``make bench`` is asked for, and the one line that bad options get."""

from __future__ import annotations

import pytest

from bench.__main__ import main
from bench.config import BenchConfig, Method
from models.errors import UserError
from stage.options import command


def config(**options) -> BenchConfig:
    return BenchConfig(**{"lengths": [256, 512], "sweep_length": 512, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "debugg"], ["debugg", "debug"]),
        (["--methods", "debug:chek=cached"], ["chek", "check"]),
        (["--methods", "no"], ["full prefill"]),
        (["--methods", "oracle_kv"], ["oracle"]),
        (["--methods", "debug@long"], ["@", "long"]),
        (["--methods", "full@64"], ["--methods", "1024"]),
        (["--methods", "debug@100", "random@2000", "--lengths", "1024", "4096"], ["4096"]),
        (["--sweep-methods", "nothing"], ["nothing"]),
        (["--rate", "1.5"], ["1.5", "0 to 1"]),
        (["--sweep-rates", "0.5", "-1"], ["-1", "0 to 1"]),
        (["--lengths", "32"], ["32", "128"]),
        (["--rounds", "0"], ["--rounds"]),
        (["--chunk-size", "1"], ["--chunk-size"]),
        (["--decode-tokens", "1"], ["--decode-tokens"]),
        (["--threads", "4000"], ["THREADS"]),
        (["--fast", "graph"], ["FAST="]),
        (["--model", "nonesuch"], ["nonesuch"]),
    ],
)
def test_a_bad_option_is_one_line_and_code_2(capsys, options, words):
    assert command("bench", BenchConfig, main, options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("bench: ")
    assert "\n" not in error
    assert all(word in error for word in words), error


def test_the_longest_prompt_leaves_room_for_what_is_decoded():
    fits = config(decode_tokens=32)
    fits.check_room(544)
    with pytest.raises(UserError, match=r"holds 543 tokens.*give 511 or fewer"):
        fits.check_room(543)
    BenchConfig().check_room(8192)


def test_a_method_is_known_by_its_shortest_spec():
    assert Method.parse("a3") == Method("debug")
    assert Method.parse("debug:check=dense@4096") == Method("debug", 4096)
    assert Method.parse("debug:check=cached").selector().check == "cached"


def test_limits_and_sweep_decide_what_runs_at_a_length():
    chosen = config(methods=["full", "random@256", "debug"], sweep_methods=["debug", "epic"])
    chosen.sweep_rates = [0.15, 0.5]
    assert [(m.spec, r) for m, r in chosen.cases(256)] == [
        ("full", 0.15),
        ("random", 0.15),
        ("debug", 0.15),
    ]
    assert [(m.spec, r) for m, r in chosen.cases(512)] == [
        ("full", 0.15),
        ("debug", 0.15),
        ("debug", 0.5),
        ("epic", 0.15),
        ("epic", 0.5),
    ]


@pytest.mark.parametrize(
    ("methods", "headline"),
    [
        (["full", "random@512", "debug", "blend"], "debug"),
        (["full", "random@512"], "random"),
        (["random@256", "full"], "full"),
        (["debug@256", "random@600", "full"], "random"),
    ],
)
def test_the_headline_runs_at_all_lengths_and_has_no_limit_if_it_can(methods, headline):
    assert config(methods=methods).headline == headline


def test_the_default_covers_all_lengths_with_its_headline():
    default = BenchConfig()
    assert default.headline == "debug:check=cached"
    assert all(("debug:check=cached", 0.15) in specs(default, n) for n in default.lengths)
    swept = {rate for spec, rate in specs(default, 4096) if spec == "debug"}
    assert swept == {0.05, 0.15, 0.3, 0.5}


def specs(options: BenchConfig, n: int) -> list[tuple[str, float]]:
    return [(method.spec, rate) for method, rate in options.cases(n)]
