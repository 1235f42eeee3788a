"""Continue a run from its newest checkpoint."""

import dataclasses
import math
import os

import mindspore as ms

from mindfcn import runtime
from mindfcn.errors import UserError
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights

# Default values of a network's options.
DEFAULTS = {"width": 1.0, "fc_width": 4096, "geometry": "padded", "output_stride": 32, "side": 224,
            "decoder_width": 1.0}


def resume(run_dir, net, card, step, train_set, config, console):
    """Restore network, optimiser, data set and card from the newest checkpoint.

    Raises:
        UserError: no checkpoint can be read, or it was written with other settings.
    """
    weights, saved, state = newest_checkpoint(run_dir, console)
    if network(saved) != network(card) or saved.labels != card.labels:
        raise UserError(f"{run_dir.last} belongs to another network or data set ({saved.model['name']}, "
                        f"{len(saved.labels)} classes); resume with the settings in {run_dir.settings}")
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
    step.batches = saved.training["step"]
    console.say(f"continuing after step {step.batches} of {run_dir.path}")
    card.training = {**saved.training, "best": best_so_far(run_dir.best, step.batches, console),
                     "settings": dataclasses.asdict(config)}
    train_set.first_epoch, train_set.skip_batches = divmod(step.batches, train_set.steps_per_epoch)
    if runtime.rank() == 0:
        run_dir.rewind(step.batches)


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


def network(card):
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
