"""VOC lists against folders made by hand."""

import numpy as np
import pytest
from PIL import Image

from mindfcn.data.sources.voc import list_voc
from mindfcn.errors import UserError
from mindfcn.labels import VOC


def make_voc(folder, lists, files=None):
    """A VOC<year> folder with small files; names without files: pass `files`."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for split, names in lists.items():
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for number, name in enumerate(files if files is not None else sorted(set().union(*lists.values()))):
        Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(np.full((6, 8), number % 21, np.uint8)).save(folder / "SegmentationClass" / f"{name}.png")


@pytest.mark.parametrize("year", [2007, 2012])
def test_root_may_be_any_of_three_folders(tmp_path, year):
    folder = tmp_path / "VOCdevkit" / f"VOC{year}"
    make_voc(folder, {"train": ["b", "a"], "val": ["c"]})
    for root in (tmp_path, tmp_path / "VOCdevkit", folder):
        listed = list_voc(root, "train", year)
        assert [sample.name for sample in listed] == ["b", "a"]
        assert [sample.image for sample in listed] == [str(folder / "JPEGImages" / f"{n}.jpg") for n in "ba"]
        assert [int(sample.read_label(sample.label)[0, 0]) for sample in listed] == [1, 0]


def test_mistakes_are_named(tmp_path):
    make_voc(tmp_path, {"train": ["a", "b"], "twice": ["a", "b", "a"], "out": ["../a"], "empty": []}, files=["a"])
    for split, message in (("train", "2 files.*b.jpg"), ("twice", "'a' is listed twice"), ("out", "not an image name"),
                           ("empty", "no image"), ("nothing", "nothing.txt is missing; there are .*train")):
        with pytest.raises(UserError, match=message) as error:
            list_voc(tmp_path, split)
        assert "\n" not in str(error.value)
    assert len(list_voc(tmp_path, "train", check=False)) == 2
    for root in (tmp_path / "JPEGImages", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no VOC2012"):
            list_voc(root, "train")


def test_a_palette_in_another_order_than_vocs_is_refused(tmp_path):
    """Number 1 in the colour of person, 15: an aeroplane by its number and a person to look at."""
    make_voc(tmp_path, {"train": ["a", "b"]})
    palette = VOC.palette()
    for name, colors in (("a", palette), ("b", palette[[0, 15, *range(2, 256)]])):
        image = Image.fromarray(np.ones((6, 8), np.uint8))
        image.putpalette(colors.tobytes())
        image.save(tmp_path / "SegmentationClass" / f"{name}.png")
    good, bad = list_voc(tmp_path, "train", labels=VOC)
    assert (good.read_label(good.label) == 1).all()
    with pytest.raises(UserError, match="b.png: its palette shows 1 .aeroplane. in .* the colour of 15 .person."):
        bad.read_label(bad.label)
    assert (list_voc(tmp_path, "train")[1].read_label(bad.label) == 1).all()
