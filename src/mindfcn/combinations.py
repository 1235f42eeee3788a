"""What does not go together, in one table, from which every refusal and the page docs/combinations.md come.

Networks that mindfcn describes by name fall into kinds (`kind`), which together with inputs, heads, overlapping
classes, methods, settings of training, verbs, runtimes, devices and precisions are the names in the table. What is not
in it works.
"""

import itertools

from mindfcn.errors import UserError

FCN, MINDCV, SQUEEZE, DILATED, DECONVNET = ("FCNs on the paper's backbones", "mindcv's backbones",
                                            "mindcv's mobilenet_v3", "dilated ResNets", "DeconvNet")
RGB, RGBD, HHA, LATE, BANDS, GEOMETRIC, MULTILABEL = ("rgb", "rgbd", "hha", "rgb_hha", "bands", "two heads",
                                                      "multilabel")
WINDOW, SCALES, FLIP, CRF, SIDE, PROPOSALS, ENSEMBLE = ("--window", "--scales", "--flip", "--crf", "--shorter_side",
                                                        "--proposals", "--ensemble")
BOOTSTRAPPED, FOCAL, DICE, WEIGHTS, SMOOTHING, CELLS = (
    "--optim.loss bootstrapped", "--optim.loss focal", "--optim.loss dice", "--optim.class_weights",
    "--optim.label_smoothing", "--optim.keep_cells")
RARE, SHARE, PIPELINE = "--augment.rare_crops", "--augment.max_class_share", "--augment.pipeline"
ONNX, MINDIR = "ONNX files", "MindIR files"
AXES = {
    "network": (FCN, MINDCV, SQUEEZE, DILATED, DECONVNET),
    "input": (RGB, RGBD, HHA, LATE, BANDS, GEOMETRIC, MULTILABEL),
    "method": (WINDOW, SCALES, FLIP, CRF, SIDE, PROPOSALS, ENSEMBLE),
    "training": (BOOTSTRAPPED, FOCAL, DICE, WEIGHTS, SMOOTHING, CELLS, RARE, SHARE, PIPELINE),
    "verb": ("train", "eval", "predict", "compare", "tune_crf", "explain", "serve"),
    "file": (ONNX, MINDIR),
    "precision": ("float32", "float32_strict", "float16", "bfloat16"),
    "device": ("CPU", "GPU", "Ascend")}
# The tables of the page: rows, columns.
TABLES = (("network", "input"), ("network", "method"), ("method", "input"), ("training", "input"), ("verb", "input"),
          ("file", "network"), ("file", "method"), ("file", "precision"), ("device", "precision"))

