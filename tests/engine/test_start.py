"""What a run starts from: published and earlier weights, and the normalisation that comes with them."""

import dataclasses
import os
import re

import cv2
import mindspore as ms
import numpy as np
import pytest
from helpers import sample_settings
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.commands.evaluate import evaluate, load_network
from mindfcn.commands.train import train
from mindfcn.config import EvalConfig, ModelConfig, OptimConfig, TrainConfig
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.build import build, start_from
from mindfcn.errors import UserError
from mindfcn.labels import VOC
from mindfcn.models.factory import create_model
from mindfcn.preprocess import CAFFE, COURSE
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint

TINY = {"width": 0.125, "fc_width": 8}
PLACES = {"1": 2, "2": 2, "3": 3, "4": 3, "5": 3}

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")


def caffes(name):
    """MindFCN's name of a VGG16 parameter -> Caffe's name."""
    name = re.sub(r"^conv([67])\.0", r"fc\1", name)
    return re.sub(r"^conv(\d)\.(\d)", lambda found: f"conv{found[1]}_{int(found[2]) // 2 + 1}", name)


def numbers(name, classes=21, seed=1, **options):
    """Random weights of a network under MindFCN's names."""
    random = np.random.default_rng(seed)
    net = create_model(name, classes, **{**TINY, **options})
    return {parameter.name: (random.standard_normal(parameter.shape) * 0.1).astype(np.float32)
            for parameter in net.get_parameters() if not parameter.name.endswith(".step")}


def published(path, name="fcn8s_vgg16", backbone_only=False):
    """Write a file under Caffe's names. Returns (path, weights under MindFCN's names)."""
    weights = numbers(name)
    heads = ("score", "upscore") if backbone_only else ()
    np.savez(path, **{caffes(key): value for key, value in weights.items() if not key.startswith(heads or "-")})
    return str(path), weights


def settings(records, run_dir, epochs=1, resume=False, **model):
    config = sample_settings(records, ModelConfig(**{"name": "fcn8s_vgg16", **TINY, **model}),
                             OptimConfig(epochs=epochs, lr=1e-6, min_lr=0), run_dir=str(run_dir), resume=resume)
    # An epoch is one step.
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, batch_size=12))


def first_card(name="fcn8s_vgg16", pretrained="", **model):
    """(network, card) at the start of a run."""
    config = TrainConfig(model=ModelConfig(**{"name": name, **TINY, **model}, pretrained=pretrained))
    return build(config, VOC, "")[:2]


@pytest.mark.parametrize("setting, expected", [("auto", COURSE), ("course", COURSE), ("caffe", CAFFE)])
def test_without_weights_the_settings_give_the_normalisation(setting, expected):
    assert first_card(preprocess=setting)[1].preprocess == expected


@pytest.mark.parametrize("setting, expected", [("auto", CAFFE), ("course", COURSE), ("caffe", CAFFE)])
@pytest.mark.parametrize("backbone_only", [True, False])
def test_caffe_weights_set_their_normalisation(backbone_only, setting, expected, tmp_path):
    path, weights = published(tmp_path / "vgg16.npz", backbone_only=backbone_only)
    net, card = first_card(pretrained=path, preprocess=setting)
    assert card.preprocess == expected
    for parameter in net.backbone.get_parameters():
        if not parameter.name.endswith(".step"):
            np.testing.assert_array_equal(parameter.asnumpy(), weights[parameter.name])
    score = net.head.score_pool4.weight.asnumpy()
    np.testing.assert_array_equal(score, 0 if backbone_only else weights["score_pool4.weight"])


def test_a_run_normalises_images_as_its_weights_expect(sample_records, tmp_path, monkeypatch):
    """Training, evaluation, checkpoints, and a resumed run whose first weights are gone."""
    path, _ = published(tmp_path / "vgg16.npz", backbone_only=True)
    seen = []
    crop = SegDataset._crop

    def watched(dataset, *arguments):
        seen.append(dataset.preprocess)
        return crop(dataset, *arguments)
    monkeypatch.setattr(SegDataset, "_crop", watched)
    result = train(settings(sample_records, tmp_path / "run", pretrained=path))
    assert seen and set(seen) == {CAFFE}
    assert load_checkpoint(result.checkpoint)[1].preprocess == CAFFE
    again = evaluate(EvalConfig(result.checkpoint, out=str(tmp_path / "again"), device="CPU", worst=0))
    assert again.metrics == result.evaluation.metrics
    os.remove(path)
    seen.clear()
    result = train(settings(sample_records, tmp_path / "run", 2, resume=True, pretrained=path))
    assert result.epoch == 2 and set(seen) == {CAFFE}
    assert load_checkpoint(result.checkpoint)[1].preprocess == CAFFE


