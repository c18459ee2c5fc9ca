"""``make ppl``: what it scores, against the library's plain forward; and its figures."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from eval.ppl.__main__ import main
from eval.ppl.compress import Whole, compressed, record, timed
from eval.ppl.config import PplConfig
from eval.ppl.passages import Passage, passages
from eval.ppl.score import Score, score
from eval.ppl.summary import rises, summarise, table
from models import eviction
from models.eviction.generate import evicting
from stage.options import command
from tests.conftest import build
from tests.stages.harness import WORDS, make_tokenizer

SPECS = ("streaming", "snapkv:observe=6", "pyramidkv:observe=6", "knorm", "h2o", "rkv")


@pytest.fixture(scope="module")
def model():
    return build("llama")


@pytest.fixture
def haystack(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    sentences = [
        f"{WORDS[i % 23].capitalize()} {WORDS[i % 17]} {WORDS[i % 11]}." for i in range(600)
    ]
    (folder / "all.txt").write_text("  ".join(sentences), encoding="utf-8")
    return folder


def passage(seed: int = 0, context: int = 60, following: int = 20, first: int = 1) -> Passage:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 160, (context + following,), generator=generator).tolist()
    return Passage(ids[:context], ids[context:], first)


def settings(tmp_path, **changes) -> PplConfig:
    return PplConfig(outputs=str(tmp_path), **changes)


@pytest.mark.parametrize("first", [1, 5])
def test_with_everything_kept_it_is_the_librarys_own_loss(model, tmp_path, first):
    one = passage(first=first)
    found = score(model, record(model, one.context), one, Whole(), settings(tmp_path))
    logits = model(torch.tensor([[*one.context, *one.following]])).logits[0]
    at = len(one.context) + first
    expected = cross_entropy(
        logits[at - 1 : -1], torch.tensor(one.following[first:]), reduction="sum"
    )
    assert found.nll == pytest.approx(float(expected), rel=1e-4)
    assert found.tokens == 20 - first
    assert found.kept == 1
    assert found.kv_bytes == 2 * 4 * 2 * 60 * 16 * 4  # keys and values, layers, heads, rows, dims


@pytest.mark.parametrize("spec", SPECS)
def test_a_compressed_context_is_what_a_prefill_under_the_policy_leaves(model, spec):
    one, policy = passage(), eviction.build(spec, keep=0.4, buffer=0)
    ids = torch.tensor([one.context])
    with evicting(model, policy) as real:
        model(ids, past_key_values=real)
    context = record(model, one.context)
    with compressed(model, context, policy) as made:
        for ours, theirs in zip(made.layers, real.layers, strict=True):
            assert torch.equal(ours.positions, theirs.positions)
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)
    assert [layer.kept for layer in context.layers] == [60] * 4


def test_the_order_of_rows_changes_nothing_and_wrong_positions_do(model, tmp_path):
    one, policy = passage(), eviction.build("knorm:keep=0.5")
    context = record(model, one.context)

    def nll(**changes) -> float:
        return score(model, context, one, policy, settings(tmp_path, **changes)).nll

    assert nll(order="score") == pytest.approx(nll(), rel=1e-4)
    assert nll(positions="length") != pytest.approx(nll(), rel=1e-2)
    whole = score(model, context, one, Whole(), settings(tmp_path, positions="length")).nll
    assert whole == score(model, context, one, Whole(), settings(tmp_path)).nll


def test_exact_is_what_greedy_decoding_answers(model, tmp_path):
    one = passage(following=1)
    context = record(model, one.context)
    out = model.generate(torch.tensor([[*one.context, *one.following]]), max_new_tokens=4)
    answer = out[0, 61:].tolist()
    right = Passage(one.context, [*one.following, *answer], 1)
    wrong = Passage(one.context, [*one.following, *answer[:-1], answer[-1] ^ 1], 1)
    assert score(model, context, right, Whole(), settings(tmp_path)).exact
    assert not score(model, context, wrong, Whole(), settings(tmp_path)).exact


def test_passages_are_the_texts_own_tokens(tmp_path, haystack):
    tokenizer = make_tokenizer()
    config = settings(tmp_path, haystack=str(haystack), context=64, follow=16, limit=3)
    found, where = passages(config, tokenizer)
    text = (haystack / "all.txt").read_text()
    assert where == str(haystack)
    for one in found:
        assert (len(one.context), len(one.following), one.first) == (64, 16, 1)
        assert tokenizer.decode([*one.context, *one.following]).strip() in text
    assert len({tuple(one.context) for one in found}) == 3


@pytest.mark.parametrize("task", ["needle", "passkey"])
def test_a_fact_is_hidden_in_the_context_and_asked_for_behind_it(tmp_path, haystack, task):
    tokenizer = make_tokenizer()
    config = settings(tmp_path, haystack=str(haystack), context=220, limit=3, task=task)
    depths = []
    for one in passages(config, tokenizer)[0]:
        answer = tokenizer.decode(one.following[one.first :]).strip()
        context = tokenizer.decode(one.context)
        assert answer
        assert answer in context
        assert answer not in tokenizer.decode(one.following[: one.first])
        assert len(one.context) <= 220
        depths.append(context.index(answer) / len(context))
    assert depths == sorted(depths)
    assert depths[0] < 0.3 < 0.7 < depths[-1]


def test_rows_are_weighted_by_tokens_and_paired():
    def one(nll: float, tokens: int) -> Score:
        return Score(nll, tokens, exact=nll < 3, kept=0.5, kv_bytes=1000)

    whole, less = [one(2, 1), one(12, 9)], [one(3, 1), one(21, 9)]
    row = summarise("knorm", 0.5, less, whole, [], 0)
    assert row["ppl"] == pytest.approx(2.718281828 ** (24 / 10))
    assert row["nats"] == pytest.approx(10 / 10)
    assert row["exact"] == 0
    assert "knorm" in table([row], "needle")
    better = {**row, "keep": 0.25, "nats_ci95": [-2.0, -1.0]}
    assert "0.25 kept is better than 0.5" in rises([row, better])[0]
    assert rises([row, {**better, "policy": "h2o"}]) == []


def test_times_are_of_what_they_say(model):
    one, policy = passage(), eviction.build("snapkv:observe=6:keep=0.4")
    times = timed(model, one.context, record(model, one.context), policy, 3)
    assert 0 < times.evict_ms < times.ttft_ms
    assert times.tpot_ms > 0
    assert times.tokens_per_s > 0


def test_the_command_leaves_figures_and_a_picture(tmp_path, model_folder, haystack, capsys):
    config = PplConfig(
        model=str(model_folder), outputs=str(tmp_path), haystack=str(haystack), context=64,
        follow=8, limit=2, threads=1, keeps=[0.5, 1.0], drop=["knorm:whole=1", "h2o"], batch=2,
        device="cpu",
    )  # fmt: skip
    main(config)
    (folder,) = tmp_path.glob(f"{model_folder.name}-*/ppl/text")
    result = json.loads((folder / "ppl.json").read_text())
    assert [(row["policy"], row["keep"]) for row in result["rows"]] == [
        ("none", 1.0), ("knorm:whole=1", 1.0), ("knorm:whole=1", 0.5), ("h2o", 1.0), ("h2o", 0.5),
    ]  # fmt: skip
    assert result["environment"]["backend"] == "sdpa"
    assert "not_native" not in result["environment"]
    whole = result["rows"][0]
    for row in result["rows"]:
        assert row["ttft_ms"] > 0
        if row["keep"] == 1:
            assert row["ppl"] == whole["ppl"]
            assert row["nats"] == 0
            assert row["kv_bytes"] == whole["kv_bytes"]
    assert result["rows"][4]["kv_bytes"] == whole["kv_bytes"] / 2
    assert (folder / "ppl.png").read_bytes().startswith(b"\x89PNG")
    assert "knorm:whole=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["DROP=knorms"], "unknown policy DROP=knorms"),
        (["DROP=knorm:keep=0.3"], "here KEEPS says how much stays"),
        (["KEEPS=0"], "KEEP=0.0 must be above 0"),
        (["KEEPS=1.2"], "KEEP=1.2"),
        (["TASK=story"], "TASK is text, needle, passkey"),
        (["POSITIONS=kept"], "POSITIONS is seen, length"),
        (["CONTEXT=8"], "CONTEXT=8 must be 64 or more"),
        (["LIMIT=1"], "LIMIT=1 must be 2 or more"),
        (["TIMED=9"], "TIMED=9: give 0 to 8"),
        (["SEED=-1"], "SEED=-1 must be at least 0"),
        (["BACKEND=blocked"], "BACKEND= is the engine's"),
        (["FAST=graph"], "FAST= is the engine's"),
        (["HAYSTACK=/nowhere"], "HAYSTACK=/nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line(words, said, model_folder, capsys):
    assert command("ppl", PplConfig, main, [f"MODEL={model_folder}", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_text_that_is_too_short_is_told(tmp_path, model_folder, haystack, capsys):
    words = [f"MODEL={model_folder}", f"HAYSTACK={haystack}", "CONTEXT=4096"]
    assert command("ppl", PplConfig, main, words) == 2
    assert "passages need" in capsys.readouterr().err
