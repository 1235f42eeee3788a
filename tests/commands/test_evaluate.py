"""The verb eval: its figures are those of a plain count, its files are written, and what does not match is refused."""

import base64
import io
import json
import os
import re
import shutil

import cv2
import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its network is evaluated)
from PIL import Image

from mindfcn import runtime
from mindfcn.commands.evaluate import evaluate, load_network
from mindfcn.config import EvalConfig
from mindfcn.console import Console
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.mindrecord import read_records
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.errors import UserError
from mindfcn.evaluation import evaluate_network
from mindfcn.labels import LabelSet
from mindfcn.metrics import ConfusionMatrix, ObjectSizes, Trimap
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.report import plots
from mindfcn.storage.images import decode_image
from mindfcn.weights.checkpoint import Card, save_checkpoint

OPTIONS = {"width": 0.125, "fc_width": 8}

pytestmark = pytest.mark.usefixtures("uncompiled", "unrendered")


@pytest.fixture(autouse=True)
def device():
    runtime.set_up(seed=1)


@pytest.fixture(scope="module")
def checkpoint(sample_records, tmp_path_factory):
    """A network of random weights for the sample set's classes; its records are the sample's."""
    runtime.set_up(seed=1)
    path = tmp_path_factory.mktemp("checkpoint") / "random.ckpt"
    net = create_model("fcn8s_small_bn", len(SAMPLE), **OPTIONS)
    records = str(sample_records / "records" / "val.mindrecord")
    save_checkpoint(path, net, Card({"name": "fcn8s_small_bn", **OPTIONS}, SAMPLE, COURSE, records))
    return path


def written(out):
    return json.loads((out / "metrics.json").read_text())


def counted(checkpoint, records):
    """Names, confusion matrix and mean IoU of each image, from predictions counted pixel by pixel class by class."""
    segmenter, card = load_network(str(checkpoint), None)
    classes, matrix, names, scores = len(card.labels), 0, [], []
    dataset = SegDataset(data_file=records, training=False, preprocess=card.preprocess)
    for name, image, truth in dataset.samples(range(dataset.count)):
        mask, _ = segmenter(decode_image(image, name))
        assert mask.shape == truth.shape
        single = np.array([[np.count_nonzero((truth == true) & (mask == found)) for found in range(classes)]
                           for true in range(classes)])
        assert single.sum() == np.count_nonzero(truth != 255)
        unions = single.sum(0) + single.sum(1) - np.diag(single)
        scores.append(np.mean([hit / union for hit, union in zip(np.diag(single), unions) if union]))
        names.append(name)
        matrix = matrix + single
    return names, matrix, scores


def test_figures_are_those_of_a_plain_count(checkpoint, sample_records, tmp_path):
    result = evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), device="CPU"))
    names, matrix, scores = counted(checkpoint, str(sample_records / "records" / "val.mindrecord"))
    assert len({*matrix.argmax(1)}) > 1 or np.count_nonzero(matrix.sum(0)) > 1, "the network predicts only one class"
    found = written(tmp_path)
    assert found["confusion matrix"] == matrix.tolist()
    hits, true, union = np.diag(matrix), matrix.sum(1), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    expected = {"pixel accuracy": hits.sum() / true.sum(),
                "mean pixel accuracy": (hits[true > 0] / true[true > 0]).mean(),
                "mean IoU": np.nanmean(iou), "frequency weighted IoU": np.nansum(true / true.sum() * iou)}
    assert found["metrics"] == pytest.approx(expected, abs=1e-12) and result.metrics == found["metrics"]
    assert [np.nan if value is None else value for value in found["class IoU"]] == pytest.approx(
        iou.tolist(), abs=1e-12, nan_ok=True)
    assert found["image IoU"] == pytest.approx(dict(zip(names, scores)))
    assert found["protocol"] == "native" and found["images"] == result.images == len(names) == 3


def test_every_image_of_the_records_is_counted(checkpoint, sample_records, tmp_path):
    records = str(sample_records / "records" / "train.mindrecord")
    result = evaluate(EvalConfig(str(checkpoint), records=records, out=str(tmp_path), device="CPU"))
    truths = [truth for *_, truth in SegDataset(data_file=records, training=False).samples(range(12))]
    assert result.images == 12 == len(written(tmp_path)["image IoU"])
    assert np.sum(written(tmp_path)["confusion matrix"]) == sum(np.count_nonzero(truth != 255) for truth in truths)


