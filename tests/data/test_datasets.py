"""Dataset entries: the benchmark's own prompts, and clear words for a bad entry."""

import gzip
import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data import datasets
from data.sources.longbench import SAMPLE_DIR
from data.sources.longbench.files import find, read, read_jsonl
from eval.metrics.scores import METRICS
from models.errors import UserError

_PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nThe following are given passages.\n{context}\n\nAnswer the question "
    "based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "Question: {input}\nAnswer:"
)
# config/dataset2prompt.json of THUDM/LongBench.
OFFICIAL = {
    "narrativeqa": (
        "You are given a story, which can be either a novel or a movie script, and a question. "
        "Answer the question as concisely as you can, using a single phrase if possible. Do "
        "not provide any explanation.\n\nStory: {context}\n\nNow, answer the question based on "
        "the story as concisely as you can, using a single phrase if possible. Do not provide "
        "any explanation.\n\nQuestion: {input}\n\nAnswer:"
    ),
    "qasper": (
        "You are given a scientific article and a question. Answer the question as concisely "
        "as you can, using a single phrase or sentence if possible. If the question cannot be "
        'answered based on the information in the article, write "unanswerable". If the '
        'question is a yes/no question, answer "yes", "no", or "unanswerable". Do not '
        "provide any explanation.\n\nArticle: {context}\n\n Answer the question based on the "
        "above article as concisely as you can, using a single phrase or sentence if possible. "
        "If the question cannot be answered based on the information in the article, write "
        '"unanswerable". If the question is a yes/no question, answer "yes", "no", or '
        '"unanswerable". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:'
    ),
    "multifieldqa_en": (
        "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following "
        "question based on the above text, only give me the answer and do not output any other "
        "words.\n\nQuestion: {input}\nAnswer:"
    ),
    "multifieldqa_zh": (
        "阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，只"
        "告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答："
    ),
    "hotpotqa": _PASSAGES,
    "2wikimqa": _PASSAGES,
    "musique": _PASSAGES,
    "dureader": (
        "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。"
        "\n\n问题：{input}\n回答："
    ),
    "gov_report": (
        "You are given a report by a government agency. Write a one-page summary of the "
        "report.\n\nReport:\n{context}\n\nNow, write a one-page summary of the report.\n\n"
        "Summary:"
    ),
    "qmsum": (
        "You are given a meeting transcript and a query containing a question or instruction. "
        "Answer the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer "
        "the query based on the above meeting transcript in one or more sentences.\n\nQuery: "
        "{input}\nAnswer:"
    ),
    "multi_news": (
        "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
        "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"
    ),
    "vcsum": (
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录："
        "\n{context}\n\n会议总结："
    ),
    "trec": (
        "Please determine the type of the question below. Here are some examples of "
        "questions.\n\n{context}\n{input}"
    ),
    "triviaqa": (
        "Answer the question based on the given passage. Only give me the answer and do not "
        "output any other words. The following are some examples.\n\n{context}\n\n{input}"
    ),
    "samsum": (
        "Summarize the dialogue into a few short sentences. The following are some "
        "examples.\n\n{context}\n\n{input}"
    ),
    "lsht": ("请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}"),
    "passage_count": (
        "There are some paragraphs below sourced from Wikipedia. Some of them may be "
        "duplicates. Please carefully read these paragraphs and determine how many unique "
        "paragraphs there are after removing duplicates. In other words, how many "
        "non-repeating paragraphs are there in total?\n\n{context}\n\nPlease enter the final "
        "count of unique paragraphs after removing duplicates. The output format should only "
        "contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "
    ),
    "passage_retrieval_en": (
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
        "paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n"
        "{input}\n\nPlease enter the number of the paragraph that the abstract is from. The "
        'answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: '
    ),
    "passage_retrieval_zh": (
        "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。"
        "\n\n{context}\n\n下面是一个摘要\n\n{input}\n\n请输入摘要所属段落的编号。答案格式必须是"
        '"段落1"，"段落2"等格式\n\n答案是：'
    ),
    "lcc": ("Please complete the code given below. \n{context}Next line of code:\n"),
    "repobench-p": ("Please complete the code given below. \n{context}{input}Next line of code:\n"),
}
LENGTHS = {  # config/dataset2maxlen.json
    "narrativeqa": 128,
    "qasper": 128,
    "multifieldqa_en": 64,
    "multifieldqa_zh": 64,
    "hotpotqa": 32,
    "2wikimqa": 32,
    "musique": 32,
    "dureader": 128,
    "gov_report": 512,
    "qmsum": 512,
    "multi_news": 512,
    "vcsum": 512,
    "trec": 64,
    "triviaqa": 32,
    "samsum": 128,
    "lsht": 64,
    "passage_count": 32,
    "passage_retrieval_en": 32,
    "passage_retrieval_zh": 32,
    "lcc": 64,
    "repobench-p": 64,
}
RETRIEVAL = {"passage_retrieval_en": "retrieval", "passage_retrieval_zh": "retrieval_zh"}
METRIC = {  # eval.py: qa_f1 of either language but for
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "samsum"), "rouge_l"),
    **dict.fromkeys(("dureader", "vcsum"), "rouge_l"),
    **dict.fromkeys(("trec", "lsht"), "classification"),
    **dict.fromkeys(("lcc", "repobench-p"), "code_sim"),
    **RETRIEVAL,
    "passage_count": "count",
}
NO_PASSAGES = {
    *("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    *("gov_report", "qmsum", "vcsum"),
}
CHINESE = {"multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh"}
NO_CHAT = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}  # pred.py
FIRST_LINE = {"trec", "triviaqa", "samsum", "lsht"}  # eval.py
LONGBENCH_E = {  # pred.py
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "gov_report",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
}
GROUPS = {
    "single-doc QA": {"narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"},
    "multi-doc QA": {"hotpotqa", "2wikimqa", "musique", "dureader"},
    "summarization": {"gov_report", "qmsum", "multi_news", "vcsum"},
    "few-shot": {"trec", "triviaqa", "samsum", "lsht"},
    "synthetic": {"passage_count", "passage_retrieval_en", "passage_retrieval_zh"},
    "code": {"lcc", "repobench-p"},
}
ALL = sorted(OFFICIAL) + sorted(f"{name}_e" for name in LONGBENCH_E)
ENTRY = {
    "version": 1,
    "source": "longbench",
    "language": "en",
    "chat": True,
    "instruction": "Read.\n",
    "question": "\n{input}",
    "max_new_tokens": 8,
    "metric": "qa_f1",
    "first_line": False,
    "passage_pattern": None,
}


