"""Continue a run from its newest checkpoint."""

import dataclasses
import json
import math
import os

import mindspore as ms
import numpy as np

from mindfcn import runtime
from mindfcn.config import flat
from mindfcn.errors import UserError
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights

# Default values of a network's options.
DEFAULTS = {"width": 1.0, "fc_width": 4096, "geometry": "padded", "output_stride": 32, "side": 224,
            "decoder_width": 1.0}
# Settings that may change when a run is resumed; the console names those that do.
MAY_CHANGE = ("eval_every", "patience", "augment.crop_size", "augment.min_scale", "augment.max_scale", "augment.flip",
              "augment.vertical_flip", "augment.rotate", "augment.rare_crops", "augment.pipeline",
              "augment.photometric", "augment.max_class_share", "augment.crop_tries", "optim.epochs", "optim.lr",
              "optim.min_lr", "optim.schedule", "optim.power", "optim.warmup_epochs", "optim.momentum", "optim.beta2",
              "optim.weight_decay", "optim.clip_norm", "optim.label_smoothing", "optim.head_lr",
              "optim.recalibrate", "optim.precision", "optim.loss_scale")
# Settings that do not affect the weights, or that are compared by their effect: the records by their identity.
UNCHECKED = ("run_dir", "resume", "overwrite", "device", "keep", "tensorboard", "augment.workers", "model.pretrained",
             "model.pretrained_hha", "model.preprocess")
# Relative difference between two learning rates beyond the rounding of the log.
RATE_TOLERANCE = 1e-3


def resume(run_dir, net, card, step, train_set, config, rates, console):
    """Restore network, optimiser, data set and card from the newest checkpoint, and record changed settings.

    Args:
        run_dir: RunDir.
        net, card, step, train_set: network, Card, TrainStep and SegDataset as the settings give them.
        config: TrainConfig.
        rates: (updates,) learning rates of the settings.
        console: Console for notes.

    Raises:
        UserError: no checkpoint can be read, or it was written with other data or settings that must not change.
    """
    weights, saved, state = newest_checkpoint(run_dir, console)
    check_data(saved, card, run_dir)
    changes = changed_settings(saved.training.get("settings", {}), config, run_dir)
    if network_options(saved) != network_options(card):
        raise UserError(f"{run_dir.last} belongs to another network ({saved.model['name']}); resume with the "
                        f"settings in {run_dir.settings}")
    batches = {"steps_per_epoch": train_set.steps_per_epoch, "seed": train_set.seed}
    if any(saved.training.get(name) != value for name, value in batches.items()):
        raise UserError(f"{run_dir.last} was trained on other batches than these settings give (records, batch size, "
                        f"devices or seed); resume with the settings in {run_dir.settings}")
    if saved.training.get("class_weights") != card.training.get("class_weights"):
        raise UserError(f"{run_dir.last} was trained with other class weights than these settings and records give; "
                        f"resume with the settings in {run_dir.settings}")
    load_weights(net, weights, run_dir.last)
    card.preprocess = train_set.preprocess = saved.preprocess
    parameters = {parameter.name: parameter for parameter in net.get_parameters()} | step.state()
    restored = weights | state
    for name in sorted(parameters.keys() | restored.keys()):
        if name not in parameters or name not in restored or parameters[name].shape != restored[name].shape:
            raise UserError(f"{run_dir.last}: the state of {name} does not fit these settings; "
                            f"resume with those in {run_dir.settings}")
        parameters[name].set_data(ms.Tensor(restored[name]))
    before, now = saved.training.pop("pipeline", None), card.training.get("pipeline")
    if before != now:
        changes["contents of augment.pipeline"] = before, now
    step.batches = saved.training["step"]
    console.say(f"continuing after step {step.batches} of {run_dir.path}")
    for name, (before, now) in changes.items():
        console.say(f"{name} changes from {before} to {now}")
    card.training = {**saved.training, **card.training,
                     "best": best_so_far(run_dir.best, step.batches, console), "settings": dataclasses.asdict(config)}
    train_set.first_epoch, train_set.skip_batches = divmod(step.batches, train_set.steps_per_epoch)
    if runtime.rank() == 0:
        run_dir.rewind(step.batches)
        run_dir.continue_with(config, step.batches, changes)
        report_rate_jump(run_dir.rates(), rates, step, console)


def check_data(saved, card, run_dir):
    """Raise UserError if the records' identity is not that in the checkpoint's card, or their classes differ."""
    found = saved.labels.difference(card.labels)
    if saved.data and card.data and saved.data["identity"] != card.data["identity"]:
        there, here = (f"{data['identity']} (source {data['source']})" for data in (saved.data, card.data))
        found = found or f"the hash is {there} there and {here} here"
    if found:
        raise UserError(f"{run_dir.last} was trained on other records: {found}; give its records, those of "
                        f"{run_dir.settings}, or train on these with another --run_dir")


def changed_settings(there, config, run_dir):
    """{name: (value before, value now)} of the settings that differ from a checkpoint's and may differ.

    Settings that the checkpoint's release did not have are not compared.

    Raises:
        UserError: a setting differs that must not change; the message names it.
    """
    there, here = flat(there), flat(plain_values(config))
    compared = [name for name in here if name in there and name not in UNCHECKED and not name.startswith("data.")]
    changes = {name: (there[name], here[name]) for name in compared if there[name] != here[name]}
    for name, (before, now) in changes.items():
        if name not in MAY_CHANGE:
            raise UserError(f"{run_dir.last} was trained with {name} {before}, not {now}, which must not change within "
                            f"a run; resume with the settings in {run_dir.settings}")
    return changes


def plain_values(config):
    """The settings as dictionaries, lists and numbers, as a checkpoint's card holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def report_rate_jump(logged, rates, step, console):
    """Report a learning rate that jumps: the settings give another one for the last step than the log has."""
    update = min((step.batches - 1) // step.accumulate, len(rates) - 1)
    before = logged.get(step.batches)
    if before is not None and not np.isclose(rates[update], before, rtol=RATE_TOLERANCE, atol=0):
        following = rates[min(step.batches // step.accumulate, len(rates) - 1)]
        console.say(f"the learning rate jumps from {before:.3g} at step {step.batches} to {following:.3g} at the next: "
                    "the settings give another schedule than the run had")


def newest_checkpoint(run_dir, console):
    """Load the newest intact checkpoint with `load_checkpoint`. Raises UserError if there is none."""
    first = None
    for path in run_dir.checkpoints():
        try:
            return load_checkpoint(path)
        except UserError as error:
            first = first or error
            console.say(f"{error}; looking for an older checkpoint")
    raise first


def network_options(card):
    """A card's model without default values, which older releases stored."""
    given = {name: value for name, value in card.model.items() if value != DEFAULTS.get(name)}
    return {**given, "skip_scales": card.skip_scales}


def best_so_far(path, step, console):
    """Epoch and metrics in the card of best.ckpt, since last.ckpt is written before its epoch is evaluated.

    Empty if the file is missing, damaged, or of a later step, which the resumed run repeats.
    """
    if not os.path.exists(path):
        return {}
    try:
        training = load_checkpoint(path)[1].training
    except UserError as error:
        console.say(f"{error}; the next evaluation replaces it")
        return {}
    return training.get("best", {}) if training.get("step", math.inf) <= step else {}
