"""``CONTEXT=``: what it may say, and which tokens stand in front of which item."""

from __future__ import annotations

import math
import random

import pytest

from data.context import RUN, Context, related
from models.errors import UserError
from models.prompt import Prompt

SINK = [1]


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(3, 40_000), k=length)


def item(documents: list[int], prefix: list[int] | None = None) -> Prompt:
    chunks = [documents[i : i + 50] for i in range(0, len(documents), 50)]
    return Prompt.join([1, 2] if prefix is None else prefix, chunks, [7])


def no_essays(text: str) -> list[int]:
    """Tokens of essays, where a test has none: a corpus that is too small has nothing behind it."""
    return []


def primer(context: str, documents: list[int], corpus: list[list[int]]) -> list[int]:
    chosen = Context.parse(context)
    first, front = chosen.fronts(item(documents), SINK, chosen.sources(corpus, no_essays))
    assert first == front[:2] == (1, 2)
    return list(front[2:])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("prefx", "CONTEXT=prefx is unknown: did you mean prefix?"),
        ("prime:256", "did you mean primed?"),
        ("", "give sink, prefix, primed:<tokens>"),
        ("none", "Give sink, prefix, primed:<tokens>"),
        ("sink:3", "sink takes nothing after it"),
        ("prefix:256", "prefix takes nothing after it"),
        ("primed", "say how many tokens, 1 or more: primed:256"),
        ("primed:", "say how many tokens"),
        ("primed:abc", "CONTEXT=primed:abc: say how many tokens"),
        ("primed:-3", "say how many tokens"),
        ("primed:0", "say how many tokens"),
        ("primed:2.5", "say how many tokens"),
        ("primed:²", "say how many tokens"),
        ("related", "say how many tokens, 1 or more: related:256"),
        ("related:0", "say how many tokens"),
        ("related:8:essay", "related takes tokens alone"),
        ("relatd:8", "did you mean related?"),
        ("primed:8:essays", "there is no file 'essays'; did you mean essay?"),
        ("primed:8:nowhere/text.txt", "no file 'nowhere/text.txt'; give corpus, essay or"),
        ("primed:8:", "there is no file ''"),
        ("primed:8:.", "there is no file '.'"),
    ],
)
def test_what_is_no_context(given, says):
    with pytest.raises(UserError, match="CONTEXT=") as caught:
        Context.parse(given)
    assert says.lower() in str(caught.value).lower()


def test_how_a_context_is_named(tmp_path):
    path = tmp_path / "a:b.txt"
    path.write_text("text")
    for given, label in (
        ("sink", "sink"),
        ("prefix", "prefix"),
        ("primed:64", "primed:64"),
        ("primed:064:corpus", "primed:64"),
        ("primed:8:essay", "primed:8:essay"),
        ("related:064", "related:64"),
        (f"primed:8:{path}", "primed:8:a:b.txt"),
    ):
        assert Context.parse(given).label == label


def test_sink_and_prefix():
    assert Context.parse("sink").fronts(item(text(0, 60)), SINK, []) == ()
    assert Context.parse("prefix").fronts(item(text(0, 60)), SINK, []) == ((1, 2),)
    assert Context.parse("prefix").fronts(item(text(0, 60), []), SINK, []) == ((1,),)
    assert Context.parse("prefix").fronts(item(text(0, 60), []), [], []) == ()


def cosine(one: list[int], other: list[int], chunks: list[list[int]]) -> float:
    """Over the whole vocabulary, entry by entry."""
    words = sorted({token for chunk in chunks for token in chunk})
    weights = [math.log(1 + len(chunks) / sum(w in c for c in chunks)) for w in words]
    a, b = (
        [c.count(w) * weight for w, weight in zip(words, weights, strict=True)]
        for c in (one, other)
    )
    norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


@pytest.mark.parametrize("length", [1, 30, 60, 500])
def test_related_chunks_stand_most_similar_first(length):
    rng = random.Random(7)
    for _ in range(20):
        chunks = [rng.choices(range(3, 40), k=rng.choice([0, 1, 20, 50])) for _ in range(5)]
        prompt = Prompt.join([1, 2], chunks, [7])
        front = Context.parse(f"related:{length}").fronts(prompt, SINK, [])
        assert len(front) == 6
        assert front[-1] == (1, 2)
        for i, found in enumerate(front[:-1]):
            others = [j for j in range(5) if j != i]
            likeness = {j: cosine(chunks[i], chunks[j], chunks) for j in others}
            left = list(found[2:])
            assert found[:2] == (1, 2)
            assert len(left) == min(length, sum(len(chunks[j]) for j in others))
            while left:  # each piece is of a chunk that none of those left is more similar than
                top = max(likeness[j] for j in others)
                near = [j for j in others if likeness[j] >= top - 1e-12]
                j = near[0]
                assert left[: len(chunks[j])] == chunks[j][: len(left)]
                left = left[len(chunks[j]) :]
                others.remove(j)


def test_the_related_chunk_is_the_one_that_shares_the_rare_words():
    common = [10, 11, 12] * 5
    chunks = [[*common, 90, 91], [*common, *common], [*common, 91, 90, 90], [50, 51]]
    assert related(chunks, 4)[0] == chunks[2][:4]
    assert related(chunks, 4)[2] == chunks[0][:4]
    assert related(chunks, 4)[3] == chunks[0][:4]  # nothing in common with any: the first
    assert related([[5, 6]], 4) == [[]]
    assert Context.parse("related:4").fronts(Prompt.join([], [[5, 6]], [7]), SINK, []) == (
        (1,),
        (1,),
    )


