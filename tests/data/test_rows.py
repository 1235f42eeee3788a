"""Reading of samples in several processes: the same records, and one clear line where a process fails."""

import dataclasses
import multiprocessing
import os
import pathlib
import time

import numpy as np
import pytest
from PIL import Image

from mindfcn.data.records import rows
from mindfcn.data.sources.folder import list_folder
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

LABELS = LabelSet(["ground", "roof", "tree"], [(0, 0, 0), (200, 10, 10), (10, 200, 10)])


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """24 pairs of which one cannot be read, one has an unknown class, and one has another palette than those before."""
    random = np.random.default_rng(1)
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for number in range(24):
        mask = Image.fromarray(random.integers(0, 3, (20 + number, 30), np.uint8))
        colors = np.array([*LABELS.colors, (9, 9, 9)], np.uint8)
        if number == 13:
            colors[1] = 77, 77, 77
        if number == 9:
            mask.putpixel((3, 2), 3)
        mask.putpalette(colors.tobytes())
        mask.save(tmp_path / "mine" / "masks" / f"{number:02d}.png")
        Image.fromarray(random.integers(0, 256, (20 + number, 30, 3), np.uint8)).save(
            tmp_path / "mine" / "images" / f"{number:02d}.jpg")
    (tmp_path / "mine" / "images" / "05.jpg").write_bytes(b"no photograph")
    # Few samples for each process, so that all of them read.
    monkeypatch.setattr(rows, "CHUNK", 1)
    monkeypatch.setattr(rows, "MIN_SHARE", 1)
    return list_folder(str(tmp_path / "mine"), "train", LABELS, val_fraction=0.1)


def test_records_have_the_same_bytes_for_any_number_of_processes(samples, tmp_path):
    from mindfcn.data.records.mindrecord import read_manifest, read_records, write_records
    found = []
    for processes in (1, 3):
        path = tmp_path / str(processes) / "train.mindrecord"
        # As of a new data set: the palettes of the last one are forgotten.
        samples[0].read_label._colors.clear()
        summary = write_records(samples, path, LABELS, skip_bad=True, processes=processes)
        manifest = read_manifest(path)
        found.append((path.read_bytes(), list(read_records(path)), summary.skipped,
                      {name: manifest[name] for name in ("count", "identity", "pixels", "inner")}))
    assert found[0] == found[1]
    assert [os.path.basename(path) for path, _ in found[0][2]] == ["05.jpg", "09.png", "13.png"]
    assert "(77, 77, 77)" in found[0][2][2][1] and found[0][3]["count"] == len(samples) - 3


def test_a_bad_pair_stops_the_processes_with_the_message_of_one(samples, tmp_path):
    from mindfcn.data.records.mindrecord import write_records
    messages = []
    for processes in (1, 2):
        with pytest.raises(UserError, match="05.jpg") as error:
            write_records(samples, tmp_path / "records" / "a", LABELS, processes=processes)
        messages.append(str(error.value))
    assert messages[0] == messages[1] and os.listdir(tmp_path / "records") == []
    assert not multiprocessing.active_children()


def noted(path):
    """Read a photograph slowly, and leave a file that tells so."""
    pathlib.Path(f"{path}.read").touch()
    time.sleep(0.1)
    return pathlib.Path(path).read_bytes()


def test_what_no_process_has_begun_is_not_read_after_an_interruption(samples, tmp_path):
    """Sixteen samples are waiting when the first one has been read."""
    found = rows.read_rows([dataclasses.replace(sample, read_image=noted) for sample in samples], LABELS, 1 << 20,
                           processes=2)
    next(found)
    found.close()
    assert 1 <= len(list((tmp_path / "mine" / "images").glob("*.read"))) < 8
    assert not multiprocessing.active_children()


def ended(path):
    """End the process, as the system does where memory does not suffice."""
    if multiprocessing.parent_process():
        os._exit(9)
    raise AssertionError("read in the first process")


def mistaken(path):
    raise ZeroDivisionError("a mistake")


@pytest.mark.parametrize("read, kind, words", [
    (ended, UserError, "mine/images/.*.jpg .* was ended, perhaps because the memory .* use fewer --processes"),
    (mistaken, RuntimeError, "mine/images/.*.jpg, .*png: ZeroDivisionError: a mistake")])
def test_a_process_that_fails_is_named_with_its_photograph(samples, read, kind, words):
    broken = [dataclasses.replace(sample, read_image=read) for sample in samples]
    with pytest.raises(kind, match=words):
        list(rows.read_rows(broken, LABELS, 1 << 20, processes=2))


def test_copies_of_a_reader_know_what_shades_mean(tmp_path):
    """Black and white masks are colours only if all masks of the data set are."""
    import pickle
    labels = LabelSet(["black", "white"], [(0, 0, 0), (255, 255, 255)])
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, values in enumerate(([0, 255], [0, 1])):
        Image.new("RGB", (2, 1)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "masks" / f"{number}.png")
        read = list_folder(str(tmp_path), "train", labels, val_fraction=0)[0].read_label
        first = str(tmp_path / "masks" / "0.png")
        assert pickle.loads(pickle.dumps(read))(first).tolist() == [[[0, 1]], [[0, 255]]][number]
        assert read(first).tolist() == [[[0, 1]], [[0, 255]]][number]
