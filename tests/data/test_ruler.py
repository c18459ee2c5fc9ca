"""RULER's rows: sizes, answers, depths and prompts of what we generate, and its own files."""

import gzip
import json
import lzma
import re
from collections import Counter
from dataclasses import replace

import pytest

from data import datasets
from data.request import Request
from data.row import Row
from data.sources import haystack, ruler
from data.sources.ruler import official
from data.sources.ruler.words import zeta
from models.errors import UserError

NAMES = [name for name in datasets.names() if name.startswith("ruler_")]
GENERATED = re.compile(r"\w+|\S")


def prompt(dataset, row):
    begun = dataset.answer_prefix.replace("{input}", row.question)
    return dataset.instruction + row.context + dataset.ask(row.question) + begun


def by_words(text):
    return len(GENERATED.findall(text))


def by_pieces(text):
    """Like a byte-pair tokenizer: digits one by one, long words in pieces."""
    return sum(max(1, -(-len(p) // 4)) for p in re.findall(r"\d|[^\W\d]+|\s{2,}|[^\w\s]", text)) + 7


def request(dataset, count=by_words, **changes):
    settings = {"room": 10**6, "limit": 4, "lengths": (4096,)} | changes
    return Request(measure=lambda row: count(prompt(dataset, row)), **settings)


def make(name, count=by_words, **changes):
    dataset = datasets.get(name)
    return ruler.read(dataset, request(dataset, count, **changes)).rows


def asked_text(dataset, row):
    """The context that the question is about: what follows the solved example."""
    return row.context.split(dataset.instruction)[-1]


def test_all_thirteen_tasks_are_there():
    groups = Counter(datasets.get(name).group for name in NAMES)
    assert groups == {
        "retrieval": 8,
        "multi-hop tracing": 1,
        "aggregation": 2,
        "question answering": 2,
    }


@pytest.mark.parametrize("count", [by_words, by_pieces])
@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_answer_fill_the_length_asked_for(name, count):
    dataset = datasets.get(name)
    calls = []

    def counted(text):
        calls.append(text)
        return count(text)

    rows = make(name, counted, lengths=(1600, 4096, 10000), limit=9)
    assert len(calls) <= 6 * len(rows)
    assert [row.details["context_length"] for row in rows] == [1600, 4096, 10000] * 3
    for row in rows:
        tokens = count(prompt(dataset, row)) + dataset.max_new_tokens
        assert 0.95 * row.details["context_length"] <= tokens <= row.details["context_length"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_schema(name):
    rows = make(name, limit=3, lengths=(4096, 5000))
    assert [row.id for row in rows] == ["4096-0000", "5000-0000", "4096-0001"]
    for row in rows:
        assert name == f"ruler_{row.details['task']}"
        assert row.answers
        assert all(isinstance(answer, str) and answer for answer in row.answers)
        assert (row.language, row.all_classes, row.documents) == ("en", None, ())
        words = " ".join([row.question, row.context, *row.answers]).split()
        assert row.length == len(words)
        json.dumps(row.details)


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_repeats_and_two_differ(name):
    first, again, other = (make(name, seed=seed, limit=2) for seed in (1, 1, 2))
    assert first == again
    assert all(a.context != b.context for a, b in zip(first, other, strict=True))
    assert first[0].context != first[1].context


def test_a_row_does_not_depend_on_how_many_are_asked_for():
    assert make("ruler_cwe", limit=2) == make("ruler_cwe", limit=6)[:2]


@pytest.mark.parametrize("name", [name for name in NAMES if "niah" in name])
def test_every_needle_asked_for_stands_in_the_context_once(name):
    dataset = datasets.get(name)
    settings = dataset.parameters
    for row in make(name):
        keys = re.split(r", and |, ", row.question)
        assert len(keys) == settings["num_needle_q"]
        assert len(row.answers) == settings["num_needle_q"] * settings["num_needle_v"]
        needles = re.findall(r"One of the special magic (\w+) for (\S+) is: (\S+)\.", row.context)
        answers = [value for _, key, value in needles if key in keys]
        assert sorted(answers) == sorted(row.answers)
        assert {kind for kind, _, _ in needles} == {settings["type_needle_v"]}
        values = [value for _, _, value in needles]
        assert len(set(values)) == len(values)
        # Noise and essays hold no needles but those that the parameters count.
        if settings["type_haystack"] != "needle":
            keyed = max(settings["num_needle_k"], settings["num_needle_q"])
            assert len(needles) == keyed * settings["num_needle_v"]
            assert len({key for _, key, _ in needles}) == keyed


@pytest.mark.parametrize("kind", ["single_1", "single_2", "multikey_1", "multikey_3"])
def test_depths_are_uniform_and_kept(kind):
    rows = make(f"ruler_niah_{kind}", limit=200)
    counts = Counter(row.details["depth"] for row in rows)
    assert set(counts.values()) == {5}
    assert len(counts) == 40
    assert (min(counts), max(counts)) == (0, 100)
    for row in rows:
        place = 100 * row.context.index(row.answers[0]) / len(row.context)
        assert abs(place - row.details["depth"]) < 4
    # Their order is drawn, so that the first few rows are no ramp.
    assert [row.details["depth"] for row in rows[:40]] != sorted(
        row.details["depth"] for row in rows[:40]
    )


def test_needles_of_several_answers_are_spread():
    places = []
    for row in make("ruler_niah_multivalue", limit=100):
        assert "depth" not in row.details
        places += [row.context.index(answer) / len(row.context) for answer in row.answers]
    tenths = Counter(min(9, int(place * 10)) for place in places)
    assert all(20 <= tenths[tenth] <= 65 for tenth in range(10))


def test_essay_is_the_haystack_from_its_start(tmp_path):
    (tmp_path / "b.md").write_text("Second file here. It ends.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First words.\nThen more words!", encoding="utf-8")
    (tmp_path / "c.pdf").write_bytes(b"\xff\xfe")
    rows = make("ruler_niah_single_2", haystack=str(tmp_path), lengths=(600,), limit=1)
    plain = re.sub(r"One of the special magic.*?\. ?", "", rows[0].context)
    once = "First words. Then more words! Second file here. It ends. "
    assert plain.startswith(once + once)


def run_chains(text):
    """Every variable's value, by running the assignments in their order."""
    values = {}
    for name, source, other in re.findall(r"VAR (\w+) = (?:VAR (\w+)|(\d+))", text):
        values[name] = values[source] if source else other
    return values


def test_variables_resolve_to_the_value_asked_for():
    dataset = datasets.get("ruler_vt")
    for row in make("ruler_vt"):
        values = run_chains(asked_text(dataset, row))
        assert len(row.answers) == 5
        assert {name for name, value in values.items() if value == row.question} == set(row.answers)
        example, question = row.context.split(dataset.question.partition("{input}")[0])
        asked = re.match(r"\d+", question)[0]
        solved = [name for name, value in run_chains(example).items() if value == asked]
        assert f"they are:  {' '.join(solved)}\n\n\n\nMemorize" in row.context
        assert asked != row.question


def test_several_chains_are_told_apart():
    dataset = datasets.get("ruler_vt")
    dataset = replace(dataset, parameters={"generator": "vt", "num_chains": 3, "num_hops": 2})
    row = ruler.read(dataset, request(dataset)).rows[0]
    values = run_chains(asked_text(dataset, row))
    assert Counter(Counter(values.values()).values()) == {3: 3}
    assert {name for name, value in values.items() if value == row.question} == set(row.answers)


@pytest.mark.parametrize(("length", "common", "rare"), [(2000, 6, 1), (4096, 30, 3)])
def test_common_words_are_as_common_as_claimed(length, common, rare):
    dataset = datasets.get("ruler_cwe")
    for row in make("ruler_cwe", lengths=(length,)):
        listed = re.findall(r"(\d+)\. (.*?)(?= \d+\. |$)", asked_text(dataset, row))
        assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
        counts = Counter(word for _, word in listed)
        assert {word for word, count in counts.items() if count == common} == set(row.answers)
        assert len(row.answers) == 10
        assert set(counts.values()) == {common, rare}


def test_common_words_outlast_the_vocabulary():
    dataset = datasets.get("ruler_cwe")
    row = make("ruler_cwe", lengths=(131072,), limit=1)[0]
    words = re.findall(r"\d+\. (.*?)(?= \d+\. |$)", asked_text(dataset, row))
    counts = Counter(words)
    assert set(counts.values()) == {60, 6}
    assert {word for word, count in counts.items() if count == 60} == set(row.answers)


def test_frequent_words_follow_their_distribution():
    for row in make("ruler_fwe"):
        counts = Counter(row.context.split())
        (noise, dots), *ranked = counts.most_common()
        assert noise == "..."
        assert [word for word, _ in ranked[:3]] == row.answers
        assert ranked[2][1] > ranked[3][1]
        assert all(len(word) == 6 and word.islower() for word, _ in ranked)
        for rank, (_, count) in enumerate(ranked[:6], 2):
            assert abs(count - dots / rank**2) <= 1


@pytest.mark.parametrize(("alpha", "value"), [(2.0, 1.6449340668), (4.0, 1.0823232337)])
def test_zeta(alpha, value):
    assert zeta(alpha) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", ["ruler_qa_1", "ruler_qa_2"])
def test_the_documents_hold_the_answer(name):
    for row in make(name, limit=30):
        numbers = re.findall(r"^Document (\d+):\n", row.context, re.MULTILINE)
        assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
        assert len(numbers) > 10
        if row.answers[0] not in ("yes", "no"):
            assert any(answer in row.context for answer in row.answers)


def test_squad_asks_its_first_question():
    row = make("ruler_qa_1", limit=1)[0]
    assert row.question == "In what country is Normandy located?"
    assert row.answers == ["France"]


def test_prompt_is_the_published_one():
    row = make("ruler_niah_multikey_3", limit=1)[0]
    key, value, middle = row.question, row.answers[0], row.context
    expected = (
        "A special magic uuid is hidden within the following text. Make sure to memorize it. I "
        "will quiz you about the uuid afterwards.\n"
        f"{middle}\n"
        f"What is the special magic uuid for {key} mentioned in the provided text? The special "
        f"magic uuid for {key} mentioned in the provided text is"
    )
    assert prompt(datasets.get("ruler_niah_multikey_3"), row) == expected
    line = r"One of the special magic uuids for [0-9a-f-]{36} is: [0-9a-f-]{36}\."
    assert all(re.fullmatch(line, text) for text in middle.split("\n"))
    assert f"One of the special magic uuids for {key} is: {value}.\n" in middle + "\n"


@pytest.mark.parametrize(
    ("room", "lengths"),
    [(20000, {4096, 8192, 16384}), (1500, {1600}), (4096 - 128, {4096}), (4095 - 128, {4000})],
)
def test_lengths_are_chosen_from_the_room(room, lengths):
    rows = make("ruler_niah_single_1", lengths=(), room=room, limit=3)
    assert {row.details["context_length"] for row in rows} == lengths


def test_default_and_available_rows():
    dataset = datasets.get("ruler_niah_single_1")
    found = ruler.read(dataset, request(dataset, limit=None, lengths=(700,)))
    assert (len(found.rows), found.available) == (100, 500)
    assert found.where == "generated: ruler_niah_single_1, seed 0, lengths 700"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ruler_vt", {"lengths": (200,)}, "LENGTHS=200 is too short for ruler_vt: it needs"),
        ("ruler_niah_single_1", {"lengths": (-5,)}, "LENGTHS=-5 is too short"),
        ("ruler_niah_single_1", {"lengths": (), "room": 10}, "LENGTHS=100 is too short"),
        ("ruler_vt", {"lengths": (9000,), "room": 8000}, "LENGTHS=9000 does not fit: 8030 tokens"),
        ("ruler_qa_1", {"lengths": (900000,)}, "LENGTHS=900000 is too long for ruler_qa_1: all"),
    ],
)
def test_lengths_that_do_not_serve(name, changes, message):
    with pytest.raises(UserError, match=message):
        make(name, **changes)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"generator": "niah", "num_needles": 2}, "unknown parameter 'num_needles'"),
        ({"generator": "niah", "type_haystack": "hay"}, "type_haystack must be one of noise"),
        ({"generator": "niah", "num_needle_k": "2"}, "num_needle_k must be int, not '2'"),
        ({"generator": "niah", "num_needle_v": 41}, "at most 40 needles"),
        ({"generator": "vt", "num_hops": 0}, "num_hops must be at least 1"),
        ({"generator": "fwe", "alpha": 1}, "alpha must be above 1"),
        ({"generator": "cwe", "freq_ucw": 30}, "freq_ucw must be at least 1 and below"),
        ({"generator": "qa", "dataset": "nq"}, "dataset must be squad or hotpotqa"),
        ({"generator": "magic"}, "generator must be one of niah"),
        ({}, "generator must be one of niah"),
    ],
)
def test_parameters_that_do_not_serve(parameters, message):
    dataset = replace(datasets.get("ruler_vt"), parameters=parameters)
    with pytest.raises(UserError, match=message):
        ruler.read(dataset, request(dataset))


