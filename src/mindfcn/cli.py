"""The command `mindfcn`: verbs, options, progress and messages. MindSpore is imported only when a verb begins."""

import dataclasses
import os
import signal
import sys
import typing

import jsonargparse
from tqdm import tqdm

from mindfcn.config import EvalConfig, PredictConfig, PrepareConfig, TrainConfig
from mindfcn.errors import UserError

VERBS = {
    "prepare": (PrepareConfig, "photographs and masks -> MindRecord"),
    "train": (TrainConfig, "MindRecord -> a trained network"),
    "eval": (EvalConfig, "a checkpoint -> metrics, tables and pictures of a whole split"),
    "predict": (PredictConfig, "a checkpoint and photographs -> masks"),
}
# Arguments that read better as plain words than as a YAML list.
WORDS = {"prepare": ("download",), "predict": ("images",)}


class Parser(jsonargparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message, ex=None):
        """Raise UserError with the first telling line."""
        raise UserError(f"{_one_line(str(message))}; see {self.prog} --help")


def main(arguments=None):
    """Run the command. Returns the exit status: 0 done, 1 failed, 2 wrong use, 128 + n ended by signal n."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # MindSpore's C++ warnings speak of its inside; its errors reach us as exceptions.
    os.environ.setdefault("GLOG_v", "4")
    try:
        verb, config = parse(arguments)
    except UserError as error:
        print(f"mindfcn: {error}", file=sys.stderr)
        return 2
    try:
        return {"prepare": _prepare, "train": _train, "eval": _eval, "predict": _predict}[verb](config)
    except UserError as error:
        print(f"mindfcn {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mindfcn {verb}: interrupted; nothing is left half-written", file=sys.stderr)
        return 128 + signal.SIGINT


def parse(arguments):
    """(verb, its dataclass of settings) from the words after `mindfcn`. Raises UserError."""
    parser = Parser(prog="mindfcn", description="Fully convolutional semantic segmentation on MindSpore.")
    verbs = parser.add_subcommands(required=True, dest="verb")
    for name, (config, purpose) in VERBS.items():
        verbs.add_subcommand(name, _verb_parser(name, config), help=purpose)
    names = parser.parse_args(_with_values(arguments))
    settings = names[names["verb"]].as_dict()
    settings.pop("config", None)
    return names["verb"], _build(VERBS[names["verb"]][0], settings)


def _verb_parser(name, config):
    parser = Parser(description=(config.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile,
                        help="YAML file of settings; options after it win")
    words = WORDS.get(name, ())
    parser.add_class_arguments(config, skip=set(words))
    if "images" in words:
        parser.add_argument("images", nargs="+", type=str, help="image files, folders or glob patterns")
    if "download" in words:
        parser.add_argument("--download", nargs="+", choices=["voc2012", "sbd", "course"],
                            help="fetch a source first: voc2012 and sbd into root and sbd, course (ready records) "
                            "into records")
    return parser


def _with_values(arguments):
    """Let `--resume` stand for `--resume true`: switches may go without a value."""
    switches = {f"--{name}" for config, _ in VERBS.values() for name in _switches(config)}
    out = []
    for place, word in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else "--"
        bare = word in switches and following.lower() not in ("true", "false")
        out.append(f"{word}=true" if bare else word)
    return out


def _switches(config, prefix=""):
    for field in dataclasses.fields(config):
        kind = typing.get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _switches(kind, f"{prefix}{field.name}.")
        elif kind is bool:
            yield prefix + field.name


def _build(config, settings):
    """Nested dictionaries -> nested dataclasses."""
    hints = typing.get_type_hints(config)
    return config(**{name: _build(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
                     for name, value in settings.items()})


def _one_line(message):
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return ": ".join(lines)[:400] if lines else "wrong use"


def say(line):
    """One line for the user, above the progress bars."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _bar(iterable, total=None):
    return tqdm(iterable, total=total, unit="image", leave=False, dynamic_ncols=True, disable=None)


class TrainingBar:
    """Loss, learning rate, speed and time left, on one line of a terminal; every so often a line in a log."""

    def begin(self, steps_per_epoch, epochs, first):
        """Open the bar at step `first`."""
        self.steps_per_epoch = steps_per_epoch
        self.bar = tqdm(total=steps_per_epoch * epochs, initial=first, unit="step", dynamic_ncols=True, leave=False,
                        mininterval=0.5 if sys.stderr.isatty() else 30)

    def __call__(self, step, epoch, loss, rate, speed):
        self.bar.set_postfix_str(f"epoch {epoch} loss {loss:.3f} lr {rate:.2e} {speed:.1f} images/s", refresh=False)
        self.bar.update(step - self.bar.n)


def _prepare(config):
    from mindfcn.engine.prepare import prepare
    result = prepare(config, _bar, say)
    for summary in filter(None, (result.train, result.val)):
        for file, reason in summary.skipped:
            say(f"left out {file}: {reason}")
    say(f"train: {result.train_path}")
    if result.val_path:
        say(f"val:   {result.val_path}")
    return 0


def _train(config):
    from mindfcn.engine.train import train
    result = train(config, TrainingBar(), _bar, say)
    if result.signal:
        say(f"stopped by {signal.Signals(result.signal).name}; saved {result.checkpoint}; go on with --resume")
        return 128 + result.signal
    if result.evaluation:
        _show(result.evaluation)
    say(f"curves      {os.path.join(result.run_dir, 'curves.png')}")
    say(f"checkpoint  {result.checkpoint}")
    return 0


def _eval(config):
    from mindfcn.engine.evaluate import evaluate
    _show(evaluate(config, _bar, say))
    return 0


def _show(result):
    if result.table:
        say(result.table)
    if result.protocol == "course":
        say("course protocol: random crops of the records given, last batch dropped; not comparable with other figures")
    say(f"{result.images} images")
    for name, value in result.metrics.items():
        say(f"{name:24} {value:.4f}")
    say(f"written to  {result.out}")


def _predict(config):
    from mindfcn.engine.evaluate import load_segmenter
    from mindfcn.engine.predict import predict
    from mindfcn.runtime import pynative_mode, set_up
    set_up(config.device)
    pynative_mode()
    segmenter, card = load_segmenter(config.checkpoint, config.model)
    result = predict(config, segmenter, card.labels, say=say)
    for written in result.written:
        say(f"{written['image']} -> {', '.join(filter(None, list(written.values())[1:]))}")
    if result.failed:
        raise UserError(f"{len(result.failed)} of {len(result.failed) + len(result.written)} images could not be read; "
                        "they are named above")
    return 0
