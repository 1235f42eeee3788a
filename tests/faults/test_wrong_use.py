"""What people do to data sets, checkpoints and paths, on the real verbs: noticed and named in one line, or it works."""

import os
import shutil

import cv2
import numpy as np
import pytest
import small_network  # noqa: F401  (its names of networks)
from mindspore.mindrecord import FileWriter
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.data.records.integrity import count_records
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.labels import LabelSet
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")

THREE = LabelSet(("sky", "road", "car"), ((0, 0, 0), (200, 0, 0), (0, 0, 200)))


@pytest.fixture
def run(capfd):
    """Function: arguments of mindfcn -> (status, the one line of its error, its output)."""
    def go(*arguments):
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        output = capfd.readouterr()
        assert "Traceback" not in output.err
        if status:
            assert output.err.startswith("mindfcn ") and output.err.count("\n") == 1, output.err
        return status, output.err, output.out
    return go


def own_set(root, count=6, labels=THREE, size=(24, 20)):
    """A user's own photographs and palette masks."""
    random = np.random.default_rng(1)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        width, height = size
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(root / "images" / f"p{number}.png")
        save_mask(root / "masks" / f"p{number}.png", random.integers(0, len(labels), (height, width)), labels)
    labels.save(root / "labels.yaml")
    return root


def save_mask(path, numbers, labels):
    mask = Image.fromarray(numbers.astype(np.uint8))
    mask.putpalette(labels.palette().ravel().tolist())
    mask.save(path)


def prepare_own(run, root, out, *more):
    return run("prepare", "--source", "folder", "--root", root, "--records", out, *more)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.ckpt"
    save_checkpoint(path, tiny("fcn32s_small"), Card({"name": "fcn32s_small", "width": 0.125, "fc_width": 8}, THREE))
    return path


# ------------------------------------------------------------------------------------------------------ classes

def test_a_checkpoint_of_other_classes(run, tmp_path, sample_records, checkpoint):
    records = sample_records / "records" / "val.mindrecord"
    status, output, _ = run("eval", "--checkpoint", checkpoint, "--records", records, "--out", tmp_path / "out")
    assert status == 1 and str(records) in output and str(checkpoint) in output and "sky, road, car" in output
    assert not (tmp_path / "out").exists()


def test_records_without_manifest_with_classes_that_the_checkpoint_does_not_have(run, tmp_path, checkpoint):
    """Without a manifest the classes are unknown until the masks are read; they would count as ignored."""
    path = tmp_path / "theirs.mindrecord"
    writer = FileWriter(str(path))
    writer.add_schema({"file_name": {"type": "string"}, "data": {"type": "bytes"}, "label": {"type": "bytes"}}, "x")
    image = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    mask = np.zeros((20, 30), np.uint8)
    for number, value in enumerate((2, 255, 17)):
        mask[4, 9] = value
        label = cv2.imencode(".png", mask)[1].tobytes()
        writer.write_raw_data([{"file_name": f"n{number}", "data": image, "label": label}])
    writer.commit()
    status, output, _ = run("eval", "--checkpoint", checkpoint, "--records", path, "--out", tmp_path / "out")
    assert status == 1 and str(path) in output and "17 at row 4, column 9: not a class of 0..2" in output


def test_a_mask_of_another_size_in_records_without_manifest(run, tmp_path, checkpoint):
    path = tmp_path / "theirs.mindrecord"
    writer = FileWriter(str(path))
    writer.add_schema({"file_name": {"type": "string"}, "data": {"type": "bytes"}, "label": {"type": "bytes"}}, "x")
    writer.write_raw_data([{"file_name": "n", "data": cv2.imencode(".png", np.zeros((20, 30, 3)))[1].tobytes(),
                            "label": cv2.imencode(".png", np.zeros((30, 20), np.uint8))[1].tobytes()}])
    writer.commit()
    status, output, _ = run("eval", "--checkpoint", checkpoint, "--records", path, "--out", tmp_path / "out")
    assert status == 1 and str(path) in output and "30x20 pixels but its mask 20x30" in output


def test_masks_out_of_range(run, tmp_path):
    root = own_set(tmp_path / "own")
    mask = np.zeros((20, 24))
    mask[3, 7] = 9
    save_mask(root / "masks" / "p2.png", mask, SAMPLE)
    for verb in (("prepare", "--source", "folder", "--root", root, "--records", tmp_path / "rec"),):
        status, output, _ = run(*verb)
        assert status == 1 and str(root / "masks" / "p2.png") in output and "9 at row 3, column 7" in output
    status, _, printed = run("inspect", root, "--out", tmp_path / "look")
    assert status == 1 and "p2" in printed and "9" in printed


