"""Needles: where they stand, how long the prompts are, and what repeats."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from data import datasets
from data.request import Request
from data.row import Row
from data.segments import Splitter, Splitting
from data.sources import needle
from models.errors import UserError
from models.load.tokenizer import frame
from tests.stages.harness import WORDS, make_tokenizer

DATASET = datasets.get("needle")
NEEDLES = DATASET.parameters["needles"]
LENGTHS = (256, 400, 1000)
DEPTHS = (0.0, 12.5, 50.0, 90.0, 100.0)


def prose(count: int, seed: int = 0) -> str:
    """Sentences of 4 to 30 words, each ending in the only full stop it has."""
    rng = random.Random(seed)
    words = [word for word in WORDS if word.isalnum()]
    texts = [" ".join(rng.choices(words, k=rng.randint(4, 30))).capitalize() for _ in range(count)]
    return "".join(f"{text}.{rng.choice([' ', '  ', chr(10)])}" for text in texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("haystack")
    (path / "tale.txt").write_text(prose(400), encoding="utf-8")
    return str(path)


def words_of(row: Row) -> int:
    """A prompt of one token a word, and 30 around it."""
    return 30 + len(row.context.split()) + len(row.question.split())


def splitter() -> Splitter:
    tokenizer = make_tokenizer()
    settings = Splitting("token", 64, 10**6, chat=True)
    return Splitter(DATASET, tokenizer, frame(tokenizer, LlamaConfig(), True), settings)


@pytest.fixture(scope="module", params=["words", "bpe"])
def measure(request: pytest.FixtureRequest) -> Callable[[Row], int]:
    if request.param == "words":
        return words_of
    split = splitter()
    return lambda row: len(split.prompt(row))


def generate(folder: str, measure=words_of, dataset=DATASET, **asked) -> list[Row]:
    request = Request(measure=measure, haystack=folder, **{"room": 4000, **asked})
    return needle.read(dataset, request).rows


def split_at_needle(row: Row) -> tuple[str, str]:
    """The haystack before and after the needle, which stands there once."""
    before, after = row.context.split(row.answers[1])
    return before, after


@pytest.fixture(scope="module")
def rows(folder: str, measure: Callable[[Row], int]) -> list[Row]:
    # 600 leaves room for the small vocabulary's many tokens a word.
    return generate(folder, measure, lengths=(600, *LENGTHS[2:], 3000), depths=DEPTHS)


def test_prompts_fill_their_length_and_never_exceed_it(rows, measure):
    for row in rows:
        assert 0.95 * row.details["context_length"] <= measure(row) <= row.details["context_length"]


def test_short_prompts_too_fill_their_length(folder):
    for row in generate(folder, lengths=(80, 128, 256, 400), depths=DEPTHS):
        assert (
            0.95 * row.details["context_length"] <= words_of(row) <= row.details["context_length"]
        )


def test_the_needle_stands_between_two_sentences(rows):
    for row in rows:
        before, after = split_at_needle(row)
        assert not before or re.search(r"\.\s+$", before)
        assert not after or after.startswith(" ")
        assert bool(before) == (row.details["depth"] > 0)
        assert bool(after) == (row.details["depth"] < 100)


def test_no_boundary_is_nearer_to_the_depth_by_tokens(rows, measure):
    """Every boundary of the haystack is tried, and counted in full."""
    for row in rows:
        before, after = split_at_needle(row)
        text = before + after[1:]
        cuts = [0, *(match.end() for match in re.finditer(r"\.\s+", text)), len(text)]

        def count(cut: int, row: Row = row, text: str = text) -> int:
            return measure(replace(row, context=text[:cut].rstrip()))

        start, end = count(0), count(len(text))
        target = start + (end - start) * row.details["depth"] / 100
        # A cut-off first sentence may be a token more or less beside a needle than alone.
        assert abs(count(len(before)) - target) <= min(abs(count(cut) - target) for cut in cuts) + 1


def test_rows_are_those_of_the_grid(rows):
    assert [row.id for row in rows[:5]] == ["600_0", "600_12.5", "600_50", "600_90", "600_100"]
    for row in rows:
        question, (answer, fact) = row.question, row.answers
        assert {"needle": fact, "question": question, "answer": answer} in NEEDLES
        assert row.length == len([*question.split(), *row.context.split(), *answer.split()])
        assert (row.language, row.all_classes, row.documents) == ("en", None, ())
        assert row.id == f"{row.details['context_length']}_{row.details['depth']:g}"


def test_every_needle_of_the_entry_is_placed_and_holds_its_answer(folder):
    steps = tuple(range(300, 300 + len(NEEDLES)))
    found = generate(folder, lengths=steps, depths=(0, 50, 100))
    for depth in (0, 50, 100):  # no depth has one needle of its own
        assert {r.question for r in found if r.details["depth"] == depth} == {
            n["question"] for n in NEEDLES
        }
    assert all(entry["answer"] in entry["needle"] for entry in NEEDLES)
    assert len({entry["answer"] for entry in NEEDLES}) == len(NEEDLES) > 3


def test_a_cell_may_hold_several_needles(folder):
    dataset = replace(DATASET, parameters={"needles": NEEDLES, "needles_per_cell": 3})
    found = generate(folder, dataset=dataset, lengths=(300,), depths=(0, 100))
    ids = ["300_0", "300_0-2", "300_0-3", "300_100", "300_100-2", "300_100-3"]
    assert [row.id for row in found] == ids
    assert len({row.question for row in found[:3]}) == 3
    assert len({row.context for row in found}) == 6


def test_a_seed_repeats_and_another_differs(folder):
    grid = {"lengths": (300, 500), "depths": (0, 50)}
    first, again = generate(folder, **grid, seed=1), generate(folder, **grid, seed=1)
    other = generate(folder, **grid, seed=2)
    assert first == again
    for one, two in zip(first, other, strict=True):
        assert one.id == two.id
        assert one.context != two.context
        assert one.question != two.question
    assert split_at_needle(first[1]) != split_at_needle(first[3])


def test_limit_takes_the_first_and_tells_how_many_there_are(folder):
    request = Request(words_of, 4000, 3, haystack=folder, lengths=(300, 500), depths=(0, 100))
    found = needle.read(DATASET, request)
    assert [row.id for row in found.rows] == ["300_0", "300_100", "500_0"]
    assert (found.available, found.where) == (4, folder)


@pytest.mark.parametrize(
    ("room", "lengths"),
    [
        (8160, [1632, 3264, 4896, 6528, 8160]),
        (800, [256, 392, 528, 664, 800]),
        (256, [256]),
        (200, [200]),
    ],
)
def test_the_default_grid_steps_evenly_up_to_the_room(room, lengths):
    asked = needle.grid(Request(words_of, room))
    assert asked == (lengths, [0, 25, 50, 75, 100])


def test_lengths_and_depths_named_twice_count_once():
    asked = needle.grid(Request(words_of, 800, lengths=(500, 300, 500), depths=(50, 0, 50.0)))
    assert asked == ([500, 300], [50, 0])


@pytest.mark.parametrize(
    "text",
    [
        "One short tale. It ends here.",
        "no stop " * 900,
        "灯塔在山上看着海。" * 3,
        "长" * 500,
    ],
    ids=["short", "no sentence end", "Chinese", "no space"],
)
def test_odd_haystacks_fill_the_length_too(tmp_path, text):
    (tmp_path / "odd.md").write_text(text, encoding="utf-8")

    def characters(row: Row) -> int:
        return 30 + len(row.context)

    for row in generate(str(tmp_path), characters, lengths=(1000,), depths=(0, 40, 100)):
        assert 950 <= characters(row) <= 1000
        assert row.answers[1] in row.context


def test_a_prompt_is_measured_few_times(folder):
    calls = []

    def counted(row: Row) -> int:
        calls.append(row)
        return words_of(row)

    cells = len(generate(folder, counted, room=4000, lengths=(500, 2000, 4000), depths=DEPTHS))
    assert len(calls) < 25 * cells


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"depths": (50, 101)}, "DEPTHS=101"),
        ({"depths": (-0.5,)}, "DEPTHS=-0.5"),
        ({"depths": (float("nan"),)}, "DEPTHS=nan"),
        ({"lengths": (300, 4001)}, "LENGTHS=4001 .* 4000 tokens"),
        ({"lengths": (0,)}, "LENGTHS=0"),
        ({"lengths": (40,)}, "LENGTHS=40 is too short .* takes [45][0-9] tokens"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(folder, asked, named):
    with pytest.raises(UserError, match=named) as error:
        generate(folder, **asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"needles": []}, "at least one"),
        ({"needles": [{"needle": "A fact.", "question": "What?"}]}, "question and answer"),
        ({"needles": [{"needle": "It is 7.", "question": "What?", "answer": 7}]}, "texts"),
        ({"needles": [{"needle": "It is 7.", "question": "What?", "answer": "8"}]}, "its answer"),
        ({"needles_per_cell": 0}, "needles_per_cell"),
    ],
)
def test_a_bad_entry_is_told_in_one_line(folder, changes, named):
    dataset = replace(DATASET, parameters={**DATASET.parameters, **changes})
    with pytest.raises(UserError, match=named):
        generate(folder, dataset=dataset, lengths=(300,))


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        generate(str(tmp_path / "nowhere"))