def test_haystacks_that_do_not_serve(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        make("ruler_niah_single_2", haystack=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"holds no text in \*\.txt"):
        make("ruler_niah_single_2", haystack=str(tmp_path))
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"bad\.txt: not UTF-8 text"):
        make("ruler_niah_single_2", haystack=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two!  Three? four.", 3),
        ('He said "No." Then he left.', 2),
        ("第一句。第二句！ 第三句", 3),
        ("A title\n\nA sentence.", 2),
        ("version 1.2 of it", 1),
        ("", 0),
    ],
)
def test_sentences_restore_their_text(text, count):
    found = haystack.sentences(text)
    assert "".join(found) == text
    assert len(found) == count


def record(index=0, **changes):
    key = f"k{index}"
    text = (
        "A special magic number is hidden within the following text. Make sure to memorize it. I "
        f"will quiz you about the number afterwards.\nHay.\nOne is: 12{index}.\nWhat is the "
        f"special magic number for {key} mentioned in the provided text? The special magic number "
        f"for {key} mentioned in the provided text is"
    )
    return {"index": index, "input": text, "outputs": [f"12{index}"], "length": 90} | changes


def write(path, records, opener=open):
    path.parent.mkdir(exist_ok=True)
    with opener(path, "wb") as file:
        file.write("".join(json.dumps(row) + "\n" for row in records).encode())


