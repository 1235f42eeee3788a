"""Every cell of the table of what goes with what: it works, or it is refused in one line with the table's reason."""

import dataclasses
import itertools
import pathlib

import pytest
from helpers import one_line

from mindfcn import combinations
from mindfcn.combinations import AXES, REFUSED, TABLES, check, markdown, reason
from mindfcn.commands.explain import explain
from mindfcn.commands.tune_crf import tune_crf
from mindfcn.config import (
    AugmentConfig,
    ExplainConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    ServeConfig,
    TrainConfig,
    TuneCrfConfig,
)
from mindfcn.engine.settings import check_settings, check_training
from mindfcn.errors import UserError
from mindfcn.inference.load import combined
from mindfcn.inference.network import Segmenter
from mindfcn.inference.open import open_segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.inference.sliding_window import SlidingWindow
from mindfcn.labels import LabelSet
from mindfcn.models.factory import MODELS, create_model
from mindfcn.models.precision import TYPES, layer_type
from mindfcn.preprocess import COURSE, MODALITIES, Preprocess
from mindfcn.weights.card import Card

# A small network of each kind.
NETWORKS = {combinations.FCN: ("fcn8s_vgg16", {"width": 0.0625, "fc_width": 8}),
            combinations.MINDCV: ("fcn32s_mindcv_mnasnet_050", {}),
            combinations.SQUEEZE: ("fcn32s_mindcv_mobilenet_v3_small_100", {}),
            combinations.DILATED: ("fcn_r18b_d8", {"width": 0.0625}),
            combinations.DECONVNET: ("deconvnet_vgg16", {"width": 0.0625, "fc_width": 8, "side": 32,
                                                         "decoder_width": 0.25})}
LABELS = LabelSet(("a", "b"), ((0, 0, 0), (255, 0, 0)))
METHODS = {combinations.WINDOW: {"window": 512, "overlap": 64}, combinations.SCALES: {"scales": [0.5, 1.0]},
           combinations.FLIP: {"flip": True}, combinations.CRF: {"crf": "deeplab_v1"},
           combinations.SIDE: {"shorter_side": 64}, combinations.PROPOSALS: {"proposals": "edge_boxes"},
           combinations.ENSEMBLE: {"ensemble": "b.ckpt"}}

SETTINGS = {combinations.BOOTSTRAPPED: "bootstrapped", combinations.FOCAL: "focal", combinations.DICE: "dice",
            combinations.WEIGHTS: "median_frequency", combinations.SMOOTHING: 0.1, combinations.CELLS: 0.5,
            combinations.RARE: 0.3, combinations.SHARE: 0.5, combinations.PIPELINE: "pipeline.yaml"}
GROUPS = {"optim": OptimConfig, "augment": AugmentConfig}

pytestmark = pytest.mark.usefixtures("pynative")


def card_of(taken):
    """The Card of a network with this input."""
    second = taken == combinations.GEOMETRIC
    labels = dataclasses.replace(LABELS, multilabel=taken == combinations.MULTILABEL)
    return Card({"name": "fcn8s_vgg16"}, labels, preprocess_of(taken), geometric=LABELS if second else None)


def preprocess_of(taken):
    """The Preprocess of an input; of five bands, where it is bands."""
    if taken == combinations.BANDS:
        return Preprocess(mean=range(5), std=range(1, 6), modality=taken)
    return COURSE if taken in (combinations.GEOMETRIC, combinations.MULTILABEL) else COURSE.to(taken)


def refused(call, one, other):
    """Assert that a call is refused with the reason of this cell, in one line."""
    with pytest.raises(UserError) as caught:
        call()
    one_line(caught, reason(one, other))


def test_the_page_is_the_table():
    page = pathlib.Path(__file__).parents[1] / "docs" / "combinations.md"
    assert markdown() in page.read_text(encoding="utf-8")


