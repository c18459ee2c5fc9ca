"""Converting `.gguf` files: tiny ones written here with llama.cpp's own writer, and the pack's."""

import os
import signal
import subprocess
import sys
import threading
import time

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from models.errors import UserError
from models.load import gguf as conversion
from models.load import sealed
from models.load.gguf import convert
from models.load.source import ModelSource, resolve
from models.load.tokenizer import encode, frame, load_tokenizer
from models.load.weights import load

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "ĠĠ"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
LLAMA_CPP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "model.layers.": "blk.",
}


def permuted(weight, heads):
    """llama.cpp's order of query and key rows: rotary pairs side by side."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(path, model, pre="smollm", extra=None, quantise=None):
    """Write `model` as llama.cpp would; `extra(writer)` adds fields or tensors."""
    config, arch = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["t h", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if arch == "llama" and part in name:
                array = permuted(array, count)
        for ours, theirs in LLAMA_CPP.items():
            name = name.replace(ours, theirs)
        if quantise is not None and array.ndim == 2:
            packed = gguf.quants.quantize(array, quantise)
            writer.add_tensor(name, packed, raw_dtype=quantise)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    if extra:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny(tied=True):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folders(cache):
    """What lies among the converted models, of any converter."""
    return [entry for entry in (cache / "models").glob("*/*") if entry.is_dir()]


def logits(folder, ids):
    source = ModelSource("tiny", str(folder), is_local=True)
    return load(source, load_tokenizer(source), device="cpu").model(ids).logits


IDS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_model_computes_what_the_original_did(cache, tmp_path, tied):
    model = tiny(tied)
    folder = convert(write(tmp_path / "tiny.gguf", model))
    torch.testing.assert_close(logits(folder, IDS), model(IDS).logits, atol=1e-4, rtol=1e-4)


def test_quantised_weights_stay_within_the_quantisation_and_half_precision(cache, tmp_path):
    model = tiny()
    q8 = gguf.GGMLQuantizationType.Q8_0
    folder = convert(write(tmp_path / "tiny.gguf", model, quantise=q8))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                packed = gguf.quants.quantize(parameter.numpy(), q8)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(packed, q8)))
    torch.testing.assert_close(logits(folder, IDS), model(IDS).logits, atol=0.02, rtol=0.02)
    assert load_file_dtype(folder) == torch.float16


def load_file_dtype(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.get_tensor("model.layers.0.mlp.up_proj.weight").dtype


def test_embeddings_that_differ_only_by_quantisation_are_tied_again(cache, tmp_path):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)).eval()
    rows = model.lm_head.weight.data
    model.model.embed_tokens.weight.data = rows + 0.05 * rows.std() * torch.randn_like(rows)
    folder = convert(write(tmp_path / "near.gguf", model))
    model.model.embed_tokens.weight.data = rows
    torch.testing.assert_close(logits(folder, IDS), model(IDS).logits, atol=1e-4, rtol=1e-4)
    assert '"tie_word_embeddings": true' in (folder / "config.json").read_text()


def test_tokenizer_template_and_stops_come_along(cache, tmp_path):
    source = resolve(str(write(tmp_path / "my model.gguf", tiny())))
    assert source.name == os.path.basename(source.location)
    assert source.name.startswith("my_model-")
    assert len(source.name) == len("my_model-") + 8
    tokenizer = load_tokenizer(source)
    loaded = load(source, tokenizer, device="cpu")
    assert loaded.stop_ids == {0, 2}
    assert set(loaded.model.generation_config.eos_token_id) == {0, 2}
    made = frame(tokenizer, loaded.model.config, chat=True)
    assert made.header_text == "<|im_start|>user\n"
    assert made.footer_text == "<|im_end|>\n<|im_start|>assistant\n"
    assert made.sink == [1]
    spaces = [TOKENS[i] for i in encode(tokenizer, "th  12")]
    assert spaces == ["th", "ĠĠ", "1", "2"], "digits are cut off before the GPT-2 pattern"


def test_the_same_content_is_converted_once_wherever_it_lies(cache, tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", tiny())
    folder = convert(path)
    monkeypatch.setattr(conversion, "_convert", None)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "tiny.gguf"
    copy.write_bytes(path.read_bytes())
    assert convert(path) == convert(copy) == folder
    monkeypatch.undo()
    monkeypatch.setenv("KVFUSE_CACHE", str(cache))
    torch.manual_seed(1)
    write(path, LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)))
    assert convert(path) != folder, "another content under the same path is another model"


@pytest.mark.parametrize("keep", [0, 3, 20, 300, 3000, 5000, 0.5, -1])
def test_a_truncated_file_is_one_line_and_leaves_nothing(cache, tmp_path, keep):
    path = write(tmp_path / "tiny.gguf", tiny())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"tiny\.gguf") as raised:
        convert(path)
    assert "\n" not in str(raised.value)
    assert not folders(cache)


def test_a_file_that_is_no_gguf_is_one_line(cache, tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("not a model at all" * 100)
    with pytest.raises(UserError, match=r"not a complete \.gguf"):
        convert(path)


@pytest.mark.parametrize(
    ("extra", "needle"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "scales its RoPE"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "scales its RoPE"),
        (lambda w: w.add_sliding_window(32), "sliding window"),
    ],
)
def test_what_would_be_converted_wrongly_is_refused(cache, tmp_path, extra, needle):
    with pytest.raises(UserError, match=needle):
        convert(write(tmp_path / "tiny.gguf", tiny(), extra=extra))


def test_other_architectures_are_refused(cache, tmp_path):
    model = tiny()
    model.config.model_type = "gemma"
    with pytest.raises(UserError, match="'gemma' model; supported are llama"):
        convert(write(tmp_path / "tiny.gguf", model))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="KVFUSE_CACHE"):
        convert(write(tmp_path / "tiny.gguf", tiny()))


def test_too_little_disk_is_told_before_the_work(cache, tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", tiny())
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="GB of disk"):
        convert(path)


def test_two_at_once_convert_once(cache, tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", tiny())
    real, started, folders = conversion._convert, [], []

    def slow(*args):
        started.append(args)
        time.sleep(0.2)
        real(*args)

    monkeypatch.setattr(conversion, "_convert", slow)
    threads = [threading.Thread(target=lambda: folders.append(convert(path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert len(folders) == 2
    assert folders[0] == folders[1]


def test_a_killed_conversion_leaves_nothing_that_counts_and_is_swept(cache, tmp_path):
    path = write(tmp_path / "tiny.gguf", tiny())
    script = (
        "import sys, time, pathlib; from models.load import gguf\n"
        "def half(path, folder):\n"
        "    (folder / 'config.json').write_text('{}'); print('half', flush=True); time.sleep(60)\n"
        "gguf._convert = half; gguf.convert(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = folders(cache)
    assert len(left) == 1
    assert left[0].name.startswith(".")
    folder = convert(path)
    assert folders(cache) == [folder]
    assert (folder / "model.safetensors").is_file()


def spoil(folder, how):
    """Damage a converted folder as a disk, a copy or a hand may."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated weights":
        os.truncate(weights, weights.stat().st_size - 4)
    elif how == "flipped weights":
        flip(weights)
    elif how == "edited config":
        config.write_text(config.read_text().replace('"silu"', '"gelu"'))
    elif how == "missing tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "foreign file":
        (folder / "added_tokens.json").write_text('{"x": 1}')
    else:
        manifest = folder / "manifest.json"
        manifest.unlink() if how == "no manifest" else manifest.write_text(how)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        *("truncated weights", "flipped weights", "edited config", "missing tokenizer"),
        *("foreign file", "no manifest", "{", "[]", '{"files": {"config.json": 5}}'),
    ],
)
def test_a_damaged_conversion_is_made_again(cache, tmp_path, monkeypatch, capsys, how, small):
    """Never served; and hashed at each use, or once for each time of change."""
    monkeypatch.setattr(sealed, "SMALL", 1 << 20 if small else 0)
    model = tiny()
    path = write(tmp_path / "tiny.gguf", model)
    folder = convert(path)
    wanted = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    assert convert(path) == folder
    capsys.readouterr()
    spoil(folder, how)
    assert convert(path) == folder
    told = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(told) == 1
    assert str(folder) in told[0]
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == wanted
    assert folders(cache) == [folder]
    assert convert(path) == folder
    assert "damaged" not in capsys.readouterr().err


