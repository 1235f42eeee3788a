"""Files of every kind, cut off and with bytes changed, by the thousand: refused in one line, or read as they were.

A changed file of a format without checksums (JPEG, .safetensors, .caffemodel, text, ...) can be a valid file; there
only crashes, hangs, memory and messages count. With --long ten times as many cases; the counts are printed at the end.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import mindspore as ms
import numpy as np
import pytest
import scipy.io
from damage import damaged, helper, try_damaged
from PIL import Image

from mindfcn.data.records.mindrecord import write_records
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE, draw_sample_set
from mindfcn.errors import UserError
from mindfcn.inference.onnx import with_checksum
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import save_checkpoint

HERE = pathlib.Path(__file__).parent
# Writers of PyTorch's files without PyTorch, and of Caffe's without Caffe.
save = helper("storage/test_weight_files").save
Caffe = helper("caffe_files").Caffe


def damage_line(name, found):
    """A line of figures."""
    return (f"damaged {name}: {sum(found.values())} cases, {found['refused']} refused, {found['same']} read as they "
            f"were, {found['other']} as something else")


@pytest.fixture
def cases(request):
    """Function: how many cases to try, ten times as many with --long."""
    return lambda count: count * (10 if request.config.getoption("--long") else 1)


@pytest.fixture
def attempt(reader, tmp_path, request, cases, figures):
    """Function that tries damaged copies of a file (see `damage.try_damaged`) and notes the outcomes."""
    def run(kind, path, count, **options):
        number = len(os.listdir(tmp_path))
        seed = f"{request.node.name} {number}"
        found = try_damaged(reader, kind, path, tmp_path / str(number), cases(count), seed, **options)
        figures.append(damage_line(f"{request.node.name[5:]}", found))
        return found
    return run


@pytest.fixture(scope="module")
def mask():
    random = np.random.default_rng(3)
    mask = np.kron(random.integers(0, len(SAMPLE), (6, 7)), np.ones((4, 4), int)).astype(np.uint8)
    mask[9:11] = 255
    return mask


@pytest.fixture(scope="module")
def photo():
    random = np.random.default_rng(4)
    return Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((40, 30), Image.BICUBIC)


@pytest.mark.parametrize("suffix, checked", [(".png", True), (".jpg", False), (".webp", False), (".bmp", False),
                                             (".tif", False)])
def test_photographs(attempt, photo, tmp_path_factory, suffix, checked):
    path = tmp_path_factory.mktemp("photo") / f"photo{suffix}"
    photo.save(path)
    found = attempt("photograph", path, 150 if suffix in (".png", ".jpg") else 60, checked=checked)
    assert found["refused"] > 0.3 * sum(found.values())


@pytest.mark.parametrize("suffix, mode, checked", [(".png", "P", True), (".png", "L", True), (".png", "RGB", True),
                                                   (".gif", "P", False), (".bmp", "L", False), (".tif", "L", False)])
def test_masks(attempt, mask, tmp_path_factory, suffix, mode, checked):
    image = Image.fromarray(SAMPLE.colorize(mask) if mode == "RGB" else mask)
    if mode == "P":
        image.putpalette(SAMPLE.palette().ravel().tolist())
    path = tmp_path_factory.mktemp("mask") / f"mask{suffix}"
    image.save(path)
    found = attempt("mask", path, 100 if checked else 60, checked=checked)
    assert found["refused"] > 0.3 * sum(found.values())


@pytest.mark.parametrize("compressed", [True, False])
def test_mat_files(attempt, mask, tmp_path_factory, compressed):
    path = tmp_path_factory.mktemp("mat") / "mask.mat"
    boundary = scipy.sparse.csc_matrix(np.eye(3))
    scipy.io.savemat(path, {"GTcls": {"Segmentation": mask, "Boundaries": boundary}}, do_compression=compressed)
    attempt("mat", path, 120, checked=compressed)


EVERY_BYTE = """
    import json
    import sys
    from mindfcn.data.sources.sbd import read_sbd_mask
    from mindfcn.errors import UserError
    path, step, places = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    whole, tried = open(path, "rb").read(), 0
    for place in places:
        for value in range(0, 256, step):
            with open(path, "wb") as file:
                file.write(whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1:])
            print(place, value, end="|", flush=True)
            try:
                read_sbd_mask(path)
            except UserError:
                pass
            tried += 1
    print(tried)
