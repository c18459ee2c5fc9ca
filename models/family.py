"""Model families: how a decoder of each is taken apart. A new family is one adapter here."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from models.kv.rotary import rotate_keys_, rotated


class LlamaFamily:
    """Llama and what is built like it: Mistral, Qwen2 (biases), Qwen3 (norms of q and k).

    An adapter names the library's own modules and says how they make queries, keys and values; the
    layers themselves run as the library wrote them.
    """

    types: ClassVar = ("llama", "mistral", "qwen2", "qwen3")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers: Any = model.model.layers
        self.embed: nn.Module = model.model.embed_tokens
        self.rotary: nn.Module = model.model.rotary_emb
        attention = self.layers[0].self_attn
        self.n_heads: int = model.config.num_attention_heads
        self.n_kv_heads: int = model.config.num_key_value_heads
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scaling

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

    def queries(self, layer: int, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotated queries of what a layer's attention gets: ``[B, R, hidden]`` → ``[B, H, R, D]``.

        ``cos`` and ``sin`` are ``[B or 1, R, D]``.
        """
        attention = self.layers[layer].self_attn
        states = attention.q_proj(normed).unflatten(-1, (-1, self.head_dim))
        norm = getattr(attention, "q_norm", None)
        states = (norm(states) if norm else states).transpose(1, 2)
        return rotated(states, cos[:, None], sin[:, None])

    def sources(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs are a layer's unrotated keys and its values."""
        attention = self.layers[layer].self_attn
        return getattr(attention, "k_norm", attention.k_proj), attention.v_proj

    def dense(self, layer: nn.Module) -> list[nn.Module]:
        """A layer's parts that neither attend nor project for attention: its norms and its MLP."""
        parts: Any = layer
        return [parts.input_layernorm, parts.post_attention_layernorm, parts.mlp]

    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """RoPE as the family's attention applies it: ``[heads, R, D]`` with ``[1, R, D]``."""
        # Here, not above: the library's models take two seconds, and options are checked before.
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        return apply_rotary_pos_emb(states[None], states[None], cos, sin)[0][0]

    def rotate_cached_(self, keys: Tensor, cos: Tensor, sin: Tensor) -> None:
        """The same in place for cached keys of some layers: ``[L, H_kv, N, D]``, ``[N, D]``."""
        rotate_keys_(keys, cos, sin)


FAMILIES = {name: family for family in (LlamaFamily,) for name in family.types}
