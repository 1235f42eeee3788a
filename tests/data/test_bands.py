"""Multispectral TIFFs, from files that tifffile writes to a trained network's masks."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
from helpers import one_line, run
from PIL import Image

from mindfcn.commands.predict import predict
from mindfcn.commands.train import train
from mindfcn.config import AugmentConfig, ModelConfig, OptimConfig, PredictConfig, PrepareConfig, TrainConfig
from mindfcn.console import Console
from mindfcn.data import transforms
from mindfcn.data.bands import picture, read_bands, statistics
from mindfcn.data.records.mindrecord import read_records
from mindfcn.data.samples import decode_plane, encode_plane
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.models.factory import create_model
from mindfcn.preprocess import Preprocess
from mindfcn.storage.images import decode_image
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_backbone, load_weights

tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")
BANDS = 12


def tile(seed, height=36, width=40):
    """(bands (H, W, 12) uint16, mask): class 1 is bright in band 8 only, which no picture shows."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[:, : int(random.integers(10, 30))] = 1
    bands = random.normal(1000, 100, (height, width, BANDS))
    bands[..., 7] += 2000 * mask
    return bands.astype(np.uint16), mask


@pytest.mark.parametrize("planar, dtype", [("contig", np.uint16), ("separate", np.uint16), ("separate", np.uint8),
                                           ("contig", np.float32)])
def test_bands_are_read_whichever_way_they_are_stored(tmp_path, planar, dtype):
    bands = tile(1)[0].astype(dtype)
    stored = bands if planar == "contig" else np.moveaxis(bands, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar)
    got = read_bands(str(tmp_path / "a.tif"))
    assert got.dtype == dtype and got.flags.c_contiguous
    np.testing.assert_array_equal(got, bands)
    np.testing.assert_array_equal(decode_plane("bands", encode_plane("bands", got), "here"), bands)


def test_a_picture_shows_three_bands_stretched(tmp_path):
    bands, _ = tile(1)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    shown = decode_image(picture(str(tmp_path / "a.tif"), (8, 3, 2)), "a.tif")
    for channel, number in ((2, 8), (1, 3), (0, 2)):
        low, high = np.percentile(bands[..., number - 1], (2, 98))
        expected = np.clip(255 * (bands[..., number - 1] - low) / (high - low), 0, 255)
        assert np.abs(shown[..., channel] - expected).max() <= 0.5
    with pytest.raises(UserError) as error:
        picture(str(tmp_path / "a.tif"), (13, 3, 2))
    one_line(error, "12 bands", "--data.bands names 13")


@pytest.mark.parametrize("array, words", [
    (np.zeros((8, 9), np.uint16), ["shape (8, 9)", "several bands"]),
    (np.zeros((12, 8, 9), np.int64), ["int64", "8 or 16 bits"]),
    (np.full((12, 8, 9), np.nan, np.float32), ["NaN", "ignored in the mask"])])
def test_other_files_are_refused_in_one_line(tmp_path, array, words):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with pytest.raises(UserError) as error:
        read_bands(str(tmp_path / "a.tif"))
    one_line(error, "a.tif", *words)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError) as error:
        read_bands(str(tmp_path / "a.tif"))
    one_line(error, "a.tif")


def test_statistics_are_numpys():
    arrays = [tile(seed, 30 + seed)[0] for seed in range(3)]
    arrays = [np.dstack([array, np.full(array.shape[:2], 7, np.uint16)]) for array in arrays]
    mean, deviation = statistics(iter(arrays))
    every = np.concatenate([array.reshape(-1, BANDS + 1) for array in arrays]).astype(float)
    np.testing.assert_allclose(mean, every.mean(0))
    np.testing.assert_allclose(deviation, [*every[:, :BANDS].std(0), 1], rtol=1e-9)


def test_crops_move_all_bands_alike_and_fill_with_the_mean():
    bands, mask = tile(3, 40, 40)
    bands = np.repeat((100 + 900 * mask[..., None]).astype(np.uint16), BANDS, 2)
    preprocess = Preprocess(mean=np.arange(100, 100 * BANDS + 1, 100), std=[2.0] * BANDS, modality="bands")
    config = AugmentConfig(crop_size=40, min_scale=0.7, max_scale=1.4, rotate=90, vertical_flip=True)
    for seed in range(6):
        data, label = transforms.augment({"bands": bands}, mask, np.random.RandomState(seed), config, preprocess, 255)
        inner = cv2.erode((label != 255).astype(np.uint8), np.ones((5, 5)), borderValue=0) == 1
        values = 2 * data + np.float32(preprocess.mean)[:, None, None]
        np.testing.assert_allclose(values[:, inner], values[:1, inner].repeat(BANDS, 0), atol=0.01)
        assert np.abs(values[0][inner] - 100 - 900 * label[inner]).mean() < 60
        assert (data[:, cv2.dilate((label != 255).astype(np.uint8), np.ones((5, 5))) == 0] == 0).all()


