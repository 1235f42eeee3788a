"""VGG16's real weights on real photographs: ONNX Runtime's logits and masks equal MindSpore's."""

import pathlib

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindfcn.commands.evaluate import load_network
from mindfcn.commands.export import export
from mindfcn.config import ExportConfig
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.models.factory import create_model
from mindfcn.storage.images import decode_image
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import save_checkpoint
from mindfcn.weights.load import load_backbone

SHARED = pathlib.Path(__file__).parents[2].parent / "shared"
PHOTOGRAPHS = SHARED / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages"
WEIGHTS = SHARED / "weights" / "vgg16_imagenet_features.npz"
pytestmark = pytest.mark.skipif(not (PHOTOGRAPHS.is_dir() and WEIGHTS.is_file()),
                                reason="no real photographs and weights in ../shared")


@pytest.mark.usefixtures("uncompiled")
def test_onnx_runtime_computes_mindspores_logits_of_real_photographs(tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    ms.set_seed(1)
    net = create_model("fcn8s_vgg16_bn", 21, fc_width=64)
    preprocess = load_backbone(net, str(WEIGHTS)).preprocess
    save_checkpoint(tmp_path / "net.ckpt", net, Card({"name": "fcn8s_vgg16_bn", "fc_width": 64}, preprocess=preprocess))
    # One photograph at half its size, one as it is.
    half, whole = sorted(PHOTOGRAPHS.glob("*.jpg"))[:30:15]
    with Image.open(half) as photograph:
        photograph.reduce(2).save(tmp_path / "half.png")
    paths = [str(tmp_path / "half.png"), str(whole)]
    result = export(ExportConfig(str(tmp_path / "net.ckpt"), str(tmp_path / "net.onnx"), photos=paths))
    assert result.compared == 2 and result.difference <= 1e-4
    image = decode_image(pathlib.Path(paths[0]).read_bytes(), paths[0])
    mask = OnnxSegmenter(tmp_path / "net.onnx")(image)[0]
    expected = load_network(str(tmp_path / "net.ckpt"))[0](image)[0]
    assert len(np.unique(expected)) > 3 and (mask != expected).mean() < 1e-3
