"""Load a model's weights for the engine, or say in one line why not."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from blake3 import blake3
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.errors import UserError
from models.heap import keep_freed_memory
from models.linear import layers
from models.load.settings import check_supported, max_positions, pick_device, pick_dtype
from models.load.source import ModelSource, fetch
from models.load.tokenizer import stop_ids

_SMALLER = "use a smaller model, MODEL=smollm2-135m, or DTYPE=bfloat16"
_AT_ONCE = 1 << 22  # elements that are rounded and hashed at once: they stay in the cache
# What a forward is decided by besides the weights, and besides what the shapes of those tell.
_FORWARD = (
    "hidden_act", "rms_norm_eps", "rope_parameters", "head_dim", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_SMALLEST = 2.0**-14  # float16's least normal number


@dataclass
class LoadedModel:
    """A model ready to run: eval mode, no gradients, with what the stages record about it.

    On a CPU its linear layers are packed where that pays (`models.linear.layers`). `fingerprint` is
    the `weight_fingerprint` of the model as it was loaded, before that; `max_positions` the longest
    prompt its positions reach; `load_s` the seconds that loading took; `linear` the path that its
    linear layers take.
    """

    model: PreTrainedModel
    name: str
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    stop_ids: frozenset[int]
    max_positions: int
    load_s: float
    linear: str


def load(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    device: str = "auto",
    dtype: str = "auto",
) -> LoadedModel:
    """The model of `source` on `device`: `auto` is CUDA where there is one, else the CPU.

    `dtype` `auto` is float32 on the CPU, bfloat16 elsewhere. Raises `UserError` for a model that
    the engine does not run, that cannot be had, or that does not fit into memory.
    """
    start = time.perf_counter()
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    config = fetch(source, AutoConfig.from_pretrained, trust_remote_code=False)
    check_supported(config)
    if getattr(config, "sliding_window", None):
        config.sliding_window = None  # it reaches further than the positions: it masks nothing
    _check_room(source, config, place, kind)
    model, report = fetch(source, _from_pretrained, config=config, dtype=kind, device=place)
    lacking = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])
    if lacking:
        raise UserError(
            f"the checkpoint of model '{source.name}' lacks {len(lacking)} of its weights "
            f"({lacking[0]} ...), or has them in another shape: fetch it again"
        )
    model.eval().requires_grad_(False)
    found = weight_fingerprint(model)
    if place.type == "cpu":
        layers.pack(model)
        keep_freed_memory()
    return LoadedModel(
        model=model,
        name=source.name,
        device=place,
        dtype=kind,
        fingerprint=found,
        stop_ids=stop_ids(tokenizer, model.generation_config),
        max_positions=max_positions(config),
        load_s=time.perf_counter() - start,
        linear=layers.path(model),
    )


def weight_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over name, shape and all elements of every parameter.

    And over the settings that decide what is computed with them, numbers to six digits.

    Elements are rounded to bfloat16, those below float16's normal range to 0, so that the weights
    of a bfloat16 or float16 checkpoint agree whatever the dtype or file format they were loaded
    from; a fine-tune differs. Tied parameters count once.
    """
    settings = {name: getattr(model.config, name, None) for name in _FORWARD}
    digest = blake3(
        json.dumps(_rounded(settings), sort_keys=True).encode(), max_threads=blake3.AUTO
    )
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        for part in parameter.detach().flatten().split(_AT_ONCE):
            part = part.to(torch.bfloat16)
            part = part.masked_fill(part.abs() < _SMALLEST, 0)
            digest.update(part.view(torch.uint8).cpu().numpy())
    return str(digest.hexdigest()[:16])


def _rounded(value: Any) -> Any:
    """A setting as text; a .gguf file keeps numbers in float32, and 10000.0 is 10000."""
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _from_pretrained(
    location: str,
    *,
    local_files_only: bool,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location,
            config=config,
            dtype=dtype,
            device_map={"": device},
            local_files_only=local_files_only,
            trust_remote_code=False,
            output_loading_info=True,
        )
        return loaded
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error):
            raise UserError(f"out of memory while loading {location}; {_SMALLER}") from error
        raise


def _check_room(
    source: ModelSource, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Compare the weights in `dtype` with the free memory, before any of them is fetched."""

    def skeleton(_location: str, *, local_files_only: bool) -> PreTrainedModel:
        with torch.device("meta"):
            built: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return built

    model = fetch(source, skeleton)
    need = sum(parameter.nbytes for parameter in model.parameters())
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    if need > free:
        raise UserError(
            f"model '{source.name}' takes {need / 1e9:.1f} GB as {str(dtype).split('.')[-1]} and "
            f"{free / 1e9:.1f} GB are free on {device}; {_SMALLER}"
        )
