"""The search for the CRF's parameters: its scores are those of an evaluation with each set."""

import pytest
import small_network  # noqa: F401  (its network is evaluated)

from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.tune_crf import tune_crf
from mindfcn.config import EvalConfig, TuneCrfConfig
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.errors import UserError
from mindfcn.inference.crf import crf_of
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.weights.checkpoint import Card, save_checkpoint

pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed: pip install pydensecrf2")
OPTIONS = {"width": 0.125, "fc_width": 8}

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(scope="module")
def checkpoint(sample_records, tmp_path_factory, scramble):
    path = tmp_path_factory.mktemp("checkpoint") / "random.ckpt"
    net = scramble(create_model("fcn8s_small_bn", len(SAMPLE), **OPTIONS))
    records = str(sample_records / "records" / "val.mindrecord")
    save_checkpoint(path, net, Card({"name": "fcn8s_small_bn", **OPTIONS}, SAMPLE, COURSE, records))
    return str(path)


def test_the_best_set_is_written_and_scores_as_in_eval(checkpoint, tmp_path):
    config = TuneCrfConfig(checkpoint, out_file=str(tmp_path / "crf.yaml"), limit=2, device="CPU",
                          bilateral_weight=[1.0, 10.0],
                           bilateral_sxy=[5.0, 40.0], bilateral_srgb=[10.0])
    result = tune_crf(config)
    assert len(result.scores) == 4 and len(set(result.scores.values())) > 1
    assert len(result.table.splitlines()) == 6
    best = crf_of(result.out)
    assert "grid search on 2 images" in best.source and best.gaussian_weight == 3
    scored = evaluate(EvalConfig(checkpoint, out=str(tmp_path / "crf"), limit=2, crf=result.out, device="CPU"))
    assert scored.metrics["mean IoU"] == pytest.approx(max(result.scores.values()), abs=1e-9)
    plain = evaluate(EvalConfig(checkpoint, out=str(tmp_path / "plain"), limit=2, device="CPU"))
    assert plain.metrics["mean IoU"] == pytest.approx(result.plain, abs=1e-9)


@pytest.mark.parametrize("settings, words", [
    ({"bilateral_sxy": []}, "at least one value"), ({"limit": -1}, "--limit -1: must be at least 0"),
    ({"start": "nobody"}, "nobody"),
    ({"bilateral_srgb": [0.0]}, "must be above 0"), ({"records": "nothing.mindrecord"}, "nothing.mindrecord")])
def test_impossible_searches_are_refused(checkpoint, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        tune_crf(TuneCrfConfig(checkpoint, out_file=str(tmp_path / "crf.yaml"), device="CPU", **settings))
    assert not (tmp_path / "crf.yaml").exists()
