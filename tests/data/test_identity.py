"""The identity of records: the same data is recognised wherever it lies, other data is refused and named."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from helpers import one_line
from PIL import Image

from mindfcn.commands.inspect_data import inspect
from mindfcn.commands.prepare import find_records, prepare
from mindfcn.config import InspectConfig, PrepareConfig
from mindfcn.console import Console
from mindfcn.data.records.integrity import signed_manifest
from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.data.records.records import Records, check_classes, evaluation_records
from mindfcn.errors import UserError
from mindfcn.labels import LabelMap, LabelSet
from mindfcn.weights.card import Card

LABELS = LabelSet(("ground", "roof"), ((0, 0, 0), (200, 10, 10)))


def draw(root, count=5, labels=LABELS, encoding="P"):
    """A folder of photographs and masks of two classes, as palette or colour images."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((8, 10), np.uint8)
        mask[:number + 1] = 1
        Image.fromarray(np.full((8, 10, 3), 9 * number, np.uint8)).save(root / "images" / f"p{number}.png")
        save_mask(root / "masks" / f"p{number}.png", mask, labels)
    labels.save(root / "labels.yaml")
    return root


def save_mask(path, mask, labels=LABELS):
    image = Image.fromarray(mask)
    image.putpalette(labels.palette().tobytes())
    image.save(path)


@pytest.fixture
def made(tmp_path):
    """Settings whose records are made already."""
    draw(tmp_path / "mine")
    settings = PrepareConfig(records=str(tmp_path / "records"), source="folder", root=str(tmp_path / "mine"))
    prepare(settings)
    return settings


def use(settings, **changes):
    """(Records, lines) of `find_records`."""
    messages = []
    return find_records(dataclasses.replace(settings, **changes), Console(messages.append)), messages


def state(folder):
    return {name: (os.stat(os.path.join(folder, name)).st_ino, os.stat(os.path.join(folder, name)).st_mtime_ns)
            for name in os.listdir(folder)}


def test_the_first_line_names_the_records(made):
    records, messages = use(made)
    assert messages == [f"using records {made.records} (source folder {made.root}, 5 images)"]
    assert len(records.identity) == 33 and records.identity[16] == "+"


def test_copied_and_touched_data_is_the_same(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "copy")
    os.utime(tmp_path / "mine" / "masks" / "p1.png", (1, 1))
    before = state(made.records)
    assert use(made)[0] == use(made, root=str(tmp_path / "copy"))[0] and state(made.records) == before
    other = dataclasses.replace(made, root=str(tmp_path / "copy"), records=str(tmp_path / "again"))
    prepare(other)
    # The hash is that of pixels and classes, wherever they were read from.
    assert Records.open(other.records, LABELS).identity == Records.open(made.records, LABELS).identity


def test_another_mask_of_the_same_size_and_time_is_noticed(made):
    path = os.path.join(made.root, "masks", "p1.bmp")
    os.remove(path[:-4] + ".png")
    for value in (0, 1):
        Image.fromarray(np.full((8, 10), value, np.uint8)).save(path)
        os.utime(path, (1, 1))
        if value == 0:
            prepare(dataclasses.replace(made, overwrite=True))
    with pytest.raises(UserError) as caught:
        use(made)
    one_line(caught, "1 image is changed", "the mask of p1", "--data.overwrite true", made.records)


CHANGES = {
    "other masks": lambda root: save_mask(root / "masks" / "p2.png", np.full((8, 10), 1, np.uint8)),
    "another photograph": lambda root: Image.new("RGB", (10, 8), (1, 2, 3)).save(root / "images" / "p2.png"),
    "classes exchanged": lambda root: LabelSet(LABELS.names[::-1], LABELS.colors).save(root / "labels.yaml"),
    "colours": lambda root: LabelSet(LABELS.names, ((0, 0, 0), (1, 2, 3))).save(root / "labels.yaml"),
    "ignore label": lambda root: LabelSet(LABELS.names, LABELS.colors, 254).save(root / "labels.yaml"),
    "merged": lambda root: LabelMap.of(LABELS, {"all": ["ground", "roof"]}, []).save(root / "labels.yaml"),
    "map": lambda root: LabelMap.of(LABELS, {}, [[7, 7, 7]]).save(root / "labels.yaml"),
    "lists": lambda root: [(root / f"{split}.txt").write_text(names) for split, names in
                           (("train", "p0\np1\n"), ("val", "p2\n"))],
    "order": lambda root: [(root / f"{split}.txt").write_text("\n".join(names)) for split, names in
                           zip(("train", "val"), orders(root))]}


