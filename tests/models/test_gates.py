"""The seven gates of the design, over all families, against the library's own forward."""

from functools import lru_cache

import pytest
import torch
from transformers import DynamicCache

from models.kv import store
from models.kv.capture import capture
from models.kv.rotary import rotate_keys_
from models.prompt import Prompt
from tests.conftest import Family, random_prompt
from tests.models.library_states import SINK
from tests.models.selector_references import RATED, fuse

FUSED = [
    *RATED,
    "blend:blend_gap_source=k:filter_layers=3",
    "debug:check=cached",
    "debug:check_layer=0:per_head=1",
    "blend_debug:fusion=rank",
]
DEEPER = ["debug:check_layer=2", "blend:check_layer=3", "debug:check=cached:check_layer=3"]
TOLERANCE = 1e-4


@lru_cache(maxsize=16)
def greedy(family: Family, prompt: Prompt, count: int = 10) -> list[int]:
    out = family.library.generate(
        torch.tensor([prompt.ids]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(prompt) :].tolist()


def test_full_prefill_is_the_librarys(family, prompt):
    prefill = family.engine.full_prefill(prompt)
    assert torch.allclose(prefill.logits, family.logits(prompt.ids)[-1], atol=TOLERANCE)
    assert family.engine.decode(prefill, 10, ()).tokens == greedy(family, prompt)


@pytest.mark.parametrize("method", [*FUSED, *DEEPER])
def test_gate_1_everything_recomputed_is_full_prefill(family, prompt, method):
    prefill = fuse(family, prompt, method, 1.0)
    assert torch.allclose(prefill.logits, family.logits(prompt.ids)[-1], atol=TOLERANCE)
    assert family.engine.decode(prefill, 10, ()).tokens == greedy(family, prompt)


@pytest.mark.parametrize("method", ["full", *FUSED, *DEEPER])
@pytest.mark.parametrize(("prefix", "rate"), [(0, 0.5), (1, 0.15)])
def test_gate_2_one_chunk_is_full_prefill_at_any_rate(family, method, rate, prefix):
    prompt = random_prompt(prefix, [90], 12)
    prefill = fuse(family, prompt, method, rate)
    assert torch.allclose(prefill.logits, family.logits(prompt.ids)[-1], atol=TOLERANCE)


@pytest.mark.parametrize("method", FUSED)
def test_gate_3_nothing_recomputed_is_full_reuse(family, prompt, method):
    reuse = fuse(family, prompt, "full", 0.0).logits.clone()
    assert torch.allclose(fuse(family, prompt, method, 0.0).logits, reuse, atol=TOLERANCE)
    assert not torch.allclose(reuse, family.logits(prompt.ids)[-1], atol=0.01)


def test_a_deeper_dense_check_is_better_than_full_reuse_even_at_no_rate(family, prompt):
    """What ran densely below the check layer stays: gate 3 holds up to check layer 1 only."""
    reuse = fuse(family, prompt, "full", 0.0).logits.clone()
    fuse(family, prompt, "debug:check_layer=2", 0.0)
    kept = family.engine.cache.kv[:, :2, :, : len(prompt)].clone()
    family.engine.full_prefill(prompt)
    true = family.engine.cache.kv[:, :2, :, : len(prompt)]
    assert torch.allclose(kept, true, atol=TOLERANCE)
    dense = fuse(family, prompt, "debug:check_layer=2", 0.0).logits
    assert not torch.allclose(dense, reuse, atol=0.01)


@pytest.mark.parametrize("method", ["full", "cat", "random", "blend", "debug", "prophet"])
def test_gate_4_a_fused_cache_decodes_like_the_librarys(family, prompt, method):
    prefill = fuse(family, prompt, method, 0.3)
    n = len(prompt)
    kv = family.engine.cache.kv[:, :, None, :, :n].clone()
    cache = DynamicCache()
    for layer in range(kv.shape[1]):
        cache.update(kv[0, layer], kv[1, layer], layer)
    ours = family.engine.decode(prefill, 8, ()).tokens
    theirs = family.library.generate(
        torch.tensor([[*prompt.ids, prefill.first_token]]),
        attention_mask=torch.ones(1, n + 1, dtype=torch.long),
        past_key_values=cache,
        max_new_tokens=7,
        do_sample=False,
        eos_token_id=None,
    )
    assert ours == theirs[0, n:].tolist()


def test_gate_5_distance_falls_as_the_rate_rises(family):
    # Large random weights make a model chaotic; gentle ones make the distance a smooth measure.
    family = Family(family.name, initializer_range=0.15)
    prompts = [random_prompt(9, [60, 60, 40], 12, seed=s) for s in range(6)]
    references = [family.logits(p.ids)[-1].log_softmax(-1) for p in prompts]

    def distance(rate: float) -> float:
        total = 0.0
        for seed, (prompt, reference) in enumerate(zip(prompts, references, strict=True)):
            fused = fuse(family, prompt, "random", rate, seed).logits.log_softmax(-1)
            total += float((reference.exp() * (reference - fused)).sum())
        return total

    distances = [distance(rate) for rate in (0.0, 0.5, 0.9, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6 < distances[0]


def test_gate_7_stored_keys_of_the_first_chunk_are_fresh_ones(family, tmp_path):
    from models.timing import Stopwatch

    prompt = random_prompt(1, [64, 20], 8)
    engine = family.engine
    meta = store.describe(
        engine.modules, prompt, model="m", weights="w", tokenizer="t", chunking={"size": 64}
    )
    store.write(tmp_path, capture(engine.modules, prompt, SINK), meta)
    stored = store.read(tmp_path / store.KVS, meta, "make precompute", "kv").clone()
    rotary = family.library.model.rotary_emb
    cos, sin = rotary(stored, torch.arange(len(prompt))[None])
    rotate_keys_(stored[0], cos[0], sin[0])
    fresh = DynamicCache()
    family.library(torch.tensor([prompt.ids]), past_key_values=fresh, use_cache=True)
    first = slice(0, 65)
    for layer in range(stored.shape[1]):
        keys, values = fresh.layers[layer].keys[0], fresh.layers[layer].values[0]
        assert torch.allclose(stored[0, layer, :, first], keys[:, first], atol=TOLERANCE)
        assert torch.allclose(stored[1, layer, :, first], values[:, first], atol=TOLERANCE)
    engine.full_prefill(prompt)
    target = engine.cache.kv[:, :, :, : len(prompt)].clone()
    file = store.StoredItem(tmp_path, meta, "make precompute")
    file.cold(Stopwatch(engine.device), target).finish()
    assert torch.equal(target, store.read(tmp_path / store.KVS, meta, "", "kv"))
