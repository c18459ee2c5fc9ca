"""What is known of a model before its weights are loaded: whether it can be run, where, in what."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import PreTrainedConfig

from models.errors import UserError
from models.family import FAMILIES

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_supported(config: PreTrainedConfig) -> None:
    """Raise `UserError` for a model that the engine would run wrongly.

    Those are other families, encoder-decoders, quantised checkpoints, sliding windows shorter than
    the model's positions, and RoPE whose frequencies depend on the prompt's length (dynamic,
    longrope): a chunk cached by itself would be rotated by other frequencies than in its prompt.
    """
    family = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"'{family}' is an encoder-decoder; only decoders can be run")
    if family not in FAMILIES:
        raise UserError(
            f"model type '{family}' is not supported; supported are {', '.join(FAMILIES)}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError("the checkpoint is quantised, which is not supported: name the plain one")
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window and window < config.max_position_embeddings and "sliding_attention" in layers:
        raise UserError(
            f"the model attends through a sliding window of {window} tokens, which is not "
            "supported: name a model without one, such as mistral-7b (v0.3)"
        )
    if not config.num_hidden_layers > 0:
        raise UserError("config.json says that the model has no layers; mend it")
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise UserError(
            f"RoPE type '{rope_type}' depends on the prompt's length or is unknown; "
            f"supported are {', '.join(ROPE_TYPES)}"
        )
    for key, value in rope.items():
        if key not in ("rope_type", "type") and not _is_number(value):
            raise UserError(f"rope_parameters.{key} of config.json is {value!r}; mend it")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def pick_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is CUDA where there is one, else the CPU.

    Apple's MPS must be asked for by name: nothing here has been measured on it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device '{name}' is not to be had here; use auto, cpu, cuda or mps"
        ) from error
    if device.type == "meta":
        raise UserError("device 'meta' holds no weights; use auto, cpu, cuda or mps")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `name` means: `auto` is float32 on the CPU, bfloat16 elsewhere.

    float16 on the CPU is refused: slower there than float32, with a range that can overflow.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UserError(f"unknown dtype '{name}'; use auto, {', '.join(DTYPES)}")
    if name == "float16" and device.type == "cpu":
        raise UserError("float16 on the CPU is slower than float32; use float32 or bfloat16 there")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``, ``bfloat16`` or ``float16``, as options and files spell it."""
    return str(dtype).removeprefix("torch.")


def max_positions(config: PreTrainedConfig) -> int:
    """The longest prompt: the declared positions, or what YaRN stretches the original ones to."""
    rope = config.rope_parameters
    stretched = 0.0
    if rope.get("rope_type") == "yarn" and rope.get("original_max_position_embeddings"):
        stretched = rope["original_max_position_embeddings"] * rope["factor"]
    return max(config.max_position_embeddings, int(stretched))


def head_dim(config: PreTrainedConfig) -> int:
    """The width of an attention head: declared, or the hidden size shared out among the heads."""
    declared = getattr(config, "head_dim", None)
    return int(declared or config.hidden_size // config.num_attention_heads)