@pytest.mark.parametrize(
    ("name", "opener"),
    [
        ("niah_single_2/validation.jsonl", open),
        ("niah_single_2.jsonl", open),
        ("niah_single_2.jsonl.gz", gzip.open),
        ("niah_single_2.jsonl.xz", lzma.open),
    ],
)
def test_official_files_are_read(tmp_path, name, opener):
    write(tmp_path / name, [record(0), record(1)], opener)
    dataset = datasets.get("ruler_niah_single_2")
    asked = request(dataset, ruler_dir=str(tmp_path), limit=1)
    found = ruler.read(dataset, asked)
    assert (found.available, found.where) == (2, str(tmp_path / name))
    assert found.rows == [
        Row(
            id="90-0000",
            question="k0",
            context="Hay.\nOne is: 120.",
            answers=["120"],
            length=6,
            language="en",
            details={"context_length": 90, "task": "niah_single_2"},
        )
    ]
    assert prompt(dataset, found.rows[0]) == record(0)["input"]


def test_official_files_of_several_lengths_take_turns(tmp_path):
    for tokens in (8192, 4096):
        write(tmp_path / f"niah_single_2_{tokens}.jsonl", [record(0), record(1)])
    dataset = datasets.get("ruler_niah_single_2")
    rows, where = official.from_folder(dataset, str(tmp_path))
    assert [row.id for row in rows] == ["4096-0000", "8192-0000", "4096-0001", "8192-0001"]
    assert where == str(tmp_path)
    rows, _ = official.from_folder(dataset, str(tmp_path), (8192,))
    assert {row.details["context_length"] for row in rows} == {8192}
    with pytest.raises(UserError, match="no niah_single_2 of LENGTHS=512; it has 4096, 8192"):
        official.from_folder(dataset, str(tmp_path), (512,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_generated_prompt_is_split_as_it_was_joined(name, begun):
    dataset = datasets.get(name)
    row = make(name, limit=1)[0]
    text = prompt(dataset, row)
    if not begun:
        text = text.removesuffix(dataset.answer_prefix.replace("{input}", row.question))
    assert official.split(dataset, " " + text, "here") == (row.context, row.question)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"index": 1, "input": "x"}, "the row lacks outputs, length"),
        (record(input="Some other prompt"), "is not ruler_niah_single_2's template"),
        (record(input=record()["input"] + " 120"), "is not ruler_niah_single_2's template"),
        (record(outputs=[]), "outputs must be a list of at least one text"),
        (record(outputs="120"), "outputs must be list, not '120'"),
        (record(index=None), "index must be int, not None"),
        (record(answer_prefix="Answer:"), "answer_prefix is not ruler_niah_single_2's"),
        ([1], "not a JSON object"),
    ],
)
def test_official_rows_that_do_not_serve(tmp_path, line, message):
    write(tmp_path / "niah_single_2.jsonl", [record(0), line])
    with pytest.raises(UserError, match=rf"niah_single_2\.jsonl, line 2: .*{message}"):
        official.from_folder(datasets.get("ruler_niah_single_2"), str(tmp_path))


def test_official_files_that_do_not_serve(tmp_path):
    dataset = datasets.get("ruler_niah_single_2")
    with pytest.raises(UserError, match="is not a folder"):
        official.from_folder(dataset, str(tmp_path / "absent"))
    write(tmp_path / "vt.jsonl", [record()])
    with pytest.raises(UserError, match=r"has no niah_single_2/validation\.jsonl.*holds vt\.jsonl"):
        official.from_folder(dataset, str(tmp_path))
    path = tmp_path / "niah_single_2.jsonl"
    for content, message in [
        (b"", "holds no rows"),
        (b"\xff\n", "line 1: not UTF-8"),
        (b'{"index": 0,\n', "line 1: not JSON"),
        ((json.dumps(record()) + "\n").encode() * 2, "an index occurs twice"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            official.from_folder(dataset, str(tmp_path))
    path.unlink()
    (tmp_path / "niah_single_2.jsonl.xz").write_bytes(lzma.compress(b"{}" * 5000)[:60])
    with pytest.raises(UserError, match="damaged or cut short"):
        official.from_folder(dataset, str(tmp_path))
