"""Published figures: those of the papers' tables, under names that networks have."""

import pytest

from mindfcn.models.factory import split_name
from mindfcn.report.published import _PUBLISHED, published

# Long et al. 2015, table 2: pixel accuracy, mean accuracy, mean IU, frequency weighted IU.
TABLE_2 = {"fcn32s_fixed_vgg16": (83.0, 59.7, 45.4, 72.0), "fcn32s_vgg16": (89.1, 73.3, 59.4, 81.4),
           "fcn16s_vgg16": (90.0, 75.7, 62.4, 83.0), "fcn8s_vgg16": (90.3, 75.9, 62.7, 83.2)}
# Table 1: mean IU, millions of parameters, milliseconds.
TABLE_1 = {"fcn32s_caffenet": (39.8, 57, 50), "fcn32s_vgg16": (56.0, 134, 210), "fcn32s_googlenet": (42.5, 6, 59)}


def from_source(name, source):
    (row,) = [row for row in published(name) if row.source == source]
    return row


@pytest.mark.parametrize("name", TABLE_2)
def test_table_2(name):
    assert from_source(name, "CVPR 2015 table 2").metrics == TABLE_2[name]


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1(name):
    row = from_source(name, "CVPR 2015 table 1")
    assert (row.metrics[2], row.parameters, row.milliseconds) == TABLE_1[name]


def test_every_row_is_of_a_network_there_is():
    for name, rows in _PUBLISHED.items():
        split_name(name)
        assert rows and all(row.source and row.split and len(row.metrics) == 4 for row in rows)
        assert all(value is None or 0 < value < 100 for row in rows for value in row.metrics)


def test_a_network_nobody_published_has_no_row():
    assert published("fcn16s_vgg16_bn") == ()


def test_other_data_sets_have_their_own_rows():
    """The conference paper's tables 4 to 6."""
    row, = published("fcn32s_vgg16", 40, "rgb_hha")
    assert (row.source, row.split, row.metrics) == ("CVPR 2015 table 4", "NYUDv2 test", (64.3, 44.9, 32.8, 48.0))
    assert [published("fcn32s_vgg16", 40, kind)[0].metrics[2] for kind in ("rgb", "rgbd", "hha")] == [29.2, 30.5, 24.2]
    assert published("fcn8s_vgg16", 40, "rgb") == ()
    assert published("fcn16s_vgg16", 33)[0].metrics == (85.2, 51.7, 39.5, 76.1)
    assert [published(f"fcn{stride}_vgg16", 60)[0].metrics[2] for stride in ("32s", "16s", "8s")] == [31.8, 34.8, 35.1]
    assert [published(f"fcn{stride}_vgg16", 34)[0].metrics[2] for stride in ("32s", "16s", "8s")] == [50.4, 53.4, 53.5]
