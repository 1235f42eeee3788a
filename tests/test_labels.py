"""Label sets: VOC's colours, files, and every kind of faulty file."""

import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet, voc_palette

# from the table of the VOC development kit
KNOWN = {"background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "bird": (128, 128, 0),
         "boat": (0, 0, 128), "bottle": (128, 0, 128), "bus": (0, 128, 128), "car": (128, 128, 128),
         "cat": (64, 0, 0), "chair": (192, 0, 0), "cow": (64, 128, 0), "diningtable": (192, 128, 0),
         "dog": (64, 0, 128), "horse": (192, 0, 128), "motorbike": (64, 128, 128), "person": (192, 128, 128),
         "pottedplant": (0, 64, 0), "sheep": (128, 64, 0), "sofa": (0, 192, 0), "train": (128, 192, 0),
         "tvmonitor": (0, 64, 128)}
OWN = LabelSet(("背景", "Straße", "no"), ((1, 2, 3), (255, 0, 0), (0, 0, 255)), 200)


def test_voc_labels_are_those_of_the_development_kit():
    assert dict(zip(VOC.names, VOC.colors)) == KNOWN and list(VOC.names) == list(KNOWN)
    assert len(VOC) == 21 and VOC.ignore_label == 255


def test_known_values_of_the_palette():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256
    np.testing.assert_array_equal(voc_palette(21), palette[:21])


def test_own_colors_come_first_in_a_palette():
    palette = OWN.palette()
    assert palette[:3].tolist() == [[1, 2, 3], [255, 0, 0], [0, 0, 255]]
    np.testing.assert_array_equal(palette[3:], voc_palette()[3:])
    colored = OWN.colorize(np.uint8([[0, 1], [2, 255]]))
    assert colored.shape == (2, 2, 3) and colored.dtype == np.uint8
    assert colored.tolist() == [[[1, 2, 3], [255, 0, 0]], [[0, 0, 255], [224, 224, 192]]]


@pytest.mark.parametrize("labels", [VOC, OWN, LabelSet(("one",), ((0, 0, 0),), 1)])
def test_file_round_trip(labels, tmp_path):
    labels.save(tmp_path / "ä" / "labels.yaml")
    assert LabelSet.load(tmp_path / "ä" / "labels.yaml") == labels
    text = (tmp_path / "ä" / "labels.yaml").read_text(encoding="utf-8")
    assert labels.names[-1] in text, "names are written as they are"


