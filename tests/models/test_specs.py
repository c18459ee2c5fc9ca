"""Names and specs: how a selector and its options are asked for, and how a mistake is told."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from models import code, selectors
from models.errors import UserError
from tests.models.selector_references import EVERY_SELECTOR


def test_every_method_of_the_table_is_there():
    wanted = "no full cat random epic tail_ratio blend debug blend_debug attnlink"
    wanted += " surprisal_chunk prophet primer infoflow qcfuse oracle_kv oracle_attn"
    assert selectors.names() == sorted(wanted.split())


def test_aliases():
    assert selectors.canonical("a3") == "debug"
    assert selectors.canonical("cacheblend") == "blend"
    assert all(selectors.canonical(name) == name for name in selectors.names())


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("blnd", "blend"), ("rand", "random"), ("cacheblen", "cacheblend"), ("suprisal", "surprisal")],
)
def test_unknown_names_are_answered_with_the_nearest(wrong, right):
    for ask in (selectors.canonical, selectors.build):
        with pytest.raises(UserError, match=rf"REUSE={wrong}: did you mean .*{right}"):
            ask(wrong)


@pytest.mark.parametrize("nonsense", ["", "xyzzy", "§"])
def test_names_near_to_nothing_are_answered_with_all(nonsense):
    with pytest.raises(UserError, match=r"choose from .*blend, .*random.*, a3"):
        selectors.canonical(nonsense)


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        ("debug", {}),
        ("a3:check=cached", {"check": "cached"}),
        ("debug:check_layer=3:per_head=1", {"check_layer": 3, "per_head": True}),
        ("debug:per_head=Yes:edge_corrected=TRUE", {"per_head": True, "edge_corrected": True}),
        ("cacheblend:blend_gap_source=k", {"blend_gap_source": "k"}),
        ("blend:filter_layers=3", {"filter_layers": 3}),
        ("blend_debug:alpha=0.25:fusion=sum", {"alpha": 0.25, "fusion": "sum"}),
        ("epic:lego_k=0", {"lego_k": 0}),
        ("prophet:pool=5", {"pool": 5}),
    ],
)
def test_a_spec_sets_options_and_leaves_the_rest(spec, changed):
    built = selectors.build(spec)
    plain = selectors.make(selectors.canonical(spec.partition(":")[0]))
    assert built.identity() == {**plain.identity(), **changed}
    assert selectors.build(selectors.spec_of(built)) == built


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        ("a3", "debug"),
        ("debug:check_layer=1:check=dense:per_head=no", "debug"),
        ("debug:check_layer=01:per_head=true", "debug:per_head=1"),
        ("blend_debug:alpha=.50", "blend_debug"),
        ("epic:lego_k=8", "epic:lego_k=8"),
    ],
)
def test_the_shortest_spec(spec, short):
    assert selectors.spec_of(selectors.build(spec)) == short


@pytest.mark.parametrize("name", EVERY_SELECTOR)
def test_every_selector_is_its_own_spec_at_its_defaults(name):
    assert selectors.spec_of(selectors.build(name)) == name


def test_options_of_the_spec_go_before_those_of_the_run():
    run = {"check_layer": 2, "lego_k": 4, "per_head": True}
    assert selectors.build("debug:per_head=0", **run).identity() == {
        "check_layer": 2,
        "check": "dense",
        "per_head": False,
        "edge_corrected": False,
    }
    assert selectors.build("epic", **run).identity() == {"lego_k": 4}
    assert selectors.build("random", **run).identity() == {}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("debug:chek=cached", "debug has no option 'chek'; its options are check_layer, check,"),
        ("a3:pool=3", "debug has no option 'pool'"),
        ("debug:", "debug has no option ''"),
        ("random:k=3", "random has no option 'k'; it has none"),
        (
            "attnlink:_digest=1",
            "attnlink has no option '_digest'; its options are positions, chance",
        ),
        ("debug:check_layer=one", "check_layer takes int, not 'one'"),
        ("debug:check_layer=1.5", "check_layer takes int, not '1.5'"),
        ("debug:check_layer", "check_layer takes int, not ''"),
        ("debug:per_head=maybe", "per_head takes bool, not 'maybe'"),
        ("blend_debug:alpha=half", "alpha takes float, not 'half'"),
        ("epic:lego_k=None", "lego_k takes int, not 'None'"),
        ("debug:check=frozen", "CHECK is dense or cached, not 'frozen'"),
        ("no", "the full prefill: it selects nothing"),
        ("no:check_layer=1", "the full prefill: it selects nothing"),
    ],
)
def test_a_mistake_in_a_spec_is_told_in_one_line(spec, told):
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        selectors.build(spec)
    assert "\n" not in str(caught.value)


def test_what_a_selector_needs_to_have_been_kept():
    needs = {name: selectors.make(name).needs for name in EVERY_SELECTOR}
    assert {name: what for name, what in needs.items() if what} == {
        "surprisal_chunk": ("surprisal",),
        "attnlink": ("sinks",),
        "qcfuse": ("sinks",),
    }


def test_oracles_are_marked():
    oracles = [name for name in EVERY_SELECTOR if selectors.make(name).oracle]
    assert oracles == ["oracle_attn", "oracle_kv"]


def test_who_knows_the_rate():
    blind = [name for name in EVERY_SELECTOR if not selectors.make(name).knows_rate]
    assert blind == ["cat", "full"]
    assert not selectors.make("epic", lego_k=0).knows_rate


OWN = """
from dataclasses import dataclass

