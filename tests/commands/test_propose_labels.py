"""The verb labels: what is proposed for masks of each encoding, and one line for those that cannot be read."""

import os

import cv2
import numpy as np
import pytest
from helpers import read_mask
from PIL import Image

from mindfcn.commands.propose_labels import propose_labels
from mindfcn.config import LabelsConfig
from mindfcn.errors import UserError
from mindfcn.labels import LabelMap, LabelSet

COLORS = np.array([(0, 0, 0), (200, 30, 40), (40, 180, 60)], np.uint8)
BORDER = (224, 224, 192)


def numbers(seed=1):
    """(H, W) uint8: mostly 0, a large block of 2, a small one of 1, 255 around it."""
    row, column = np.random.default_rng(seed).integers(2, 8, 2)
    mask = np.zeros((24, 30), np.uint8)
    mask[12:22, 12:28] = 2
    mask[row - 1:row + 4, column - 1:column + 4] = 255
    mask[row:row + 3, column:column + 3] = 1
    return mask


def encoded(mask, encoding):
    if encoding == "rgb":
        table = np.zeros((256, 3), np.uint8)
        table[:3], table[255] = COLORS, BORDER
        return Image.fromarray(table[mask])
    picture = Image.fromarray(mask)
    if encoding == "palette":
        picture.putpalette(full(COLORS))
    return picture


def full(colors):
    """The bytes of a palette of 256, the border's colour the last."""
    return colors.tobytes() + bytes(3 * (255 - len(colors))) + bytes(BORDER)


def write(folder, encodings, mask=numbers):
    folder.mkdir(exist_ok=True)
    for place, encoding in enumerate(encodings):
        encoded(mask(place), encoding).save(folder / f"m{place}.png")
    return folder


def proposed(folder, **options):
    return propose_labels(LabelsConfig(str(folder), **options))


@pytest.mark.parametrize("encoding", ["palette", "grey", "rgb"])
def test_proposed_labels_read_the_masks(encoding, tmp_path):
    result = proposed(write(tmp_path / "masks", [encoding] * 3))
    assert (result.encoding, result.masks, result.out) == (encoding, 3, str(tmp_path / "labels.yaml"))
    labels = LabelSet.load(result.out)
    assert labels == result.labels and labels.ignore_label == 255
    assert labels.names == ("background", "class_1", "class_2")
    for place in range(3):
        found = read_mask(tmp_path / "masks" / f"m{place}.png", labels)
        expected = numbers(place)
        if encoding == "rgb":
            # Colours have no numbers: black comes first, then the larger classes.
            expected = np.select([expected == 1, expected == 2], [2, 1], expected).astype(np.uint8)
        assert (found == expected).all()
    if encoding != "grey":
        assert set(labels.colors) == set(map(tuple, COLORS.tolist()))
    rows = result.table.splitlines()
    assert len(rows) == 6 and "(ignored)" in rows[-1] and "m0.png" in rows[2]
    share = 100 * np.mean([numbers(place) == 0 for place in range(3)])
    assert f"{share:.2f}" in rows[2]
    assert any("names" in note for note in result.notes)


def test_names_are_given_in_words_or_in_a_file(tmp_path):
    masks = write(tmp_path / "masks", ["grey"])
    names = ["ground", "tree", "house"]
    assert proposed(masks, names=names).labels.names == tuple(names)
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    out = tmp_path / "other.json"
    result = proposed(masks, names=[str(tmp_path / "names.txt")], out_file=str(out))
    assert LabelSet.load(out) == result.labels and result.labels.names == tuple(names)
    with pytest.raises(UserError, match="2 names .*3 classes"):
        proposed(masks, names=["a", "b"], overwrite=True)


def test_a_file_that_is_replaced_keeps_its_order_and_names(tmp_path):
    masks = write(tmp_path / "masks", ["rgb"])
    first = proposed(masks, names=["ground", "tree", "house"]).labels
    other = numbers() * 0 + 1
    other[:3] = 255
    encoded(other, "rgb").save(masks / "m1.png")
    colored = np.asarray(encoded(other, "rgb")).copy()
    colored[10:20] = (1, 2, 3)
    Image.fromarray(colored).save(masks / "m2.png")
    result = proposed(masks, overwrite=True).labels
    assert result.names == (*first.names, "class_3") and result.colors == (*first.colors, (1, 2, 3))
    for name in ("m0.png", "m1.png"):
        (masks / name).unlink()
    assert proposed(masks, overwrite=True).labels == result


