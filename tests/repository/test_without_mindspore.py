"""Prediction with ONNX files works without MindSpore, with only the packages that docs/export.md names."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
# Runs the command with the modules named in the first argument missing.
WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in sys.argv[1].split(","):
            return PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from mindfcn.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def run(missing, *words, cwd):
    return subprocess.run([sys.executable, "-c", WITHOUT, ",".join(missing), *words], capture_output=True, text=True,
                          cwd=cwd, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


def modules(requirement):
    """Top-level modules of a distribution."""
    name = re.match(r"[\w-]+", requirement)[0].lower()
    known = {"opencv-python": ["cv2"], "pillow": ["PIL"], "protobuf": [], "jsonargparse": ["jsonargparse"]}
    # protobuf shares its module `google` with other distributions.
    return known.get(name) if name in known else [name.replace("-", "_")]


def required():
    """The requirements of setup.cfg, and those that docs/export.md installs instead."""
    import configparser
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [line for line in setup["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    instead = re.search(r"--no-deps \.\npip install (.*)", page)[1].replace("'", "").split()
    return lines, instead


def test_predict_needs_no_mindspore_and_no_package_that_the_page_does_not_name(color_net, tmp_path):
    lines, instead = required()
    kept = {module for requirement in instead for module in modules(requirement)}
    missing = {module for line in lines for module in modules(line)} - kept
    assert {"mindspore", "scipy", "safetensors"} <= missing and {"numpy", "cv2", "PIL", "onnxruntime"} <= kept
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :, 0] = 255
    Image.fromarray(image).save(tmp_path / "photo.png")
    done = run(missing, "predict", "--runtime", "onnx", "--checkpoint", str(color_net), "photo.png",
               "--probabilities", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    mask = np.array(Image.open(tmp_path / "predictions" / "photo.png"))
    np.testing.assert_array_equal(mask, (image[..., 0] > 0).astype(np.uint8))
    assert (tmp_path / "predictions" / "photo_overlay.jpg").exists()
    assert np.load(tmp_path / "predictions" / "photo.npz")["probabilities"].shape == (4, 40, 60)


@pytest.mark.parametrize("words", ["predict --checkpoint a.ckpt photo.png", "train", "describe fcn8s_vgg16"])
def test_a_verb_that_needs_it_is_refused_in_one_line(words, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    done = run(["mindspore"], *words.split(), cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "needs MindSpore, which is not installed" in done.stderr


def test_the_package_onnxruntime_is_named_where_it_is_missing(color_net, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    done = run(["onnxruntime"], "predict", "--checkpoint", str(color_net), "photo.png", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install onnxruntime" in done.stderr


def test_every_required_package_is_installed_here():
    for line in required()[1]:
        importlib.metadata.version(re.match(r"[\w-]+", line)[0])