from models.selectors import BaseSelector, option


@dataclass
class Selector(BaseSelector):
    step: int = option(7, "distance")

    def select(self, probe):
        return probe.candidates[:: self.step][: probe.budget]
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "a: b,c=d" / "seventh.py"
    path.parent.mkdir()
    path.write_text(OWN, encoding="utf-8")
    return path


def test_a_selector_from_a_file_elsewhere(own_file):
    built = selectors.build(f"{own_file}:step=3")
    assert built.step == 3
    assert selectors.spec_of(built) == "seventh:step=3"
    assert selectors.spec_of(selectors.build(str(own_file))) == "seventh"
    assert selectors.build(str(own_file), step=5, pool=3).step == 5


def test_the_code_of_a_selector_is_its_file(own_file):
    before = selectors.code_of(selectors.build(str(own_file)))
    own_file.write_text(OWN + "# changed\n", encoding="utf-8")
    assert selectors.code_of(selectors.build(str(own_file))) != before
    codes = {name: selectors.code_of(selectors.make(name)) for name in ("debug", "blend", "full")}
    assert len(set(codes.values())) == 3


HELPERS = {
    "plug/__init__.py": "",
    "plug/base.py": "from plug.deep import rows\nfrom models.selectors import BaseSelector\n\n\n"
    "class Base(BaseSelector):\n    def select(self, probe):\n        return None\n",
    "plug/deep/__init__.py": "",
    "plug/deep/rows.py": "from . import late\n",
    "plug/deep/late.py": "",
    "plug/mine.py": "from dataclasses import dataclass\nfrom .base import Base\n\n\n"
    "@dataclass\nclass Selector(Base):\n    pass\n",
    "plug/other.py": "",
    "own.py": "from dataclasses import dataclass\nimport helping\nfrom plug.base import Base\n\n\n"
    "@dataclass\nclass Selector(Base):\n    pass\n",
    "helping.py": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package and a file beside it; their hashes by what was edited, as new processes find it."""
    for name, text in HELPERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "plug.mine:Selector", "kvfuse.selectors")

    def codes(edited: str | None = None) -> tuple[str, str]:
        for name in [name for name in sys.modules if name.split(".")[0] in ("plug", "helping")]:
            del sys.modules[name]
        if edited:
            with (tmp_path / edited).open("a", encoding="utf-8") as file:
                file.write("# changed\n")
        code._content.cache_clear()
        registry = replace(selectors.spec.SELECTORS)  # as in a new process: nothing is loaded
        registry.entry_points = {"mine": point}
        return tuple(
            registry.code_of(registry.build(name)) for name in ("mine", str(tmp_path / "own.py"))
        )

    yield codes
    for name in [name for name in sys.modules if name.split(".")[0] in ("plug", "helping")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("edited", "of_package", "of_file"),
    [
        ("plug/mine.py", True, False),
        ("plug/base.py", True, True),
        ("plug/deep/rows.py", True, True),
        ("plug/deep/__init__.py", True, True),
        ("plug/deep/late.py", True, True),
        ("plug/other.py", False, False),
        ("own.py", False, True),
        ("helping.py", False, True),
    ],
)
def test_the_code_of_one_from_elsewhere_is_all_that_it_brings(package, edited, of_package, of_file):
    before = package()
    assert package() == before
    after = package(edited)
    assert [a != b for a, b in zip(after, before, strict=True)] == [of_package, of_file]


def test_a_file_that_runs_is_hashed_as_it_was_loaded(package, tmp_path):
    built = selectors.build(str(tmp_path / "own.py"))
    before = selectors.code_of(built)
    (tmp_path / "helping.py").write_text("# changed\n", encoding="utf-8")
    assert selectors.code_of(built) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "holds no selector"),
        ("class Selector:\n    pass\n", "holds no selector"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("def broken(:\n", "SyntaxError"),
        (OWN.replace("def select", "def choose"), "has no method select"),
    ],
)
def test_a_file_that_is_no_selector(own_file, text, told):
    own_file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        selectors.build(str(own_file))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        selectors.build(str(tmp_path / "gone.py"))


def test_a_selector_by_its_entry_point(monkeypatch, own_file):
    class Point:
        name, value = "seventh", "package.seventh:Selector"

        def load(self):
            return selectors.selector_class(str(own_file))

    monkeypatch.setattr(selectors.spec.SELECTORS, "entry_points", {"seventh": Point()})
    assert "seventh" in selectors.names()
    assert selectors.build("seventh:step=2").step == 2
