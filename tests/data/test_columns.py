"""Cells under each other."""

import pytest

from stage.columns import columns

ROWS = [["method", "N", ""], ["no", "1024", "x"], ["debug", "8", ""]]


def test_every_column_is_as_wide_as_its_widest_cell():
    assert columns(ROWS, "<><") == ["method     N", "no      1024  x", "debug      8"]
    assert columns(ROWS, ["<", ">", "<"]) == columns(ROWS, "<><")


def test_one_side_serves_all_columns():
    assert columns(ROWS, ">", gap="|") == ["method|   N|", "    no|1024|x", " debug|   8|"]
    assert columns(ROWS, "<", gap=" ") == ["method N", "no     1024 x", "debug  8"]


def test_cells_are_text_whatever_they_look_like():
    assert columns([["{a}", "-1"], ["=", ">9"]], "<>") == ["{a}  -1", "=    >9"]


def test_without_rows_there_are_no_lines():
    assert columns([], ">") == []


@pytest.mark.parametrize(("rows", "sides"), [([["a", "b"], ["c"]], ">"), ([["a", "b", "c"]], "<>")])
def test_what_does_not_fit_together_is_refused(rows, sides):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        columns(rows, sides)
