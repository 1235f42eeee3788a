"""Attacks by files that would run code, write outside their folder, or put markup and paths where names belong."""

import json
import os
import pathlib
import pickle
import shutil
import sys
import zipfile

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore.mindrecord import FileWriter
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.data.records.integrity import load_manifest, record_files
from mindfcn.data.records.mindrecord import write_records
from mindfcn.data.samples import Sample
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.images import decode_image, decode_photograph, read_mask_image, read_palette_mask
from mindfcn.storage.weight_files.read import read_weights
from mindfcn.weights.card import CARD, Card
from mindfcn.weights.checkpoint import load_checkpoint, save_checkpoint

EVIL = '<img src=x onerror=alert(1)>&"\'<script>alert(2)</script>'
MARK = "a file that an attack would have made"


class Attack:
    """Pickled, it calls open(path, "w") where it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def made(tmp_path):
    """Path of a file that no attack may create."""
    path = tmp_path / MARK
    yield path
    assert not path.exists()


def refused(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------ pickles

def test_the_attack_works_on_a_careless_reader(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / MARK))).close()
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda attack: attack, lambda attack: {"state_dict": attack},
                                  lambda attack: {"w": np.zeros(2), "x": [attack]}], ids=["bare", "dict", "array"])
def test_pth(tmp_path, made, protocol, wrap):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(wrap(Attack(made)), protocol))
        archive.writestr("archive/data/0", bytes(16))
    refused(read_weights, path)
    # without the zip archive, and as the tar file of very old releases
    path.write_bytes(pickle.dumps(wrap(Attack(made)), protocol))
    refused(read_weights, path)


# Calls of allowed functions with arguments that torch.save never writes, and calls of functions that are not allowed.
OPCODES = [b"cos\nsystem\n(S'touch x'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.",
           b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
           b"ccollections\nOrderedDict\n)\x81.", b"(S'x'\ni__builtin__\neval\n.", b"\x82\x01.",
           b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\ntR.", b"ccollections\nOrderedDict.__init__\n)R.",
           b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R.", b"}\x8c\x01ac os\nsystem\ns.", b"Pid\n.",
           b"ccollections\nOrderedDict\n)R}\x8c\x09__class__c__builtin__\neval\nsb.", b"N.", b"", b"."]


@pytest.mark.parametrize("opcodes", OPCODES)
def test_pth_opcodes(tmp_path, opcodes):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + opcodes)
    before = set(sys.modules)
    assert str(path) in refused(read_weights, path)
    assert not {"os.system", "torch"} & (set(sys.modules) - before)


def test_npz(tmp_path, made):
    path = tmp_path / "w.npz"
    np.savez(path, good=np.zeros(3), bad=np.array([Attack(made)], object))
    assert "Python objects" in refused(read_weights, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad.npy", pickle.dumps(Attack(made)))
    refused(read_weights, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("attack.pkl", pickle.dumps(Attack(made)))
    assert "attack.pkl" in refused(read_weights, path)


def test_ckpt_and_onnx_are_never_unpickled(tmp_path, made):
    for suffix in (".ckpt", ".safetensors", ".caffemodel"):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(pickle.dumps(Attack(made)))
        assert str(path) in refused(read_weights, path)


# --------------------------------------------------------------------------------------------------------- YAML

@pytest.mark.parametrize("text", ["names: [!!python/object/apply:builtins.open ['{path}', w]]",
                                  "!!python/object/new:builtins.open ['{path}', w]", "names: !!python/name:os.system",
                                  "names: !!python/module:os", "names: [!!python/tuple [a]]"])
def test_yaml(tmp_path, made, capsys, text):
    text = text.format(path=made)
    for name in ("labels.yaml", "settings.yaml"):
        (tmp_path / name).write_text(text)
    assert "labels.yaml" in refused(LabelSet.load, tmp_path / "labels.yaml")
    assert main(["train", "--config", str(tmp_path / "settings.yaml")]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and "settings.yaml" in output


def test_the_yaml_attack_works_on_a_careless_reader(tmp_path):
    yaml.unsafe_load(f"!!python/object/apply:builtins.open ['{tmp_path / MARK}', w]").close()
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize("text", ["optim:\n  class_path: os.system\n  init_args: {command: 'touch x'}",
                                  "class_path: subprocess.Popen", "optim: {__class__: os.system}"])
def test_settings_cannot_name_python_classes(tmp_path, capsys, text):
    (tmp_path / "a.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "a.yaml")]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and "there is no setting" in output and "a.yaml" in output


# ------------------------------------------------------------------------------------------------------- images

def test_images_that_start_programs(tmp_path, monkeypatch):
    """Pillow hands PostScript to ghostscript, whatever the file is called."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > '{tmp_path / MARK}'\n")
    (tmp_path / "gs").chmod(0o755)
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(OSError):
        Image.open(path).load()
    assert (tmp_path / MARK).exists(), "the attack works on a careless reader"
    (tmp_path / MARK).unlink()
    data = path.read_bytes()
    for read in (lambda: decode_photograph(data, str(path)), lambda: decode_image(data, str(path)),
                 lambda: read_mask_image(path)):
        assert str(path) in refused(read)
    assert not (tmp_path / MARK).exists()


# ------------------------------------------------------------------------------------------------ paths in names