def test_shades_of_black_and_white_masks_are_classes(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray((numbers() == 2).astype(np.uint8) * 255).save(masks / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / "b.png")
    result = proposed(masks)
    assert result.labels.colors == ((0, 0, 0), (255, 255, 255)) and any("is a class here" in n for n in result.notes)
    assert (read_mask(masks / "a.png", result.labels) == (numbers() == 2)).all()


def test_numbers_with_gaps_keep_their_places(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.array([[1, 1, 4], [1, 4, 255]], np.uint8)).save(masks / "a.png")
    result = proposed(masks)
    assert result.labels.names == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert any("no mask holds 0, 2, 3" in note for note in result.notes)


def test_a_palette_of_equal_colors_is_replaced_by_vocs(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    picture = Image.fromarray(numbers())
    picture.putpalette(bytes(768))
    picture.save(masks / "a.png")
    assert len(set(proposed(masks).labels.colors)) == 3


@pytest.mark.parametrize("encoding", ["palette", "grey", "rgb"])
def test_a_replaced_file_keeps_what_it_merges_and_ignores(encoding, tmp_path):
    def striped(place):
        mask = numbers(place)
        mask[-1] = 200
        return mask
    masks = write(tmp_path / "masks", [])
    for place in range(3):
        picture = encoded(np.minimum(striped(place), 255), encoding)
        if encoding == "rgb":
            picture = np.array(picture)
            picture[-1] = 255
            picture = Image.fromarray(picture)
        picture.save(masks / f"m{place}.png")
    held = LabelSet(("soil", "leaf", "stone"), tuple(map(tuple, COLORS[[0, 2, 1]].tolist())))
    LabelMap.of(held, {"plant": ["leaf", "stone"]}, [[255, 255, 255]] if encoding == "rgb" else [200]).save(
        tmp_path / "labels.yaml")
    before = LabelSet.load(tmp_path / "labels.yaml")
    result = proposed(masks, overwrite=True)
    again = LabelSet.load(tmp_path / "labels.yaml")
    assert again.names == ("soil", "plant") and again.map.merge == before.map.merge
    assert (again.map.numbers, again.map.colors) == (before.map.numbers, before.map.colors)
    assert result.labels.names == held.names and len(result.table.splitlines()) == 2 + 3 + 2, "two rows are ignored"
    found = read_mask(masks / "m0.png", again)
    assert (found[-1] == 255).all() and (found[12:22, 12:28] == 1).all() and set(np.unique(found)) == {0, 1, 255}


def test_mixed_encodings_are_refused_with_the_files_and_read_with_a_given_encoding(tmp_path):
    masks = write(tmp_path / "masks", ["palette", "palette", "rgb"])
    with pytest.raises(UserError) as error:
        proposed(masks)
    assert "2 palette (m0.png, m1.png), 1 rgb (m2.png)" in str(error.value) and "rgb reads all" in str(error.value)
    assert not os.path.exists(tmp_path / "labels.yaml")
    result = proposed(masks, mask_encoding="rgb")
    assert any("need --mask_encoding rgb" in note for note in result.notes)
    first, second = (read_mask(masks / f"m{place}.png", result.labels, "rgb") for place in (0, 2))
    assert (first == 2).sum() == 9 == (second == 2).sum()
    with pytest.raises(UserError, match="palette reads both"):
        proposed(write(tmp_path / "two", ["palette", "grey"]), out_file=str(tmp_path / "two.yaml"))


def test_palettes_that_contradict_one_another_are_refused(tmp_path):
    masks = write(tmp_path / "masks", ["palette"])
    other = encoded(numbers(), "palette")
    other.putpalette(full(COLORS[[0, 2, 1]]))
    other.save(masks / "z.png")
    with pytest.raises(UserError, match=r"number 1 is \(200, 30, 40\) in the palette of .*m0.png but \(40, 180, 60\)"):
        proposed(masks)


def test_blurred_masks_are_named_as_such(tmp_path):
    masks = write(tmp_path / "masks", ["rgb", "rgb"])
    big = np.asarray(encoded(numbers(), "rgb")).repeat(8, 0).repeat(8, 1)
    Image.fromarray(cv2.resize(cv2.GaussianBlur(big, (0, 0), 6), (60, 48))).save(masks / "smooth.png")
    with pytest.raises(UserError, match=r"1 of 3 masks are blurred \(smooth.png\).*only along outlines.*anti-aliasing"):
        proposed(masks)
    (masks / "smooth.png").unlink()
    encoded(numbers(), "rgb").save(masks / "j.jpg")
    with pytest.raises(UserError, match=r"1 JPEG files \(j.jpg\).*PNG"):
        proposed(masks)
    (masks / "j.jpg").rename(masks / "j.png")
    with pytest.raises(UserError, match=r"1 of 3 masks are blurred \(j.png\).*in a JPEG"):
        proposed(masks)


def test_other_mistakes_are_reported_in_one_line(tmp_path):
    masks = write(tmp_path / "masks", ["grey"])
    proposed(masks)
    before = (tmp_path / "labels.yaml").read_bytes()
    noise = tmp_path / "noise"
    noise.mkdir()
    colors = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    Image.fromarray(colors).save(noise / "a.png")
    Image.fromarray(colors[..., ::-1]).save(noise / "b.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, options, words in (
            (masks, {}, "exists"), (tmp_path / "away", {}, "no folder"), (empty, {}, "no masks"),
            (tmp_path, {"overwrite": True}, "did you mean"),
            (masks, {"out_file": "labels.txt"}, ".yaml, .yml or .json"),
            (noise, {"out_file": str(tmp_path / "n.yaml")}, "object numbers")):
        with pytest.raises(UserError, match=words) as error:
            proposed(folder, **options)
        assert "\n" not in str(error.value)
    assert (tmp_path / "labels.yaml").read_bytes() == before and not (tmp_path / "n.yaml").exists()