def orders(root):
    """The two splits of the folder, the first one backwards."""
    names = {split: list(read_manifest(root.parent / "records" / f"{split}.mindrecord")["identity"]["samples"])
             for split in ("train", "val")}
    return names["train"][::-1], names["val"]


@pytest.mark.parametrize("change, words", [
    ("other masks", "the mask of p2"), ("another photograph", "the photograph of p2"),
    ("classes exchanged", "class 0 (ground) is called ground there and roof here"),
    ("colours", "class 1 (roof) is shown in (200, 10, 10) there and (1, 2, 3) here"),
    ("ignore label", "ignore label is 255 there and 254 here"),
    ("merged", "2 classes (ground, roof) there, 1 (all) here"),
    ("map", "the labels file says (nothing merged or ignored) there and (ignored: (7, 7, 7)) here"),
    ("lists", "image"), ("order", "another order")])
def test_what_differs_is_named_and_overwrite_makes_it_again(made, tmp_path, change, words):
    hash_before = Records.open(made.records, LABELS).identity
    CHANGES[change](tmp_path / "mine")
    before = state(made.records)
    with pytest.raises(UserError) as caught:
        use(made)
    one_line(caught, words, "--data.overwrite true")
    with pytest.raises(UserError) as caught:
        prepare(made)
    one_line(caught, words, "--overwrite")
    assert state(made.records) == before
    assert use(made, overwrite=True)[0].identity != hash_before
    assert use(made)[1][0].startswith("using records")


@pytest.mark.parametrize("changes, words", [
    ({"mask_encoding": "rgb"}, ["mask_encoding is auto there and rgb here", "--data.overwrite true"]),
    ({"root": "nowhere"}, ["there is no folder nowhere"]),
    ({"source": "voc"}, ["source is folder there and voc here"]),
    ({"source": "sample", "root": ""}, ["source is folder there and sample here"]),
    ({"source": None}, ["--data.root", "does not apply without --data.source"]),
    ({"records": "away", "source": None, "root": ""}, ["no records in away", "--data.source"]),
    ({"source": None, "root": "", "overwrite": True}, ["cannot be written again", "--data.source"]),
    ({"identity": "0123456789abcdef+0123456789abcdef"}, ["--data.identity"])])
