"""Models with random weights, made on the device: timings and equivalences need no others."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from bench.prompts import lay_out
from models.prompt import Prompt

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
    },
}
# Groups of 4, 7 and 3 query heads; Qwen2 has biases, Qwen3 normalises queries and keys.
FAMILIES: dict[str, tuple[Any, int]] = {
    "llama": (LlamaConfig, 8),
    "qwen2": (Qwen2Config, 14),
    "qwen3": (Qwen3Config, 6),
}


def build(config: Any, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model of this configuration with random weights, straight on the device."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def heads(shape: str) -> tuple[int, int, int]:
    """``(H, H_kv, D)`` of a named shape."""
    sizes = SHAPES[shape]
    n_heads: int = sizes["num_attention_heads"]
    return n_heads, sizes["num_key_value_heads"], sizes["hidden_size"] // n_heads


def llama(shape: str, layers: int | None, tokens: int) -> LlamaConfig:
    """A Llama of a named shape, with fewer layers if told so, for prompts of ``tokens`` tokens."""
    sizes = {**SHAPES[shape], "max_position_embeddings": 2 * tokens}
    if layers:
        sizes["num_hidden_layers"] = layers
    return LlamaConfig(**sizes)


def small(family: str, head_dim: int) -> Any:
    """The configuration of a few layers of a family, its heads as wide as told."""
    config_class, n_heads = FAMILIES[family]
    return config_class(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=n_heads,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=4096,
        initializer_range=0.1,
    )


def random_prompt(n: int, chunk_size: int, vocabulary: int, seed: int = 0) -> Prompt:
    """``n`` random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (n,), generator=generator).tolist()
    return lay_out(ids, chunk_size)
