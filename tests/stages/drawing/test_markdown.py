"""Markdown tables: with any text in its cells a row is one line with one cell a column."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.drawing.markdown import markdown_row, markdown_table, plain

UNESCAPED_PIPE = re.compile(r"(?<!\\)\|")


def test_a_table_is_a_heading_a_rule_and_rows():
    text = markdown_table(("name", "value"), [("psnr", 12.5), ("clips", 3)])
    assert text == "| name | value |\n|---|---|\n| psnr | 12.5 |\n| clips | 3 |"


def test_without_rows_only_the_heading_is_left():
    assert markdown_table(("", "now"), []) == "|  | now |\n|---|---|"


def test_pipes_are_escaped_and_line_breaks_become_spaces():
    assert (
        markdown_row(("a|b", "two\nlines", "two\r\nlines")) == r"| a\|b | two lines | two lines |"
    )


cells = st.text(st.characters(exclude_characters="\\"))


@given(st.lists(st.tuples(cells, cells, cells), max_size=4))
def test_any_text_stays_in_its_row_and_column(rows):
    lines = markdown_table(("a", "b", "c"), rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(len(UNESCAPED_PIPE.findall(line)) == 4 for line in lines)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        markdown_table(("a", "b"), [("only one",)])


def test_foreign_text_is_no_markup():
    assert plain("a.b = [1, 2]") == "a.b = \\[1, 2\\]"
    shown = plain("![x](http://there/y.png) <img src=x> `c` **b**")
    assert not re.search(r"(?<!\\)[\[\]<>`*]", shown)