def test_every_entry_is_of_two_axes_and_every_network_of_a_kind():
    known = set(itertools.chain(*AXES.values()))
    assert all(one in known and other in known for one, other in REFUSED)
    assert all(combinations.kind(name) in NETWORKS for name in MODELS)
    assert {combinations.kind(name) for name, _ in NETWORKS.values()} == set(AXES["network"]) == set(NETWORKS)
    assert set(AXES["input"]) == {*MODALITIES, combinations.GEOMETRIC, combinations.MULTILABEL}
    assert set(AXES["precision"]) == set(TYPES) and set(METHODS) == set(AXES["method"])
    assert set(SETTINGS) == set(AXES["training"])
    with pytest.raises(UserError, match="^GPU and bfloat16 do not go together: "):
        check("rgb", "GPU", "bfloat16")


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_and_inputs(kind):
    name, options = NETWORKS[kind]
    for taken in AXES["input"]:
        # Overlapping classes change the loss and what is made of the scores, but no network.
        if taken == combinations.MULTILABEL:
            assert not reason(kind, taken)
            continue
        # Building a network of mindcv takes seconds; rgb is built in the test of windows.
        if kind in (combinations.MINDCV, combinations.SQUEEZE) and taken in (combinations.RGB, combinations.GEOMETRIC):
            continue
        settings = {"geometric": 3} if taken == combinations.GEOMETRIC else {"modality": taken}
        settings |= {"bands": 5} if taken == combinations.BANDS else {}

        def make(settings=settings):
            return create_model(name, 2, **options, **settings)

        if reason(kind, taken):
            refused(make, kind, taken)
        else:
            assert make().in_channels == preprocess_of(taken).channels


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_and_windows(kind):
    name, options = NETWORKS[kind]
    segmenter = Segmenter(create_model(name, 2, **options), COURSE)

    def make():
        return SlidingWindow(segmenter, 512, 64)

    if reason(kind, combinations.WINDOW):
        refused(make, kind, combinations.WINDOW)
    else:
        assert make().window == 512


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("taken", AXES["input"])
def test_methods_and_inputs(method, taken, monkeypatch):
    if method == combinations.CRF:
        pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")
    card = card_of(taken)
    config = PredictConfig("a.ckpt", **METHODS[method])

    def use():
        if method in (combinations.PROPOSALS, combinations.ENSEMBLE):
            combined(None, card, config)
        Inference(lambda image, probabilities=False: None, config).check(card)

    if reason(method, taken):
        refused(use, method, taken)
    elif method == combinations.ENSEMBLE:
        # It goes on to the other checkpoint, which is not there.
        with pytest.raises(UserError, match="b.ckpt"):
            use()
    elif method != combinations.PROPOSALS:
        use()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("taken", AXES["input"])
def test_settings_of_training_and_inputs(setting, taken):
    group, _, name = setting.split(" ")[0].removeprefix("--").partition(".")
    config = TrainConfig(**{group: GROUPS[group](**{name: SETTINGS[setting]})})
    if reason(setting, taken):
        refused(lambda: check_training(config, taken), setting, taken)
    else:
        check_training(config, taken)


def test_training_refuses_what_does_not_go_with_its_input():
    for setting, model in ((combinations.CELLS, ModelConfig(geometric=True)),
                           (combinations.PIPELINE, ModelConfig(modality="hha"))):
        group, _, name = setting.removeprefix("--").partition(".")
        config = TrainConfig(model=model, **{group: GROUPS[group](**{name: SETTINGS[setting]})})
        with pytest.raises(UserError, match=f"^{setting} and "):
            check_settings(config)


@pytest.mark.parametrize("verb", ["tune_crf", "explain", "serve"])
@pytest.mark.parametrize("taken", AXES["input"])
def test_verbs_and_inputs(verb, taken, monkeypatch, tmp_path):
    """Before anything is computed: the network itself is not needed."""
    from PIL import Image
    card = card_of(taken)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    class Opened(Exception):
        """The verb would go on."""

    class Net:
        @property
        def net(self):
            raise Opened

    for module in ("tune_crf", "explain"):
        monkeypatch.setattr(f"mindfcn.commands.{module}.load_network", lambda *_: (Net(), card))
    call = {"explain": lambda: explain(ExplainConfig("a.ckpt", device="CPU", image=str(tmp_path / "a.png"))),
            "tune_crf": lambda: tune_crf(TuneCrfConfig("a.ckpt", device="CPU")),
            "serve": lambda: check("serve", *card.inputs)}[verb]
    if verb == "tune_crf":
        pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")
    if reason(verb, taken):
        refused(call, verb, taken)
    elif verb != "serve":
        with pytest.raises((Opened, UserError)) as caught:
            call()
        assert "do not go together" not in str(caught.value)


@pytest.mark.parametrize("device, precision", list(itertools.product(AXES["device"], AXES["precision"])))
def test_devices_and_precisions(device, precision):
    if reason(device, precision):
        refused(lambda: layer_type(precision, device), device, precision)
    else:
        assert layer_type(precision, device) == TYPES[precision]


@pytest.mark.parametrize("setting, name", [
    ({"proposals": "edge_boxes"}, combinations.PROPOSALS), ({"ensemble": "b.ckpt"}, combinations.ENSEMBLE),
    ({"precision": "float16"}, "float16"), ({"precision": "bfloat16"}, "bfloat16")])
def test_onnx_files(setting, name):
    refused(lambda: open_segmenter(PredictConfig("a.onnx", **setting)), combinations.ONNX, name)
    for precision in ("float32", "float32_strict"):
        with pytest.raises(UserError, match="a.onnx"):
            open_segmenter(ServeConfig("a.onnx", precision=precision))


def test_files_and_networks():
    from mindfcn.models.onnx_graph import onnx_model
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    for kind, (name, options) in NETWORKS.items():
        # Both kinds of mindcv are refused alike.
        if kind == combinations.SQUEEZE:
            continue
        net = create_model(name, 2, **options).set_train(False)
        if reason(combinations.ONNX, kind):
            refused(lambda net=net: onnx_model(net), combinations.ONNX, kind)
        else:
            assert isinstance(onnx_model(net), onnx.ModelProto)
    assert all(rows in AXES and columns in AXES for rows, columns in TABLES)
