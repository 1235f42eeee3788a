"""Published weights by name: the table, and fetching them from a server on this machine."""

import dataclasses
import hashlib
import pathlib
import re

import numpy as np
import pytest

from mindfcn.commands.weights import published_weights
from mindfcn.config import SMALL_NETWORK, WeightsConfig
from mindfcn.console import Console
from mindfcn.errors import UserError
from mindfcn.labels import VOC
from mindfcn.models.factory import BACKBONES, MODELS, split_name
from mindfcn.weights.catalogue import CATALOGUE, entry_of, fetch, locate
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.label_sets import ADE20K, CITYSCAPES, CONTEXT59, CONTEXT60

NAME = "fcn_resnet50_coco"
BODY = bytes(range(256)) * 900


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINDFCN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def published(file_server, home, monkeypatch):
    """Function (name, bytes, digits of the checksum) that puts a file in place of a published one on a local server."""
    def publish(name=NAME, body=BODY, digits=8):
        entry = CATALOGUE[name]
        file_server.files[entry.source.file_name] = body
        source = dataclasses.replace(entry.source, urls=(file_server.url(entry.source.file_name),),
                                     checksum="sha256:" + hashlib.sha256(body).hexdigest()[:digits])
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(entry, source=source))
        return CATALOGUE[name]
    return publish


def test_every_entry_names_a_network_and_its_classes():
    for name, entry in CATALOGUE.items():
        assert entry.name == name == entry.source.name
        for model in entry.model.split(", "):
            if entry.labels:
                split_name(model)
            else:
                assert model in (*BACKBONES, *MODELS)
        assert all(url.startswith("http") and url.endswith(entry.file_name) for url in entry.source.urls)
        assert bool(entry.source.urls) == (name != SMALL_NETWORK)
        assert entry.score and entry.licence
    files = [entry.file_name for entry in CATALOGUE.values()]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if "mmseg" in entry.licence
                                  or "torchvision" in entry.licence])
def test_the_file_name_holds_the_first_digits_of_the_checksum(name):
    source = CATALOGUE[name].source
    assert re.fullmatch(r"sha256:[0-9a-f]{8}", source.checksum)
    assert source.file_name.endswith(f"-{source.checksum[7:]}.pth")


def test_label_sets():
    assert [len(labels) for labels in (CITYSCAPES, ADE20K, CONTEXT60, CONTEXT59)] == [19, 150, 60, 59]
    assert (CITYSCAPES.names[13], CITYSCAPES.colors[13]) == ("car", (0, 0, 142))
    assert (ADE20K.names[2], ADE20K.colors[2], ADE20K.names[149]) == ("sky", (6, 230, 230), "flag")
    assert CONTEXT60.names[0] == "background" and CONTEXT59.names == CONTEXT60.names[1:]
    assert set(VOC.names) - set(CONTEXT60.names) == {"diningtable"}
    classes = {entry.source.file_name.rpartition("_20")[0].rpartition("k_")[2]: entry.labels
               for entry in CATALOGUE.values() if "mmseg" in entry.licence}
    assert classes == {"voc12aug": VOC, "cityscapes": CITYSCAPES, "ade20k": ADE20K, "pascal_context": CONTEXT60,
                       "pascal_context_59": CONTEXT59}


def test_fetched_once_and_used_offline_from_then_on(published, file_server, home):
    entry, lines = published(), []
    path = locate(NAME, Console(lines.append))
    assert path == str(home / entry.source.file_name) and (home / entry.source.file_name).read_bytes() == BODY
    assert lines == [f"fetching {NAME}, 135 MB: {entry.source.urls[0]} -> {path}"]
    assert locate(NAME) == path and locate(path) == path and len(file_server.requests) == 1
    assert entry_of(path) is entry


def test_a_cut_connection_is_continued(published, file_server):
    entry = published()
    file_server.cuts = [100_000]
    with open(fetch(entry), "rb") as file:
        assert file.read() == BODY
    assert file_server.requests[1]["Range"] == "bytes=100000-"


@pytest.mark.parametrize("digits", [8, 64])
def test_another_file_is_refused(published, file_server, home, digits):
    entry = published(digits=digits)
    file_server.files[entry.source.file_name] = BODY[::-1]
    with pytest.raises(UserError, match="the file's checksum is sha256:.*, expected sha256:") as error:
        locate(NAME)
    assert "\n" not in str(error.value) and not list(home.glob("*.pth"))