def base(name: str) -> str:
    """The task that a LongBench-E entry is drawn from."""
    return name.removesuffix("_e")


def members(suite: str) -> list[str]:
    return [name for name in datasets.names() if datasets.get(name).suite == suite]


def test_all_of_longbench_is_there() -> None:
    assert len(OFFICIAL) == 21
    assert sorted(members("longbench")) == sorted(OFFICIAL)
    assert sorted(members("longbench-e")) == sorted(f"{name}_e" for name in LONGBENCH_E)
    assert members("hotpotqa") == ["hotpotqa_distractor"]


@pytest.mark.parametrize("name", [*ALL, "hotpotqa_distractor"])
def test_prompt_is_the_benchmarks(name: str) -> None:
    row = {"context": "Some {braces} in\ncontext.", "input": "Who {wrote} it?"}
    dataset = datasets.get(name)
    expected = OFFICIAL[base(name.removesuffix("_distractor"))].format(**row)
    assert dataset.instruction + row["context"] + dataset.ask(row["input"]) == expected
    assert "{context}" not in dataset.instruction + dataset.question
    assert "{input}" not in dataset.instruction + dataset.ask("")


@pytest.mark.parametrize("name", ALL)
def test_settings_are_the_benchmarks(name: str) -> None:
    dataset, task = datasets.get(name), base(name)
    assert dataset.max_new_tokens == LENGTHS[task]
    assert dataset.metric == METRIC.get(task, "qa_f1")
    assert dataset.metric in METRICS
    assert dataset.chat == (task not in NO_CHAT)
    assert dataset.first_line == (task in FIRST_LINE)
    assert (dataset.language == "zh") == (task in CHINESE)
    assert task in GROUPS[dataset.group]


@pytest.mark.parametrize("name", sorted(LONGBENCH_E))
def test_longbench_e_differs_by_name_and_suite_alone(name: str) -> None:
    entry = datasets.get(f"{name}_e")
    assert replace(entry, name=name, suite="longbench") == datasets.get(name)