def test_all_items_share_the_first_items_text_and_that_one_takes_the_nexts():
    corpus = [text(seed, 300) for seed in range(6)]
    assert primer("primed:100", corpus[0], corpus) == corpus[1][:100]
    for documents in corpus[1:]:
        assert primer("primed:100", documents, corpus) == corpus[0][:100]
    assert primer("primed:400", corpus[4], corpus) == corpus[0] + corpus[1][:100]
    assert primer("primed:400", corpus[1], corpus) == corpus[0] + corpus[2][:100]


@pytest.mark.parametrize("length", [1, 7, RUN - 1, RUN, RUN + 1, 100])
@pytest.mark.parametrize("shared", [RUN, 60])
def test_text_that_the_item_holds_is_passed_over(length, shared):
    """Other items may hold the same passage, at another place."""
    corpus = [text(seed, 300) for seed in range(4)]
    documents = text(9, 33) + corpus[0][:shared] + text(10, 40)
    assert primer(f"primed:{length}", documents, corpus) == corpus[1][:length]


def test_what_of_another_item_is_not_taken_may_be_shared():
    corpus = [text(seed, 300) for seed in range(4)]
    documents = text(9, 33) + corpus[0][100:200] + text(10, 40)
    assert primer("primed:100", documents, corpus) == corpus[0][:100]
    assert primer("primed:132", documents, corpus) == corpus[1][:132]


def test_no_primer_ever_has_a_piece_of_its_item():
    rng = random.Random(5)
    passages = [text(seed, rng.randint(1, 90)) for seed in range(12)]
    corpus = [[t for p in rng.sample(passages, 3) for t in p] for _ in range(20)]
    for length in (5, 40, 120):
        for documents in corpus:
            try:
                found = primer(f"primed:{length}", documents, corpus)
            except UserError:
                continue
            assert len(found) == length
            own = {tuple(documents[i : i + RUN]) for i in range(len(documents) - RUN + 1)}
            assert not own & {tuple(found[i : i + RUN]) for i in range(length - RUN + 1)}


def test_a_short_text_that_the_item_holds():
    corpus = [[5, 6, 7], text(1, 50)]
    assert primer("primed:3", [4, 5, 6, 7, 8], corpus) == corpus[1][:3]
    assert primer("primed:3", [4, 5, 6, 8], corpus) == [5, 6, 7]
    assert primer("primed:3", [], [[], *corpus]) == [5, 6, 7]


def test_too_little_text_is_said():
    corpus = [text(0, 90), text(1, 60)]
    for context, found in (("primed:100", corpus), ("primed:1", corpus[:1])):
        with pytest.raises(UserError, match=f"CONTEXT={context}: essay has 0 tokens"):
            primer(context, corpus[0], found)


def test_essays_go_on_where_the_corpus_ends():
    """They are read when they are reached, once for all items."""
    corpus, essays, read = [text(0, 90), text(1, 60)], text(2, 500), []

    def encode(essay: str) -> list[int]:
        read.append(essay)
        return essays

    chosen = Context.parse("primed:100")
    sources = chosen.sources(corpus, encode)
    for documents, wanted in (
        (text(7, 80), corpus[0] + corpus[1][:10]),
        (corpus[1], corpus[0] + essays[:10]),
        (corpus[0], corpus[1] + essays[:40]),
        (corpus[0] + essays[:40], corpus[1] + essays[100:140]),
    ):
        assert list(chosen.fronts(item(documents), SINK, sources)[1][2:]) == wanted
    assert len(read) == 1
    assert Context.parse("primed:60").sources([], encode) is not None


@pytest.mark.parametrize("length", [8, 50])
def test_of_a_text_an_item_takes_the_first_stretch_that_it_does_not_hold(tmp_path, length):
    path = tmp_path / "text.txt"
    path.write_text("".join(map(chr, text(3, 400))), encoding="utf-8")
    ids = [ord(letter) for letter in path.read_text(encoding="utf-8")]
    chosen = Context.parse(f"primed:{length}:{path}")
    sources = chosen.sources([], lambda t: list(map(ord, t)))

    def taken(documents):
        return list(chosen.fronts(item(documents), SINK, sources)[1][2:])

    assert taken(text(8, 200)) == ids[:length]
    assert taken(ids[:length] + ids[length : RUN * 2]) == taken(ids[: 2 * RUN])
    assert ids.index(taken(ids[:64])[0]) >= 64 - RUN
    with pytest.raises(UserError, match=r"text\.txt makes 0 tokens"):
        taken(ids)


def test_a_text_that_is_too_short_or_none(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abc")
    with pytest.raises(UserError, match=r"text\.txt has 3 tokens; give at most so many"):
        Context.parse(f"primed:4:{path}").sources([], list)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Context.parse(f"primed:4:{path}").sources([], list)


def test_essays_are_the_data_packs():
    seen = []
    Context.parse("primed:4:essay").sources([], lambda t: seen.append(t) or list(t))
    assert len(seen[0]) > 100_000
