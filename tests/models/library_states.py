"""States of the library's own model: in context, of segments alone, row by row over cached KVs."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models.prompt import Prompt
from tests.conftest import Family, build

SINK = [1]

States = list[dict[str, Tensor]]  # by layer: "q", "k" (both post-RoPE), "v", each [heads, rows, D]


def states_of(
    family: Family, ids: tuple[int, ...], start: int = 0, past: DynamicCache | None = None
) -> States:
    """Queries, keys and values of every layer for these tokens, after what ``past`` holds."""
    layers = family.library.model.layers
    seen: States = [{} for _ in layers]

    def keep(layer: int, name: str):
        def hook(module, args, out):
            seen[layer][name] = out.view(1, len(ids), -1, 16).transpose(1, 2)

        return hook

    handles = []
    for i, layer in enumerate(layers):
        for name in "qkv":
            source = getattr(layer.self_attn, f"{name}_norm", None)
            source = source or getattr(layer.self_attn, f"{name}_proj")
            handles.append(source.register_forward_hook(keep(i, name)))
    positions = torch.arange(start, start + len(ids))[None]
    try:
        family.library(
            torch.tensor([ids]), position_ids=positions, past_key_values=past, use_cache=True
        )
    finally:
        for handle in handles:
            handle.remove()
    cos, sin = family.library.model.rotary_emb(seen[0]["v"], positions)
    for at in seen:
        at["q"], at["k"] = (apply_rotary_pos_emb(at[n], at[n], cos, sin)[0] for n in "qk")
        at.update({name: part[0].double() for name, part in at.items()})
    return seen


@lru_cache(maxsize=64)
def in_context(family: Family, prompt: Prompt) -> States:
    """States of the full prefill."""
    return states_of(family, prompt.ids)


@lru_cache(maxsize=64)
def cached(family: Family, prompt: Prompt) -> States:
    """What each segment's own forward leaves: values, and keys at their global positions.

    A segment is run at its global positions: its keys there differ from local ones by the rotation
    alone, because attention sees position differences only.
    """
    parts = []
    for start, end in prompt.segments:
        if start < end:
            header = SINK if start > 0 else []
            alone = states_of(family, (*header, *prompt.ids[start:end]), start - len(header))
            parts.append([{n: at[n][:, len(header) :] for n in "kv"} for at in alone])
    n_layers = len(family.library.model.layers)
    return [
        {n: torch.cat([part[i][n] for part in parts], 1) for n in "kv"} for i in range(n_layers)
    ]


def question_over(family: Family, prompt: Prompt, kv: States) -> States:
    """The question's states, run by the library over these keys and values of all before it."""
    start = prompt.question[0]
    past = DynamicCache()
    for layer, at in enumerate(kv):
        past.update(at["k"][None, :, :start].float(), at["v"][None, :, :start].float(), layer)
    return states_of(family, prompt.ids[start:], start, past)


class RowByRow:
    """A prompt over cached KVs, one row and one layer at a time through the library's layers.

    Attributes
    ----------
    kv : what the cache holds by now. hidden : ``[N, hidden]`` of the rows that were run.
    """

    def __init__(self, family: Family, prompt: Prompt) -> None:
        self.model = family.library.model
        self.kv = [{n: part.clone() for n, part in at.items()} for at in cached(family, prompt)]
        self.hidden = self.model.embed_tokens(torch.tensor(prompt.ids))
        self.rotary = self.model.rotary_emb(self.hidden, torch.arange(len(prompt))[None])

    def run(self, layer: int, rows: list[int]) -> None:
        """These rows through this layer; their keys and values overwrite the cached ones."""
        at = self.kv[layer]
        for p in sorted(rows):
            past = DynamicCache()
            past.update(at["k"][None, :, :p].float(), at["v"][None, :, :p].float(), layer)
            self.hidden[p] = self.model.layers[layer](
                self.hidden[None, p : p + 1],
                position_embeddings=tuple(part[:, p : p + 1] for part in self.rotary),
                past_key_values=past,
            )[0, 0]
            at["k"][:, p] = past.layers[layer].keys[0, :, -1]
            at["v"][:, p] = past.layers[layer].values[0, :, -1]

    def fresh(self, layer: int, rows: list[int]) -> dict[str, Tensor]:
        """Keys and values that these rows would have at this layer; nothing is overwritten."""
        before = [part.clone() for part in (self.hidden, self.kv[layer]["k"], self.kv[layer]["v"])]
        self.run(layer, rows)
        found = {name: self.kv[layer][name] for name in "kv"}
        self.hidden, self.kv[layer] = before[0], {"k": before[1], "v": before[2]}
        return found


@lru_cache(maxsize=8)
def eager(name: str):
    """The same model with attention that can be looked at."""
    model = build(name)
    model.set_attn_implementation("eager")
    return model


def alone(family: Family, prompt: Prompt, span: tuple[int, int]):
    """One segment by itself through the library: its output, and the length of its header."""
    header = SINK if span[0] > 0 else []
    ids = torch.tensor([[*header, *prompt.ids[slice(*span)]]])
    return eager(family.name)(ids, output_attentions=True), len(header)


def surprisal(family: Family, prompt: Prompt, span: tuple[int, int]) -> list[float]:
    """−log p of each token given those before it in its segment; 0 for the first."""
    out, header = alone(family, prompt, span)
    logs = out.logits[0, header:].double().log_softmax(-1)
    tokens = prompt.ids[slice(*span)]
    return [0.0, *(-float(logs[i - 1, tokens[i]]) for i in range(1, len(tokens)))]


def sinks(family: Family, prompt: Prompt, span: tuple[int, int]) -> list[float]:
    """Attention that each token draws in its segment, mean over layers, heads and rows."""
    out, header = alone(family, prompt, span)
    received = torch.stack(out.attentions).double().mean((0, 1, 2, 3))
    return received[header:].tolist()
