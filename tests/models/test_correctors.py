"""Correctors against plain tensors over the library's own layers, and what they leave alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from models import correctors, selectors
from models.correctors import KEYS, VALUES, BaseCorrector, Change
from models.engine import Engine, Prefill
from models.errors import UserError
from models.finite import NotFinite
from models.gate import reader
from models.kv.capture import capture
from models.kv.transfer import LayerStream
from models.prompt import Prompt
from tests.conftest import Family, build, random_prompt
from tests.models.library_states import SINK, RowByRow
from tests.models.selector_references import captured, shaped, truth

SELECTORS = [
    "random",
    "epic",
    "prophet",
    "debug:check=cached",
    "debug:check_layer=0",
    "blend",
    "blend:check_layer=2",
    "blend:filter_layers=3",
    "oracle_kv",
]
SPECS = ["shift", "shift:what=both", "shift:what=values", "shift:shrink=0", "shift:shrink=2.5"]


def fuse(
    family: Family,
    prompt: Prompt,
    method: str,
    rate: float,
    corrector: str | BaseCorrector | None = "shift",
    read=None,
) -> Prefill:
    selector = selectors.build(method)
    stored = captured(family, prompt)
    seen = truth(family, prompt) if selector.oracle else None
    family.engine.cache.reserve(len(prompt) + 16)
    return family.engine.fused_prefill(
        prompt,
        read or reader(stored.kv),
        selector,
        rate,
        torch.Generator().manual_seed(3),
        stored.scores.__getitem__,
        seen,
        "7",
        len(SINK),
        correctors.build(corrector) if isinstance(corrector, str) else corrector,
    )


def held(family: Family, prompt: Prompt) -> Tensor:
    """The keys and values that the engine's cache holds."""
    return family.engine.cache.kv[:, :, :, : len(prompt)].clone()


