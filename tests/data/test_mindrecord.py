"""Samples to MindRecord and back, against the source files' own bytes."""

import io
import os
import pathlib
import shutil
import subprocess
import sys

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.mindrecord import FileWriter
from PIL import Image

from mindfcn.data.records import mindrecord
from mindfcn.data.records.integrity import count_records, record_files
from mindfcn.data.records.mindrecord import read_manifest, read_records, write_records
from mindfcn.data.samples import Sample
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE, draw_sample_set
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.images import read_palette_mask


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "set"
    draw_sample_set(root, 50, 48, 1)
    return list_voc(root, "train")


def copied(samples, folder, count=4):
    """The first samples with files of their own, to be damaged."""
    shutil.copytree(os.path.dirname(os.path.dirname(samples[0].image)), folder)
    return list_voc(folder, "train")[:count]


def state(folder):
    return {name: (os.stat(os.path.join(folder, name)).st_mtime_ns, os.path.getsize(os.path.join(folder, name)))
            for name in os.listdir(folder)}


@pytest.mark.parametrize("shards, folder", [(1, "records"), (3, "records"), (11, "aufnahmen ä 図")])
def test_round_trip_is_bit_equal(samples, tmp_path, shards, folder):
    path = tmp_path / folder / "train.mindrecord"
    assert write_records(samples, path, SAMPLE, shards) == mindrecord.RecordSummary(40, [], False)
    rows = list(read_records(path))
    assert sorted(row[0] for row in rows) == [sample.name for sample in samples]
    by_name = {sample.name: sample for sample in samples}
    for name, data, label in rows:
        assert data == pathlib.Path(by_name[name].image).read_bytes()
        png = Image.open(io.BytesIO(label))
        assert png.mode == "L" and (np.array(png) == np.array(Image.open(by_name[name].label))).all()
    files = record_files(path)
    assert len(files) == shards and count_records(path) == 40
    dataset = ds.MindDataset(files, ["file_name", "data", "label"], num_parallel_workers=1, shuffle=False)
    names = [str(row["file_name"]) for row in dataset.create_dict_iterator(num_epochs=1, output_numpy=True)]
    assert sorted(names) == [sample.name for sample in samples]
    assert len(os.listdir(path.parent)) == 2 * shards + 1


def test_order_is_kept_in_one_file(samples, tmp_path):
    write_records(samples, tmp_path / "a", SAMPLE)
    assert [row[0] for row in read_records(tmp_path / "a")] == [sample.name for sample in samples]


def test_bytes_after_the_image_are_kept(samples, tmp_path):
    corrupted = copied(samples, tmp_path / "set", 2)
    data = pathlib.Path(corrupted[0].image).read_bytes() + bytes(7)
    pathlib.Path(corrupted[0].image).write_bytes(data)
    write_records(corrupted, tmp_path / "a", SAMPLE)
    assert next(read_records(tmp_path / "a"))[1] == data


def test_a_second_run_changes_nothing(samples, tmp_path):
    path = tmp_path / "records" / "train.mindrecord"
    write_records(samples, path, SAMPLE)
    before = state(path.parent)
    assert write_records(samples, path, SAMPLE) == mindrecord.RecordSummary(40, [], True)
    assert state(path.parent) == before
    assert read_manifest(path)["count"] == 40 and read_manifest(path)["labels"] == SAMPLE.to_dict()


def test_touched_files_of_the_same_contents_are_the_same(samples, tmp_path):
    mine = copied(samples, tmp_path / "set")
    write_records(mine, tmp_path / "a", SAMPLE)
    os.utime(mine[0].image, (1, 1))
    assert write_records(mine, tmp_path / "a", SAMPLE).reused
    mask = np.array(Image.open(mine[0].label))
    mask[0, 0] = (mask[0, 0] + 1) % 7
    Image.fromarray(mask).save(mine[0].label)
    with pytest.raises(UserError, match="--overwrite"):
        write_records(mine, tmp_path / "a", SAMPLE)


def test_other_samples_labels_or_shards_need_overwrite(samples, tmp_path):
    path = tmp_path / "records" / "a"
    write_records(samples, path, SAMPLE, 3)
    more = LabelSet([*SAMPLE.names, "moon"], [*SAMPLE.colors, (9, 9, 9)])
    before = state(path.parent)
    for arguments in ((samples[1:], path, SAMPLE, 3), (samples, path, more, 3), (samples, path, SAMPLE, 1)):
        with pytest.raises(UserError, match="--overwrite"):
            write_records(*arguments)
    assert state(path.parent) == before
    assert write_records(samples[:5], path, more, 1, overwrite=True).written == 5
    assert sorted(os.listdir(path.parent)) == ["a", "a.db", "a.json"] and count_records(path) == 5


