"""Exports of masks: CVAT's and Datumaro's labelmap.txt, Roboflow's _classes.csv, Cityscapes' label numbers."""

import numpy as np
import pytest
from annotation_files import photograph
from helpers import one_line
from PIL import Image

from mindfcn.data.sources.cityscapes import CITYSCAPES, list_cityscapes
from mindfcn.data.sources.labelmap import list_labelmap
from mindfcn.data.sources.roboflow import list_roboflow
from mindfcn.errors import UserError

NUMBERS = np.random.default_rng(2).integers(0, 3, (30, 40), np.uint8)
COLORS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)


def labelmap(root, lines, *masks, photographs="JPEGImages"):
    """An export as CVAT writes it: masks are (name, PIL image)."""
    for folder in ("SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    (root / "ImageSets/Segmentation/default.txt").write_text("".join(f"{name}\n" for name, _ in masks))
    for name, mask in masks:
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        mask.save(path)
        photograph(root / photographs / f"{name}.jpg")


def test_colors_of_labelmap_are_its_classes(tmp_path):
    labelmap(tmp_path, ["background:0,0,0::", "a:b:250,50,83::", "dog:51,221,255::"],
             ("frames/x", Image.fromarray(COLORS[NUMBERS])), ("y", Image.fromarray(COLORS[NUMBERS])))
    export = list_labelmap(str(tmp_path))
    assert export.labels.names == ("background", "a:b", "dog") and not export.left_out
    for one in export.photographs:
        assert (one.read_mask() == NUMBERS).all() and one.split == ""


def test_black_is_the_background_even_without_a_line(tmp_path):
    labelmap(tmp_path, ["dog:51,221,255::", "cat:250,50,83::"], ("x", Image.fromarray(COLORS[NUMBERS])),
             ("grey", Image.fromarray(NUMBERS.clip(max=1))))
    export = list_labelmap(str(tmp_path))
    assert export.labels.names == ("background", "dog", "cat")
    colored, grey = export.photographs
    assert (colored.read_mask() == np.array([0, 2, 1])[NUMBERS]).all()
    # Grey numbers count the lines of the file.
    assert (grey.read_mask() == NUMBERS.clip(max=1) + 1).all()


def test_grey_masks_keep_the_ignore_label(tmp_path):
    numbers = np.where(NUMBERS == 2, 255, NUMBERS).astype(np.uint8)
    labelmap(tmp_path, ["dog:51,221,255::", "cat:250,50,83::"], ("grey", Image.fromarray(numbers)))
    one, = list_labelmap(str(tmp_path)).photographs
    assert (one.read_mask() == np.where(NUMBERS == 2, 255, NUMBERS + 1)).all()


def test_photographs_elsewhere_and_names_without_a_mask(tmp_path):
    labelmap(tmp_path / "set", ["a:0,0,0::"], ("x", Image.fromarray(COLORS[NUMBERS * 0])), photographs="../photos")
    (tmp_path / "set/ImageSets/Segmentation/default.txt").write_text("x\nz\n")
    with pytest.raises(UserError) as told:
        list_labelmap(str(tmp_path / "set"))
    one_line(told, "no photograph x", "--images")
    export = list_labelmap(str(tmp_path / "set"), str(tmp_path / "photos"))
    assert len(export.photographs) == 1 and "no mask" in export.left_out[0][1]


@pytest.mark.parametrize("lines, words", [(["a:1,2::"], "three numbers"), (["a"], "not name:R,G,B"), ([], "no class"),
                                          (["a:red::"], "no colour")])
def test_wrong_labelmaps_are_named(lines, words, tmp_path):
    labelmap(tmp_path, lines)
    with pytest.raises(UserError) as told:
        list_labelmap(str(tmp_path))
    one_line(told, words)


def roboflow(root, split, classes="Pixel Value, Class\n0, background\n1, cat\n2, dog\n"):
    photograph(root / split / "a_jpg.rf.12ab.jpg")
    Image.fromarray(NUMBERS).save(root / split / "a_jpg.rf.12ab_mask.png")
    (root / split / "_classes.csv").write_text(classes)


def test_roboflows_masks(tmp_path):
    for split in ("train", "valid"):
        roboflow(tmp_path, split)
    photograph(tmp_path / "valid" / "b.jpg")
    export = list_roboflow(str(tmp_path))
    assert export.labels.names == ("background", "cat", "dog")
    assert [one.split for one in export.photographs] == ["train", "valid"]
    assert all((one.read_mask() == NUMBERS).all() for one in export.photographs)
    (path, reason), = export.left_out
    assert path.endswith("valid/b.jpg") and "b_mask.png" in reason
    assert len(list_roboflow(str(tmp_path / "train")).photographs) == 1
    roboflow(tmp_path, "test", "Pixel Value, Class\n0, background\n1, dog\n2, cat\n")
    with pytest.raises(UserError, match="other classes"):
        list_roboflow(str(tmp_path))
    for wrong, words in (("Pixel Value, Class\n1, cat\n", "from 0"), ("x\ny\n", "no line of")):
        roboflow(tmp_path, "test", wrong)
        with pytest.raises(UserError, match=words):
            list_roboflow(str(tmp_path / "test"))


def test_cityscapes_numbers_become_its_19_classes(tmp_path):
    numbers = np.zeros((30, 40), np.uint8)
    numbers[:17] = np.arange(34).repeat(20).reshape(17, 40)
    numbers[17] = 255
    name = "aachen_000000_000019"
    photograph(tmp_path / "leftImg8bit/train/aachen" / f"{name}_leftImg8bit.png")
    photograph(tmp_path / "leftImg8bit/val/ulm" / "ulm_1_leftImg8bit.png")
    (tmp_path / "gtFine/train/aachen").mkdir(parents=True)
    path = tmp_path / "gtFine/train/aachen" / f"{name}_gtFine_labelIds.png"
    Image.fromarray(numbers).save(path)
    export = list_cityscapes(str(tmp_path))
    one, = export.photographs
    mask = one.read_mask()
    assert one.split == "train" and "gtFine_labelIds" in export.left_out[0][1] and len(CITYSCAPES) == 19
    # Numbers of the benchmark's table: road 7, car 26, bicycle 33; caravan 29 and license plates do not count.
    for number, label in ((7, "road"), (26, "car"), (33, "bicycle"), (21, "vegetation")):
        assert (mask[numbers == number] == CITYSCAPES.names.index(label)).all()
    for number in (0, 29, 30, 255):
        assert (mask[numbers == number] == 255).all()
    numbers[0, 0] = 34
    Image.fromarray(numbers).save(path)
    with pytest.raises(UserError, match="34 at row 0, column 0"):
        one.read_mask()
    (tmp_path / "label_colors.txt").write_text("1 2 3 road\n")
    with pytest.raises(UserError, match="labelmap.txt"):
        list_cityscapes(str(tmp_path))
