"""``kvfuse compare``: two runs by item, ours or LMCache's, and what is wrong with either."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.analysis.significance import sign_flip, sign_test
from eval.analysis.stats import bootstrap
from eval.compare.__main__ import compared, main
from eval.compare.config import CompareConfig
from eval.compare.side import Side, read
from eval.folder import dumps
from kvfuse.__main__ import main as kvfuse
from models.errors import UserError
from models.sealed import seal
from tests.eval.test_report import result


def item(name, score=50.0, kl=0.1, ready=100.0, cold=None):
    times = {"ready": ready, "cold": cold}
    return {"id": name, "score": score, "kl_mean": kl, "kl_first": kl / 2, "ttft_ms": times}


def run(folder, items, method="debug", **changes):
    """A finished run's folder."""
    folder = folder / f"{method}-abc"
    folder.mkdir(parents=True)
    content = {"run": "abc", **result(method, **changes), "items": items}
    (folder / "result.json").write_bytes(dumps(seal(content)))
    return folder


def lmcache(path, samples, fingerprint="f00d"):
    content = {"run_fingerprint": fingerprint, "model": "m", "per_sample": samples}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def sample(name, f1=0.5, parsed=True, ttft=0.25):
    return {"sample_id": name, "f1": f1, "parsed": parsed, "ttft": ttft, "answer": "x"}


def said(capsys, a, b):
    main(CompareConfig(a=str(a), b=str(b)))
    return capsys.readouterr().out


def row(text, title):
    (line,) = [line for line in text.splitlines() if line.startswith(title + " ")]
    return line[len(title) :].split()


def test_differences_are_taken_item_by_item(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"i{k}" for k in range(9)]
    a, b = ({name: rng.random(3) for name in names} for _ in range(2))

    def side(values):
        keys = ("score", "kl_mean", "ttft_ms")
        items = {n: dict(zip(keys, map(float, v), strict=True)) for n, v in values.items()}
        return Side(tmp_path, "", "qa_f1", dict(sorted(items.items(), key=lambda _: rng.random())))

    rows = {row["measure"].key: row for row in compared(side(a), side(b), names, 4)}
    gaps = np.array([a[name] - b[name] for name in names])
    for place, key in enumerate(("score", "kl_mean", "ttft_ms")):
        statistic, middle, test = (
            ("median", np.median, lambda g: sign_test(g))
            if key == "ttft_ms"
            else ("mean", np.mean, lambda g: sign_flip(g, 4))
        )
        assert rows[key]["estimate"] == pytest.approx(middle(gaps[:, place]))
        assert rows[key]["ci95"] == list(bootstrap(gaps[:, place], 4, statistic))
        assert rows[key]["p"] == test(gaps[None, :, place])[0]
        assert rows[key]["a"] == pytest.approx(middle([a[name][place] for name in names]))


def test_two_runs_of_ours(tmp_path, capsys):
    a = run(tmp_path / "1", [item(f"i{k}", 80.0, 0.1, 90.0 + k) for k in range(12)])
    b = run(tmp_path / "2", [item(f"i{k}", 20.0, 0.3, 50.0 + k) for k in range(2, 14)], "blend")
    text = said(capsys, a, b)
    assert f"A: {a} (tiny on questions, debug 0.15, float32; 12 items)" in text
    assert "10 items are in both, 2 only in A, 2 only in B" in text
    assert row(text, "score")[:4] == ["10", "80.0", "20.0", "+60.0"]
    assert row(text, "score")[-1] == "better"
    assert row(text, "KL answer")[:4] == ["10", "0.100", "0.300", "-0.200"]
    assert row(text, "KL answer")[-1] == "better"
    assert row(text, "TTFT ms")[-1] == "worse"
    assert "TTFT ms (cold)" not in text
    assert "NOTE" not in text
    assert "4 comparisons" in text


def test_what_is_not_the_same_is_said(tmp_path, capsys):
    items = [item("i0"), item("i1")]
    a = run(tmp_path / "1", items, note="BUILT-IN SAMPLE")
    changed = result()["config"] | {"inputs": "other"}
    environment = {"device": "another", "threads": 2, "kvfuse": "0123"}
    b = run(tmp_path / "2", items, config=changed, environment=environment, metric="rouge_l")
    text = said(capsys, a, b)
    assert "A: BUILT-IN SAMPLE" in text
    assert "NOTE: the inputs are not the same" in text
    assert "NOTE: the runs are from other machines" in text
    assert "NOTE: the scores are of other metrics: qa_f1 and rouge_l" in text
    assert "2 items are too few for any claim" in text