def test_more_shards_than_records_are_refused(samples, tmp_path):
    with pytest.raises(UserError, match="4 shards .* gets 3 records"):
        write_records(samples[:3], tmp_path / "a", SAMPLE, 4)
    assert not os.listdir(tmp_path)


def damage(sample, kind):
    """Damage a pair; returns the file to be named and a word of the reason."""
    if kind == "class":
        mask = np.array(Image.open(sample.label))
        mask[3, 2] = 77
        Image.fromarray(mask).save(sample.label)
        return sample.label, "77 at row 3, column 2"
    if kind == "size":
        Image.fromarray(np.zeros((5, 6), np.uint8)).save(sample.label)
        return sample.label, "6x5"
    if kind == "no mask":
        os.remove(sample.label)
        return sample.label, "No such file"
    data = pathlib.Path(sample.image).read_bytes()
    pathlib.Path(sample.image).write_bytes(data[:len(data) // 2] if kind == "cut" else b"<html>")
    return sample.image, "incomplete" if kind == "cut" else "not an image"


@pytest.mark.parametrize("kind", ["class", "size", "no mask", "cut", "html"])
def test_bad_pairs_stop_or_are_left_out(samples, tmp_path, kind):
    mine = copied(samples, tmp_path / "set")
    file, reason = damage(mine[1], kind)
    path = tmp_path / "records" / "a"
    with pytest.raises(UserError, match="--skip-bad") as error:
        write_records(mine, path, SAMPLE)
    assert file in str(error.value) and reason in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(path.parent) == []
    summary = write_records(mine, path, SAMPLE, skip_bad=True)
    assert summary.written == 3 and [entry[0] for entry in summary.skipped] == [file]
    assert reason in summary.skipped[0][1]
    assert [row[0] for row in read_records(path)] == [mine[0].name, mine[2].name, mine[3].name]
    assert write_records(mine, path, SAMPLE, skip_bad=True).skipped == summary.skipped


def test_nothing_good_or_nothing_at_all(samples, tmp_path):
    mine = copied(samples, tmp_path / "set", 1)
    damage(mine[0], "html")
    for chosen in (mine, []):
        with pytest.raises(UserError):
            write_records(chosen, tmp_path / "records" / "a", SAMPLE, skip_bad=True)
    assert os.listdir(tmp_path / "records") == []


def test_exif_turned_photographs_fit_their_masks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.zeros((16, 8), np.uint8)).save(tmp_path / "a.png")
    sample = Sample("a", str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), read_palette_mask)
    assert write_records([sample], tmp_path / "r", SAMPLE).written == 1


def test_photographs_larger_than_a_small_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.bmp")
    Image.fromarray(np.zeros((2000, 1700), np.uint8)).save(tmp_path / "a.png")
    sample = Sample("a", str(tmp_path / "a.bmp"), str(tmp_path / "a.png"), read_palette_mask)
    write_records([sample] * 4, tmp_path / "r", SAMPLE)
    assert [row[1] for row in read_records(tmp_path / "r")] == [pathlib.Path(tmp_path / "a.bmp").read_bytes()] * 4


KILLED = """
import os, sys
from mindfcn.data.records import mindrecord, rows
from mindfcn.data.sources import voc
from mindfcn.data.synthetic.shapes import SAMPLE

class Death:
    def __init__(self, real, calls):
        self.real, self.calls = real, int(calls)

    def __call__(self, *arguments, **options):
        self.calls -= 1
        if self.calls < 0:
            os._exit(9)
        return self.real(*arguments, **options)

samples = voc.list_voc(sys.argv[1], "train")
for case in sys.argv[2:]:
    name, calls, path = case.split(":")
    child = os.fork()
    if not child:
        owner = mindrecord.os if name == "replace" else rows
        setattr(owner, name, Death(getattr(owner, name), calls))
        mindrecord.write_records(samples, path, SAMPLE, 2, overwrite=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, case
"""


@pytest.fixture(scope="module")
def killed(samples, tmp_path_factory):
    """Records that processes wrote until they died, as by a power cut: {where: path}; "over" wrote over older ones."""
    folder = tmp_path_factory.mktemp("killed")
    paths = {name: folder / name / "a" for name in ("read_row", "replace", "over")}
    write_records(samples[:5], paths["over"], SAMPLE, 2)
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(mindrecord.__file__))))
    environment = dict(os.environ, PYTHONPATH=source, GLOG_v="3")
    # One process imports MindSpore, and one for each case is copied from it.
    subprocess.run([sys.executable, "-c", KILLED, os.path.dirname(os.path.dirname(samples[0].image)),
                    f"read_row:20:{paths['read_row']}", f"replace:3:{paths['replace']}", f"replace:3:{paths['over']}"],
                   env=environment, check=True)
    return paths