class Corrected(RowByRow):
    """Row by row, with ``shift`` in plain loops before a layer's rows are run."""

    def rotation(self, position: int) -> Tensor:
        """``[D, D]``: what turns a key to this position, the model's attention scaling included."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        cos, sin = (part[:, position : position + 1] for part in self.rotary)
        basis = torch.eye(16).reshape(16, 1, 1, 16)
        turned = [apply_rotary_pos_emb(row[None], row[None], cos, sin)[0] for row in basis]
        return torch.cat(turned).reshape(16, 16).T.double()

    def shift(self, layer: int, rows: list[int], chunks, kinds: str, shrink: float) -> None:
        fresh, at = self.fresh(layer, rows), self.kv[layer]
        for start, end in chunks:
            inside = [p for p in rows if start <= p < end]
            rest = [p for p in range(start, end) if p not in inside]
            if not inside:
                continue
            weight = len(inside) / (len(inside) + shrink)
            for name in kinds:
                gaps = {p: fresh[name][:, p].double() - at[name][:, p].double() for p in inside}
                if name == "k":
                    turns = {p: self.rotation(p) for p in range(start, end)}
                    gaps = {p: gap @ torch.linalg.inv(turns[p]).T for p, gap in gaps.items()}
                heads, size = next(iter(gaps.values())).shape
                common = torch.tensor(
                    [
                        [
                            weight * statistics.median(float(g[h, d]) for g in gaps.values())
                            for d in range(size)
                        ]
                        for h in range(heads)
                    ],
                    dtype=torch.float64,
                )
                for p in rest:
                    at[name][:, p] += common @ turns[p].T if name == "k" else common


def reference(
    family: Family,
    prompt: Prompt,
    prefill: Prefill,
    kinds: str = "k",
    shrink: float = 8.0,
    made: type[Corrected] = Corrected,
) -> Tensor:
    """The cache of a prefill that chose these rows, ``[2, L, H_kv, N, D]``."""
    ours, n_layers = made(family, prompt), len(family.library.model.layers)
    passes, layers = [], 0
    for rows, count in reversed(prefill.passes):  # question passes stand in front of the flight's
        if layers == n_layers:
            break
        passes.insert(0, (rows.tolist(), count))
        layers += count
    layer = 0
    for place, (rows, count) in enumerate(passes):
        for _ in range(count):
            if place == len(passes) - 1:
                ours.shift(layer, rows, prompt.chunks, kinds, shrink)
            ours.run(layer, rows)
            layer += 1
    return torch.stack([torch.stack([at[n] for at in ours.kv]) for n in "kv"])


@pytest.mark.parametrize("method", SELECTORS)
def test_the_cache_is_that_of_plain_loops_over_the_librarys_layers(family, method):
    prompt = shaped("usual")
    prefill = fuse(family, prompt, method, 0.3)
    found = held(family, prompt)
    assert torch.allclose(found.double(), reference(family, prompt, prefill).double(), atol=1e-4)
    fuse(family, prompt, method, 0.3, None)
    assert not torch.allclose(found, held(family, prompt), atol=1e-2)


@pytest.mark.parametrize(
    ("spec", "kinds", "shrink"),
    [("shift:what=both", "kv", 8), ("shift:what=values", "v", 8), ("shift:shrink=0", "k", 0)],
)
def test_the_options_do_what_they_say(family, spec, kinds, shrink):
    prompt = shaped("usual")
    prefill = fuse(family, prompt, "random", 0.4, spec)
    wanted = reference(family, prompt, prefill, kinds, shrink)
    assert torch.allclose(held(family, prompt).double(), wanted.double(), atol=1e-4)


@pytest.mark.parametrize("method", ["random", "blend", "prophet"])
@pytest.mark.parametrize("corrector", SPECS)
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_all_or_nothing_is_recomputed_nothing_is_corrected(
    family, prompt, method, corrector, rate
):
    logits = fuse(family, prompt, method, rate, None).logits
    plain = held(family, prompt)
    assert torch.equal(fuse(family, prompt, method, rate, corrector).logits, logits)
    assert torch.equal(held(family, prompt), plain)


@pytest.mark.parametrize("method", ["full", "cat"])
def test_methods_that_recompute_no_document_are_as_they_were(llama, prompt, method):
    logits = fuse(llama, prompt, method, 0.15, None).logits
    assert torch.equal(fuse(llama, prompt, method, 0.15).logits, logits)


@pytest.mark.parametrize("method", ["random", "debug", "blend", "prophet", "epic"])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_one_chunk_is_full_prefill_at_any_rate(family, method, rate):
    """Cached rows are exact there, so what recomputing changes is rounding."""
    prompt = random_prompt(0, [90], 12)
    prefill = fuse(family, prompt, method, rate)
    assert torch.allclose(prefill.logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_a_chunk_without_recomputed_rows_and_the_prefix_stay_as_they_are(family, prompt, tmp_path):
    (start, end), second, third = prompt.chunks
    path = tmp_path / "positions.json"
    path.write_text(f'{{"7": {list(range(second[0], second[1], 9))}}}')
    method = f"attnlink:positions={path}"
    fuse(family, prompt, method, 0.15, None)
    plain = held(family, prompt)
    fuse(family, prompt, method, 0.15)
    found = held(family, prompt)
    for span in (prompt.prefix, (start, end), third):
        assert torch.equal(found[:, :, :, slice(*span)], plain[:, :, :, slice(*span)])
    assert not torch.equal(found[:, :, :, slice(*second)], plain[:, :, :, slice(*second)])


@pytest.mark.parametrize("method", ["random", "debug", "prophet"])
def test_layers_that_come_by_a_stream_are_corrected_alike(family, prompt, method):
    kv = captured(family, prompt).kv
    logits = fuse(family, prompt, method, 0.3).logits
    found = held(family, prompt)
    with torch.inference_mode():
        family.engine.cache.kv.fill_(7.0)
    streamed = fuse(family, prompt, method, 0.3, read=lambda watch, target: LayerStream(kv, target))
    assert torch.equal(streamed.logits, logits)
    assert torch.equal(held(family, prompt), found)


def test_what_comes_behind_a_prefill_corrects_nothing(llama, prompt):
    prefill = fuse(llama, prompt, "random", 0.3)
    before = held(llama, prompt)
    llama.engine.decode(prefill, 6, ())
    llama.engine.follow(prefill, [5, 6, 7])
    assert torch.equal(held(llama, prompt), before)
    fuse(llama, prompt, "random", 0.3, None)
    plain = held(llama, prompt)
    fuse(llama, prompt, "random", 0.3)
    fuse(llama, prompt, "random", 0.3, None)
    assert torch.equal(held(llama, prompt), plain)


def test_in_half_precision_the_sum_is_rounded_once(prompt):
    engine = Engine(build("llama").to(torch.bfloat16), "sdpa")
    kv, seed = capture(engine.modules, prompt, SINK).kv, torch.Generator().manual_seed(3)
    corrector = correctors.build("shift:what=values")
    random = selectors.build("random")
    prefill = engine.fused_prefill(prompt, reader(kv), random, 0.3, seed, corrector=corrector)
    found, cached = engine.cache.kv[1, 1], kv[1, 1].float()
    for start, end in prompt.chunks:
        rows = [p for p in prefill.recomputed.tolist() if start <= p < end]
        rest = [p for p in range(start, end) if p not in rows]
        gaps = found[:, rows].float() - cached[:, rows]
        common = gaps.quantile(0.5, 1, keepdim=True) * (len(rows) / (len(rows) + 8))
        assert torch.equal(found[:, rest], (cached[:, rest] + common).bfloat16())


def test_many_rows_are_fitted_on_two_threads_too():
    """Several large systems at once, which PyTorch's LU does not solve (pytorch#142815)."""
    generator = torch.Generator().manual_seed(0)
    rows, gap = torch.randn(2, 4, 300, 16, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = correctors.build("ridge").fit(rows, gap)
    finally:
        torch.set_num_threads(threads)
    for x, g, linear in zip(rows.double().numpy(), gap.double().numpy(), found, strict=True):
        system = x.T @ x + np.square(x).sum(1).mean() * np.eye(16)
        assert np.allclose(linear, np.linalg.solve(system, x.T @ g), atol=1e-6)
    with pytest.raises(UserError, match="RIDGE=1e-30 is too small for these rows"):
        correctors.build("ridge:ridge=1e-30").fit(rows, gap)


@dataclass
class Adds(BaseCorrector):
    """The same to every row of every chunk."""

    kind: int = KEYS
    amount: float = 0.0
    seen: int = 0

    def correct(self, change: Change) -> dict[int, Tensor]:
        self.seen += 1
        return {self.kind: torch.full_like(change.of(self.kind)[:, 0], self.amount)}


@pytest.mark.parametrize("kind", [KEYS, VALUES])
@pytest.mark.parametrize("amount", [float("nan"), float("inf")])
def test_a_correction_that_is_no_number_is_refused(llama, prompt, kind, amount):
    with pytest.raises(NotFinite):
        fuse(llama, prompt, "random", 0.3, Adds(kind, amount))
    assert fuse(llama, prompt, "random", 0.3).logits.isfinite().all()


@dataclass
class Returns(BaseCorrector):
    """Whatever a function makes of a chunk's change."""

    made: object = None

    def correct(self, change: Change) -> dict[int, Tensor]:
        return self.made(change)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda change: {VALUES: change.of(VALUES).mean((0, 1))[None]}, "returned float32 [1, "),
        (lambda change: {VALUES: change.of(VALUES)[:, :1]}, "corrections are floats, ["),
        (lambda change: {KEYS: change.of(KEYS).mean(1).long()}, "returned int64 ["),
        (lambda change: {KEYS: 0.5}, "returned a float, not a tensor: corrections are"),
        (lambda change: {2: change.of(VALUES).mean(1)}, "something else than KEYS, VALUES or both"),
        (lambda change: change.of(VALUES).mean(1), "something else than KEYS, VALUES or both"),
        (lambda change: None, "something else than KEYS, VALUES or both"),
        (lambda change: 1 / 0, "failed with ZeroDivisionError: division by zero ("),
    ],
)
def test_what_is_no_correction_is_told_in_one_line(llama, prompt, made, why):
    with pytest.raises(UserError) as caught:
        fuse(llama, prompt, "random", 0.3, Returns(made))
    assert str(caught.value).startswith("corrector test_correctors ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_corrections_by_row_and_for_all_rows_are_the_same_where_they_say_the_same(llama, prompt):
    def by_row(change):
        return {VALUES: change.of(VALUES).mean(1)[:, None].expand_as(change.cached(VALUES))}

    fuse(llama, prompt, "random", 0.3, Returns(lambda change: {VALUES: change.of(VALUES).mean(1)}))
    expected = held(llama, prompt)
    fuse(llama, prompt, "random", 0.3, Returns(by_row))
    assert torch.equal(held(llama, prompt), expected)


def test_a_corrector_is_asked_once_a_chunk_and_layer(llama, prompt):
    corrector = Adds()
    fuse(llama, prompt, "random", 0.3, corrector)
    layers = llama.engine.modules.cache_shape[0]
    assert corrector.seen == len(prompt.chunks) * (layers - 1)  # the first is exact as it is
    corrector = Adds()
    fuse(llama, prompt, "debug:check_layer=3", 0.3, corrector)  # only the last is run after it
    assert corrector.seen <= len(prompt.chunks)


# Names and specs


def test_names_and_specs():
    assert correctors.names() == ["lowrank", "none", "ridge", "shift"]
    assert correctors.build("none") is None
    assert correctors.spec_of(None) == "none"
    assert correctors.spec_of(correctors.build("shift:what=keys:shrink=8")) == "shift"
    built = correctors.build("shift:what=both:shrink=2")
    assert built.identity() == {"what": "both", "shrink": 2.0}
    assert correctors.spec_of(built) == "shift:what=both:shrink=2.0"
    assert correctors.build("shift", what="values").what == "values"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("shfit", "unknown corrector CORRECT=shfit: did you mean shift?"),
        ("none:what=keys", "CORRECT=none:what=keys: none corrects nothing, has no options"),
        ("shift:who=1", "CORRECT=shift:who=1: shift has no option 'who'; its options are what, "),
        ("shift:what=rows", "CORRECT=shift:what=rows: WHAT is keys, values, both, not 'rows'"),
        ("shift:shrink=-1", "CORRECT=shift:shrink=-1: SHRINK=-1.0 must be a number, at least 0"),
        ("shift:shrink=nan", "SHRINK=nan must be"),
        ("shift:shrink=x", "CORRECT=shift:shrink=x: shrink takes float, not 'x'"),
        (
            "/nowhere/c.py",
            "CORRECT=/nowhere/c.py: no such file; name a file that holds a corrector",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(spec, told):
    with pytest.raises(UserError) as caught:
        correctors.build(spec)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


OWN = """
from dataclasses import dataclass

from models.correctors import VALUES, BaseCorrector, option


@dataclass
class Corrector(BaseCorrector):
    part: float = option(1.0, "of the mean change")

    def correct(self, change):
        return {VALUES: change.of(VALUES).mean(1) * self.part}
"""


def test_a_corrector_from_a_file_elsewhere(llama, prompt, tmp_path):
    path = tmp_path / "mean.py"
    path.write_text(OWN, encoding="utf-8")
    built = correctors.build(f"{path}:part=.5")
    assert correctors.spec_of(built) == "mean:part=0.5"
    assert correctors.code_of(built) != correctors.code_of(correctors.build("shift"))
    fuse(llama, prompt, "random", 0.3, None)
    plain = held(llama, prompt)
    fuse(llama, prompt, "random", 0.3, built)
    found = held(llama, prompt)
    assert torch.equal(found[:, 0], plain[:, 0])
    assert torch.equal(found[0, 1], plain[0, 1])
    assert not torch.equal(found[1, 1], plain[1, 1])
    path.write_text(OWN.replace("def correct", "def mend"), encoding="utf-8")
    with pytest.raises(UserError, match=r"has no method correct\(change\); add it"):
        correctors.build(str(path))