@pytest.mark.parametrize("name", ALL)
def test_passage_patterns_split_the_samples(name: str) -> None:
    pattern = datasets.get(name).passage_pattern
    assert (pattern is None) == (base(name) in NO_PASSAGES)
    for row in read_jsonl(SAMPLE_DIR / f"{base(name)}.jsonl"):
        found = list(re.finditer(pattern, row.context, re.MULTILINE)) if pattern else []
        assert pattern is None or len(found) >= 2, row.id
        # Only code has something, imports or a licence, before the first passage.
        assert not found or found[0].start() == 0 or base(name) == "lcc"


@pytest.mark.parametrize(
    ("name", "text", "starts"),
    [
        ("hotpotqa", "Passage 1:\nOne\nSee Passage 2: below.\nPassage 2:\nTwo", [0, 37]),
        ("dureader", "文章1\n标题：一\n\n文章12\n标题：见文章1", [0, 10]),
        ("trec", "Question: Who ?\nType: Individual\nQuestion: Where ?", [0, 33]),
        ("triviaqa", "Passage:\nA\nQuestion:\nB ?\nAnswer:\nC\nPassage:\nD", [0, 35]),
        ("passage_count", "Paragraph 1: One.\n\nParagraph 2: Two. Paragraph 3: no.", [0, 19]),
        ("passage_retrieval_zh", "段落1：一。\n\n段落2：二。见段落1：", [0, 8]),
        (
            "lcc",
            "import os\nX = 1\nasync def f():\n  pass\nclass A:\n  def g(self):\n",
            [16, 38, 47],
        ),
        (
            "lcc",
            "package a;\npublic class A {\n\tprivate int n = 1;\n\tprotected int n() {\n",
            [11, 48],
        ),
        ("repobench-p", "a/b.py\nclass A:\n# see c.py\na/c/D.java\nint n;\n", [0, 27]),
    ],
)
def test_passage_pattern_finds_passages(name: str, text: str, starts: list[int]) -> None:
    pattern = datasets.get(name).passage_pattern
    assert pattern is not None
    assert [match.start() for match in re.finditer(pattern, text, re.MULTILINE)] == starts


@pytest.mark.parametrize("held", ["trec_e.jsonl", "trec_e.jsonl.gz", "data/trec_e.jsonl", "zip"])
def test_longbench_e_is_read_from_its_own_file(tmp_path: Path, held: str) -> None:
    row = json.loads((SAMPLE_DIR / "trec.jsonl").read_text(encoding="utf-8").splitlines()[0])
    files = {name: json.dumps(row | {"_id": name}).encode() for name in ("trec", "trec_e")}
    if held == "zip":
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"data/{name}.jsonl", text)
    else:
        for name, text in files.items():
            path = tmp_path / held.replace("trec_e", name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(text) if held.endswith(".gz") else text)
    for name in files:
        rows = read(find(tmp_path, name), name)
        assert [found.id for found in rows] == [name]


def test_a_folder_without_longbench_e_does_not_serve_the_base_task(tmp_path: Path) -> None:
    shutil.copy(SAMPLE_DIR / "trec.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"has no trec_e.jsonl.*it holds trec.jsonl"):
        find(tmp_path, "trec_e")


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown dataset '2wikiqa': did you mean 2wikimqa"):
        datasets.get("2wikiqa")
    with pytest.raises(UserError, match=r"choose from .*2wikimqa, "):
        datasets.get("zzz")
    assert len(set(datasets.names())) == len(datasets.names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrik": "qa_f1"}, "unknown key 'metrik'; did you mean 'metric'"),
        ({"version": None}, "version must be int"),
        ({"version": 0}, "version must be at least 1"),
        ({"chat": "yes"}, "chat must be bool"),
        ({"max_new_tokens": True}, "max_new_tokens must be int"),
        ({"source": "web"}, "source must be longbench or hotpotqa_pack"),
        ({"passage_pattern": "("}, "passage_pattern: no valid regex"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"mine": ENTRY | change}))
    with pytest.raises(UserError, match=f"mine.yaml: dataset 'mine'.*{message}"):
        datasets.read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: {version: 1", "not readable as YAML"),
        ("- mine", "must map dataset names"),
        ("mine: 3", "'mine' must be a mapping"),
        ("mine: {version: 1}", "'mine' lacks source, language"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        datasets.read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_defined_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump({"mine": ENTRY}))
    with pytest.raises(UserError, match=r"b.yaml: dataset 'mine' is defined twice"):
        datasets.read_config(tmp_path)