def test_other_settings_are_refused(made, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    before = state(made.records), sorted(os.listdir(tmp_path))
    with pytest.raises(UserError) as caught:
        use(made, **changes)
    one_line(caught, *words)
    assert (state(made.records), sorted(os.listdir(tmp_path))) == before


def test_records_of_a_map_hold_its_classes_and_another_map_is_refused(made):
    held = LabelSet(("ground", "roof", "sky"), (*LABELS.colors, (9, 9, 250)))
    path = os.path.join(made.root, "labels.yaml")
    LabelMap.of(held, {}, ["ground"]).save(path)
    prepare(dataclasses.replace(made, overwrite=True))
    records, before = Records.open(made.records, LABELS), state(made.records)
    assert records.labels == LabelSet(("roof", "sky"), held.colors[1:]) and use(made)[0].identity == records.identity
    pixels = np.array([read_manifest(path)["pixels"] for path in Records.paths(made.records)]).sum(0)
    assert pixels[0] == 10 * (1 + 2 + 3 + 4 + 5) and pixels[255] == 5 * 80 - pixels[0] and pixels.sum() == 5 * 80
    assert LabelSet.load(os.path.join(made.records, "labels.yaml")) == records.labels
    assert state(made.records) == before, "records of the same map are used"
    LabelMap.of(LabelSet(held.names[::-1], held.colors[::-1]), {}, ["ground"]).save(path)
    with pytest.raises(UserError, match="class 0 .roof. is called roof there and sky here"):
        use(made)
    LabelMap.of(held, {}, ["ground", 3]).save(path)
    with pytest.raises(UserError) as caught:
        use(made)
    one_line(caught, "says (ignored: ground) there and (ignored: ground, 3) here", "--data.overwrite true")
    assert use(made, overwrite=True)[0].identity != records.identity, "the map is in the hash, though no pixel differs"


def test_palette_records_are_not_complete_for_colours(tmp_path):
    """The palette shows the classes exchanged: numbers and colours give different masks of the same files."""
    draw(tmp_path / "mine", labels=LabelSet(LABELS.names, LABELS.colors[::-1]))
    LABELS.save(tmp_path / "mine" / "labels.yaml")
    settings = PrepareConfig(records=str(tmp_path / "records"), source="folder", root=str(tmp_path / "mine"),
                             mask_encoding="palette")
    prepare(settings)
    with pytest.raises(UserError, match="mask_encoding is palette there and rgb here.*--overwrite"):
        prepare(dataclasses.replace(settings, mask_encoding="rgb"))
    by_number = Records.open(settings.records, LABELS).identity
    prepare(dataclasses.replace(settings, mask_encoding="rgb", overwrite=True))
    assert Records.open(settings.records, LABELS).identity != by_number


def test_records_without_their_source_are_used(made):
    shutil.rmtree(made.root)
    assert use(made, source=None, root="")[1][0].startswith("using records")
    messages = use(made)[1]
    assert "is not here" in messages[0] and messages[1].startswith("using records")


def as_older(path):
    """Replace a manifest by the one that the release before wrote for the same records, files unchanged since."""
    manifest = read_manifest(path)
    identity = manifest.pop("identity")
    manifest.pop("checksum")
    import zlib
    times = [[name, *(value for entry in entries for value in entry[:2])]
             for name, entries in identity["samples"].items()]
    checksum = 0
    for entry in times:
        checksum = zlib.crc32(repr(entry).encode(), checksum)
    parts = [os.path.join(os.path.dirname(path), name) for name in manifest["files"]]
    with open(path + ".json", "w", encoding="utf-8") as file:
        json.dump(signed_manifest({**manifest, "fingerprint": checksum, "contents": 0}, parts), file)


def test_records_of_an_older_release_are_used_unless_they_differ(made, tmp_path):
    for path in Records.paths(made.records):
        as_older(path)
    records, messages = use(made)
    assert records.identity == "" and "overwrite true" in messages[0] and "source not recorded, 5 images" in messages[1]
    CHANGES["other masks"](tmp_path / "mine")
    with pytest.raises(UserError, match="photographs, masks or lists differ.*--data.overwrite true"):
        use(made)
    assert use(made, overwrite=True)[0].identity


def test_black_and_white_masks_of_labels_without_colours_are_noticed(tmp_path):
    """255 is the ignore label then: every labelled pixel is of the first class."""
    draw(tmp_path / "mine")
    (tmp_path / "mine" / "labels.yaml").write_text("names: [ground, roof]\n")
    for path in (tmp_path / "mine" / "masks").iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)), 255, 0).astype(np.uint8)).save(path)
    settings = PrepareConfig(records=str(tmp_path / "records"), source="folder", root=str(tmp_path / "mine"))
    messages = []
    prepare(settings, Console(messages.append))
    absent, hidden = messages[-2:]
    assert "no pixel of 1 of 2 classes (roof)" in absent and "% of the pixels have the ignore label 255" in hidden
    assert use(settings)[1][1:] == [absent, hidden]
    found = inspect(InspectConfig(str(tmp_path / "mine"), out=str(tmp_path / "out"))).findings
    assert [finding.split for finding in found if finding.kind == "void"] == ["train", "val"]