def test_a_palette_unlike_the_labels(run, tmp_path):
    """Numbers 1 and 2 in each other's colours: one of the two files is wrong, which would go unnoticed."""
    root = own_set(tmp_path / "own")
    swapped = LabelSet(("sky", "car", "road"), (THREE.colors[0], THREE.colors[2], THREE.colors[1]))
    swapped.save(root / "labels.yaml")
    status, output, _ = prepare_own(run, root, tmp_path / "rec")
    assert status == 1 and str(root / "masks") in output
    assert "shows 1 (car) in (200, 0, 0), the colour of 2 (road)" in output
    assert prepare_own(run, root, tmp_path / "rec", "--mask_encoding", "palette")[0] == 0
    # a palette of colours that belong to no class is accepted
    LabelSet(THREE.names, ((9, 9, 9), (8, 8, 8), (7, 7, 8))).save(root / "labels.yaml")
    assert prepare_own(run, root, tmp_path / "rec2")[0] == 0


# -------------------------------------------------------------------------------------------------------- lists

@pytest.mark.parametrize("encode", [lambda text: text.replace("\n", "\r\n").encode(),
                                    lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
                                    lambda text: text.replace("\n", "  \n\n").encode(),
                                    lambda text: text.replace("\n", ".png\n").encode()],
                         ids=["crlf", "byte order mark", "spaces", "suffixes"])
def test_lists_from_windows(run, tmp_path, encode):
    root = own_set(tmp_path / "own")
    (root / "train.txt").write_bytes(encode("p0\np1\np2\np3\n"))
    (root / "val.txt").write_bytes(encode("p4\np5\n"))
    status, output, _ = prepare_own(run, root, tmp_path / "rec")
    assert status == 0, output
    assert [count_records(tmp_path / "rec" / f"{split}.mindrecord") for split in ("train", "val")] == [4, 2]


@pytest.mark.parametrize("lines, words", [
    ("p0\np1\np0\n", "'p0' is listed twice"), ("p0\np0.png\n", "'p0' is listed twice"), ("p0\np9\n", "p9"),
    ("", "names no image"), ("p0\n../p1\n", "are missing"), ("p0\nP1\n", "P1")])
def test_lists_that_do_not_fit(run, tmp_path, lines, words):
    root = own_set(tmp_path / "own")
    (root / "train.txt").write_text(lines)
    (root / "val.txt").write_text("p4\n")
    status, output, _ = prepare_own(run, root, tmp_path / "rec")
    assert status == 1 and words in output and str(root) in output
    assert not list(tmp_path.glob("rec/*.mindrecord"))


def test_a_list_in_utf_16(run, tmp_path):
    root = own_set(tmp_path / "own")
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("p0\n", encoding="utf-16")
    status, output, _ = prepare_own(run, root, tmp_path / "rec")
    assert status == 1 and "not a UTF-8 text file" in output and "train.txt" in output


# -------------------------------------------------------------------------------------------------------- paths

@pytest.mark.parametrize("folder", ["mit Leerzeichen", "Größe 図 данные", "a'b\"c;$(x)`y`", "[set] {1} *?", "#%3f&=+",
                                    "x" * 200, os.path.join(*["deep" * 15] * 4)],
                         ids=["spaces", "scripts", "shell", "glob", "uri", "long name", "long path"])
def test_folders_of_any_name(run, tmp_path, checkpoint, folder):
    root = own_set(tmp_path / folder / "own")
    status, output, _ = prepare_own(run, root, tmp_path / folder / "rec")
    assert status == 0, output
    net = tmp_path / folder / "net.ckpt"
    shutil.copy(checkpoint, net)
    status, output, _ = run("eval", "--checkpoint", net, "--records", tmp_path / folder / "rec" / "val.mindrecord",
                          "--out", tmp_path / folder / "evaluation", "--device", "CPU")
    assert status == 0 and (tmp_path / folder / "evaluation" / "metrics.json").exists(), output
    status, output, _ = run("predict", "--checkpoint", net, "--out", tmp_path / folder / "out", root / "images",
                          "--device", "CPU")
    assert status == 0 and len(list((tmp_path / folder / "out").iterdir())) == 12, output


def test_a_path_too_long_for_an_index(run, tmp_path):
    root = own_set(tmp_path / os.path.join(*["deep" * 20] * 12))
    status, output, _ = prepare_own(run, root, root / "rec")
    assert status == 1 and "too long a path" in output and not (root / "rec").exists()


