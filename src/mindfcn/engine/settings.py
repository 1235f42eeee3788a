"""Settings that training refuses: out of their bounds, or not together."""

import importlib.util
import math
import os

from mindfcn import combinations
from mindfcn.config import check_bounds
from mindfcn.errors import UserError
from mindfcn.metrics import MEAN_IOU, metric_names
from mindfcn.models.factory import DECONVNET, split_name


def check_settings(config):
    """Check the bounds of settings, then combinations of settings. Raises UserError."""
    augment, optim, model = config.augment, config.optim, config.model
    split_name(model.name)
    check_bounds(config)
    check_start(model, optim)
    check_training(config, *combinations.inputs(model.modality, model.geometric))
    adam = optim.name != "sgd"
    side = model.side or 224
    # Without padding to larger maps, the coarsest map has a cell for each 32 pixels.
    cells = augment.batch_size * math.ceil(augment.crop_size / 32) ** 2
    normalised = combinations.kind(model.name) != combinations.FCN or model.name.endswith("_bn")
    rules = [("optim.min_lr", optim.min_lr, optim.min_lr <= optim.lr, "between 0 and optim.lr"),
             ("optim.lr", optim.lr, not adam or optim.lr <= 0.01, f"at most 0.01 with --optim.name {optim.name}"),
             ("optim.label_smoothing", optim.label_smoothing, not optim.label_smoothing
              or optim.loss in ("mean", "sum", "bootstrapped"), f"0 with --optim.loss {optim.loss}"),
             ("patience", config.patience, not config.patience or config.eval_every,
              "0 with --eval_every 0, which evaluates only at the end"),
             ("patience", config.patience, not (config.patience and optim.recalibrate),
              "0 with --optim.recalibrate, which follows the last epoch"),
             ("augment.min_scale", augment.min_scale, augment.min_scale <= augment.max_scale,
              "above 0 and at most augment.max_scale"),
             ("augment.batch_size", augment.batch_size, augment.crop_size or augment.batch_size == 1,
              "1 with --augment.crop_size 0: whole photographs differ in size; use --optim.accumulate"),
             ("augment.shorter_side", augment.shorter_side, not augment.shorter_side or augment.crop_size
              and model.modality == "rgb" and not model.geometric,
              "0 with --augment.crop_size 0, for other images than photographs and with --model.geometric"),
             ("optim.recalibrate", optim.recalibrate, not (optim.recalibrate and optim.ema),
              "0 with --optim.ema, which also averages the statistics"),
             ("augment.pipeline", augment.pipeline, not augment.pipeline or augment.crop_size > 0,
              "left out with --augment.crop_size 0"),
             ("model.pretrained_hha", model.pretrained_hha, not model.pretrained_hha or model.modality == "rgb_hha"
              and model.pretrained, "left out except for --model.modality rgb_hha with --model.pretrained"),
             ("augment.crop_size", augment.crop_size, model.name != DECONVNET or augment.crop_size >= side,
              f"at least --model.side, {side} pixels"),
             ("augment.batch_size", augment.batch_size, model.name != DECONVNET or augment.batch_size > 1,
              "at least 2: fc6 gives batch normalisation only one value per channel and image"),
             ("augment.crop_size", augment.crop_size, not normalised or cells != 1,
              "above 32 with --augment.batch_size 1: batch normalisation of a single value has no variance")]
    for name, value, fits, bound in rules:
        if not fits:
            raise UserError(f"--{name} {value}: must be {bound}")
    if config.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard: the package tensorboard is not installed; pip install 'mindfcn[tensorboard]', "
                        "or leave it out")


def check_training(config, *names):
    """Raise UserError if a setting of training does not go with these names of inputs, heads or classes."""
    augment, optim = config.augment, config.optim
    given = {combinations.WEIGHTS: optim.class_weights != "none", combinations.SMOOTHING: bool(optim.label_smoothing),
             combinations.CELLS: optim.keep_cells != 1, combinations.RARE: bool(augment.rare_crops),
             combinations.SHARE: augment.max_class_share != 1, combinations.PIPELINE: bool(augment.pipeline),
             **{f"--optim.loss {loss}": optim.loss == loss for loss in ("bootstrapped", "focal", "dice")}}
    for setting, used in given.items():
        for name in names if used else ():
            combinations.check(setting, name)


def check_start(model, optim):
    """Raise UserError if layers that keep their initial weights would keep random ones."""
    if model.pretrained:
        return
    if optim.freeze:
        raise UserError(f"--optim.freeze {optim.freeze}: without --model.pretrained these layers would stay random; "
                        "give weights, or --optim.freeze ''")
    if model.name.startswith("fcn32s_fixed_"):
        raise UserError(f"--model.name {model.name} trains only the score layer, and without --model.pretrained all "
                        "others would stay random; give weights")


def check_best_by(config, records):
    """Raise UserError if the best checkpoint, or the end of the run, depends on something that is not measured."""
    if records.val is None:
        for name, value, default in (("patience", config.patience, 0), ("best_by", config.best_by, MEAN_IOU)):
            if value != default:
                raise UserError(f"--{name} {value}: {os.path.dirname(records.train)} has no validation records, so "
                                "nothing is measured; leave it out, or hold photographs out with --data.val_fraction")
    known = [*metric_names(records.labels), *records.labels.names]
    if config.best_by not in known:
        raise UserError(f"--best_by {config.best_by}: must be one of {', '.join(known)}")
