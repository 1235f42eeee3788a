"""Checkpoints: weights, card and state are read back unchanged; a failed write keeps the old file."""

import os
import resource

import mindspore as ms
import numpy as np
import pytest
from helpers import one_line, parameters

from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE, Preprocess
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint
from mindfcn.weights.load import load_weights

PAPER, COURSE_FORM = "fcn8s_vgg16", "fcn8s_vgg16_bn"
TINY = {"fc_width": 8, "width": 0.0625}
LABELS = LabelSet(("背景", "Straße", "сад \"4\""), ((0, 0, 0), (200, 10, 5), (1, 2, 255)), 254)

pytestmark = pytest.mark.usefixtures("pynative")


def full_card(name=PAPER):
    return Card({"name": name, **TINY}, LABELS, Preprocess("RGB", (1.5, 2, 3), (4, 5, 6.25)), "prüf 图.mindrecord",
                {"epoch": 3, "step": 12, "metrics": {"mean IoU": 0.5}, "settings": {"note": "\"\n é"}})


@pytest.mark.parametrize("name", [PAPER, COURSE_FORM])
def test_round_trip(name, tmp_path):
    net, path = create_model(name, 3, **TINY), tmp_path / "ordner ä" / "last.ckpt"
    image = ms.Tensor(np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32))
    net.set_train(True)(image)
    random = np.random.default_rng(2)
    state = {"moments.conv1.0.weight": ms.Parameter(ms.Tensor(random.standard_normal((4, 3, 3, 3)), ms.float32)),
             "global_step": ms.Parameter(ms.Tensor([12], ms.int32))}
    save_checkpoint(path, net, full_card(name), state)
    assert os.listdir(path.parent) == ["last.ckpt"]
    weights, card, kept = load_checkpoint(path)
    assert card == full_card(name)
    assert sorted(weights) == sorted(parameters(net))
    for found, expected in ((weights, parameters(net)), (kept, {key: value.asnumpy() for key, value in state.items()})):
        assert sorted(found) == sorted(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
    other = create_model(card.model["name"], len(card.labels), **TINY)
    load_weights(other, weights, path)
    np.testing.assert_array_equal(other.set_train(False)(image).asnumpy(), net.set_train(False)(image).asnumpy())


def test_without_state_there_is_none(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", create_model(PAPER, 3, **TINY), full_card())
    assert load_checkpoint(tmp_path / "a.ckpt")[2] == {}


def test_mindspore_alone_reads_the_weights(tmp_path):
    net = create_model(COURSE_FORM, 3, **TINY)
    state = {"moments.x": ms.Parameter(ms.Tensor([1.0]))}
    save_checkpoint(tmp_path / "a.ckpt", net, full_card(COURSE_FORM), state)
    entries = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    missing, _ = ms.load_param_into_net(create_model(COURSE_FORM, 3, **TINY), entries)
    assert missing == [] and "training.moments.x" in entries


def test_the_defaults_of_a_card_are_the_courses():
    card = Card({"name": COURSE_FORM})
    assert card.labels == VOC and card.preprocess == COURSE
    again = Card.from_json(card.to_json(), "x")
    assert again == card and "\n" not in card.to_json()


@pytest.mark.parametrize("classes", [21, 4])
def test_an_official_checkpoint_without_card_loads_strictly(classes, tmp_path):
    """The course's names and nothing else; class count and width are read from the shapes."""
    net = create_model(COURSE_FORM, classes, fc_width=8)
    ms.save_checkpoint(net, str(tmp_path / "FCN8s.ckpt"))
    weights, card, state = load_checkpoint(tmp_path / "FCN8s.ckpt", COURSE_FORM)
    assert state == {} and card.preprocess == COURSE and len(card.labels) == classes
    assert card.labels == VOC or classes != 21
    assert card.model == {"name": COURSE_FORM, "width": 1.0, "fc_width": 8}
    other = create_model(card.model.pop("name"), len(card.labels), **card.model)
    report = load_weights(other, weights, "FCN8s.ckpt")
    assert len(report.loaded) == len(parameters(net)) and not report.missing + report.unexpected + report.converted
    for name, value in parameters(net).items():
        np.testing.assert_array_equal(parameters(other)[name], value)


def test_without_card_a_network_must_be_named(tmp_path):
    ms.save_checkpoint(create_model(COURSE_FORM, 3, **TINY), str(tmp_path / "a.ckpt"))
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "a.ckpt")
    one_line(error, "a.ckpt", "--fallback_model")


def test_damaged_files_are_reported_in_one_line(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, create_model(PAPER, 3, **TINY), full_card())
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for number, content in enumerate((data[:len(data) // 2], data[:-1], bytes(flipped), b"")):
        (tmp_path / f"bad{number}.ckpt").write_bytes(content)
        with pytest.raises(UserError) as error:
            load_checkpoint(tmp_path / f"bad{number}.ckpt")
        one_line(error, f"bad{number}.ckpt")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "absent.ckpt")
    one_line(error, "absent.ckpt")


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '{"model": {}, "labels": {"names": []}}'])
def test_cards_that_cannot_be_read(text):
    with pytest.raises(UserError) as error:
        Card.from_json(text, "some.ckpt")
    one_line(error, "some.ckpt")


def test_a_failing_save_leaves_the_old_file(tmp_path):
    """The disk is full half-way, simulated by a limit on file size."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, create_model(PAPER, 3, **TINY), full_card())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            save_checkpoint(path, create_model(PAPER, 3, **TINY), full_card())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(error, "cannot write", "last.ckpt")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_places_that_cannot_be_written(tmp_path):
    net = create_model(PAPER, 3, **TINY)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.ckpt").mkdir()
    for path in (tmp_path / "file" / "a.ckpt", tmp_path / "folder.ckpt"):
        with pytest.raises(UserError) as error:
            save_checkpoint(path, net, full_card())
        one_line(error, "cannot write", str(path))
    assert (tmp_path / "file").read_text() == "x" and sorted(os.listdir(tmp_path)) == ["file", "folder.ckpt"]


def test_a_card_that_is_no_json_leaves_the_old_file(tmp_path):
    path, net = tmp_path / "last.ckpt", create_model(PAPER, 3, **TINY)
    save_checkpoint(path, net, full_card())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, net, Card({"name": PAPER}, training={"object": object()}))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_the_file_has_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "a.ckpt", create_model(PAPER, 3, **TINY), full_card())
    finally:
        os.umask(old)
    assert os.stat(tmp_path / "a.ckpt").st_mode & 0o777 == 0o640


def test_the_name_ends_in_ckpt(tmp_path):
    """With any other suffix MindSpore would write next to the file and leave it empty."""
    with pytest.raises(UserError) as error:
        save_checkpoint(tmp_path / "weights.bin", create_model(PAPER, 3, **TINY), full_card())
    one_line(error, "weights.bin", ".ckpt")
    assert os.listdir(tmp_path) == []