@pytest.mark.parametrize("processes", [3, 13])
def test_the_shares_of_several_processes_make_up_the_whole(checkpoint, sample_records, processes):
    """Each record is in one share, at its place; with more processes than the 12 records, some have none."""
    segmenter, card = load_network(str(checkpoint), None)
    settings = {"data_file": str(sample_records / "records" / "train.mindrecord"), "training": False,
                "preprocess": card.preprocess}
    whole = evaluate_network(segmenter, SegDataset(**settings), card.labels)
    shares = []
    for rank in range(processes):
        shown = []

        class Shown(Console):
            def track(self, iterable, total=None, shown=shown, **_):
                shown.append(total)
                return iterable

        dataset = SegDataset(**settings, rank=rank, rank_size=processes)
        share = evaluate_network(segmenter, dataset, card.labels, Shown())
        seen = np.arange(12) % processes == rank
        np.testing.assert_array_equal(share.scores, np.where(seen, whole.scores, 0))
        assert share.names == whole.names and shown == [seen.sum()]
        assert np.isnan(share.seconds) == (not seen.any())
        shares.append(share)
    np.testing.assert_array_equal(sum(share.matrix.counts for share in shares), whole.matrix.counts)
    np.testing.assert_array_equal(sum(share.scores for share in shares), whole.scores)
    np.testing.assert_array_equal(sum(share.trimap.counts for share in shares), whole.trimap.counts)
    np.testing.assert_array_equal(sum(share.sizes.counts for share in shares), whole.sizes.counts)
    assert len(set(whole.scores)) > 6, "equal scores would hide a mix-up"


@pytest.mark.parametrize("processes", [1, 3])
def test_a_stopped_evaluation_has_no_result(checkpoint, sample_records, processes):
    segmenter, card = load_network(str(checkpoint), None)
    dataset = SegDataset(data_file=str(sample_records / "records" / "train.mindrecord"), training=False,
                         preprocess=card.preprocess, rank_size=processes)
    answers = iter([False, False, True])
    assert evaluate_network(segmenter, dataset, card.labels, stop=lambda: next(answers)) is None
    assert not list(answers), "it is called before each image"


def test_files_and_the_worst_and_best_images_in_order(checkpoint, unrendered, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "_save", unrendered)
    result = evaluate(EvalConfig(str(checkpoint), out=str(tmp_path / "out"), worst=2, device="CPU"))
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["best", "classes.png", "classes.txt", "confusion.png", "metrics.json",
                                       "report.html", "sizes.csv", "trimap.csv", "trimap.png", "worst"]
    scores = written(out)["image IoU"]
    order = sorted(scores, key=scores.get)
    assert sorted(os.listdir(out / "worst")) == [f"{place:02d}_{name}.jpg" for place, name in enumerate(order[:2], 1)]
    assert os.listdir(out / "best") == [f"01_{order[2]}.jpg"], "none is shown twice"
    table = (out / "classes.txt").read_text()
    assert table.strip() == result.table and all(name in table for name in SAMPLE.names)
    for name in ("classes.png", "confusion.png", "trimap.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_best_come_first_and_none_is_among_the_worst(checkpoint, sample_records, tmp_path):
    evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), worst=4,
                        records=str(sample_records / "records" / "train.mindrecord"),
                        best=5, device="CPU"))
    scores = written(tmp_path)["image IoU"]
    order = sorted(scores, key=scores.get)
    for kind, names in (("worst", order[:4]), ("best", order[:-6:-1])):
        assert sorted(os.listdir(tmp_path / kind)) == [f"{place:02d}_{name}.jpg" for place, name in enumerate(names, 1)]
    shown = re.findall(r"<strong>(.*?)</strong> <span class=\"score\">mean IoU ([\d.]+) %",
                       (tmp_path / "report.html").read_text())
    assert shown == [(name, f"{100 * scores[name]:.1f}") for name in order[:4] + order[:-6:-1]]


def test_a_second_evaluation_leaves_only_its_own_images(checkpoint, tmp_path):
    for worst, best in ((3, 0), (1, 2), (0, 0)):
        evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), worst=worst, best=best, device="CPU"))
        for kind, count in (("worst", worst), ("best", best)):
            assert (len(os.listdir(tmp_path / kind)) if (tmp_path / kind).exists() else 0) == count
            assert (f"{kind.capitalize()} images" in (tmp_path / "report.html").read_text()) == bool(count)


def test_the_page_has_the_figures_the_settings_and_the_masks(checkpoint, tmp_path):
    """The masks of the first image on the page are its truth and the network's prediction."""
    result = evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), device="CPU"))
    text = (tmp_path / "report.html").read_text().replace("<wbr>", "")
    for name, value in result.metrics.items():
        assert re.search(rf"<dt>{name}</dt><dd>{100 * value:.2f}<", text)
    assert f"<th scope=\"row\">checkpoint</th><td>{checkpoint}</td>" in text and ms.__version__ in text
    segmenter, card = load_network(str(checkpoint), None)
    scores = written(tmp_path)["image IoU"]
    dataset = SegDataset(data_file=card.records, training=False)
    worst = min(scores, key=scores.get)
    image, truth = next((decode_image(image, name), truth) for name, image, truth in dataset.samples(range(3))
                        if name == worst)
    uris = re.findall(r'src="data:image/\w+;base64,([^"]+)" alt="(\w+): ' + re.escape(worst), text)
    assert [layer for _, layer in uris] == ["photograph", "truth", "prediction"]
    found = [Image.open(io.BytesIO(base64.b64decode(encoded))) for encoded, _ in uris]
    np.testing.assert_array_equal(np.array(found[1]), truth)
    np.testing.assert_array_equal(np.array(found[2]), segmenter(image)[0])
    assert np.abs(np.array(found[0])[..., ::-1].astype(int) - image).mean() < 12