_THREE = "its first layer takes three channels; take a network of the paper's backbones"
_PHOTOGRAPHS = "it is for networks of photographs with one head; leave it out"
_VIEWS = "it resizes and cuts photographs, not depth, HHA, bands or two heads' scores; leave it out"
_ONE_CLASS = "it is for masks with one class a pixel; leave it out"
REFUSED = {
    **{(kind, taken): _THREE for kind in (MINDCV, SQUEEZE, DILATED, DECONVNET) for taken in (RGBD, BANDS)},
    (MINDCV, LATE): "two streams would share mindcv's parameter names; take a network of the paper's backbones",
    (SQUEEZE, LATE): "two streams would share mindcv's parameter names; take a network of the paper's backbones",
    (DILATED, LATE): "its head has one stream; take a network of the paper's backbones",
    (DECONVNET, LATE): "its head has one stream; take a network of the paper's backbones",
    (DILATED, GEOMETRIC): "it has one head; take a network of the paper's backbones",
    (DECONVNET, GEOMETRIC): "it has one head; take a network of the paper's backbones",
    (SQUEEZE, WINDOW): "its squeeze-and-excitation layers average over the photograph, and so over each window; leave "
                       "it out",
    (DECONVNET, WINDOW): "it resizes each photograph, and so each window, to its own square; leave it out",
    **{(method, kind): _VIEWS for method in (WINDOW, SCALES, FLIP, CRF, SIDE, PROPOSALS, ENSEMBLE)
       for kind in (RGBD, HHA, LATE, BANDS, GEOMETRIC)},
    **{(method, MULTILABEL): _ONE_CLASS for method in (CRF, PROPOSALS, ENSEMBLE)},
    **{(setting, MULTILABEL): _ONE_CLASS for setting in (BOOTSTRAPPED, FOCAL, DICE, WEIGHTS, SMOOTHING, CELLS, RARE,
                                                         SHARE, PIPELINE)},
    (CELLS, GEOMETRIC): "it would draw other cells for each head; leave it out",
    (PIPELINE, HHA): "albumentations works on the colours of a photograph; leave it out",
    (PIPELINE, BANDS): "albumentations works on the colours of a photograph; leave it out",
    **{(verb, MULTILABEL): "its figures and pictures are of one class a pixel; use eval and predict"
       for verb in ("compare", "tune_crf", "explain", "serve")},
    (WINDOW, PROPOSALS): "proposals are windows already; leave one out",
    **{("tune_crf", kind): _PHOTOGRAPHS for kind in (RGBD, HHA, LATE, BANDS, GEOMETRIC)},
    **{("explain", kind): "it shows photographs; take a network of rgb" for kind in (RGBD, HHA, LATE, BANDS)},
    **{("serve", kind): "the page sends photographs alone; use mindfcn predict"
       for kind in (RGBD, HHA, LATE, BANDS)},
    (ONNX, MINDCV): "mindcv's backbones do not list their layers; use --format mindir",
    (ONNX, SQUEEZE): "mindcv's backbones do not list their layers; use --format mindir",
    (ONNX, DECONVNET): "its unpooling has no form for ONNX here; use --format mindir",
    (ONNX, PROPOSALS): "proposals take .ckpt files", (ONNX, ENSEMBLE): "ensembles take .ckpt files",
    (ONNX, "float16"): "they compute in float32; leave --precision out",
    (ONNX, "bfloat16"): "they compute in float32; leave --precision out",
    # True of MindSpore 2.8; a test fails as soon as its CPU kernels support bfloat16.
    ("CPU", "float16"): "a CPU computes it in float32 and converts each map twice, which is slower; use float32",
    ("CPU", "bfloat16"): "MindSpore has no such convolution on CPU; use float32",
    ("GPU", "bfloat16"): "MindSpore has no such layers on GPU; use float16"}


def reason(one: str, other: str) -> str:
    """Why two names of AXES do not go together; "" if they do."""
    return REFUSED.get((one, other)) or REFUSED.get((other, one), "")


def check(*names: str) -> None:
    """Raise UserError for the first two of these names that do not go together; the message names both."""
    for one, other in itertools.combinations(names, 2):
        if found := reason(one, other):
            raise UserError(f"{one} and {other} do not go together: {found}")


def kind(name: str) -> str:
    """The kind of a network's name, such as fcn8s_vgg16."""
    if "mindcv_" in name:
        return SQUEEZE if "mobilenet_v3" in name else MINDCV
    if name.startswith("deconvnet"):
        return DECONVNET
    return DILATED if name.startswith("fcn_r") else FCN


def inputs(modality: str, second_head: bool, multilabel: bool = False) -> tuple[str, ...]:
    """The names of a network's input and heads, and of its classes if they overlap."""
    return (modality, *[GEOMETRIC] * second_head, *[MULTILABEL] * multilabel)


def markdown() -> str:
    """The tables, with a number for each reason, and the reasons below."""
    notes: dict[str, int] = {}
    parts = []
    for rows, columns in TABLES:
        lines = [["", *(f"`{name}`" if name.startswith("--") else name for name in AXES[columns])]]
        for row in AXES[rows]:
            cells = []
            for column in AXES[columns]:
                found = reason(row, column)
                cells.append(f"no ({notes.setdefault(found, len(notes) + 1)})" if found else "yes")
            lines.append([f"`{row}`" if row.startswith("--") else row, *cells])
        lines.insert(1, ["---"] * len(lines[0]))
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"{number}. {text[0].upper()}{text[1:]}." for text, number in notes.items()))
    return "\n\n".join(parts)
