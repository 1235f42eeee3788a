"""Published networks by name, end to end: files of random weights in their true formats, from a local server."""

import collections
import dataclasses
import hashlib
import io

import cv2
import mindspore as ms
import numpy as np
import pytest

from mindfcn.commands.explain import explain
from mindfcn.commands.predict import predict
from mindfcn.config import EvalConfig, ExplainConfig, ModelConfig, PredictConfig
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.inference.pipeline import Inference
from mindfcn.labels import VOC
from mindfcn.models.factory import create_model
from mindfcn.preprocess import TORCHVISION
from mindfcn.weights.card import Card
from mindfcn.weights.catalogue import CATALOGUE
from mindfcn.weights.checkpoint import load_checkpoint, save_checkpoint
from mindfcn.weights.label_sets import CITYSCAPES

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative")
KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# MindFCN's layers of a head -> torchvision's and mmsegmentation's
HEADS = ({"score_convs.0": "0", "score_convs.1": "1", "score": "4"},
         {"score_convs.0": "convs.0.conv", "score_convs.1": "convs.0.bn", "score_convs.3": "convs.1.conv",
          "score_convs.4": "convs.1.bn", "score_concat.0": "conv_cat.conv", "score_concat.1": "conv_cat.bn",
          "score": "conv_seg"})


def published_name(name, mmseg):
    """The published name of one of the network's parameters."""
    layer, _, kind = name.rpartition(".")
    auxiliary = layer.startswith("auxiliary.")
    layer, kind = layer.removeprefix("auxiliary."), KINDS.get(kind, kind)
    if layer in HEADS[mmseg]:
        head = (("classifier", "aux_classifier"), ("decode_head", "auxiliary_head"))[mmseg][auxiliary]
        return f"{head}.{HEADS[mmseg][layer]}.{kind}"
    first = {"conv1.0": "conv1", "conv1.1": "bn1"} if not mmseg else {f"conv1.{at}": f"stem.{at}" for at in range(8)}
    return f"backbone.{first.get(layer, layer)}.{kind}"


def file_of(net, mmseg):
    """Bytes of a file with a network's weights: as torchvision's in the old format, as mmsegmentation's with `meta`."""
    state = collections.OrderedDict(
        (published_name(parameter.name, mmseg), torch.tensor(parameter.asnumpy()))
        for parameter in net.get_parameters() if not parameter.name.endswith(".step"))
    state["backbone.layer1.0.bn1.num_batches_tracked"] = torch.tensor(7)
    meta = {"mmseg_version": "0.5.0", "config": "model = dict(align_corners=False, dilations=(1, 1, 2, 4))", "seed": 0,
            "loss": np.float64(0.5), "CLASSES": CITYSCAPES.names, "PALETTE": list(map(list, CITYSCAPES.colors))}
    file = io.BytesIO()
    torch.save({"meta": meta, "state_dict": state} if mmseg else state, file, _use_new_zipfile_serialization=mmseg)
    return file.getvalue()


@pytest.fixture
def publish(file_server, tmp_path, monkeypatch, scramble):
    """Function (name, width) -> the network whose weights a local server gives as the published file `name`."""
    monkeypatch.setenv("MINDFCN_HOME", str(tmp_path / "home"))

    def put(name, width=0.125):
        entry = CATALOGUE[name]
        mmseg = "mmseg" in entry.licence
        net = scramble(create_model(entry.model, len(entry.labels), width=width))
        body = file_of(net, mmseg)
        file_server.files[entry.source.file_name] = body
        source = dataclasses.replace(entry.source, urls=(file_server.url(entry.source.file_name),),
                                     checksum="sha256:" + hashlib.sha256(body).hexdigest()[:8])
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(entry, source=source))
        return net
    return put


@pytest.mark.parametrize("name, model, labels, side", [
    ("fcn_resnet50_coco", "fcn_resnet50", VOC, 520),
    ("fcn_r18-d8_512x1024_80k_cityscapes", "fcn_r18_d8", CITYSCAPES, 1024)])
def test_by_name_it_has_its_classes_normalisation_and_side(publish, file_server, name, model, labels, side):
    net = publish(name)
    segmenter, card = load_network(name)
    assert card.model == {"name": model, "width": 0.125}
    assert (card.labels, card.preprocess, card.shorter_side) == (labels, TORCHVISION, side)
    image = np.random.default_rng(3).standard_normal((1, 3, 41, 60)).astype(np.float32)
    expected = net(ms.Tensor(image)).asnumpy()
    assert np.abs(segmenter.logits(image) - expected).max() <= 1e-4 * np.abs(expected).max()
    load_network(name)
    assert len(file_server.requests) == 1


