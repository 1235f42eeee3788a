"""Structured input by Hypothesis: whatever labels, settings, lists and cards hold is read or refused in one line."""

import json

import hypothesis
import numpy as np
import yaml
from hypothesis import strategies as st

from mindfcn.cli.parser import check_config_file
from mindfcn.config import PrepareConfig, TrainConfig
from mindfcn.data.samples import check_names
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import read_lines
from mindfcn.weights.card import Card

# Files are written into one folder; no deadline, because machines may be busy.
hypothesis.settings.register_profile("faults", deadline=None, max_examples=60, derandomize=True, database=None,
                                     suppress_health_check=list(hypothesis.HealthCheck))
FAULTS = hypothesis.settings.get_profile("faults")

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.text(max_size=4) | st.integers(), inner, max_size=4), max_leaves=12)
COLOUR = st.lists(st.integers(-1, 256) | st.integers(0, 255), min_size=2, max_size=4)
LABELS = st.fixed_dictionaries({"names": st.lists(st.text(max_size=6) | st.integers() | VALUES, max_size=5)},
                               optional={"colours": st.lists(COLOUR, max_size=5) | VALUES,
                                         "ignore_label": st.integers(-1, 300) | VALUES, "more": VALUES})

MODELS = st.fixed_dictionaries({"name": st.just("fcn32s_vgg16") | VALUES}, optional={
    "width": st.floats(0, 5) | VALUES, "fc_width": st.integers(-1, 2 ** 20) | VALUES})
PREPROCESS = st.fixed_dictionaries({"order": st.sampled_from(["BGR", "RGB"]) | VALUES,
                                    "mean": st.just([1, 2, 3]) | VALUES, "std": st.just([1, 1, 1]) | VALUES})
CARDS = st.fixed_dictionaries({"model": MODELS | VALUES, "labels": LABELS, "preprocess": PREPROCESS | VALUES,
                               "records": st.text(max_size=4) | VALUES, "training": st.just({}) | VALUES})


def one_line(error, path):
    assert str(path) in str(error) and "\n" not in str(error).strip(), str(error)


def labels_of(path):
    """The labels in a file, after checks of their invariants; None where they are refused."""
    try:
        labels = LabelSet.load(path)
    except UserError as error:
        return one_line(error, path)
    assert 1 <= len(labels) <= 255 and len(labels.colours) == len(labels) and len(labels) <= labels.ignore_label <= 255
    assert all(isinstance(name, str) and name.isprintable() for name in labels.names)
    assert labels.palette().dtype == np.uint8 and labels.palette().shape == (256, 3)
    return labels


@FAULTS
@hypothesis.given(value=LABELS | VALUES)
def test_labels_of_any_values(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "labels.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    labels = labels_of(path)
    if labels:
        labels.save(path)
        assert LabelSet.load(path) == labels


@FAULTS
@hypothesis.given(data=st.binary(max_size=60)
                  | st.text("[]{}:,-&*!?|>'\"%@`#\n\t ab1.~<=", max_size=60).map(str.encode))
def test_labels_and_settings_of_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    labels_of(path)
    try:
        check_config_file(str(path), TrainConfig)
    except UserError as error:
        one_line(error, path)


@FAULTS
@hypothesis.given(settings=st.dictionaries(
    st.sampled_from(["optim", "data", "augment", "seed", "run_dir", "class_path", "model"]) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(["lr", "epochs", "root", "crop_size"]) | st.text(max_size=5), VALUES, max_size=3)
    | VALUES, max_size=4))
def test_settings_of_any_values(tmp_path_factory, settings):
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    for config in (TrainConfig, PrepareConfig):
        try:
            check_config_file(str(path), config)
        except UserError as error:
            one_line(error, path)


@FAULTS
@hypothesis.given(data=st.binary(max_size=80) | st.lists(st.text(max_size=8), max_size=8).map(
    lambda lines: "\r\n".join(lines).encode("utf-8", "surrogatepass")))
def test_lists_of_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_bytes(data)
    try:
        names = read_lines(path)
        check_names(names, str(path))
    except UserError as error:
        one_line(error, path)
    else:
        assert len(set(names)) == len(names) > 0
        assert all(name == name.strip() and name and not set("/\\\0") & set(name) for name in names)


@FAULTS
@hypothesis.given(card=CARDS | VALUES)
def test_cards_of_any_values(card):
    try:
        found = Card.from_json(json.dumps(card, default=str), "net.ckpt")
    except UserError as error:
        one_line(error, "net.ckpt")
    else:
        assert isinstance(found.model["name"], str) and len(found.preprocess.mean) == 3
        assert 0 < (found.model.get("width") or 1) <= 4 and isinstance(found.training, dict)
