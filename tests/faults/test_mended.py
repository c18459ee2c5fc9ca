"""What the injector found once, in its smallest form."""

from __future__ import annotations

import json
import re
import warnings
from chunk.build import differences

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from data import datasets
from data.jsonl import objects
from eval.folder import RunFolder, read_result
from eval.report.__main__ import finished
from models.errors import UserError
from models.kv import reader
from models.load import sealed, source
from models.load.settings import check_supported
from models.load.tokenizer import encode, stop_ids
from models.load.weights import weight_fingerprint
from models.sealed import parse
from stage.config import InputsConfig, StageConfig
from stage.options import defaults_of, option
from tests.eval.test_run_folder import MACHINE, record
from tests.models.test_gguf import SIZES
from tests.stages.harness import make_tokenizer

NESTED = "[" * 100_000


def run(root, method: str) -> RunFolder:
    return RunFolder(root, method, {"method": method}, MACHINE)


@pytest.fixture
def runs(tmp_path):
    """Two finished runs, of one item each."""
    for method in ("debug", "random"):
        with run(tmp_path, method).opened() as made:
            made.append(record(prediction=method))
            made.finish({"method": method}, "text\n")
    return tmp_path


def methods(root):
    return sorted(result["method"] for result in finished(root)[0])


def test_records_of_another_run_are_left_out(runs, capsys):
    debug, random = run(runs, "debug"), run(runs, "random")
    content = (random.path / "records.jsonl").read_bytes()
    (debug.path / "records.jsonl").write_bytes(content)
    with debug.opened() as found:
        assert found.records == {}
    assert "line 1 (of another run)" in capsys.readouterr().err
    with random.opened() as found:
        assert found.records["row-0"] == record(prediction="random")


def test_a_result_of_another_run_is_refused(runs):
    debug, random = run(runs, "debug"), run(runs, "random")
    assert methods(runs) == ["debug", "random"]
    (debug.path / "result.json").write_bytes((random.path / "result.json").read_bytes())
    (damage,) = finished(runs)[1]
    assert re.search(r"debug-.*/result\.json is damaged .*of another run.*make", damage)


def test_a_result_that_cannot_be_opened_is_not_passed_over(runs):
    path = run(runs, "debug").path / "result.json"
    path.unlink()
    assert methods(runs) == ["random"]
    path.symlink_to(path)
    (damage,) = finished(runs)[1]
    assert re.search(r"result\.json cannot be read", damage)


def test_what_nests_too_deeply_is_no_json(runs, tmp_path):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(NESTED)
    path = run(runs, "debug").path / "result.json"
    path.write_text(NESTED)
    with pytest.raises(UserError, match="nested too deeply"):
        read_result(path)
    (path.parent / "config.json").write_text(NESTED)
    with pytest.raises(UserError, match="FRESH=1"), run(runs, "debug").opened():
        pass
    with pytest.raises(UserError, match="line 1: not JSON"):
        list(objects([NESTED.encode()], "rows", "fetch it again", "row"))


@pytest.mark.parametrize("content", [NESTED, "needle: 2001-99-99", None])
def test_yaml_that_cannot_be_read(tmp_path, monkeypatch, content):
    path = tmp_path / "a.yaml"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"a\.yaml: not readable as YAML .*mend the file"):
        datasets.read_config(tmp_path)
    monkeypatch.setattr(source, "ALIASES", path)
    with pytest.raises(UserError, match=r"a\.yaml must map aliases .*mend the file"):
        source.check("tiny")


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00"])
def test_half_a_character_in_a_row(half):
    """Neither the tokenizer nor a file takes it."""
    whole = b'{"context": "\\ud83d\\ude00"}'
    assert [row for row, _ in objects([whole], "rows", "", "row")] == [{"context": "\U0001f600"}]
    with pytest.raises(UserError, match=r"rows, line 1: .* half of a character; mend the text"):
        list(objects([f'{{"context": "{half}"}}'.encode()], "rows", "", "row"))


def test_sizes_that_are_no_numbers_in_a_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": {"a": [Infinity, "0"]}}')
    assert sealed.trouble(tmp_path) == "its manifest is missing or damaged"


def test_damage_is_told_without_a_library_s_warnings(tmp_path):
    path = tmp_path / "kvs.pt"
    torch.save({"kv": torch.zeros(2)}, path)
    path.write_bytes(path.read_bytes().replace(b"\x80\x02}", b"\x80\x06}"))  # the pickle's protocol
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(reader.Unusable):
            reader.read(path, {}, "", "kv")


def test_other_settings_are_another_model():
    """The same weights compute something else with them, and KVs do not fit."""

    def fingerprint(**changes) -> str:
        torch.manual_seed(0)
        return weight_fingerprint(LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})))

    found = fingerprint()
    for changes in (
        {"rms_norm_eps": 2e-5},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 9e3}},
        {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8},
    ):
        assert fingerprint(**changes) != found
    # As a .gguf file keeps it, and what no forward looks at.
    assert fingerprint(rms_norm_eps=torch.tensor(1e-5).item()) == found
    assert fingerprint(eos_token_id=5, initializer_range=0.2) == found


@pytest.mark.parametrize("value", ["x", {}, [1.0], float("inf"), float("nan")])
def test_rope_parameters_that_are_no_numbers(value):
    config = LlamaConfig(**SIZES)
    config.rope_parameters["rope_theta"] = value
    with pytest.raises(UserError, match=r"rope_parameters\.rope_theta of config\.json .*mend it"):
        check_supported(config)


def test_a_model_without_layers():
    with pytest.raises(UserError, match="no layers"):
        check_supported(LlamaConfig(**{**SIZES, "num_hidden_layers": 0}))


@pytest.mark.parametrize("value", ["x", 2.0, float("nan"), {}, [2, {}], [[2]], True])
def test_stop_ids_that_are_no_tokens(value):
    config = GenerationConfig()
    config.eos_token_id = value
    with pytest.raises(UserError, match=r"eos_token_id of generation_config\.json: .*mend"):
        stop_ids(make_tokenizer(), config)


def test_a_text_beyond_the_tokenizer_s_own_limit_is_no_noise(capfd):
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 2
    assert len(encode(tokenizer, "the river and the bridge")) > 2
    assert "".join(capfd.readouterr()) == ""


def test_a_default_model_that_is_not_there_stops_nobody(monkeypatch, tmp_path):
    """Whoever names another one needs no package of ours."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    monkeypatch.setattr(source, "_pack_gguf", lambda package: None)
    config = InputsConfig(model=str(folder), chunk_size=64)
    assert differences(config) == "not the default: CHUNK_SIZE=64"
    assert defaults_of(InputsConfig)["lengths"] == []
    assert defaults_of(StageConfig)["outputs"] == "outputs"
    assert option([1], "help").default_factory() == [1]
