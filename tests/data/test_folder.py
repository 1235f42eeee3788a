"""Your own folder: names, splits and the encodings of masks."""

import os

import numpy as np
import pytest
from helpers import read_mask, sample_names
from PIL import Image

from mindfcn.data.sources.folder import Layout, hold_out, list_folder
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

LABELS = LabelSet(["ground", "tree", "road"], [(0, 0, 0), (10, 200, 30), (128, 128, 128)])
NUMBERS = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


def make_folder(root, names, mask_suffix=".png"):
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(root / "images" / name)
        Image.fromarray(NUMBERS).save(root / "masks" / (name.rsplit(".", 1)[0] + mask_suffix))


def colored(border=(224, 224, 192)):
    colors = np.array([*LABELS.colors, border], np.uint8)
    return colors[np.where(NUMBERS == 255, 3, NUMBERS)]


def test_every_encoding_reads_the_same_numbers(tmp_path):
    palette = Image.fromarray(NUMBERS)
    palette.putpalette(LABELS.palette().tobytes())
    grey = Image.fromarray(NUMBERS)
    rgb = colored()
    files = {"palette.png": palette, "grey.png": grey, "deep.png": Image.fromarray(NUMBERS.astype(np.uint16)),
             "rgb.png": Image.fromarray(rgb), "grey.bmp": grey, "grey.tif": grey,
             "rgba.png": Image.fromarray(np.dstack([rgb, np.full(NUMBERS.shape, 255, np.uint8)])),
             "grey_rgb.png": Image.fromarray(np.dstack([NUMBERS] * 3))}
    for name, image in files.items():
        image.save(tmp_path / name)
    for name, encoding in (("palette.png", "auto"), ("grey.png", "auto"), ("deep.png", "auto"), ("rgb.png", "auto"),
                           ("rgba.png", "auto"), ("palette.png", "palette"), ("palette.png", "rgb"),
                           ("grey.png", "grey"), ("rgb.png", "rgb"), ("grey_rgb.png", "grey"), ("grey.bmp", "auto"),
                           ("grey.tif", "auto")):
        found = read_mask(tmp_path / name, LABELS, encoding)
        assert found.dtype == np.uint8 and (found == NUMBERS).all(), (name, encoding)


def test_unknown_colors_and_wrong_encodings_are_named(tmp_path):
    rgb = colored()
    rgb[1, 2] = (9, 8, 7)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.array([[1, 300]], np.uint16)).save(tmp_path / "deep.png")
    for name, encoding, message in (("rgb.png", "auto", r"rgb.png: colour \(9, 8, 7\) at row 1, column 2"),
                                    ("rgb.png", "palette", "no palette mask"), ("rgb.png", "grey", "not grey"),
                                    ("deep.png", "auto", "300 at row 0, column 1")):
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / name, LABELS, encoding)


def test_the_ignore_color_follows_the_ignore_label_and_a_class_wins(tmp_path):
    Image.fromarray(colored()).save(tmp_path / "rgb.png")
    other = LabelSet(LABELS.names, LABELS.colors, ignore_label=200)
    assert read_mask(tmp_path / "rgb.png", other)[1, 1] == 200
    taken = LabelSet([*LABELS.names, "sand"], [*LABELS.colors, (224, 224, 192)])
    assert read_mask(tmp_path / "rgb.png", taken)[1, 1] == 3
    same = LabelSet(["a", "b"], [(1, 1, 1), (1, 1, 1)])
    with pytest.raises(UserError, match="share the colour"):
        read_mask(tmp_path / "rgb.png", same)


def test_hold_out_is_stable_and_never_empty():
    many = [f"photo_{i:04d}" for i in range(1000)]
    train, val = hold_out(many, 0.2)
    assert sorted(train + val) == many and 150 < len(val) < 250
    more_train, more_val = hold_out(many + ["new_1", "new_2"], 0.2)
    assert set(val) <= set(more_val) and set(train) <= set(more_train)
    for count in (2, 3, 10):
        assert hold_out(many[:count], 0.0) == (many[:count], []), "0 holds out none"
        for fraction in (0.01, 0.99, 1.0):
            train, val = hold_out(many[:count], fraction)
            assert train and val and sorted(train + val) == many[:count]
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="val_fraction"):
            hold_out(many, fraction)


def test_listing_with_and_without_lists(tmp_path):
    make_folder(tmp_path, ["b.jpg", "a.PNG", "c.v2.bmp", "d.webp", "e.tiff"])
    (tmp_path / "images" / "notes.txt").write_text("x")
    (tmp_path / "images" / "._a.jpg").write_bytes(b"x")
    both = sample_names(list_folder(tmp_path, "train", LABELS)) + sample_names(list_folder(tmp_path, "val", LABELS))
    assert sorted(both) == ["a", "b", "c.v2", "d", "e"]
    (tmp_path / "val.txt").write_text("c.v2\n")
    with pytest.raises(UserError, match="both lists or none"):
        list_folder(tmp_path, "train", LABELS)
    (tmp_path / "train.txt").write_text("b.jpg\n\na\n")
    train = list_folder(tmp_path, "train", LABELS)
    assert sample_names(train) == ["b", "a"] and train[1].image == str(tmp_path / "images" / "a.PNG")
    assert sample_names(list_folder(tmp_path, "val", LABELS)) == ["c.v2"]
    assert (train[0].read_label(train[0].label) == NUMBERS).all()


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="no folder .*images"):
        list_folder(tmp_path, "train", LABELS)
    make_folder(tmp_path, [])
    with pytest.raises(UserError, match="no images"):
        list_folder(tmp_path, "train", LABELS)
    make_folder(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match="other.txt is missing"):
        list_folder(tmp_path, "other", LABELS)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a.jpg")
    with pytest.raises(UserError, match="a.png"):
        list_folder(tmp_path, "train", LABELS), list_folder(tmp_path, "val", LABELS)
    make_folder(tmp_path, ["a.png"])
    with pytest.raises(UserError, match="both a.jpg and a.png"):
        list_folder(tmp_path, "train", LABELS)