def load(tmp_path, text):
    (tmp_path / "labels.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return LabelSet.load(tmp_path / "labels.yaml")


def test_names_alone_are_enough(tmp_path):
    labels = load(tmp_path, "names: [sky, ground, 12]\n")
    assert labels == LabelSet(("sky", "ground", "12"), ((0, 0, 0), (128, 0, 0), (0, 128, 0)), 255)


def test_255_classes_are_the_most(tmp_path):
    names = ", ".join(f"c{number}" for number in range(255))
    assert len(load(tmp_path, f"names: [{names}]")) == 255
    with pytest.raises(UserError, match="256 classes"):
        load(tmp_path, f"names: [{names}, more]")


@pytest.mark.parametrize("text, words", [
    ("names: [a, b", "line 1"),
    ("names: [a]\n  bad: : :\n", "is not YAML"),
    ("names: [a]\n\tcolours: []\n", "is not YAML"),
    ("", "list `names`"), ("just text", "list `names`"), ("[a, b]", "list `names`"), ("names: abc", "list `names`"),
    ("colours: [[0, 0, 0]]", "list `names`"),
    ("names: []", "0 classes"),
    ("names: [a, b, a]", "'a' appears twice"), ("names: [1, '1']", "'1' appears twice"),
    ("names: [a]\ncolors: [[0, 0, 0]]", "'colors'"),
    ("names: [a, b]\ncolours: [[0, 0, 0]]", "2 names but 1 colours"),
    ("names: [a]\ncolours: red", "list of [R, G, B]"), ("names: [a]\ncolours: [red]", "three numbers"),
    ("names: [a]\ncolours: [7]", "three numbers"), ("names: [a]\ncolours: [[0, 0]]", "three numbers"),
    ("names: [a]\ncolours: [[0, 0, 256]]", "three numbers"), ("names: [a]\ncolours: [[-1, 0, 0]]", "three numbers"),
    ("names: [a]\ncolours: [[0, null, 0]]", "three numbers"), ("names: [a]\ncolours: ", "list of [R, G, B]"),
    ("names: [a, b]\nignore_label: 1", "ignore label 1"), ("names: [a]\nignore_label: 256", "ignore label 256"),
    ("names: [a]\nignore_label: none", "ignore label"), ("names: [a]\nignore_label: true", "ignore label"),
    ("names: [a]\nignore_label: 7.0", "ignore label"), ("names: [a]\nignore_label: 3:20", "ignore label '3:20'"),
    ("names: [a]\nignore_label: 255\nignore_label: 3", "line 3 is not YAML: the key ignore_label appears twice"),
    ("names: [a]\ncolours: [[0, 0, 010]]", "three numbers"), ("names: [a]\ncolours: [[0, 0, 1.9]]", "three numbers"),
    ("names: [a]\ncolours: [[0, 0, true]]", "three numbers"), ("names: ['', b]", "a class name is empty"),
    (b"names: [\xff\xfe]", "not a UTF-8"), (b"\x00\x01\x02", "is not YAML"),
    ("!!python/object/apply:os.system [echo]", "is not YAML"),
    ("a: &x [*x]\nnames: [a]", "alias *x"), ("names: [a]\n? [k]\n: 1", "")])
def test_bad_files_are_reported_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert "labels.yaml" in message and words in message and "\n" not in message


def test_files_that_cannot_be_read_or_written(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot read") as error:
            LabelSet.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        VOC.save(tmp_path / "file" / "labels.yaml")


def test_the_same_checks_without_a_file():
    for arguments, words in (((("a",), ()), "1 names but 0 colours"), ((("a",), ((0, 0, 0),), 0), "ignore label 0"),
                             (((), ()), "0 classes")):
        with pytest.raises(UserError, match=words):
            LabelSet(*arguments)


def test_excluded_classes_go_into_the_file_and_back(tmp_path):
    labels = LabelSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), excluded=("c", "a"))
    labels.save(tmp_path / "labels.yaml")
    assert LabelSet.load(tmp_path / "labels.yaml") == labels and labels.excluded_numbers() == [2, 0]
    assert "excluded" not in VOC.to_dict()
    (tmp_path / "labels.yaml").write_text("names: [a, b]\nexcluded: [c]\n")
    with pytest.raises(UserError, match="the excluded class 'c' is not among the names"):
        LabelSet.load(tmp_path / "labels.yaml")
    (tmp_path / "labels.yaml").write_text("names: [a, b]\nexcluded: c\n")
    with pytest.raises(UserError, match="`excluded` must be a list"):
        LabelSet.load(tmp_path / "labels.yaml")


def test_a_name_is_the_text_that_is_written(tmp_path):
    """YAML reads these as truth values, an octal number, minutes and seconds, and nothing."""
    (tmp_path / "labels.yaml").write_text("names: [yes, no, off, 010, 1:30, ~, 1.0]\nexcluded: [off]\n"
                                          "ignore_label: 254\n")
    labels = LabelSet.load(tmp_path / "labels.yaml")
    assert labels.names == ("yes", "no", "off", "010", "1:30", "~", "1.0")
    assert labels.excluded == ("off",) and labels.ignore_label == 254
    labels.save(tmp_path / "again.yaml")
    assert LabelSet.load(tmp_path / "again.yaml") == labels


@pytest.mark.parametrize("names, words", [
    ((*OWN.names, "sky"), "3 classes (背景, Straße, no) there, 4 (背景, Straße, no, ...) here; 'sky' is only here"),
    (OWN.names[:2], "2 (背景, Straße) here; 'no' is only there"),
    (("Straße", "背景", "no"), "class 0 (背景) is called 背景 there and Straße here")])
def test_the_first_difference_is_named(names, words):
    """Lists whose first three names are the same differ in the name that only one of them has."""
    assert OWN.difference(OWN) == ""
    assert words in OWN.difference(LabelSet(names, voc_palette(len(names)).tolist(), OWN.ignore_label))


