"""Tiny random models of all families, and prompts for them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models gain nothing from threads, and lose minutes where other work shares the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from models.attention import native
from models.engine import Engine
from models.kv import rotary
from models.linear import table
from models.prompt import Prompt

MEMORY = Path("/dev/shm")
ROOM = 4 << 30

SIZES = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama3-rope": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "yarn": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": YARN}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
}


def pytest_configure() -> None:
    """Files in memory, where there is room: some disks take minutes to delete 40,000 of them."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def compile_kernels() -> None:
    """Before anybody listens to what a command says meanwhile."""
    native.obstacle(torch.float32, SIZES["head_dim"])
    rotary.lacking()
    table._found()


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    compile_kernels()


def build(family: str, **changes):
    """A tiny random model; the same seed gives the same weights."""
    config_class, model_class, extra = FAMILIES[family]
    torch.manual_seed(7)
    model = model_class(config_class(**{**SIZES, **extra, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # the library starts biases at zero, which would test nothing
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


class Family:
    """One variant: the library's own model, and an engine over an equal one."""

    def __init__(self, name: str, **changes) -> None:
        self.name = name
        self.library = build(name, **changes)
        self.engine = Engine(build(name, **changes))

    def logits(self, ids) -> torch.Tensor:
        """The library's own logits for every position, ``[N, vocabulary]``."""
        return self.library(torch.tensor([list(ids)])).logits[0].float()


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request) -> Family:
    return Family(request.param)


@pytest.fixture(scope="session")
def llama() -> Family:
    return Family("llama")


def random_prompt(prefix: int, chunks: list[int], question: int, seed: int = 0) -> Prompt:
    """A prompt of random tokens with segments of these lengths; token 0 occurs in every segment."""
    generator = torch.Generator().manual_seed(seed)

    def segment(length: int) -> list[int]:
        ids = torch.randint(3, 160, (length,), generator=generator).tolist()
        if length > 2:
            ids[length // 2] = 0
        return ids

    head = [1, *segment(prefix - 1)] if prefix else []
    return Prompt.join(head, [segment(n) for n in chunks], segment(question))


@pytest.fixture
def prompt() -> Prompt:
    return random_prompt(9, [70, 70, 33], 17)