def test_predict_and_explain_by_name_write_masks_in_the_photographs_size(publish, tmp_path):
    publish("fcn_r18-d8_512x1024_80k_cityscapes")
    photo = str(tmp_path / "photo.png")
    cv2.imwrite(photo, np.random.default_rng(4).integers(0, 255, (30, 44, 3), np.uint8))
    config = PredictConfig("fcn_r18-d8_512x1024_80k_cityscapes", device="CPU", images=[photo],
                           out=str(tmp_path / "out"), shorter_side=60)
    written, = predict(config).written
    mask = cv2.imread(written["mask"])
    assert mask.shape == (30, 44, 3)
    assert {tuple(color[::-1]) for color in mask.reshape(-1, 3).tolist()} <= set(CITYSCAPES.colors)
    found = explain(ExplainConfig("fcn_r18-d8_512x1024_80k_cityscapes", device="CPU", image=photo,
                                  out_file=str(tmp_path / "maps.png")))
    assert found.found in CITYSCAPES.names
    assert [title.split(",")[0].split(":")[0] for title, _ in found.maps] == ["pool3", "pool4", "fc7", "score"]


class Recorder:
    """A segmenter that notes the sizes of its images: class 1 where the image is bright."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image, probabilities=False):
        self.sizes.append(image.shape[:2])
        bright = (image[..., 0] > 127).astype(np.float32)
        return bright.astype(np.uint8), np.stack([1 - bright, bright])


@pytest.mark.parametrize("card, chosen, size, expected", [
    (520, None, (100, 200), (520, 1040)), (520, 0, (100, 200), (100, 200)), (0, None, (100, 200), (100, 200)),
    (0, 50, (100, 200), (50, 100)), (520, 64, (200, 100), (128, 64)), (0, 50, (10, 1000), (2, 200)),
    (100, None, (100, 200), (100, 200))])
def test_the_shorter_side(card, chosen, size, expected):
    segmenter = Recorder()
    image = np.zeros((*size, 3), np.uint8)
    image[:, size[1] // 2:] = 255
    mask, probabilities = Inference(segmenter, EvalConfig("x", shorter_side=chosen), card)(image, True)
    assert segmenter.sizes == [expected] and mask.shape == size and probabilities.shape == (2, *size)
    assert (mask == (image[..., 0] > 127)).mean() > 0.97


def test_scales_multiply_it():
    segmenter = Recorder()
    Inference(segmenter, EvalConfig("x", shorter_side=50, scales=[1.0, 2.0]), 520)(np.zeros((100, 200, 3), np.uint8))
    assert segmenter.sizes == [(50, 100), (100, 200)]


def test_the_side_travels_with_the_card(tmp_path, tiny):
    net = tiny("fcn32s_alexnet")
    card = Card({"name": "fcn32s_alexnet", "fc_width": 8, "width": 0.125}, shorter_side=320)
    save_checkpoint(tmp_path / "net.ckpt", net, card)
    assert load_checkpoint(tmp_path / "net.ckpt")[1].shorter_side == 320
    for wrong in (-1, 1.5, "320", 10 ** 6):
        with pytest.raises(UserError, match="its card cannot be read"):
            Card.from_json(dataclasses.replace(card, shorter_side=wrong).to_json(), "x.ckpt")


def test_a_file_that_is_not_in_the_catalogue_has_its_own_classes(publish, file_server, tmp_path):
    publish("fcn_r18-d8_512x1024_80k_cityscapes")
    path = tmp_path / "my_streets.pth"
    path.write_bytes(next(iter(file_server.files.values())))
    _, card, _ = load_checkpoint(path)
    assert card.labels == CITYSCAPES and card.shorter_side == 0


def test_a_network_with_aligned_corners_is_refused_by_its_configuration(publish, file_server, tmp_path):
    publish("fcn_r18-d8_512x1024_80k_cityscapes")
    value = torch.load(io.BytesIO(next(iter(file_server.files.values()))), weights_only=False)
    for text, why in (("align_corners=True", "aligned corners"), ("dict(dilation=6)", "dilation 6"),
                      ("dilations=(1, 1, 1, 2)", "output stride 16")):
        value["meta"]["config"] = text
        torch.save(value, tmp_path / "net.pth")
        with pytest.raises(UserError, match=why):
            load_checkpoint(tmp_path / "net.pth")


def test_training_starts_from_a_name_with_other_classes(publish):
    from mindfcn.engine.build import start_from
    from mindfcn.labels import LabelSet
    published = publish("fcn_resnet50_coco")
    net = create_model("fcn_resnet50", 3, width=0.125)
    card = Card({"name": "fcn_resnet50"}, LabelSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))))
    report, preprocess = start_from(net, ModelConfig(pretrained="fcn_resnet50_coco").pretrained, card)
    assert preprocess == TORCHVISION and not report.missing and not report.shape_mismatches
    assert report.reinitialized and all(name.startswith(("score", "auxiliary.")) for name in report.reinitialized)
    np.testing.assert_array_equal(net.backbone.layer4[2].conv2.weight.asnumpy(),
                                  published.backbone.layer4[2].conv2.weight.asnumpy())


def test_a_classifiers_weights_are_no_segmentation_network(tmp_path):
    np.savez(tmp_path / "vgg.npz", **{"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)})
    with pytest.raises(UserError, match="no segmentation network: none of its 1 weights .*--model.pretrained"):
        load_network(tmp_path / "vgg.npz", "fcn8s_vgg16_bn")