def test_what_a_file_manager_leaves_is_no_damage(cache, tmp_path, capsys):
    path = write(tmp_path / "tiny.gguf", tiny())
    (convert(path) / ".DS_Store").touch()
    convert(path)
    assert "damaged" not in capsys.readouterr().err


def test_a_large_file_is_hashed_once(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "SMALL", 20_000)
    path = write(tmp_path / "tiny.gguf", tiny())
    folder = convert(path)
    convert(path)
    hashed, real = [], sealed._sha256
    monkeypatch.setattr(sealed, "_sha256", lambda p: hashed.append(p.name) or real(p))
    convert(path)
    large = {e.name for e in folder.iterdir() if e.stat().st_size > 20_000}
    assert "model.safetensors" in large
    assert {"config.json", "generation_config.json"} <= set(hashed)
    assert not large & set(hashed)


@pytest.mark.parametrize("memo", [b"", b"\xff\xfe", b"0" * 63, b"Z" * 64])
def test_a_damaged_memory_of_hashes_is_no_hash(cache, tmp_path, memo):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    wanted = sealed.content_hash(path)
    (kept,) = (cache / "hashes").iterdir()
    kept.write_bytes(memo)
    assert sealed.content_hash(path) == wanted
    assert kept.read_bytes() == wanted.encode()


