"""Loading tiny checkpoints: what is refused, what is reported, what identifies weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    T5Config,
)

from models.errors import UserError
from models.load import weights as loading
from models.load.settings import check_supported, max_positions, pick_device, pick_dtype
from models.load.source import ModelSource
from models.load.weights import load, weight_fingerprint

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


class Tokenizer:
    """All that `load` asks of a tokenizer."""

    eos_token_id = 2
    bos_token_id = 1
    chat_template = None


@pytest.fixture
def checkpoint(tmp_path):
    """A saved tiny Llama, its folder as a source."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=5)).eval()
    model.save_pretrained(tmp_path)
    return model, ModelSource("tiny", str(tmp_path), is_local=True)


def test_a_loaded_model_computes_what_the_saved_one_did(checkpoint, capfd):
    model, source = checkpoint
    loaded = load(source, Tokenizer(), device="cpu")
    ids = torch.arange(10)[None]
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits)
    assert (loaded.name, loaded.device.type, loaded.dtype) == ("tiny", "cpu", torch.float32)
    assert (loaded.max_positions, loaded.stop_ids) == (128, {2, 5})
    assert loaded.fingerprint == weight_fingerprint(model)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.load_s > 0
    assert "".join(capfd.readouterr()) == "", "quiet where stderr is no terminal"


def test_the_same_weights_in_another_dtype_agree_and_a_fine_tune_differs():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight[:4] = torch.tensor([1e-6, -1e-6, 6.1e-5, -0.0])
    prints = {weight_fingerprint(model.to(dtype)) for dtype in (torch.float32, torch.float16)}
    prints.add(weight_fingerprint(model.to(torch.bfloat16)))
    assert len(prints) == 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.02)
    assert weight_fingerprint(model) not in prints


def test_every_single_weight_counts():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    found = {weight_fingerprint(model)}
    generator = torch.Generator().manual_seed(0)
    parameters = [*model.parameters()]
    for parameter in parameters:
        place = int(torch.randint(parameter.numel(), (), generator=generator))
        with torch.no_grad():
            parameter.view(-1)[place] += 0.5
        found.add(weight_fingerprint(model))
    assert len(found) == 1 + len(parameters)


def test_parameters_that_are_hashed_piece_by_piece(monkeypatch):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    whole = weight_fingerprint(model)
    monkeypatch.setattr(loading, "_AT_ONCE", 37)
    assert weight_fingerprint(model) == whole


def test_tied_parameters_count_once():
    tied = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True))
    before = weight_fingerprint(tied)
    tied.tie_weights()
    assert weight_fingerprint(tied) == before


@pytest.mark.parametrize(
    ("config", "needle"),
    [
        (MistralConfig(**SIZES, sliding_window=32), "sliding window of 32"),
        (
            Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=1),
            "32",
        ),
        (
            Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=0),
            "32",
        ),
        (AutoConfig.for_model("gpt2"), "'gpt2' is not supported; supported are llama, mistral"),
        (T5Config(), "encoder-decoder"),
        (
            LlamaConfig(**SIZES, quantization_config={"quant_method": "gptq", "bits": 4}),
            "quantised",
        ),
        (LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
        (
            LlamaConfig(
                **SIZES,
                rope_parameters={
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 64,
                },
            ),
            "longrope",
        ),
    ],
)
def test_what_the_engine_would_run_wrongly_is_refused(config, needle):
    with pytest.raises(UserError) as raised:
        check_supported(config)
    assert needle in str(raised.value)
    assert "\n" not in str(raised.value)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**SIZES, rope_parameters=LLAMA3),
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0}),
        Qwen2Config(**SIZES, rope_parameters=YARN),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=2),
        Qwen3Config(**SIZES),
        MistralConfig(**SIZES, sliding_window=None),
        MistralConfig(**SIZES, sliding_window=128),
    ],
)
def test_what_the_engine_runs_is_accepted(config):
    check_supported(config)


def test_yarn_stretches_the_positions():
    assert max_positions(Qwen2Config(**SIZES, rope_parameters=YARN)) == 512
    assert max_positions(LlamaConfig(**SIZES, rope_parameters=LLAMA3)) == 128


def test_a_model_larger_than_the_free_memory_is_refused_before_it_is_loaded(
    checkpoint, monkeypatch
):
    _, source = checkpoint

    class Memory:
        available = 10_000

    monkeypatch.setattr(loading.psutil, "virtual_memory", Memory)
    with pytest.raises(UserError, match="are free on cpu; use a smaller model"):
        load(source, Tokenizer(), device="cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_running_out_of_memory_while_loading_is_one_line(checkpoint, monkeypatch, error):
    _, source = checkpoint

    def from_pretrained(*args, **kwargs):
        raise error

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match="out of memory") as raised:
        load(source, Tokenizer(), device="cpu")
    assert "\n" not in str(raised.value)


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint, tmp_path):
    _, source = checkpoint
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights \(model\.layers\.1\.mlp\.up_proj"):
        load(source, Tokenizer(), device="cpu")


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_checkpoint_is_one_line(checkpoint, tmp_path, keep):
    _, source = checkpoint
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="model 'tiny'") as raised:
        load(source, Tokenizer(), device="cpu")
    assert "\n" not in str(raised.value)


def test_a_folder_without_weights_and_one_with_a_broken_config_are_one_line(checkpoint, tmp_path):
    _, source = checkpoint
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model 'tiny'"):
        load(source, Tokenizer(), device="cpu")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="model 'tiny'"):
        load(source, Tokenizer(), device="cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match="device"):
        pick_device(name)


def test_dtypes_follow_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("auto", cuda) == torch.bfloat16
    assert pick_dtype("float16", cuda) == torch.float16
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UserError, match="float16 on the CPU"):
        pick_dtype("float16", cpu)
    with pytest.raises(UserError, match="unknown dtype 'int4'"):
        pick_dtype("int4", cpu)
