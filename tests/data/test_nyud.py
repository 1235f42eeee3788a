"""NYUDv2 from files of both true formats, to records and batches."""

import h5py
import numpy as np
import pytest
import scipy.io

from mindfcn.commands.prepare import prepare
from mindfcn.config import PrepareConfig
from mindfcn.data.dataset import SegDataset
from mindfcn.data.hha import KINECT, encode_hha
from mindfcn.data.records.integrity import record_columns
from mindfcn.data.records.mindrecord import read_manifest, read_records
from mindfcn.data.samples import decode_mask, decode_plane
from mindfcn.data.sources.nyud import NYUD, list_nyud, nyud_names
from mindfcn.data.synthetic.rooms import draw_room
from mindfcn.errors import UserError
from mindfcn.preprocess import COURSE
from mindfcn.storage.images import decode_image

CROP = (slice(45, 470), slice(40, 600))
# 894 labels of the data set, of which every class of the 40 has some; 0 is no label.
MAPPING = np.random.default_rng(0).permutation(np.arange(894) % 40 + 1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of nyu_depth_v2_labeled.mat with four rooms, and what it holds, in MATLAB's (H, W, ...) order."""
    folder = tmp_path_factory.mktemp("nyud")
    rng = np.random.default_rng(3)
    rooms = [draw_room(640, 7, index) for index in range(2)]
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
    images = np.stack([*(image[..., ::-1] for image, _, _ in rooms), noise], -1)
    depths = np.stack([*(depth for _, depth, _ in rooms), np.full((480, 640), 2.5)], -1).astype(np.float32)
    labels = rng.integers(0, 895, (480, 640, 3)).astype(np.uint16)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, array in (("images", images), ("depths", depths), ("rawDepths", depths * 0), ("labels", labels)):
            # MATLAB writes its axes from the last to the first.
            file.create_dataset(name, data=array.transpose())
    scipy.io.savemat(folder / "classMapping40.mat", {"mapClass": MAPPING[None].astype(float), "className": ["x"]})
    scipy.io.savemat(folder / "splits.mat", {"trainNdxs": np.uint16([[1], [3]]), "testNdxs": np.uint16([[2]])})
    return folder, images, depths, labels


def test_the_labelled_mat_file_is_read_with_matlabs_axes(labelled):
    folder, images, depths, labels = labelled
    samples = list_nyud(folder, "train") + list_nyud(folder, "test")
    assert [sample.name for sample in samples] == ["5001", "5003", "5002"]
    for sample, index in zip(samples[:2], (0, 2)):
        image = decode_image(sample.read_image(sample.image), sample.name)
        np.testing.assert_array_equal(image, images[..., index][CROP][..., ::-1])
        mask = sample.read_label(sample.label)
        assert mask.shape == (425, 560)
        expected = np.concatenate([[0], MAPPING])[labels[..., index][CROP]]
        np.testing.assert_array_equal(mask, np.where(expected == 0, 255, expected - 1))
        depth = sample.extras["depth"].read(sample.extras["depth"].path)
        np.testing.assert_array_equal(depth, np.rint(1000 * depths[..., index][CROP]))
        # The crop's camera sees the same directions as the whole image's.
        hha = sample.extras["hha"].read(sample.extras["hha"].path)
        rows, columns = np.mgrid[46:471, 41:601]
        height = encode_hha(np.rint(1000 * depths[..., index]) / 1000, KINECT)[CROP][..., 1]
        assert np.abs(hha[..., 1].astype(int) - height).max() <= 2 or index == 2
        assert rows.shape == columns.shape == hha.shape[:2]


def test_records_of_the_mat_give_batches_of_every_modality(labelled, tmp_path):
    folder, images, depths, _ = labelled
    result = prepare(PrepareConfig(records=str(tmp_path), source="nyud", root=str(folder), val_split="test"))
    assert (result.train.written, result.val.written, result.labels) == (2, 1, NYUD)
    assert set(record_columns(result.val_path)) == {"file_name", "data", "label", "depth", "hha"}
    assert "geometric" not in read_manifest(result.val_path)
    (name, data, label, depth, hha), = read_records(result.val_path, ["depth", "hha"])
    np.testing.assert_array_equal(decode_image(data, name), images[..., 1][CROP][..., ::-1])
    depth, hha = decode_plane("depth", depth, name), decode_plane("hha", hha, name)
    np.testing.assert_array_equal(depth, np.rint(1000 * depths[..., 1][CROP]))
    np.testing.assert_array_equal(hha, encode_hha(depth / 1000, KINECT.cropped(45, 40)))
    for modality, channels in (("rgb", 3), ("rgbd", 4), ("hha", 3), ("rgb_hha", 6)):
        record = COURSE.to(modality)
        dataset = SegDataset(data_file=result.val_path, training=False, preprocess=record)
        (batch, truth), = dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
        assert batch.shape == (1, channels, 425, 560) and batch.dtype == np.float32
        np.testing.assert_array_equal(truth[0], decode_mask(label, name))
        planes = {"image": images[..., 1][CROP][..., ::-1], "depth": np.log(depth)[..., None], "hha": hha}
        expected = np.concatenate([planes[plane] for plane in record.planes], -1)
        expected = (expected - np.array(record.mean)) / np.array(record.std)
        np.testing.assert_allclose(batch[0], expected.transpose(2, 0, 1), atol=1e-4)


def gupta(folder, names=("5001", "5002"), shape=(30, 40)):
    rng = np.random.default_rng(5)
    import cv2
    for kind in ("images", "depth", "hha"):
        (folder / "data" / kind).mkdir(parents=True)
    (folder / "segmentation").mkdir()
    masks, hhas = [], []
    for name in names:
        hhas.append(rng.integers(0, 256, (*shape, 3), np.uint8))
        masks.append(rng.integers(0, 41, shape, np.uint8))
        cv2.imwrite(str(folder / f"data/images/img_{name}.png"), rng.integers(0, 256, (*shape, 3), np.uint8))
        cv2.imwrite(str(folder / f"data/depth/img_{name}.png"), rng.integers(500, 9000, shape).astype(np.uint16))
        cv2.imwrite(str(folder / f"data/hha/img_{name}.png"), hhas[-1][..., ::-1])
        scipy.io.savemat(folder / f"segmentation/img_{name}.mat", {"segmentation": masks[-1]})
    (folder / "train.txt").write_text("5001\n")
    (folder / "val.txt").write_text("5002\n")
    return masks, hhas


def test_files_of_gupta_are_read(tmp_path):
    masks, hhas = gupta(tmp_path)
    samples = list_nyud(tmp_path, "trainval")
    assert [sample.name for sample in samples] == ["5001", "5002"]
    for sample, mask, hha in zip(samples, masks, hhas):
        np.testing.assert_array_equal(sample.read_label(sample.label), mask - np.uint8(1))
        np.testing.assert_array_equal(sample.extras["hha"].read(sample.extras["hha"].path), hha)
    for path in (tmp_path / "data/hha").iterdir():
        path.unlink()
    (tmp_path / "data/hha").rmdir()
    sample, _ = list_nyud(tmp_path, "trainval")
    depth = sample.extras["depth"].read(sample.extras["depth"].path)
    found = sample.extras["hha"].read(sample.extras["hha"].path)
    np.testing.assert_array_equal(found, encode_hha(depth / 1000, KINECT))


def test_segmentation_files_win_over_the_mapping(labelled, tmp_path):
    folder, *_ = labelled
    for name in ("nyu_depth_v2_labeled.mat", "splits.mat"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "segmentation").mkdir()
    scipy.io.savemat(tmp_path / "segmentation/img_5002.mat", {"segmentation": np.full((425, 560), 40, np.uint8)})
    sample, = list_nyud(tmp_path, "test")
    assert (sample.read_label(sample.label) == 39).all()


def test_mistakes_are_reported_in_one_line(labelled, tmp_path):
    folder, *_ = labelled
    with pytest.raises(UserError, match="no split 'val'"):
        nyud_names(folder, "val")
    (tmp_path / "test.txt").write_text("5001\n")
    with pytest.raises(UserError, match="neither nyu_depth_v2_labeled.mat nor data/images"):
        list_nyud(tmp_path, "test")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"no mat")
    sample, = list_nyud(tmp_path, "test")
    with pytest.raises(UserError, match="labeled.mat: it is missing, damaged"):
        sample.read_image(sample.image)
    (tmp_path / "test.txt").write_text("img_5001\n")
    with pytest.raises(UserError, match="'img_5001' is no image's number"):
        list_nyud(tmp_path, "test")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["images"] = np.zeros((2, 3, 64, 48), np.uint8)
    (tmp_path / "nyu_depth_v2_labeled.mat").unlink()
    (tmp_path / "other.mat").rename(tmp_path / "nyu_depth_v2_labeled.mat")
    (tmp_path / "test.txt").write_text("5001\n5009\n")
    first, last = list_nyud(tmp_path, "test")
    with pytest.raises(UserError, match="64x48 pixels instead of 640x480"):
        first.read_image(first.image)
    with pytest.raises(UserError, match="images of image 9"):
        last.read_image(last.image)
    with pytest.raises(UserError, match="holds no depths"):
        first.extras["depth"].read(first.image)
    gupta(tmp_path / "files")
    scipy.io.savemat(tmp_path / "files/segmentation/img_5001.mat", {"segmentation": np.full((3, 4), 41, np.uint8)})
    sample, _ = list_nyud(tmp_path / "files", "trainval")
    with pytest.raises(UserError, match="holds 41 at row 0, column 0: not a class of 1..40"):
        sample.read_label(sample.label)


def test_records_without_depth_are_refused(sample_records):
    with pytest.raises(UserError, match="no column 'depth', which rgbd"):
        SegDataset(data_file=str(sample_records / "records" / "val.mindrecord"), training=False,
                   preprocess=COURSE.to("rgbd"))
