"""The verb tune_crf: tune the fully connected CRF on validation photographs."""

import dataclasses
import itertools

import numpy as np
import yaml

from mindfcn import runtime
from mindfcn.combinations import check
from mindfcn.config import PredictConfig, TuneCrfConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.records import describe_file, evaluation_records
from mindfcn.errors import UserError
from mindfcn.inference.crf import CRF, crf_of, permutohedral
from mindfcn.inference.load import load_network
from mindfcn.inference.pipeline import Inference
from mindfcn.metrics import ConfusionMatrix
from mindfcn.report.tables import text_table
from mindfcn.storage.files import write_text

HEADER = ("bilateral weight", "sxy", "srgb", "mean IoU %", "gain")


@dataclasses.dataclass
class TuneCrfResult:
    """Results of the search.

    Attributes:
        best: CRF of the highest mean IoU.
        scores: {CRF: mean IoU, 0..1}.
        plain: mean IoU without a CRF.
        table: all combinations as text, the best first.
        out: file with the best CRF.
    """
    best: CRF
    scores: dict[CRF, float]
    plain: float
    table: str
    out: str


def tune_crf(config: TuneCrfConfig, console: Console = SILENT) -> TuneCrfResult:
    """Try every combination of the appearance kernel's parameters on validation photographs, and keep the best one.

    Chen et al. (2015, section 5.2) search this way on 100 photographs, with a fixed smoothness kernel. The network
    runs once on each photograph.

    Args:
        config: TuneCrfConfig.
        console: Console that shows progress and notes.

    Returns:
        TuneCrfResult.

    Raises:
        UserError: checkpoint, records and settings do not fit together, or the package pydensecrf2 is not installed.
    """
    start = crf_of(config.start)
    grid = [dataclasses.replace(start, bilateral_weight=weight, bilateral_sxy=sxy, bilateral_srgb=srgb, source="")
            for weight, sxy, srgb in itertools.product(config.bilateral_weight, config.bilateral_sxy,
                                                       config.bilateral_srgb)]
    check_bounds(config)
    if not config.out_file.lower().endswith((".yaml", ".yml")):
        raise UserError(f"--out_file {config.out_file}: choose a name that ends in .yaml")
    if not grid:
        raise UserError("give at least one value of each of bilateral_weight, bilateral_sxy and bilateral_srgb")
    runtime.set_up(config.device, console=console)
    runtime.pynative_mode()
    segmenter, card = load_network(config.checkpoint, config.fallback_model, config.precision, console)
    check("tune_crf", *card.inputs)
    segment = Inference(segmenter, PredictConfig(), card.shorter_side)
    records = evaluation_records(config.records, card, config.checkpoint)
    dataset = SegDataset.for_evaluation(records, card, config.limit)
    console.say(f"using records {describe_file(records)}")
    console.say(f"{len(grid)} combinations on {dataset.count} images of them")
    excluded = card.labels.excluded_numbers()
    matrices = {crf: ConfusionMatrix(len(card.labels), excluded) for crf in grid}
    plain = ConfusionMatrix(len(card.labels), excluded)
    for image, truth in console.track(dataset.photographs(), dataset.count):
        mask, probabilities = segment(image, True)
        plain.update(mask, truth)
        for crf, matrix in matrices.items():
            matrix.update(permutohedral(image, probabilities, crf).argmax(0), truth)
    scores = {crf: matrix.mean_iou() for crf, matrix in matrices.items()}
    ranked = sorted(grid, key=lambda crf: -np.nan_to_num(scores[crf]))
    base = plain.mean_iou()
    rows = [(crf.bilateral_weight, crf.bilateral_sxy, crf.bilateral_srgb, f"{100 * scores[crf]:.2f}",
             f"{100 * (scores[crf] - base):+.2f}") for crf in ranked]
    best = dataclasses.replace(ranked[0], source=f"grid search on {dataset.count} images of {describe_file(records)}, "
                               f"started from {config.start}")
    write_text(config.out_file, yaml.safe_dump(dataclasses.asdict(best), sort_keys=False))
    return TuneCrfResult(best, scores, base, text_table(HEADER, rows), config.out_file)