def test_good_masks_are_not_warned_about(made):
    assert len(use(made)[1]) == 1


def test_inspect_names_the_records_and_what_has_changed(made, tmp_path):
    messages, config = [], InspectConfig(made.records, out=str(tmp_path / "out"))
    assert not [finding for finding in inspect(config, Console(messages.append)).findings if finding.kind == "stale"]
    assert messages[0].startswith(f"using records {made.records}") and f"source folder {made.root}" in messages[0]
    CHANGES["other masks"](tmp_path / "mine")
    found, = (finding for finding in inspect(config).findings if finding.kind == "stale")
    assert "the mask of p2" in found.message and not found.broken
    LabelSet(LABELS.names[::-1], LABELS.colors).save(tmp_path / "labels.yaml")
    with pytest.raises(UserError, match="other classes"):
        inspect(dataclasses.replace(config, labels=str(tmp_path / "labels.yaml")))


def test_a_checkpoint_names_its_validation_records(made):
    records = use(made)[0]
    data = {"identity": records.identity, "source": records.source}
    card = Card({"name": "fcn8s_vgg16"}, LABELS, records=records.val, data=data)
    assert evaluation_records("", card, "a.ckpt") == records.val
    again = Card.from_json(card.to_json(), "a.ckpt")
    assert again.data == card.data
    path = os.path.join(made.root, "masks")
    for name in os.listdir(path):
        save_mask(os.path.join(path, name), np.zeros((8, 10), np.uint8))
    use(made, overwrite=True)
    with pytest.raises(UserError) as caught:
        evaluation_records("", card, "a.ckpt")
    one_line(caught, "other records", "a.ckpt", "--records")
    assert evaluation_records(records.val, card, "a.ckpt") == records.val


def test_a_checkpoint_finds_its_records_from_another_folder(made, tmp_path, monkeypatch):
    """The card has a path relative to the folder of the run; a folder of records stands for its validation records."""
    card = Card({"name": "fcn8s_vgg16"}, LABELS, records="records/val.mindrecord")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    expected = str(tmp_path / "records" / "val.mindrecord")
    assert evaluation_records("", card, str(checkpoint)) == evaluation_records(made.records, card, "a.ckpt") == expected
    monkeypatch.chdir(tmp_path)
    assert evaluation_records("", card, str(checkpoint)) == "records/val.mindrecord"
    assert evaluation_records("", Card({"name": "x"}, LABELS, records="away/val"), str(checkpoint)) == "away/val"


@pytest.mark.parametrize("names, colors, ignore", [
    (LABELS.names[::-1], LABELS.colors, 255), (LABELS.names, LABELS.colors[::-1], 255),
    (LABELS.names, LABELS.colors, 9),
    ((*LABELS.names, "sky"), (*LABELS.colors, (1, 1, 1)), 255)])
def test_classes_are_compared_by_order_colours_and_ignore_label(made, names, colors, ignore):
    path = Records.paths(made.records)[0]
    check_classes(path, LABELS, "a.ckpt")
    with pytest.raises(UserError) as caught:
        check_classes(path, LabelSet(names, colors, ignore), "a.ckpt")
    one_line(caught, "a.ckpt", "other classes")


def test_photographs_of_12_bits_are_recorded_with_8_on_request(made, tmp_path):
    """The same files give other records: they are not complete for the other setting."""
    from mindfcn.data.records.mindrecord import read_records
    from mindfcn.storage.images import decode_image
    photographs = tmp_path / "mine" / "images"
    for path in sorted(photographs.iterdir()):
        size = Image.open(path).size
        path.unlink()
        Image.fromarray(np.full(size[::-1], 2048, np.uint16)).save(path.with_suffix(".png"))
    use(made, overwrite=True)
    with pytest.raises(UserError, match="bits is 0 there and 12 here.*--data.overwrite true"):
        use(made, bits=12)
    records, _ = use(made, bits=12, overwrite=True)
    assert {int(decode_image(data, name).max()) for name, data, _ in read_records(records.train)} == {128}
    assert use(made, bits=12)[0] == records