@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "a\\b", "a\0b"])
def test_lists_cannot_name_files_outside_the_folder(sample_records, tmp_path, name):
    root = tmp_path / "set"
    shutil.copytree(sample_records / "source", root)
    path = next(root.rglob("train.txt"))
    path.write_text(path.read_text() + name + "\n")
    assert "not an image name" in refused(list_voc, root, "train")


def test_a_manifest_cannot_delete_files_outside_the_folder(sample_records, tmp_path):
    """`prepare --overwrite` removes the files of the records before: but none that a foreign manifest names."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    folder = tmp_path / "records"
    shutil.copytree(sample_records / "records", folder)
    path = folder / "val.mindrecord"
    for name in ("../precious", str(precious)):
        manifest = json.loads((sample_records / "records" / "val.mindrecord.json").read_text())
        manifest["files"][name] = 1
        for key in ("checksum", "checksums"):
            manifest.pop(key)
        (folder / "val.mindrecord.json").write_text(json.dumps(manifest))
        assert load_manifest(path) is None and "damaged" in refused(record_files, path)
        samples = list_voc(sample_records / "source", "val")
        assert write_records(samples, path, SAMPLE, overwrite=True).written == 3 and precious.exists()


def records_named(path, names):
    """MindRecord of photographs with these names."""
    source = path.parent / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(source)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path.parent / "mask.png")
    write_records([Sample(name, str(source), str(path.parent / "mask.png"), read_palette_mask) for name in names], path,
                  EVIL_LABELS)
    return path


EVIL_LABELS = LabelSet((EVIL, "../../up", "/etc/passwd"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def test_eval_of_hostile_names(tmp_path, tiny, capsys):
    """Names of classes and of photographs, from records and cards: no markup in the page, no path outside."""
    inside = tmp_path / "inside"
    inside.mkdir()
    path = records_named(inside / "val.mindrecord", [EVIL, "../../../escaped", "/tmp/escaped", "..", "a\nb", "%00"])
    checkpoint = inside / "net.ckpt"
    model = {"name": "fcn32s_vgg16", "width": 0.125, "fc_width": 8}
    save_checkpoint(checkpoint, tiny("fcn32s_vgg16"), Card(model, EVIL_LABELS))
    before = {*pathlib.Path("/tmp").glob("escaped*"), *tmp_path.iterdir()}
    assert main(["eval", "--checkpoint", str(checkpoint), "--records", str(path), "--out", str(inside / "out"),
                 "--device", "CPU"]) == 0, capsys.readouterr().err
    assert {*pathlib.Path("/tmp").glob("escaped*"), *tmp_path.iterdir()} == before
    written = [file.name for file in (inside / "out").rglob("*.jpg")]
    assert written and all(letter.isalnum() or letter in "-_." for name in written for letter in name)
    page = (inside / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;alert" in page


def test_names_of_photographs_stay_in_the_output_folder(tmp_path, color_net, capsys):
    """predict: file names with markup, dots, a leading dash, and of shells and terminals."""
    names = [EVIL.replace("/", "_") + ".png", "...png", "-rf.png", "a;b $(touch x) `y`.png", "a%2f..%2fb.png",
             "a\u202egnp.png", "con.png"]
    for name in names:
        Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / name, "PNG")
    out = tmp_path / "out"
    assert main(["predict", "--checkpoint", str(color_net), "--out", str(out), "--device", "CPU",
                 *(str(tmp_path / name) for name in names)]) == 0, capsys.readouterr().err
    assert len(list(out.iterdir())) == 2 * len(names) and sorted(os.listdir(tmp_path)) == sorted([*names, "out"])


@pytest.mark.parametrize("name", ["a\x1b[31mred", "a\nb", "a\u202eb", "a\x00b"])
def test_class_names_hold_no_terminal_control_characters(name):
    assert "cannot be printed" in refused(lambda: LabelSet((name,), ((0, 0, 0),)))


# ------------------------------------------------------------------------------------------------------- records

def test_records_with_other_columns_or_types(tmp_path, capsys, tiny):
    """A MindRecord is plain data: only three columns are read."""
    path = tmp_path / "a.mindrecord"
    writer = FileWriter(str(path))
    writer.add_schema({"file_name": {"type": "int32"}, "data": {"type": "bytes"}, "label": {"type": "bytes"}}, "x")
    writer.write_raw_data([{"file_name": 7, "data": pickle.dumps(Attack(tmp_path / MARK)), "label": b"1"}])
    writer.commit()
    model = {"name": "fcn32s_vgg16", "width": 0.125, "fc_width": 8}
    save_checkpoint(tmp_path / "net.ckpt", tiny("fcn32s_vgg16"), Card(model, EVIL_LABELS))
    assert main(["eval", "--checkpoint", str(tmp_path / "net.ckpt"), "--records", str(path), "--device", "CPU",
                 "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith("mindfcn eval: ") and "a.mindrecord" in output and not (tmp_path / MARK).exists()


def test_a_broken_card_is_refused(tmp_path, tiny):
    path = tmp_path / "net.ckpt"
    for text in ("[]", "7", "null", '"x"', "{}", "[" * 100_000, '{"model": 7}', "not JSON"):
        ms.save_checkpoint([{"name": "a", "data": ms.Tensor(np.zeros(1, np.float32))}], str(path),
                           append_dict={CARD: text}, crc_check=True)
        assert str(path) in refused(load_checkpoint, path)
        os.chmod(path, 0o600)