def test_the_same_method_in_other_settings_is_told(tmp_path, capsys):
    items = [item("i0"), item("i1")]
    changed = {"max_new_tokens": 24, "weights": "another", "dtype": "bfloat16", "backend": "sdpa"}
    a = run(tmp_path / "1", items)
    for number, (key, value) in enumerate(changed.items()):
        b = run(tmp_path / f"b{number}", items, config=result()["config"] | {key: value})
        (note,) = [line for line in said(capsys, a, b).splitlines() if line.startswith("NOTE")]
        assert ("the models are" if key == "weights" else f"{key} is") + " not the same" in note


def test_unparsed_answers_count_as_zero_and_are_told(tmp_path, capsys):
    a = lmcache(tmp_path / "a.json", [sample("1", 1.0), sample("2", None, False), sample(3, 0.5)])
    b = lmcache(tmp_path / "b.json", [sample("1", 0.0, ttft=0.5), sample("2", 0.5), sample("3", 1)])
    text = said(capsys, a, b)
    assert "A: 1 of 3 answers could not be parsed and count as 0" in text
    assert "B: 1" not in text
    assert row(text, "score")[:4] == ["3", "50.0", "50.0", "+0.0"]
    assert row(text, "TTFT ms")[:4] == ["3", "250.0", "250.0", "+0.0"]
    assert "KL" not in text


def test_a_failed_request_has_no_time(tmp_path, capsys):
    a = lmcache(tmp_path / "a.json", [sample("1", ttft=-1), sample("2"), sample("3", ttft=None)])
    text = said(capsys, a, lmcache(tmp_path / "b.json", [sample("1"), sample("2"), sample("3")]))
    assert "A: 2 of 3 samples have no TTFT" in text
    assert row(text, "TTFT ms")[0] == "1"
    assert row(text, "score")[0] == "3"


def test_prompts_that_were_made_otherwise_are_told(tmp_path, capsys):
    a = lmcache(tmp_path / "a.json", [sample("i0")])
    b = lmcache(tmp_path / "b.json", [sample("i0")], "beef")
    assert "NOTE: run_fingerprint is not the same" in said(capsys, a, b)
    assert "NOTE: runs of two tools" in said(capsys, a, run(tmp_path, [item("i0")]))


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([], "holds no samples"),
        ([sample("1"), sample("1")], "sample 1 stands there twice"),
        ([sample("1", None)], "sample 1 has f1 None, not 0 to 1"),
        ([sample("1", 50)], "sample 1 has f1 50.0, not 0 to 1"),
        ([sample("1", float("nan"))], "a sample's f1:"),
        ([{"sample_id": "1"}], "a sample's parsed: Field required"),
        (None, "is neither a run folder nor LMCache's rag-qa-quality JSON"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, samples, told):
    with pytest.raises(UserError) as error:
        read(lmcache(tmp_path / "a.json", samples))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_one_line(tmp_path, capsys):
    whole = run(tmp_path / "whole", [item("i0")])
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "records.jsonl").touch()
    old = run(tmp_path / "old", [{"id": "i0"}])
    other = run(tmp_path / "other", [item("j0")])
    text = tmp_path / "a.txt"
    text.write_text("no JSON", encoding="utf-8")
    cases = {
        (whole,): "name two runs",
        (whole, tmp_path / "nowhere"): "there is no such run folder or file",
        (whole, begun): "has not finished",
        (whole, tmp_path): "is not a run",
        (whole, text): "is neither a run folder",
        (whole, old): "is of an earlier version",
        (whole, other): "no item is in both: A has i0, B has j0",
        (whole, other, whole): "neither VARIABLE=value nor --option",
    }
    for words, told in cases.items():
        assert kvfuse(["compare", *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("compare: ")
        assert told in line


def test_runs_may_be_named_by_place_or_by_name(tmp_path, capsys):
    a, b = run(tmp_path / "1", [item("i0")]), run(tmp_path / "2", [item("i0")], "blend")
    assert kvfuse(["compare", str(a), str(b / "result.json")]) == 0
    first = capsys.readouterr().out
    assert kvfuse(["compare", f"A={a}", "--b", str(b), "SEED=0"]) == 0
    assert capsys.readouterr().out == first