def test_a_file_put_there_by_hand_is_verified(published, file_server, home):
    entry = published()
    home.mkdir()
    place = home / entry.source.file_name
    place.write_bytes(BODY)
    assert locate(NAME) == str(place)
    place.write_bytes(BODY[:-1])
    with pytest.raises(UserError, match="is not the published file.*mindfcn weights fetch fcn_resnet50_coco"):
        locate(NAME)
    assert file_server.requests == []


def test_without_a_network_the_line_names_address_and_place(home, monkeypatch):
    entry = CATALOGUE[NAME]
    source = dataclasses.replace(entry.source, urls=("http://127.0.0.1:9/" + entry.source.file_name,))
    monkeypatch.setitem(CATALOGUE, NAME, dataclasses.replace(entry, source=source))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError) as error:
        locate(NAME)
    text = str(error.value)
    assert "\n" not in text and source.urls[0] in text and str(home / source.file_name) in text and "by hand" in text


def test_weights_without_a_network_are_refused_as_one(home):
    with pytest.raises(UserError, match="--model.pretrained vgg16_imagenet"):
        locate("vgg16_imagenet", network=True)
    with pytest.raises(UserError, match="--model.pretrained vgg16_imagenet"):
        home.mkdir()
        (home / "vgg16-397923af.pth").write_bytes(b"x")
        locate(home / "vgg16-397923af.pth", network=True)


def test_the_repositorys_own_network_is_found_from_any_folder(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = locate(SMALL_NETWORK, network=True)
    assert pathlib.Path(path) == pathlib.Path(__file__).parents[2] / "ckpt" / "fcn8s_vgg16_small.ckpt"
    assert pathlib.Path(path).stat().st_size <= 40e6
    weights, card, _ = load_checkpoint(path)
    assert {weight.dtype for weight in weights.values()} == {np.dtype(np.float16)}
    assert card.labels == VOC and card.shorter_side and not card.records and "settings" not in card.training
    home.mkdir()
    (home / "fcn8s_vgg16_small.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="not the published file"):
        locate(SMALL_NETWORK)
    (home / "fcn8s_vgg16_small.ckpt").unlink()
    monkeypatch.setattr("mindfcn.weights.catalogue.REPOSITORY", str(tmp_path))
    with pytest.raises(UserError, match="part of the repository.*--checkpoint fcn_resnet50_coco"):
        locate(SMALL_NETWORK)


def test_what_is_no_name_is_returned(home):
    assert locate("runs/sample/best.ckpt", network=True) == "runs/sample/best.ckpt"


def test_the_verb_lists_and_fetches(published, home):
    entry = published()
    listed = published_weights(WeightsConfig())
    rows = listed.table.splitlines()[2:]
    assert len(rows) == len(CATALOGUE) and " yes  " in rows[0] and all(re.search(r" no  ", row) for row in rows[1:])
    assert "60.5 mIoU" in rows[1] and "135" in rows[1]
    assert published_weights(WeightsConfig("fetch", [NAME])).fetched == [str(home / entry.source.file_name)]
    assert " yes  " in published_weights(WeightsConfig(names=[NAME])).table.splitlines()[2]
    with pytest.raises(UserError, match="'nothing'"):
        published_weights(WeightsConfig("fetch", ["nothing"]))
    with pytest.raises(UserError, match="one or more names"):
        published_weights(WeightsConfig("fetch"))


def test_the_labels_fit_the_ignore_label():
    for entry in CATALOGUE.values():
        if entry.labels:
            assert entry.labels.palette().shape == (256, 3) and np.all(np.array(entry.labels.colors) <= 255)


@pytest.mark.parametrize("page", ["zoo.md", "zoo_cn.md"])
def test_the_page_shows_the_catalogue(page):
    text = (pathlib.Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert list(rows) == sorted(CATALOGUE, key=lambda name: CATALOGUE[name].labels is None)
    for name, row in rows.items():
        entry = CATALOGUE[name]
        file, model, size, digits, score, licence = row.split(" | ")
        address = entry.source.urls[0] if entry.source.urls else f"../ckpt/{entry.file_name}"
        assert file == f"[{entry.file_name}]({address})"
        assert (model, score, licence) == (entry.model, entry.score, entry.licence)
        assert size == (f"{entry.megabytes:.0f}" if entry.megabytes else "-")
        kind, _, known = (entry.source.checksum or "-").partition(":")
        assert digits == "-" if kind == "-" else known.startswith(digits.split()[1].rstrip("…"))


def test_a_runs_folder_stands_for_its_best_checkpoint(tmp_path):
    with pytest.raises(UserError, match="folder without checkpoints"):
        locate(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"")
        assert locate(tmp_path) == locate(tmp_path / "checkpoints") == str(tmp_path / "checkpoints" / name)