def test_a_first_layer_for_colors_is_widened_so_that_equal_bands_are_grey():
    """The same value in every band gives the activation that it gave in every colour."""
    narrow = create_model("fcn32s_alexnet", 3, fc_width=8, width=0.125)
    weights = {parameter.name: parameter.asnumpy() for parameter in narrow.get_parameters()
               if parameter.name.startswith("conv")}
    first = next(name for name, weight in weights.items() if weight.ndim == 4)
    net = create_model("fcn32s_alexnet", 3, modality="bands", bands=BANDS, fc_width=8, width=0.125)
    report = load_backbone(net.backbone, dict(weights), Preprocess())
    widened = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}[first]
    assert widened.shape[1] == BANDS and (widened == widened[:, :1]).all()
    np.testing.assert_allclose(widened.sum(1), weights[first].sum(1), rtol=1e-5, atol=1e-6)
    assert (first, "12 bands: 3/12 of the mean of the filters for colours each") in report.converted


@pytest.mark.usefixtures("uncompiled")
def test_tiles_are_prepared_trained_evaluated_and_segmented(tmp_path):
    os.makedirs(tmp_path / "tiles" / "images")
    os.makedirs(tmp_path / "tiles" / "masks")
    for number in range(8):
        bands, mask = tile(number)
        tifffile.imwrite(tmp_path / "tiles" / "images" / f"t{number}.tif", np.moveaxis(bands, -1, 0),
                         photometric="minisblack", planarconfig="separate")
        Image.fromarray(mask).save(tmp_path / "tiles" / "masks" / f"t{number}.png")
    LabelSet(("ground", "water"), ((0, 0, 0), (0, 90, 230))).save(str(tmp_path / "tiles" / "labels.yaml"))
    config = TrainConfig(
        run_dir=str(tmp_path / "run"), device=os.environ["DEVICE_TARGET"], eval_every=0,
        data=PrepareConfig(source="folder", root=str(tmp_path / "tiles"), records=str(tmp_path / "rec"),
                           bands=(4, 3, 2), mask_encoding="grey"),
        augment=AugmentConfig(crop_size=32, batch_size=2, min_scale=1, max_scale=1.2),
        model=ModelConfig(name="fcn32s_alexnet", modality="bands", width=0.125, fc_width=8),
        optim=OptimConfig(epochs=1, lr=0.1, warmup_epochs=0))
    said = []
    result = train(config, Console(said.append))
    assert any(line.startswith("12 bands; means") for line in said) and result.evaluation
    weights, card, _ = load_checkpoint(result.checkpoint)
    held_out = {record[0] for record in read_records(card.records)}
    arrays = [tile(number)[0].reshape(-1, BANDS).astype(float) for number in range(8) if f"t{number}" not in held_out]
    every = np.concatenate(arrays)
    np.testing.assert_allclose(card.preprocess.mean, every.mean(0))
    net = create_model("fcn32s_alexnet", 2, modality="bands", bands=BANDS, width=0.125, fc_width=8)
    load_weights(net, weights)
    image = tmp_path / "tiles" / "images" / "t3.tif"
    made = predict(PredictConfig(result.checkpoint, images=[str(image)], out=str(tmp_path / "out"), device="CPU"))
    normalised = (tile(3)[0] - every.mean(0)) / every.std(0)
    logits = run(net, np.float32(normalised.transpose(2, 0, 1)[None]))
    clear = np.abs(logits[0, 0] - logits[0, 1]) > 1e-4
    with Image.open(made.written[0]["mask"]) as mask:
        np.testing.assert_array_equal(np.array(mask)[clear], logits[0].argmax(0)[clear])
    other = str(tmp_path / "other.tif")
    tifffile.imwrite(other, np.zeros((5, 36, 40), np.uint16), photometric="minisblack")
    made = predict(PredictConfig(result.checkpoint, images=[other], out=str(tmp_path / "out"), device="CPU"))
    assert "5 bands, the network takes 12" in made.failed[0][1]
    with pytest.raises(UserError, match="bands"):
        train(dataclasses.replace(config, run_dir=str(tmp_path / "other"),
                                  data=dataclasses.replace(config.data, bands=(1, 2, 3))))