def test_small_objects_and_boundaries_are_those_of_the_masks(checkpoint, tmp_path):
    """In metrics.json, in the tables and on the page."""
    evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), device="CPU"))
    segmenter, card = load_network(str(checkpoint), None)
    trimap, sizes = Trimap(len(SAMPLE)), ObjectSizes(len(SAMPLE), SAMPLE.names.index("background"))
    for name, image, truth in SegDataset(data_file=card.records, training=False).samples(range(3)):
        for counter in (trimap, sizes):
            counter.update(segmenter(decode_image(image, name))[0], truth)
    found, expected = written(tmp_path), sizes.compute()
    assert any(row["objects"] for row in expected.values()) and np.isfinite(trimap.mean_ious()).all()
    for size, row in expected.items():
        assert {name: np.nan if value is None else value
                for name, value in found["object sizes"][size].items()} == pytest.approx(row, nan_ok=True)
    assert found["boundary mean IoU"] == pytest.approx({str(width): iou for width, iou
                                                        in enumerate(trimap.mean_ious(), 1)})
    assert (tmp_path / "trimap.csv").read_text().splitlines()[3] == f"3,{trimap.mean_ious()[2]}"
    assert (tmp_path / "sizes.csv").read_text().splitlines()[1].startswith(f"small,{expected['small']['mean IoU']}")
    page = (tmp_path / "report.html").read_text()
    assert "Mean IoU near boundaries" in page and f"{100 * expected['small']['mean IoU']:.2f}" in page


def test_some_of_the_records_evenly_spread(checkpoint, sample_records, tmp_path):
    records = str(sample_records / "records" / "train.mindrecord")
    whole = evaluate(EvalConfig(str(checkpoint), records=records, out=str(tmp_path / "all"), device="CPU"))
    part = evaluate(EvalConfig(str(checkpoint), records=records, out=str(tmp_path / "some"), limit=4, device="CPU"))
    names = list(written(tmp_path / "all")["image IoU"])
    some = written(tmp_path / "some")["image IoU"]
    assert whole.images == 12 and part.images == 4 and list(some) == [names[place] for place in (0, 3, 7, 11)]
    assert all(written(tmp_path / "all")["image IoU"][name] == some[name] for name in some)
    shown = os.listdir(tmp_path / "some" / "worst")
    assert sorted(name[3:-4] for name in shown) == sorted(some), "pictures are of those images"


def test_scales_mirroring_and_crf_are_in_the_figures(checkpoint, tmp_path):
    """Scales and mirroring give the mean of the network's results for the single views."""
    evaluate(EvalConfig(str(checkpoint), out=str(tmp_path), scales=[0.5, 1.0], flip=True, device="CPU"))
    segmenter, card = load_network(str(checkpoint), None)
    matrix = ConfusionMatrix(len(SAMPLE))
    for name, image, truth in SegDataset(data_file=card.records, training=False).samples(range(3)):
        image, total = decode_image(image, name), 0
        height, width = truth.shape
        for scale in (0.5, 1.0):
            view = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
            for mirror in (slice(None), slice(None, None, -1)):
                found = segmenter(np.ascontiguousarray(view[:, mirror]), True)[1][:, :, mirror]
                total = total + np.stack([cv2.resize(np.ascontiguousarray(one), (width, height)) for one in found])
        matrix.update(total.argmax(0), truth)
    counts = np.array(written(tmp_path)["confusion matrix"])
    assert np.abs(counts - matrix.counts).sum() <= 0.001 * counts.sum()
    plain = counted(checkpoint, card.records)[1]
    assert np.abs(counts - plain).sum() > 0.01 * counts.sum(), "it changes the plain result"


def test_a_crf_without_effect_and_one_with(checkpoint, tmp_path):
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed: pip install pydensecrf2")
    off = tmp_path / "off.yaml"
    off.write_text("gaussian_weight: 0\nbilateral_weight: 0\n")
    found = {}
    for name, crf in (("plain", ""), ("off", str(off)), ("on", "krahenbuhl")):
        evaluate(EvalConfig(str(checkpoint), out=str(tmp_path / name), crf=crf, device="CPU"))
        found[name] = written(tmp_path / name)["confusion matrix"]
    assert found["plain"] == found["off"] != found["on"]