"""


def test_every_byte_of_a_mat_file_but_its_pixels(cases, tmp_path, figures):
    """One byte at a time: SciPy reads beyond its buffer where parts are missing."""
    path, step = tmp_path / "mask.mat", 1 if cases(1) > 1 else 16
    mask = np.arange(28 * 24).reshape(28, 24).astype(np.uint8) % 21
    scipy.io.savemat(path, {"GTcls": {"Segmentation": mask, "Boundaries": scipy.sparse.csc_matrix(np.eye(3))}})
    whole = path.read_bytes()
    pixels = whole.index(mask.tobytes("F"))
    places = [place for place in range(124, len(whole)) if not pixels <= place < pixels + mask.size]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(EVERY_BYTE), str(path), str(step), str(places)],
                          capture_output=True, text=True, check=False)
    last = done.stdout.split("|")[-1]
    assert done.returncode == 0, f"byte and change: {last}: {done.stderr[-2000:]}"
    assert int(last) == len(places) * 256 // step
    figures.append(f"damaged .mat, every byte outside the pixels: {int(last)} cases, no crash")


def test_lists(sample_records, tmp_path, cases, figures):
    """A list has no checksum: the remaining lines must be valid names of existing files."""
    root = tmp_path / "drawn"
    shutil.copytree(sample_records / "source", root)
    path = next(root.rglob("train.txt"))
    known = {line.strip() for line in path.read_text().splitlines()}
    found = {"refused": 0, "same": 0, "other": 0}
    for how, data in damaged(path.read_bytes(), cases(150), "list"):
        path.write_bytes(data)
        try:
            names = [sample.name for sample in list_voc(root, "train")]
        except UserError as error:
            assert "\n" not in str(error) and str(root) in str(error), how
            found["refused"] += 1
        else:
            # one digit for another may name a photograph of the validation list
            assert names and len(set(names)) == len(names) and len(set(names) - known) <= 3, how
            found["same" if set(names) == known else "other"] += 1
    figures.append(damage_line("lists", found))


# ----------------------------------------------------------------------------------------------------- records

@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of one small MindRecord with its index and its manifest."""
    folder = tmp_path_factory.mktemp("written")
    draw_sample_set(folder / "set", 5, 32, 1)
    write_records(list_voc(folder / "set", "train"), folder / "records" / "train.mindrecord", SAMPLE)
    return folder / "records"


@pytest.mark.parametrize("suffix", ["", ".db", ".json"])
def test_records(attempt, written, suffix):
    attempt("records", written / "train.mindrecord", 36, suffix=suffix)


@pytest.mark.parametrize("suffix", ["", ".db"])
def test_records_without_a_manifest(attempt, written, tmp_path_factory, suffix):
    """As the course publishes them: wrong bytes cannot be detected, but the process must survive."""
    folder = tmp_path_factory.mktemp("foreign")
    for part in ("train.mindrecord", "train.mindrecord.db"):
        shutil.copy(written / part, folder)
    attempt("records", folder / "train.mindrecord", 36, suffix=suffix, checked=False)


# ------------------------------------------------------------------------------------------------ weights, networks

def arrays():
    random = np.random.default_rng(3)
    return {"conv1.0.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "conv1.0.bias": random.standard_normal(4).astype(np.float32),
            "count": np.arange(6, dtype=np.int64).reshape(3, 2)}


@pytest.mark.parametrize("suffix, checked", [(".ckpt", False), (".safetensors", False), (".npz", True),
                                             (".pth", True)])
def test_weights(attempt, tmp_path_factory, suffix, checked):
    """Both kinds of zip files carry checksums; a published .ckpt or .safetensors file has none."""
    path = save(str(tmp_path_factory.mktemp("weights") / f"weights{suffix}"), arrays())
    attempt("weights", path, 150, checked=checked)


def test_caffemodels(attempt, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.caffemodel"
    path.write_bytes(Caffe().net({name: array for name, array in arrays().items() if name != "count"}))
    attempt("weights", path, 150, checked=False)


def test_checkpoints(attempt, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "own.ckpt"
    state = {"step": ms.Parameter(ms.Tensor(np.arange(3, dtype=np.float32)), name="step")}
    save_checkpoint(path, tiny("fcn32s_vgg16"), Card({"name": "fcn32s_vgg16"}, SAMPLE), state)
    attempt("checkpoint", path, 100)


def test_onnx_files(attempt, color_net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    path.write_bytes(with_checksum(pathlib.Path(color_net).read_bytes()))
    attempt("onnx", path, 100)


# ------------------------------------------------------------------------------------------------------- settings

def test_labels_files(attempt, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.yaml"
    SAMPLE.save(path)
    attempt("labels", path, 150, checked=False)


def test_settings_files(attempt):
    attempt("settings", HERE.parents[1] / "configs" / "own_data.yaml", 20, checked=False)