def test_another_converter_converts_again(cache, tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", tiny())
    folder = convert(path)
    monkeypatch.setattr(conversion, "converter", lambda: "01234567")
    other = convert(path)
    assert other != folder
    assert other.name == folder.name, "the model keeps its name among inputs and outputs"
    assert {f.parent for f in folders(cache)} == {folder.parent, other.parent}


def test_what_makes_a_converter(monkeypatch, tmp_path):
    """Its own code and the libraries that it calls, whichever of them changes."""
    made, read = conversion.converter.__wrapped__, type(tmp_path).read_bytes
    found = {made()}
    assert made() in found
    for package in ("transformers", "gguf"):
        with monkeypatch.context() as patch:
            patch.setattr(conversion, "version", lambda p, package=package: f"1{p == package}")
            found.add(made())
    for source in ("gguf.py", "tokenizer.py"):
        with monkeypatch.context() as patch:
            patch.setattr(
                type(tmp_path),
                "read_bytes",
                lambda p, source=source: read(p) + (b"#" if p.name == source else b""),
            )
            found.add(made())
    assert len(found) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_not_converted(cache, tmp_path, bad):
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = bad
    path = write(tmp_path / "tiny.gguf", model)
    with pytest.raises(UserError, match=r"up_proj.*tiny\.gguf hold NaN or infinite values"):
        convert(path)
    assert not folders(cache)


def test_weights_beyond_half_precision_are_not_converted(cache, tmp_path):
    """Quantised files are stored as float16, which ends at 65504."""
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = 1e6
    path = write(tmp_path / "tiny.gguf", model, quantise=gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(UserError, match=r"up_proj.*tiny\.gguf hold NaN or infinite values"):
        convert(path)


def test_the_embedded_model_answers_a_question():
    """On the shared cache: the first run converts (about 20 s), later ones load (2 s)."""
    source = resolve("smollm2-135m")
    tokenizer = load_tokenizer(source)
    loaded = load(source, tokenizer, device="cpu")
    made = frame(tokenizer, loaded.model.config, chat=True)
    assert loaded.stop_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert tokenizer.decode(made.sink) == "<|im_start|>"
    assert loaded.max_positions == 8192
    question = made.header_text + "What is the capital of France?" + made.footer_text
    ids = torch.tensor([encode(tokenizer, question)])
    output = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=sorted(loaded.stop_ids),
    )
    assert (
        tokenizer.decode(output[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"
    )
