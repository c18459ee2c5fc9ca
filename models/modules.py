"""The parts of a Hugging Face decoder that the engine drives, under one name each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.attention.registry import install


class Modules:
    """A Llama-family model taken apart, its layers used exactly as the library wrote them.

    Holds no weights of its own. Making one routes the model's attention through the engine's back
    ends (:func:`models.attention.registry.install`), so the model's own ``forward`` no longer works
    on it.
    """

    def __init__(self, model: Any) -> None:
        install(model)
        self.model = model
        self.config = model.config
        self.layers: Any = model.model.layers
        self.embed: nn.Module = model.model.embed_tokens
        self.rotary: nn.Module = model.model.rotary_emb
        weight = self.embed.weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.n_heads: int = self.config.num_attention_heads
        self.n_kv_heads: int = self.config.num_key_value_heads
        self.head_dim: int = self.layers[0].self_attn.head_dim
        self.scale: float = self.layers[0].self_attn.scaling

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """``(L, H_kv, D)``."""
        return len(self.layers), self.n_kv_heads, self.head_dim

    def kv_shape(self, tokens: int) -> tuple[int, int, int, int, int]:
        """``[2, L, H_kv, N, D]`` of the keys and values of ``N`` tokens."""
        n_layers, n_heads, head_dim = self.cache_shape
        return 2, n_layers, n_heads, tokens, head_dim

    @property
    def dtype_name(self) -> str:
        """``float32``, ``bfloat16`` or ``float16``, as options and files spell it."""
        return str(self.dtype).removeprefix("torch.")

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: ``[..., hidden]`` → ``[..., vocabulary]``."""
        return self.model.lm_head(self.model.model.norm(hidden))

    def project(self, layer: int, hidden: Tensor, what: str) -> Tensor:
        """Unrotated ``q``, ``k`` or ``v`` of one layer, ``[1, R, hidden]`` → ``[heads, R, D]``."""
        attention = self.layers[layer].self_attn
        normed = self.layers[layer].input_layernorm(hidden)
        states = getattr(attention, f"{what}_proj")(normed).unflatten(-1, (-1, self.head_dim))
        norm = getattr(attention, f"{what}_norm", None)
        return (norm(states) if norm else states)[0].transpose(0, 1)
