"""What is measured, what is remembered, and what a damaged or foreign memory is worth."""

import json

import pytest
import torch
from torch import nn

from models.linear import choice, layers
from models.linear.choice import Choices, speedups
from models.linear.packed import PackedLinear, lacking
from models.sealed import seal

pytestmark = pytest.mark.skipif(lacking(torch.float32) is not None, reason="nothing to pack with")


@pytest.fixture
def pair():
    plain = nn.Linear(64, 40).requires_grad_(False)
    return plain, PackedLinear(plain)


@pytest.fixture
def measured(monkeypatch):
    """Layers that were measured, and what the measurement says."""

    class Measured(list):
        says = (2.0, 1.5)

    seen = Measured()

    def speedups(plain, packed):
        seen.append(plain)
        return seen.says

    monkeypatch.setattr(choice, "speedups", speedups)
    return seen


@pytest.mark.parametrize(
    ("says", "packs"),
    [((2.0, 1.5), True), ((3.0, 0.8), True), ((1.0, 1.0), False), ((1.02, 1.05), False),
     ((0.9, 2.0), True), ((3.0, 0.3), False)],
)  # fmt: skip
def test_the_faster_path_over_few_and_many_rows(tmp_path, measured, pair, says, packs):
    measured.says = says
    assert Choices(tmp_path)(*pair) is packs


def test_a_shape_is_measured_once_and_holds_for_later_runs(tmp_path, measured, pair):
    first = Choices(tmp_path)
    assert first(*pair)
    assert first(*pair)
    measured.says = (0.5, 0.5)
    assert Choices(tmp_path)(*pair)
    assert len(measured) == 1
    other = nn.Linear(40, 64).requires_grad_(False)
    assert not Choices(tmp_path)(other, PackedLinear(other))
    half = pair[0].to(torch.bfloat16)
    assert not Choices(tmp_path)(half, PackedLinear(half))
    assert set(Choices(tmp_path).shapes) == {"float32 64x40", "float32 40x64", "bfloat16 64x40"}
    assert len(measured) == 3


def test_what_another_process_found_meanwhile_holds(tmp_path, measured, pair):
    one, other = Choices(tmp_path), Choices(tmp_path)
    assert one(*pair)
    measured.says = (0.5, 0.5)
    assert other(*pair), "as the file says, whatever this process measured"
    narrow = nn.Linear(8, 8).requires_grad_(False)
    one(narrow, PackedLinear(narrow))
    assert set(Choices(tmp_path).shapes) == {"float32 64x40", "float32 8x8"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-9],
        lambda raw: raw.replace(b"true", b"false"),
        lambda raw: b"[" * 99999,
        lambda raw: b"\xff\xfe",
        lambda raw: b"[]",
        lambda raw: json.dumps(seal({"machine": {}, "shapes": {}})).encode(),
        lambda raw: json.dumps(seal({"shapes": {}})).encode(),
    ],
)
def test_a_damaged_file_is_measured_anew(tmp_path, measured, pair, damage):
    choices = Choices(tmp_path)
    choices(*pair)
    whole = choices.path.read_bytes()
    choices.path.write_bytes(damage(whole))
    assert Choices(tmp_path)(*pair)
    assert len(measured) == 2
    assert choices.path.read_bytes() == whole


def test_another_number_of_threads_or_processor_is_another_file(
    tmp_path, measured, pair, monkeypatch
):
    Choices(tmp_path)(*pair)
    monkeypatch.setattr(choice, "processor", lambda: "another one")
    Choices(tmp_path)(*pair)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    Choices(tmp_path)(*pair)
    assert len(measured) == len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path, measured, pair):
    place = tmp_path / "file"
    place.touch()
    choices = Choices(place / "linear")
    assert choices(*pair)
    assert choices(*pair)
    assert len(measured) == 1
    measured.says = (0.5, 0.5)
    narrow = nn.Linear(8, 8).requires_grad_(False)
    assert not choices(narrow, PackedLinear(narrow))
    assert choices(*pair), "a shape keeps its path, whatever is measured after it"
    assert len(measured) == 2


def test_the_measurement_measures(pair):
    class Slow(PackedLinear):
        def forward(self, hidden):
            for _ in range(30):
                super().forward(hidden)
            return super().forward(hidden)

    large = nn.Linear(256, 256).requires_grad_(False)
    few, many = speedups(large, PackedLinear(large))
    slow_few, slow_many = speedups(large, Slow(large))
    assert many > 4 * slow_many > 0
    assert few > 0
    assert slow_few > 0


def test_the_cache_folder_is_where_it_lies(tmp_path, monkeypatch, measured, pair):
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path))
    assert "nothing measured yet" in layers.prospect(torch.float32)
    Choices()(*pair)
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["linear"]
    found = layers.prospect(torch.float32)
    assert found.startswith("oneDNN packed for 1 of 1 shapes measured so far; ")