def test_names_pair_in_every_normal_form_and_with_dots(tmp_path):
    """macOS stores names decomposed, other systems as they were typed; a name may hold dots, and a suffix in them."""
    import unicodedata
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem, mask in ((decomposed, composed), ("a..b", "a..b"), ("x.tif", "x.tif"), ("y", "y")):
        (tmp_path / "images" / f"{stem}.png").write_bytes(b"1")
        (tmp_path / "masks" / f"{mask}.png").write_bytes(b"1")
    (tmp_path / "train.txt").write_text(f"{composed}.png\na..b\nx.tif\ny.png\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("y\n")
    labels = LabelSet(("a", "b"), ((0, 0, 0), (9, 9, 9)))
    found = list_folder(tmp_path, "train", labels)
    assert [sample.name for sample in found] == [composed, "a..b", "x.tif", "y"]
    assert all(os.path.exists(path) for sample in found for path in sample.paths)
    (tmp_path / "images" / f"{composed}.png").write_bytes(b"1")
    with pytest.raises(UserError, match="holds both"):
        list_folder(tmp_path, "train", labels)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="these file systems hold text alone")
def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    open(os.fsencode(tmp_path / "images") + b"/caf\xe9.png", "w").close()
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        list_folder(tmp_path, "train", LabelSet(("a",), ((0, 0, 0),)))


def paired(root, layout, split="train", **options):
    """{name: (photograph, mask)} of a split, relative to the root."""
    return {one.name: tuple(os.path.relpath(path, root) for path in (one.image, one.label))
            for one in list_folder(root, split, LABELS, layout=layout, **options)}


def draw_at(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(NUMBERS).save(root / path)


def test_masks_with_a_suffix_next_to_their_photographs(tmp_path):
    draw_at(tmp_path, "x/a.png", "x/a_mask.png", "x/b.png", "x/b_mask.png")
    layout = Layout(image_dir="x", mask_dir="x", mask_suffix="_mask")
    both = {**paired(tmp_path, layout), **paired(tmp_path, layout, "val")}
    assert both == {name: (f"x/{name}.png", f"x/{name}_mask.png") for name in "ab"}
    with pytest.raises(UserError, match="--mask_suffix"):
        list_folder(tmp_path, "train", LABELS, layout=Layout("x", "x"))


def test_nested_folders_pair_by_their_paths(tmp_path):
    draw_at(tmp_path, *(f"{kind}/{place}.png" for kind in ("images", "masks")
                        for place in ("train/a", "train/b", "val/a", ".cache/c")))
    (tmp_path / "train.txt").write_text("images/train/a.png masks/train/a.png\ntrain/b\n")
    (tmp_path / "val.txt").write_text("val/a.png\n")
    assert paired(tmp_path, Layout()) == {f"train_{name}": (f"images/train/{name}.png", f"masks/train/{name}.png")
                                          for name in "ab"}
    assert paired(tmp_path, Layout(), "val") == {"val_a": ("images/val/a.png", "masks/val/a.png")}
    draw_at(tmp_path, "images/train_a.png")
    with pytest.raises(UserError, match="holds both .*train.a.png and .*train.a.png"):
        list_folder(tmp_path, "train", LABELS)


def test_lists_with_columns_name_masks_that_belong_to_their_photographs(tmp_path):
    make_folder(tmp_path, ["a.jpg", "my photo.jpg"])
    (tmp_path / "val.txt").write_text("a.jpg,masks/a.png\n")
    (tmp_path / "train.txt").write_text("my photo.jpg\n")
    assert list(paired(tmp_path, Layout())) == ["my photo"] and list(paired(tmp_path, Layout(), "val")) == ["a"]
    (tmp_path / "val.txt").write_text("a.jpg\tmasks/b.png\n")
    with pytest.raises(UserError, match="b.png is not the mask of a.jpg"):
        list_folder(tmp_path, "val", LABELS)


def test_groups_stay_together_and_folds_divide_the_names():
    names = [f"patient{patient:02d}_{slide}" for patient in range(10) for slide in range(4)]
    for pattern in (r"patient\d+", r"^(patient\d+)_"):
        train, val = hold_out(names, 0.3, Layout(group_by=pattern))
        assert sorted(train + val) == names and train and val
        assert not {name[:9] for name in train} & {name[:9] for name in val}
    parts = [hold_out(names, 0.2, Layout(group_by=r"patient\d+", folds=5, fold=fold))[1] for fold in range(1, 6)]
    assert sorted(sum(parts, [])) == names and [len(part) for part in parts] == [8] * 5
    assert parts[0] == hold_out(names[::-1], 0.2, Layout(group_by=r"patient\d+", folds=5, fold=1))[1]
    for layout, words in ((Layout(group_by="("), "no regular expression"), (Layout(group_by="x"), "matches no name"),
                          (Layout(folds=5, fold=6), "does not exist"), (Layout(folds=1), "does not exist"),
                          (Layout(folds=41), "does not exist")):
        with pytest.raises(UserError, match=words):
            hold_out(names, 0.2, layout)