@pytest.mark.parametrize("settings, words", [
    ({"scales": []}, "--scales"), ({"scales": [0.0]}, "--scales 0.0"), ({"scales": [1, 9]}, "at most 8"),
    ({"overlap": 32}, "give --window"), ({"window": -1}, "--window"), ({"window": 64}, "must be larger than"),
    ({"limit": -1}, "--limit -1"), ({"protocol": "course", "flip": True}, "--protocol course")])
def test_impossible_ways_to_segment_are_refused(checkpoint, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        evaluate(EvalConfig(str(checkpoint), out=str(tmp_path / "out"), device="CPU", **settings))
    assert not (tmp_path / "out").exists()


def test_results_are_next_to_the_checkpoint(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "a.ckpt")
    result = evaluate(EvalConfig(str(tmp_path / "a.ckpt"), device="CPU"))
    assert result.out == str(tmp_path / "evaluation") and written(tmp_path / "evaluation")["images"] == 3


def test_the_course_protocol_is_named_in_the_results(checkpoint, sample_records, tmp_path):
    records = str(sample_records / "records" / "train.mindrecord")
    shutil.copy(checkpoint, tmp_path / "a.ckpt")
    config = EvalConfig(str(tmp_path / "a.ckpt"), records=records, protocol="course", device="CPU")
    result = evaluate(config)
    assert result.out == str(tmp_path / "evaluation-course") and not (tmp_path / "evaluation").exists()
    found = written(tmp_path / "evaluation-course")
    assert found["protocol"].startswith("course") and "comparison" in found["protocol"]
    page = (tmp_path / "evaluation-course" / "report.html").read_text()
    assert "random crops" in page and f">{100 * result.metrics['mean IoU']:.2f}<" in page
    assert result.images == found["images"] == 12 and (result.protocol, result.table) == ("course", "")
    assert all(0 <= value <= 1 for value in found["metrics"].values()) and len(found["metrics"]) == 4
    assert evaluate(config).metrics == result.metrics


def test_the_course_protocol_needs_a_batch(checkpoint, tmp_path):
    with pytest.raises(UserError, match="3 records, fewer than one batch of 4"):
        evaluate(EvalConfig(str(checkpoint), out=str(tmp_path / "out"), protocol="course", device="CPU"))
    assert not (tmp_path / "out").exists()


def test_records_of_other_classes_are_refused(sample_records, tmp_path):
    labels = LabelSet(("sky", "earth"), ((0, 0, 0), (9, 9, 9)))
    net = create_model("fcn8s_vgg16_bn", 2, **OPTIONS)
    save_checkpoint(tmp_path / "two.ckpt", net, Card({"name": "fcn8s_vgg16_bn", **OPTIONS}, labels))
    records = str(sample_records / "records" / "val.mindrecord")
    with pytest.raises(UserError, match="7 classes .background, disc.* 2 .sky, earth") as caught:
        evaluate(EvalConfig(str(tmp_path / "two.ckpt"), records=records, device="CPU"))
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["two.ckpt"]
    with pytest.raises(UserError, match="--records"):
        evaluate(EvalConfig(str(tmp_path / "two.ckpt"), device="CPU"))


def test_an_official_checkpoint_needs_model_and_records(sample_records, tmp_path):
    """Weights alone, under the official names, as `mindspore.save_checkpoint` writes them."""
    net = create_model("fcn8s_vgg16", len(SAMPLE), fc_width=8)
    ms.save_checkpoint(net, str(tmp_path / "official.ckpt"))
    records = str(sample_records / "records" / "val.mindrecord")
    shutil.copytree(os.path.dirname(records), tmp_path / "course")
    os.remove(tmp_path / "course" / "val.mindrecord.json")  # ready records have no manifest
    result = evaluate(EvalConfig(str(tmp_path / "official.ckpt"), records=str(tmp_path / "course" / "val.mindrecord"),
                                 out=str(tmp_path / "out"), device="CPU", fallback_model="fcn8s_vgg16"))
    assert result.images == 3 == len(list(read_records(records)))
    assert written(tmp_path / "out")["classes"] == [f"class {number}" for number in range(len(SAMPLE))]
    with pytest.raises(UserError, match="--fallback_model"):
        evaluate(EvalConfig(str(tmp_path / "official.ckpt"), records=records, device="CPU"))


@pytest.mark.parametrize("option, value", [("worst", -1), ("best", -1), ("seed", -1)])
def test_numbers_out_of_range(checkpoint, tmp_path, option, value):
    with pytest.raises(UserError, match=f"--{option} {value}"):
        evaluate(EvalConfig(str(checkpoint), out=str(tmp_path / "out"), **{option: value}))
    assert not (tmp_path / "out").exists()
