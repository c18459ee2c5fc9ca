"""Distances in records against the library's own model, and what records say was recomputed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from eval.analysis.overlap import decode
from tests.stages.harness import Workplace, records

RATE = 0.3
ANSWER = 6
METHODS = ["no", "full", "cat", "random", "tail_ratio", "epic:lego_k=3", "debug", "blend"]
MEASURED = ("kl_first", "kl_mean", "top1_agreement", "delta_kv", "delta_attn")


@dataclass
class States:
    """Of one item under the library's model: logits along an answer, keys and values, attention.

    ``logits [answer, vocabulary]``, ``kv [2, L, H_kv, N, D]``, ``attention [L, H, q, N]``.
    """

    logits: Tensor
    kv: Tensor
    attention: Tensor


@dataclass
class Item:
    """What the stages were given of an item."""

    id: str
    segments: list[list[int]]
    stored: Tensor

    @property
    def ids(self) -> list[int]:
        return list(chain(*self.segments))

    @property
    def question(self) -> int:
        """Where it begins."""
        return len(self.ids) - len(self.segments[-1])

    @property
    def documents(self) -> range:
        return range(len(self.segments[0]), self.question)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, prepared) -> Workplace:
    root = tmp_path_factory.mktemp("distances")
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    place = Workplace(root, prepared.model, prepared.rows)
    options = ("--rate", RATE, "--deviation", "true", "--max-new-tokens", ANSWER)
    place.ok("eval", "--reuse", *METHODS, *options)
    return place


@pytest.fixture(scope="module")
def library(evaluated):
    model = AutoModelForCausalLM.from_pretrained(
        evaluated.model, dtype=torch.float32, attn_implementation="eager"
    )
    return model.requires_grad_(False)


def items(place: Workplace) -> list[Item]:
    found = []
    for line in map(json.loads, place.inputs.read_text(encoding="utf-8").splitlines()):
        tokens = line["tokens"]
        stored = torch.load(place.kv_files()[line["id"]])["kv"]
        segments = [tokens["prefix"], *tokens["chunks"], tokens["question"]]
        found.append(Item(line["id"], segments, stored))
    return found


def record_of(place: Workplace, method: str, item: Item) -> dict:
    folder = place.runs()[method.replace(":", "+")]
    return next(record for record in records(folder) if record["id"] == item.id)


def answer_of(library, item: Item) -> list[int]:
    """The full prefill's own, with the token that stopped it."""
    ids = torch.tensor([item.ids])
    mask = torch.ones_like(ids)
    out = library.generate(ids, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False)
    return out[0, len(item.ids) :].tolist()


def states(library, item: Item, start: int, answer: list[int]) -> States:
    """Run all from ``start`` on, over the stored KVs of what is before it, causally."""
    n = len(item.ids)
    cache = DynamicCache(config=library.config)
    cos, sin = library.model.rotary_emb(item.stored, torch.arange(n)[None])
    if start:
        for layer, (keys, values) in enumerate(zip(*item.stored, strict=True)):
            rotated = apply_rotary_pos_emb(keys[None], keys[None], cos, sin)[0]
            cache.update(rotated[:, :, :start], values[None, :, :start], layer)
    run = torch.tensor([[*item.ids, *answer[:-1]][start:]])
    out = library(run, past_key_values=cache, output_attentions=True)
    rows = slice(item.question - start, n - start)
    return States(
        out.logits[0, -len(answer) :],
        torch.stack(
            [
                torch.stack([getattr(layer, part)[0, :, :n] for layer in cache.layers])
                for part in ("keys", "values")
            ]
        ),
        torch.stack([attention[0, :, rows, :n] for attention in out.attentions]),
    )


def distances(item: Item, found: States, true: States, answer: list[int]) -> dict:
    """What a record says of the distance, by its definition."""
    ours, theirs = found.logits.double().log_softmax(-1), true.logits.double().log_softmax(-1)
    kl = kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    rows = slice(item.documents.start, item.documents.stop)
    gap, norm = (kv[:, :, :, rows].flatten(2).norm(dim=2) for kv in (found.kv - true.kv, true.kv))
    attention = (found.attention - true.attention).flatten(1).norm(dim=1)
    return {
        "kl_first": float(kl[0]),
        "kl_mean": float(kl.mean()),
        "top1_agreement": float((found.logits.argmax(-1) == torch.tensor(answer)).double().mean()),
        "delta_kv": (gap / norm).mean(0).tolist(),
        "delta_attn": (attention / true.attention.flatten(1).norm(dim=1)).tolist(),
    }


@pytest.mark.parametrize("method", ["full", "tail_ratio"])
def test_distances_are_those_of_the_librarys_model(evaluated, library, method):
    """Full reuse runs the question over stored KVs; the tail is run together with it."""
    for item in items(evaluated):
        answer = answer_of(library, item)
        tail = int(len(item.documents) * RATE) if method == "tail_ratio" else 0
        true = states(library, item, 0, answer)
        found = states(library, item, item.question - tail, answer)
        record = record_of(evaluated, method, item)
        wanted = distances(item, found, true, answer)
        for name in MEASURED:
            assert record[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name
        assert record["kl_mean"] > 1e-3  # it is a distance that can be told from rounding


def test_the_full_prefill_is_at_no_distance(evaluated):
    for item in items(evaluated):
        record = record_of(evaluated, "no", item)
        assert [record[name] for name in MEASURED] == [0.0, 0.0, 1.0, [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_layer_is_close_and_the_next_are_not(evaluated, method):
    """Its keys and values depend on nothing but the token itself."""
    for item in items(evaluated):
        first, *later = record_of(evaluated, method, item)["delta_kv"]
        assert first < 1e-5
        assert all(delta > 1e-3 for delta in later) or method == "no"


def positions(item: Item, method: str) -> list[int] | None:
    """What a method without a look at states recomputes, in the whole prompt."""
    question = list(range(item.question, len(item.ids)))
    documents = list(item.documents)
    heads, start = [], documents[0]
    for chunk in item.segments[1:-1]:
        heads += range(start, start + min(3, len(chunk)))
        start += len(chunk)
    tail = documents[len(documents) - int(len(documents) * RATE) :]
    return {
        "no": list(range(len(item.ids))),
        "full": question,
        "cat": question[-1:],
        "tail_ratio": tail + question,
        "epic:lego_k=3": heads + question,
    }.get(method)


def sha256(chosen: list[int]) -> str:
    return hashlib.sha256(np.array(chosen, dtype=np.int64).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("method", METHODS)
def test_selected_says_which_document_positions_were_recomputed(evaluated, method):
    for item in items(evaluated):
        record = record_of(evaluated, method, item)
        assert record["documents"] == len(item.documents)
        mask = decode(record["selected"], record["documents"])
        chosen = [p for p, bit in zip(item.documents, mask, strict=True) if bit]
        wanted = positions(item, method)
        if wanted is None:
            assert len(chosen) == int(len(item.documents) * RATE)
            wanted = chosen + list(range(item.question, len(item.ids)))
        assert chosen == [p for p in wanted if p in item.documents]
        assert record["recomputed"] == len(wanted)
        assert record["selected_sha256"] == sha256(wanted)


def test_every_choice_is_another(evaluated):
    for item in items(evaluated):
        hashes = [record_of(evaluated, method, item)["selected_sha256"] for method in METHODS]
        assert len(set(hashes)) == len(METHODS)