def saved(path, name, preprocess=COURSE, **options):
    net = create_model(name, 21, **TINY)
    for key, value in numbers(name).items():
        net.parameters_dict()[key].set_data(ms.Tensor(value))
    save_checkpoint(path, net, Card({"name": name, **TINY, **options}, VOC, preprocess))
    return str(path)


def test_the_normalisation_passes_from_stage_to_stage(tmp_path):
    """32s -> 16s -> 8s, each from the checkpoint of the one before."""
    path = saved(tmp_path / "32s.ckpt", "fcn32s_vgg16", CAFFE)
    backbone = load_checkpoint(path)[0]
    for name in ("fcn16s_vgg16", "fcn8s_vgg16"):
        net, card = first_card(name, path)
        assert card.preprocess == CAFFE and card.model["name"] == name
        for parameter in net.get_parameters():
            if parameter.name.startswith(("conv", "score_fr")):
                np.testing.assert_array_equal(parameter.asnumpy(), backbone[parameter.name])
        path = str(tmp_path / f"{name}.ckpt")
        save_checkpoint(path, net, card)


def test_every_weight_of_a_stage_is_reported(tmp_path):
    path = saved(tmp_path / "a.ckpt", "fcn32s_vgg16")
    config = TrainConfig(model=ModelConfig("fcn16s_vgg16", **TINY, pretrained=path))
    net, _, report = build(config, VOC, "")
    lines = {line.split()[0]: line for line in str(report).splitlines()[1:]}
    names = {parameter.name for parameter in net.get_parameters() if not parameter.name.endswith(".step")}
    assert lines.keys() == names | {"upscore.weight"}
    assert "left out" in lines["upscore.weight"] and "initial" in lines["score_pool4.weight"]
    assert lines["score_fr.weight"].endswith("loaded")


def test_skip_layers_with_other_scale_factors_are_refused(tmp_path):
    path = saved(tmp_path / "atonce.ckpt", "fcn8s_atonce_vgg16")
    with pytest.raises(UserError) as error:
        first_card("fcn8s_vgg16", path)
    text = str(error.value)
    assert "\n" not in text and "(0.01, 0.0001)" in text and "--model.skip_scales" in text
    first_card("fcn8s_atonce_vgg16", path)
    first_card("fcn8s_vgg16", path, skip_scales=(0.01, 0.0001))
    net, card = first_card("fcn8s_atonce_vgg16")
    start_from(net, saved(tmp_path / "32s.ckpt", "fcn32s_vgg16"), card)


def test_a_published_net_needs_no_card(tmp_path):
    """`mindfcn predict --checkpoint fcn8s_from_caffe.npz` without other options."""
    path, weights = published(tmp_path / "fcn8s_from_caffe.npz")
    photograph = np.random.default_rng(2).integers(0, 256, (40, 51, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photograph.png"), photograph)
    segmenter, card = load_network(path)
    assert card.model == {"name": "fcn8s_vgg16", "geometry": "paper", **TINY}
    net = create_model("fcn8s_vgg16", 21, padding="pad100", **TINY).set_train(False)
    for key, value in weights.items():
        net.parameters_dict()[key].set_data(ms.Tensor(value))
    less_mean = photograph.astype(np.float32) - np.float32([104.00699, 116.66877, 122.67892])
    logits = net(ms.Tensor(np.ascontiguousarray(less_mean.transpose(2, 0, 1)[None]))).asnumpy()[0]
    mask, _ = segmenter(photograph)
    np.testing.assert_array_equal(mask, logits.argmax(0))
    assert main(["predict", "--checkpoint", path, str(tmp_path / "photograph.png"), "--out", str(tmp_path / "out"),
                 "--device", "CPU"]) == 0
    with Image.open(tmp_path / "out" / "photograph.png") as written:
        np.testing.assert_array_equal(np.array(written), mask)
    assert len(np.unique(mask)) > 1
