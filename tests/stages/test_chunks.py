"""Every chunk once: the same figures as a file an item gives, and only what is new is run."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from models import selectors
from tests.stages.harness import Workplace, make_model, records, refused, timeless

STORE = "STORE=chunks"
WHOLE = "CHUNK_SIZE=100"  # a document is one chunk
DOCUMENTS = [f"Tower {n} of Port Anselm was opened by Ilka in 19{n}." for n in range(10, 16)]


def rows(*held: list[int], asked: str = "Who opened the tower") -> list[dict[str, Any]]:
    """Questions about some of the documents each, in this order.

    The last document of a prompt has nothing that parts it from another: it is a chunk of its own.
    """
    return [
        {
            "documents": [f"{DOCUMENTS[n]}\n" for n in each],
            "question": f"{asked} {i}?",
            "answer": "Ilka",
        }
        for i, each in enumerate(held)
    ]


def written(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return f"DATASET={path}"


def precomputed(place, *options: str) -> tuple[int, int, int]:
    """New chunks, all chunks and tokens that were run, as precompute says them."""
    out = place.ok("precompute", STORE, WHOLE, *options).out
    if "items are complete" in out:
        return 0, 0, 0
    new, known, tokens, _ = map(
        int, re.search(r"(\d+) of (\d+) chunks new, (\d+) of (\d+) tokens", out).groups()
    )
    ran = re.search(r"(\d+) chunks new and \d+ reused, (\d+) tokens", out)
    assert (new, tokens) == (int(ran[1]), int(ran[2]))
    return new, known, tokens


def chunks(place) -> set[str]:
    return {path.name for path in (place.root / "kvs").glob("*/chunks/*/*.safetensors")}


def test_figures_are_those_of_a_file_an_item(with_scores):
    """Every selector, scores and all, bit for bit."""
    methods = ["REUSE=" + " ".join(selectors.names()), "RATE=0.3", "LIMIT=2", "DEVIATION=1"]
    with_scores.ok("eval", *methods)
    whole = {name: records(folder) for name, folder in with_scores.runs().items()}
    shutil.rmtree(with_scores.root / "outputs")
    with_scores.ok("eval", STORE, *methods)
    shared = {name: records(folder) for name, folder in with_scores.runs().items()}
    assert whole.keys() == shared.keys() == {*selectors.names()}
    for name, found in whole.items():
        for ours, theirs in zip(shared[name], found, strict=True):
            sizes = ours.pop("stored_bytes"), theirs.pop("stored_bytes")
            assert (sizes == (None, None)) == (name == "no")
            assert timeless(ours) == timeless(theirs)


def test_a_second_dataset_costs_only_what_it_has_new(place, tmp_path):
    first = written(tmp_path / "first.jsonl", rows([0, 1, 5], [1, 2, 5]))
    new, known, _ = precomputed(place, first)
    # 4 documents, the prefix that all share, and two questions.
    assert new == known == len(chunks(place)) == 7
    second = written(
        tmp_path / "second.jsonl", rows([3, 1, 5], [2, 0, 1, 5], asked="Where is tower")
    )
    new, known, tokens = precomputed(place, second)
    assert (new, known) == (3, 8)  # document 3, and two questions
    assert len(chunks(place)) == 10
    assert precomputed(place, second) == precomputed(place, first) == (0, 0, 0)
    place.ok("precompute", WHOLE, second)  # a file an item runs all of it
    assert tokens > 0


def test_order_question_and_room_leave_chunks_as_they_are(place, tmp_path):
    path = tmp_path / "mine.jsonl"
    mine = written(path, rows([0, 1, 2, 3]))
    precomputed(place, mine)
    written(path, rows([2, 1, 0, 3]))
    assert precomputed(place, mine)[0] == 0
    written(path, rows([0, 1, 2, 3], asked="Whose is the tower"))
    assert precomputed(place, mine)[0] == 1
    written(path, rows([0, 1, 2, 3]))
    assert precomputed(place, mine, "MAX_LENGTH=900")[0] == 0
    assert precomputed(place, mine, "SURPRISAL=1")[0] == 6  # nobody has asked for it before
    assert precomputed(place, mine) == (0, 0, 0)


def test_what_decides_a_chunks_bytes_makes_another(place, tmp_path):
    mine = written(tmp_path / "mine.jsonl", rows([0, 1]))
    assert precomputed(place, mine)[0] == 4
    assert precomputed(place, mine, "CONTEXT=prefix")[0] == 3  # the prefix has nothing in front
    assert precomputed(place, mine, "DTYPE=bfloat16")[0] == 4
    make_model(place.model.parent / "other", seed=8)
    other = f"MODEL={place.model.parent / 'other'}"
    assert precomputed(place, mine, other)[0] == 4
    out = place.ok("precompute", WHOLE, mine, "CODEC=int8").out
    assert "2 of 4 chunks new" in out  # prefix and question lie as they are
    assert "2 chunks new and 2 reused, 0 tokens" in out  # encoded from what is there


def test_a_sweep_has_codecs_side_by_side(place):
    out = place.ok(
        "sweep", "LIMIT=2", "RATE=0.3", "REUSE=no random full", "CODEC=none int8 int4"
    ).out
    lines = [line.split() for line in out.splitlines()]
    named = {
        line[0] + (line[1] if line[1].startswith("[") else "") for line in lines if len(line) > 5
    }
    assert {"random", "random[int8]", "random[int4]", "full[int8]", "no"} <= named
    assert "B/token" in out
    assert {"full", "full+int8+", "random+int4+"} <= place.runs().keys()
    per_token = [
        place.result(n)["stored_bytes_per_token"] for n in ("full", "full+int8+", "full+int4+")
    ]
    assert per_token == sorted(per_token, reverse=True)
    assert place.result("full")["kl_mean"] != place.result("full+int8+")["kl_mean"]
    configs = [place.result(name)["config"] for name in ("full", "full+int8+")]
    assert [config["codec"] for config in configs] == ["none", "int8"]
    assert {config["store"] for config in configs} == {"chunks"}


def test_the_gate_goes_through_the_store(place):
    out = place.ok("gate", "LIMIT=1", "CODEC=none int8").out
    assert out.count("chunks under") == 2
    assert "FAIL" not in out


def test_what_cannot_be_is_refused(place):
    assert "CODEC=int8 needs STORE=chunks" in refused(
        place, "precompute", "STORE=item", "CODEC=int8"
    )
    assert "give item or chunks" in refused(place, "precompute", "STORE=pieces")
    assert "CODEC=int9" in refused(place, "precompute", "CODEC=int9")


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "manifest"])
def test_a_chunk_that_is_not_whole_is_built_anew(place, damage):
    place.ok("precompute", STORE, "LIMIT=2")
    before = {path: path.read_bytes() for path in (place.root / "kvs").rglob("*.safetensors")}
    victim = sorted(before)[0]
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(before[victim][:-100])
    elif damage == "flipped":
        victim.write_bytes(before[victim][:-1] + bytes([before[victim][-1] ^ 1]))
    else:
        victim = next((place.root / "kvs").rglob("kvs.json"))
        victim.write_text(victim.read_text().replace("chunks", "chunk", 1))
    out = place.ok("precompute", STORE, "LIMIT=2").out
    word = {"gone": "missing"}.get(damage, "damaged")
    assert re.search(rf"items to build \(\d {word}\)", out)
    assert {path: path.read_bytes() for path in before} == before
    assert "all 2 items are complete" in place.ok("precompute", STORE, "LIMIT=2").out


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model_folder, rows_folder) -> dict[str, bytes]:
    """The chunks that one undisturbed precompute leaves."""
    workplace = Workplace(tmp_path_factory.mktemp("alone"), model_folder, rows_folder)
    workplace.ok("precompute", STORE)
    return contents(workplace)


def contents(place) -> dict[str, bytes]:
    found = (place.root / "kvs").glob("*/chunks/*/*.safetensors")
    return {path.name: path.read_bytes() for path in found}


def test_processes_share_the_work(place, forks, alone):
    """Every chunk is there once, byte by byte, whoever built it."""
    place.ok("chunk")
    children = [
        forks.start(place.argv("precompute", STORE), place.root / f"log{n}") for n in range(3)
    ]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert contents(place) == alone
    built = [re.search(r"precompute: (\d) items, ", child.log.read_text()) for child in children]
    assert sum(int(found[1]) for found in built if found) == 5
    assert "all 5 items are complete" in place.ok("precompute", STORE).out


def test_a_killed_precompute_is_gone_on_with(place, forks, alone):
    place.ok("chunk")
    for enough in (2, 6, 9):
        child = forks.start(place.argv("precompute", STORE), place.root / "log")
        while len(chunks(place)) < enough and child.running():
            time.sleep(0.001)
        child.kill()
        kept = contents(place)
        assert kept.items() <= alone.items()
    out = place.ok("precompute", STORE).out
    new = re.search(r"(\d+) of \d+ chunks new", out)
    assert int(new[1] if new else 0) == len(alone) - len(kept)
    assert contents(place) == alone