def test_overwriting_killed_between_two_moves_is_finished_by_the_next_run(samples, killed):
    path = killed["over"]
    assert "a.json" not in os.listdir(path.parent)
    assert write_records(samples, path, SAMPLE, 2).reused and count_records(path) == 40


@pytest.mark.parametrize("where", ["read_row", "replace"])
def test_a_killed_run_leaves_nothing_half_written(samples, killed, where):
    """Killed while writing, or (after the manifest was made) between two of the final moves."""
    path = killed[where]
    assert read_manifest(path) is None
    if where == "read_row":
        assert os.listdir(path.parent) == [".partial-a"]
    summary = write_records(samples, path, SAMPLE, 2)
    assert summary.written == 40 and summary.reused == (where == "replace")
    assert sorted(os.listdir(path.parent)) == ["a.json", "a0", "a0.db", "a1", "a1.db"]
    assert sorted(row[0] for row in read_records(path)) == [sample.name for sample in samples]


def write_foreign(path, columns=("file_name", "data", "label")):
    writer = FileWriter(str(path))
    writer.add_schema({name: {"type": "string" if name == "file_name" else "bytes"} for name in columns}, "x")
    writer.write_raw_data([{name: "one" if name == "file_name" else b"1" for name in columns}])
    writer.commit()


def test_a_file_without_manifest_is_read_but_not_overwritten(samples, tmp_path):
    path = tmp_path / "mindname.mindrecord"
    write_foreign(path)
    assert record_files(path) == [str(path)] and count_records(path) == 1
    assert list(read_records(path)) == [("one", b"1", b"1")] and read_manifest(path) is None
    with pytest.raises(UserError, match="--overwrite"):
        write_records(samples, path, SAMPLE)
    assert count_records(path) == 1
    assert write_records(samples, path, SAMPLE, 2, overwrite=True).written == 40 and count_records(path) == 40


def test_broken_records_are_named_in_one_line(samples, tmp_path):
    write_records(samples[:4], tmp_path / "a", SAMPLE, 2)
    for part in ("a0", "a0.db", "a1", "a1.db"):
        shutil.copy(tmp_path / part, tmp_path / ("copy_of_" + part))
    (tmp_path / "text").write_text("no record at all")
    write_foreign(tmp_path / "columns", ("file_name", "data"))
    write_foreign(tmp_path / "index")
    (tmp_path / "index.db").write_bytes(b"x" * 100)
    os.remove(tmp_path / "a1.db")
    for name, message in (("a", "a1.db is missing"), ("absent", "no MindRecord file"), ("text", "not a MindRecord"),
                          ("copy_of_a0", "was renamed from a0"), ("columns", "no column 'label'"),
                          ("index", "index.db is not the index")):
        with pytest.raises(UserError, match=message) as error:
            list(read_records(tmp_path / name))
        assert "\n" not in str(error.value) and name in str(error.value)


def test_folders_that_cannot_be_written_are_named(samples, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/a"):
        write_records(samples, tmp_path / "file" / "a", SAMPLE)
    with pytest.raises(UserError, match="cannot write"):
        write_records(samples, tmp_path / "a:b?", SAMPLE)


def test_progress_counts_every_sample(samples, tmp_path):
    seen = []
    write_records(samples, tmp_path / "a", SAMPLE, progress=lambda items: (seen.append(item) or item for item in items))
    assert seen == samples


@pytest.mark.parametrize("change", [
    lambda rows: rows[1:], lambda rows: [*rows, rows[0]], lambda rows: [rows[0], *rows[:-1]],
    lambda rows: [(rows[1][0], *rows[0][1:]), (rows[0][0], *rows[1][1:]), *rows[2:]],
    lambda rows: [(*rows[0][:2], rows[0][2] + b"x"), *rows[1:]],
    lambda rows: [(rows[0][0], bytes([rows[0][1][0] ^ 1]) + rows[0][1][1:], rows[0][2]), *rows[1:]]],
    ids=["one lost", "one twice", "one instead of another", "names swapped", "mask changed", "one bit flipped"])
def test_records_that_read_back_otherwise_are_not_published(samples, tmp_path, monkeypatch, change):
    real = mindrecord.read_records
    monkeypatch.setattr(mindrecord, "read_records",
                        lambda path, extras: change(list(real(path, extras))))
    with pytest.raises(UserError, match="records read back"):
        write_records(samples[:4], tmp_path / "a", SAMPLE)
    assert not any(tmp_path.iterdir())


def test_the_order_in_which_shards_are_read_back_does_not_matter(samples, tmp_path, monkeypatch):
    real = mindrecord.read_records
    monkeypatch.setattr(mindrecord, "read_records", lambda path, extras: list(real(path, extras))[::-1])
    assert write_records(samples[:4], tmp_path / "a", SAMPLE).written == 4