@pytest.mark.skipif(os.name == "nt", reason="names of any bytes")
def test_a_name_that_is_not_utf8(run, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")
    status, output, _ = prepare_own(run, own_set(tmp_path / "own"), out)
    assert status == 1 and not os.path.exists(out)
    assert "is not UTF-8, which MindRecord needs" in output and "choose another folder" in output


def test_a_name_too_long_for_its_results(run, tmp_path, color_net):
    path = tmp_path / ("x" * 250 + ".png")
    Image.new("RGB", (8, 6)).save(path)
    status, _, said = run("predict", "--checkpoint", color_net, "--out", tmp_path / "out", path, "--device", "CPU")
    assert status == 1 and "File name too long" in said and "shorter name" in said
    assert not list((tmp_path / "out").iterdir())


def test_symbolic_links(run, tmp_path, color_net):
    """Of folders, of photographs, to nothing, and in a circle."""
    root = own_set(tmp_path / "real")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert prepare_own(run, tmp_path / "link", tmp_path / "rec")[0] == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to(root / "images" / "p0.png")
    predict = ("predict", "--checkpoint", color_net, "--device", "CPU", "--out")
    assert run(*predict, tmp_path / "out", tmp_path / "photos")[0] == 0
    # results into the folder that the photograph is linked from would replace it
    (tmp_path / "photos" / "p1.png").symlink_to(root / "images" / "p1.png")
    before = (root / "images" / "p1.png").read_bytes()
    status, output, _ = run(*predict, root / "images", tmp_path / "photos" / "p1.png")
    assert status == 1 and "would overwrite" in output and (root / "images" / "p1.png").read_bytes() == before
    (root / "images" / "p3.png").unlink()
    (root / "images" / "p3.png").symlink_to(root / "images" / "p3.png")
    status, output, _ = prepare_own(run, root, tmp_path / "rec2")
    assert status == 1 and "p3.png" in output
    (root / "images" / "p3.png").unlink()
    (root / "images" / "p3.png").symlink_to(tmp_path / "nowhere.png")
    status, output, _ = prepare_own(run, root, tmp_path / "rec2")
    assert status == 1 and "p3.png" in output


def test_folders_and_devices_called_like_files(run, tmp_path, color_net):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in (("folder.png", "holds no image"), ("pipe.png", "pipe.png"), ("/dev/zero", "/dev/zero")):
        status, output, _ = run("predict", "--checkpoint", color_net, "--out", tmp_path / "out", "--device", "CPU",
                              tmp_path / name)
        assert status == 1 and words in output
    status, output, _ = run("eval", "--checkpoint", "/dev/zero", "--records", tmp_path)
    assert status == 1 and "/dev/zero" in output


# --------------------------------------------------------------------------------------------- a changed data set

@pytest.mark.parametrize("change", ["a mask drawn again", "a photograph replaced", "a name added", "labels renamed"])
def test_a_changed_data_set_under_an_old_record(run, tmp_path, change):
    root = own_set(tmp_path / "own")
    assert prepare_own(run, root, tmp_path / "rec")[0] == 0
    assert prepare_own(run, root, tmp_path / "rec")[0] == 0
    before = (tmp_path / "rec" / "train.mindrecord").read_bytes()
    if change == "a mask drawn again":
        for number in range(6):
            save_mask(root / "masks" / f"p{number}.png", np.ones((20, 24)), THREE)
    elif change == "a photograph replaced":
        for number in range(6):
            Image.new("RGB", (24, 20), (number, 0, 0)).save(root / "images" / f"p{number}.png")
    elif change == "a name added":
        for number in range(6, 12):
            shutil.copy(root / "images" / "p0.png", root / "images" / f"p{number}.png")
            shutil.copy(root / "masks" / "p0.png", root / "masks" / f"p{number}.png")
    else:
        LabelSet(("sky", "street", "car"), THREE.colors).save(root / "labels.yaml")
    status, output, _ = prepare_own(run, root, tmp_path / "rec")
    assert status == 1
    assert all(words in output for words in (str(tmp_path / "rec"), "--overwrite", "holds other records"))
    assert (tmp_path / "rec" / "train.mindrecord").read_bytes() == before
    assert prepare_own(run, root, tmp_path / "rec", "--overwrite")[0] == 0


def test_records_changed_under_a_run(run, tmp_path, sample_records):
    """A flipped bit, and files of two record sets mixed: named when a run opens them, before the first step."""
    records = tmp_path / "records"
    shutil.copytree(sample_records / "records", records)
    with open(records / "train.mindrecord", "r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    train = ("train", "--data.records", records, "--run_dir", tmp_path / "run",
             "--model.width", "0.125", "--model.fc_width", "8", "--device", "CPU")
    status, output, _ = run(*train)
    assert status == 1 and "train.mindrecord is damaged: its checksum" in output
    shutil.copy(sample_records / "records" / "train.mindrecord", records)
    shutil.copy(sample_records / "records" / "val.mindrecord.db", records / "train.mindrecord.db")
    status, output, _ = run(*train)
    assert status == 1 and "train.mindrecord.db" in output
    assert not (tmp_path / "run" / "log.csv").exists()
