"""SIFT Flow: both masks of files in the true format, lists, and batches of two labels."""

import cv2
import numpy as np
import pytest
import scipy.io

from mindfcn.commands.prepare import prepare
from mindfcn.config import PrepareConfig
from mindfcn.data.dataset import SegDataset
from mindfcn.data.sources.siftflow import GEOMETRIC, SCENES, SIFTFLOW, list_siftflow
from mindfcn.errors import UserError
from mindfcn.preprocess import SIFTFLOW as NORMALISATION

NAMES = ("coast_a", "coast_b", "street_c", "street_d", "highway_bost181")


@pytest.fixture
def siftflow(tmp_path):
    """A folder of five scenes, {name: (semantic, geometric)}; the last has no annotations."""
    rng = np.random.default_rng(1)
    folders = [tmp_path / kind / SCENES for kind in ("Images", "SemanticLabels", "GeoLabels")]
    for folder in folders:
        folder.mkdir(parents=True)
    masks = {}
    for name in NAMES:
        cv2.imwrite(str(folders[0] / f"{name}.jpg"), rng.integers(0, 256, (256, 256, 3), np.uint8))
        if name != NAMES[-1]:
            masks[name] = rng.integers(0, 34, (256, 256)).astype(np.uint8), rng.choice([-1, 1, 2, 3], (256, 256))
            for folder, mask in zip(folders[1:], masks[name]):
                scipy.io.savemat(folder / f"{name}.mat", {"S": mask.astype(np.int16), "names": ["x"], "metaData": 1})
    (tmp_path / "trainval.txt").write_text("coast_a\ncoast_b\nhighway_bost181\n")
    (tmp_path / "test.txt").write_text("street_c\nstreet_d\n")
    return tmp_path, masks


def test_both_masks_begin_at_0_and_void_is_255(siftflow):
    root, masks = siftflow
    samples = list_siftflow(root, "trainval") + list_siftflow(root, "test")
    assert [sample.name for sample in samples] == list(NAMES[:4])
    for sample in samples:
        semantic, geometric = masks[sample.name]
        np.testing.assert_array_equal(sample.read_label(sample.label), semantic - np.uint8(1))
        extra = sample.extras["geometric"]
        np.testing.assert_array_equal(extra.read(extra.path), np.where(geometric < 1, 255, geometric - 1))
    assert len(SIFTFLOW) == 33 and SIFTFLOW.names[27] == "sky" and SIFTFLOW.excluded == ("cow", "desert", "moon")
    assert GEOMETRIC.names == ("sky", "horizontal", "vertical")


def test_the_list_in_the_archive_is_read(siftflow):
    root, _ = siftflow
    (root / "trainval.txt").unlink()
    (root / "test.txt").unlink()
    with pytest.raises(UserError, match="no split 'test'"):
        list_siftflow(root, "test")
    (root / "TestSet1.txt").write_text(f"{SCENES}\\street_c.jpg\r\n{SCENES}\\highway_bost181.jpg\r\n")
    assert [sample.name for sample in list_siftflow(root, "test")] == ["street_c"]
    assert [sample.name for sample in list_siftflow(root, "trainval")] == ["coast_a", "coast_b", "street_d"]


def test_crops_move_both_masks_and_the_image_together(siftflow, tmp_path):
    root, masks = siftflow
    result = prepare(PrepareConfig(records=str(tmp_path / "records"), source="siftflow", root=str(root),
                                   train_split="trainval", val_split="test"))
    assert (result.train.written, result.val.written) == (2, 2)
    whole = SegDataset(data_file=result.val_path, training=False, preprocess=NORMALISATION, geometric=True)
    for (_, labels), name in zip(whole.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True), NAMES[2:]):
        assert labels.shape == (1, 2, 256, 256)
        np.testing.assert_array_equal(labels[0, 0], masks[name][0] - np.uint8(1))
        np.testing.assert_array_equal(labels[0, 1], np.where(masks[name][1] < 1, 255, masks[name][1] - 1))
    crops = SegDataset(data_file=result.train_path, crop_size=300, min_scale=1, max_scale=1, batch_size=2, seed=3,
                       preprocess=NORMALISATION, geometric=True)
    (data, labels), = crops.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
    assert data.shape == (2, 3, 300, 300) and labels.shape == (2, 2, 300, 300)
    for image, (semantic, geometric), record in zip(data, labels, crops.order(0)):
        expected = masks[NAMES[record]]
        # Of a crop wider than the image, the whole image, maybe mirrored.
        inside = np.zeros((300, 300), bool)
        inside[:256, :256] = True
        if (semantic[:256, :256] != expected[0] - np.uint8(1)).any():
            inside, semantic, geometric, image = (array[..., ::-1] for array in (inside, semantic, geometric, image))
            inside = np.zeros((300, 300), bool)
            inside[:256, :256] = True
        np.testing.assert_array_equal(semantic[:256, :256], expected[0] - np.uint8(1))
        np.testing.assert_array_equal(geometric[:256, :256], np.where(expected[1] < 1, 255, expected[1] - 1))
        assert (semantic[~inside] == 255).all() and (geometric[~inside] == 255).all() and (image[:, ~inside] == 0).all()
    one = SegDataset(data_file=result.val_path, training=False, preprocess=NORMALISATION)
    assert next(one.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))[1].shape == (1, 256, 256)


def test_wrong_numbers_are_reported(siftflow):
    root, _ = siftflow
    path = root / "GeoLabels" / SCENES / "coast_a.mat"
    scipy.io.savemat(path, {"S": np.full((256, 256), 4)})
    sample = list_siftflow(root, "trainval")[0]
    with pytest.raises(UserError, match="coast_a.mat holds 4 at row 0, column 0: not a class of 1..3 nor -1, 0"):
        sample.extras["geometric"].read(sample.extras["geometric"].path)
    path.unlink()
    with pytest.raises(UserError, match="1 files of SIFT Flow split 'trainval' are missing"):
        list_siftflow(root, "trainval")
    with pytest.raises(UserError, match="no SIFT Flow in"):
        list_siftflow(root / "Images", "test")