ROAD = """names: [road, sky, cat, dog, tree]
colours: [[9, 9, 9], [0, 0, 250], [200, 0, 0], [0, 200, 0], [1, 99, 1]]
"""


def test_classes_are_merged_and_left_out_by_a_map(tmp_path):
    labels = load(tmp_path, ROAD + "merge: {animal: [cat, dog]}\nignore: [sky, 254, [255, 255, 255]]\n"
                                   "excluded: [animal]\n")
    assert labels.names == ("road", "animal", "tree") and labels.colors == ((9, 9, 9), (200, 0, 0), (1, 99, 1))
    assert labels.excluded == ("animal",) and labels.in_masks.names == ("road", "sky", "cat", "dog", "tree")
    assert labels.map.apply(np.uint8([[0, 1, 2, 3, 4], [254, 255, 7, 0, 0]])).tolist() == [
        [0, 255, 1, 1, 2], [255, 255, 7, 0, 0]]
    assert str(labels.map) == "animal is cat, dog; ignored: sky, 254, (255, 255, 255)"
    labels.map.save(tmp_path / "again.json")
    again = LabelSet.load(tmp_path / "again.json")
    assert again.map == labels.map and again.names == labels.names
    assert set(labels.to_dict()) == {"names", "colours", "ignore_label", "excluded"}, "records hold the merged classes"


def test_classes_are_merged_into_one_that_is_there(tmp_path):
    labels = load(tmp_path, ROAD + "merge: {dog: [cat], ~: [sky, road]}\nignore: [tree]")
    assert labels.names == ("~", "dog") and labels.colors == ((9, 9, 9), (0, 200, 0))
    assert labels.map.apply(np.uint8([0, 1, 2, 3, 4])).tolist() == [0, 0, 1, 1, 255]
    assert load(tmp_path, "names: [yes, no]\nignore: [no]").names == ("yes",), "names are texts"


@pytest.mark.parametrize("rules, words", [
    ("merge: {animal: [cat, cow]}", "'cow', which is no class"), ("ignore: [cow]", "'cow', which is no class"),
    ("merge: {a: [cat, dog], b: [dog]}", "'dog' is merged twice, into 'a' and into 'b'"),
    ("merge: {a: [cat, cat]}", "'cat' is merged twice"), ("merge: {a: []}", "'a' is merged from no class"),
    ("merge: {cat: [dog], a: [cat]}", "'cat' is itself merged into 'a'"),
    ("merge: {a: [cat]}\nignore: [cat]", "'cat' is ignored and merged into 'a'"),
    ("merge: {dog: [cat]}\nignore: [dog]", "'dog' is ignored and merged into 'dog'"),
    ("merge: {a: cat}", "must be a mapping of lists"), ("merge: [cat]", "must be a mapping of lists"),
    ("ignore: sky", "must be a list"), ("ignore: 0", "must be a list"),
    ("ignore: [0]", "the number 0 is the class 'road': ignore it by name"), ("ignore: [256]", "must be from 0 to 255"),
    ("ignore: [[9, 9, 9]]", "(9, 9, 9) is the colour of the class 'road'; ignore it by name"),
    ("ignore: [255, 255, 255]", "a colour is one entry, such as [[255, 255, 255]]"),
    ("ignore: [[1, 2]]", "the colour [1, 2] must be three numbers"),
    ("ignore: [[1, 2, 300]]", "must be three numbers"), ("ignore: [sky, sky]", "the name sky twice"),
    ("ignore: [road, sky, cat, dog, tree]", "every class is ignored"),
    ("ignore: [sky]\nexcluded: [sky]", "the excluded class 'sky' is not among the names"),
    ("ignore_label: 0", "listed by name under `ignore`")])
def test_wrong_maps_are_one_line(tmp_path, rules, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, ROAD + rules)
    message = str(error.value)
    assert "labels.yaml" in message and words in message and "\n" not in message


def test_the_grey_of_a_class_is_no_number_to_ignore(tmp_path):
    with pytest.raises(UserError, match="is the colour of the class 'white'"):
        load(tmp_path, "names: [black, white]\ncolours: [[0, 0, 0], [255, 255, 255]]\nignore: [255]")
