import numpy as np
import pytest

from mindfcn.report.tables import class_table, text_table


def test_class_table_reads_as_written_by_hand():
    nan = np.nan
    table = class_table(("background", "cat", "cow"), np.array([0.5, 1, nan]), [0.25, 0.98765, nan], [0.9, 0.1, 0])
    assert table.splitlines() == [
        "class        IoU %  accuracy %  share of pixels %",
        "----------  ------  ----------  -----------------",
        "background   50.00       25.00              90.00",
        "cat         100.00       98.77              10.00",
        "cow              -           -               0.00",
    ]


def test_words_stand_left_and_numbers_right():
    table = text_table(("name", "what", "n"), [("a", "long word", 5), ("bb", "x", 1000)])
    assert table.splitlines() == [
        "name  what          n",
        "----  ---------  ----",
        "a     long word     5",
        "bb    x          1000",
    ]


def test_chinese_characters_count_two_columns():
    lines = text_table(("class", "n"), [("背景", 1), ("cats", 2)]).splitlines()
    assert lines[2] == "背景   1" and lines[3] == "cats   2"


def test_a_name_with_a_line_break_stays_on_one_line():
    assert len(text_table(("class", "n"), [("a\nb", 1)]).splitlines()) == 3


def test_a_table_without_rows_is_its_header():
    assert text_table(("class", "n"), []).splitlines() == ["class  n", "-----  -"]


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        text_table(("class", "n"), [("a",)])
