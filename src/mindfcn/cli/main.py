"""The command `mindfcn`: verbs, options, progress and messages. MindSpore is imported only when a verb begins."""

import contextlib
import dataclasses
import difflib
import os
import re
import signal
import sys
import typing

import jsonargparse
from tqdm import tqdm

from mindfcn.cli.recipes import ActionRecipeFile, read_recipe
from mindfcn.config import (
    CompareConfig,
    DescribeConfig,
    EvalConfig,
    ExplainConfig,
    ExportConfig,
    InspectConfig,
    LabelsConfig,
    PredictConfig,
    PrepareConfig,
    ServeConfig,
    TrainConfig,
    TuneCrfConfig,
)
from mindfcn.errors import UserError
from mindfcn.storage.files import FAULTS, cannot_use

VERBS = {
    "labels": (LabelsConfig, "a folder of masks -> a labels file of the classes they hold"),
    "inspect": (InspectConfig, "a data set -> what is in it and what is wrong with it, and a sheet to look at"),
    "prepare": (PrepareConfig, "photographs and masks -> MindRecord"),
    "train": (TrainConfig, "MindRecord -> a trained network"),
    "eval": (EvalConfig, "a checkpoint -> metrics, tables and pictures of a whole split"),
    "tune_crf": (TuneCrfConfig, "a checkpoint -> parameters of a fully connected CRF, found on validation records"),
    "predict": (PredictConfig, "a checkpoint and photographs -> masks"),
    "export": (ExportConfig, "a checkpoint -> an ONNX or MindIR file for other runtimes"),
    "serve": (ServeConfig, "a checkpoint -> a page and an HTTP interface to try it"),
    "compare": (CompareConfig, "several networks on one data set -> one table, beside the published figures"),
    "explain": (ExplainConfig, "a checkpoint and a photograph -> what the network makes of it, layer by layer"),
    "describe": (DescribeConfig, "a network's name -> its layers: sizes, receptive fields, parameters, multiply-adds"),
}
# Arguments that read better as plain words than as a YAML list.
WORDS = {"prepare": ("download",), "predict": ("images", "scales"), "eval": ("scales",), "export": ("photos",),
         "describe": ("name",), "labels": ("masks", "names"), "inspect": ("data",)}
USAGE = {"eval": "--checkpoint FILE ", "tune_crf": "--checkpoint FILE ",
         "predict": "--checkpoint FILE images [images ...] ", "export": "--checkpoint FILE --out FILE ",
         "serve": "--checkpoint FILE ", "explain": "--checkpoint FILE --image FILE ", "describe": "name ",
         "labels": "--from FOLDER ", "inspect": "data "}
# A required setting whose option has another name.
SPELT = {"masks": "--from FOLDER"}


class Parser(jsonargparse.ArgumentParser):
    """A parser whose complaints are exceptions, and which takes no shortened options."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def error(self, message, ex=None):
        """Raise UserError with the library's words on one line."""
        raise UserError(": ".join(line.strip(" -") for line in str(message).splitlines() if line.strip()))


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
        return {"prepare": _prepare, "train": _train, "eval": _eval, "predict": _predict,
                "export": _export, "serve": _serve, "compare": _compare, "explain": _explain, "describe": _describe,
                "labels": _labels, "inspect": _inspect, "tune_crf": _tune_crf}[verb](config)
    except UserError as error:
        print(f"mindfcn {verb}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name != "mindspore":
            raise
        print(f"mindfcn {verb}: this needs MindSpore, which is not installed; install it with pip install "
              "'mindspore>=2.7.1,<2.9'; without it, predict and serve take .onnx files", file=sys.stderr)
        return 1
    except OSError as error:
        # Disks and mounts fail where no mistake was made; anything else is ours.
        if error.errno not in FAULTS:
            raise
        print(f"mindfcn {verb}: {cannot_use(error.filename or 'a file', error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mindfcn {verb}: interrupted; nothing is left half-written", file=sys.stderr)
        return 128 + signal.SIGINT


def parse(arguments):
    """(verb, its dataclass of settings) from the words after `mindfcn`. Raises UserError."""
    parser = Parser(prog="mindfcn", description="Fully convolutional semantic segmentation on MindSpore.")
    verbs = parser.add_subcommands(required=True, dest="verb")
    for name, (config, purpose) in VERBS.items():
        added = _verb_parser(name, config)
        verbs.add_subcommand(name, added, help=purpose)
        added.prog = f"mindfcn {name}"
    verb = next((word for word in arguments if word in VERBS), None)
    try:
        for path in _config_files(arguments) if verb else ():
            check_config_file(path, VERBS[verb][0])
        names = parser.parse_args(_with_values(arguments))
    except UserError as error:
        help_of = f"mindfcn {verb} --help" if verb else "mindfcn --help"
        raise UserError(f"{_plain(str(error), verb, arguments)}; see {help_of}") from None
    settings = names[names["verb"]].as_dict()
    settings.pop("config", None)
    return names["verb"], _build(VERBS[names["verb"]][0], settings)


def _verb_parser(name, config):
    parser = Parser(description=(config.__doc__ or "").split("\n")[0],
                    usage=f"mindfcn {name} {USAGE.get(name, '')}[--config FILE] [--SETTING VALUE ...]")
    parser.add_argument("--config", action=ActionRecipeFile, metavar="FILE",
                        help="YAML file of settings; options after it win")
    words = WORDS.get(name, ())
    parser.add_class_arguments(config, skip=set(words))
    if "images" in words:
        parser.add_argument("images", nargs="+", type=str, help="image files, folders or glob patterns")
    if "scales" in words:
        parser.add_argument("--scales", nargs="+", type=float, default=[1.0], metavar="SCALE",
                            help="sizes at which the network sees each photograph; probabilities are averaged")
    if "photos" in words:
        parser.add_argument("--photos", nargs="+", type=str, default=[],
                            help="compare on these files, folders or glob patterns; on a random image if none")
    if "name" in words:
        parser.add_argument("name", type=str, help="name of the network, such as fcn32s_vgg16")
    if "masks" in words:
        parser.add_argument("--masks", "--from", type=str, required=True, metavar="FOLDER", help="folder of the masks")
        parser.add_argument("--names", nargs="+", help="names of the classes in their order, or a text file of them, "
                            "one a line; numbered if not given")
    if "data" in words:
        parser.add_argument("data", type=str, help="your folder (images/, masks/, labels.yaml), a VOC folder, a folder "
                            "of records or a MindRecord file")
    if "download" in words:
        parser.add_argument("--download", nargs="+", choices=["voc2012", "sbd", "course"],
                            help="fetch a source first: voc2012 and sbd into root and sbd, course (ready records) "
                            "into records")
    return parser


def _config_files(arguments):
    """The files after --config."""
    for word, following in zip(arguments, [*arguments[1:], ""]):
        if word.startswith("--config="):
            yield word.partition("=")[2]
        elif word == "--config" and following:
            yield following


def check_config_file(path, config):
    """Refuse a file that is not YAML, holds no settings, or names one that there is not. Raises UserError."""
    for file, settings in read_recipe(path):
        _check_names(file, settings, config)


def _check_names(path, content, config, prefix=""):
    hints = typing.get_type_hints(config)
    for name, value in content.items():
        if name not in hints:
            raise UserError(f"{path}: there is no setting {prefix}{name}{_nearest(str(name), hints, prefix)}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UserError(f"{path}: {prefix}{name} must hold settings, indented on lines below it, not {value!r}")
            _check_names(path, value, hints[name], f"{prefix}{name}.")
        elif entry := _entry(hints[name]):
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise UserError(f"{path}: {prefix}{name} must be a list of settings, such as `- name: fcn8s_vgg16`")
            for number, one in enumerate(value, 1):
                _check_names(path, one, entry, f"{prefix}{name} {number}: ")


def _entry(kind):
    """The dataclass that a list holds, or None."""
    entries = typing.get_args(kind) if typing.get_origin(kind) is list else ()
    return entries[0] if entries and dataclasses.is_dataclass(entries[0]) else None


def _nearest(name, known, prefix=""):
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _plain(message, verb, arguments):
    """A complaint of the parsing library in the words of this command."""
    types = _types(VERBS[verb][0]) if verb else {}
    wrong = re.match(r'Parser key "([\w.]+)"(?: element \d+:)?:.*?'
                     r"(?:Got value:|Given value:|load config|path string:) ?(.*)", message)
    if wrong and wrong[1] in types:
        key, value = wrong.groups()
        given = any(word.split("=")[0] == f"--{key}" for word in arguments)
        place = f"--{key}" if given else ", ".join(_config_files(arguments)) + f": {key}"
        value = re.split(": Parser key|: Expected a", value)[0].strip("'")[:60]
        return f"{place}: expected {_kind(types[key])}, got {value!r}"
    inside = {name: kind for entry in map(_entry, types.values()) if entry for name, kind in _types(entry).items()}
    if wrong and wrong[1] in inside:
        return f"variants: {wrong[1]}: expected {_kind(inside[wrong[1]])}, got {wrong[2][:60]!r}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing and missing[1] in inside:
        return f"variants: each needs a {missing[1]}"
    if missing:
        names = [name.split(".")[-1] for name in missing[1].split(", ")]
        return "missing: " + ", ".join(
            SPELT.get(name) or (name if name in WORDS.get(verb, ()) else f"--{name} FILE") for name in names)
    unknown = re.match(r"(?:unrecognized arguments:|Subcommand \S+ does not accept option) '?([^\s']+)", message)
    if unknown:
        name = unknown[1].split("=")[0]
        options = [f"--{known}" for known in types if known not in WORDS.get(verb, ())]
        return f"there is no option {name}" + _nearest(name, options)
    if not verb:
        wrong = re.match(r"argument verb: invalid choice: (\S+)", message)
        return (f"there is no verb {wrong[1]}" if wrong else "no verb") + f"; begin with one of {', '.join(VERBS)}"
    return re.sub("^argument ", "", message)[:400].rstrip(".")


def _types(config, prefix=""):
    """{dotted name of a setting: its type}, the groups among them."""
    found = {}
    for name, kind in typing.get_type_hints(config).items():
        found[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            found.update(_types(kind, f"{prefix}{name}."))
    return found


def _kind(kind):
    """A type in words."""
    if typing.get_origin(kind) is typing.Union:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(str(choice) or "'' (nothing)" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"{len(typing.get_args(kind))} numbers, such as [0.01, 0.0001]"
    if _entry(kind):
        return "a list such as [{name: fcn32s_vgg16}, {name: fcn8s_vgg16}]"
    if typing.get_origin(kind) is list:
        (entry,) = typing.get_args(kind)
        if entry is float:
            return "numbers"
        choices = typing.get_args(entry)
        return "a list such as [a, b]" + (f" of {', '.join(choices)}" if choices else "")
    if dataclasses.is_dataclass(kind):
        return "a YAML file of settings"
    if typing.get_origin(kind) is dict:
        return "settings such as {optim.lr: 0.01}"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _with_values(arguments):
    """Let `--resume` stand for `--resume true`, and `--skip-bad` for `--skip_bad`."""
    switches = {f"--{name}" for config, _ in VERBS.values() for name, kind in _types(config).items() if kind is bool}
    out = []
    arguments = [_underscored(word) if word.startswith("--") else word for word in arguments]
    for place, word in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else "--"
        bare = word in switches and following.lower() not in ("true", "false")
        out.append(f"{word}=true" if bare else word)
    return out


def _underscored(word):
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _build(config, settings):
    """Nested dictionaries -> nested dataclasses."""
    def made(kind, value):
        if _entry(kind):
            return [_build(_entry(kind), one) for one in value]
        return _build(kind, value) if dataclasses.is_dataclass(kind) else value

    hints = typing.get_type_hints(config)
    return config(**{name: made(hints[name], value) for name, value in settings.items()})


def say(line):
    """One line for the user, above the progress bars."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _bar(iterable=None, total=None, unit="image", **options):
    return tqdm(iterable, total=total, unit=unit, leave=False, dynamic_ncols=True, disable=None, **options)


class _Lines:
    """stderr for a progress bar in a log: what would be drawn over the last state becomes a line of its own."""

    def write(self, text):
        """Write it without the bar's way back to the line's beginning."""
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self):
        """Write what waits."""
        sys.stderr.flush()


class TrainingBar:
    """Loss, learning rate, speed and time left, on one line of a terminal; every so often a line in a log."""

    def begin(self, steps_per_epoch, epochs, first):
        """Open the bar at step `first`."""
        self.close()
        self.steps_per_epoch = steps_per_epoch
        pace = {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 30, "maxinterval": 30, "file": _Lines()}
        self.bar = tqdm(total=steps_per_epoch * epochs, initial=first, unit="step", dynamic_ncols=True, leave=False,
                        **pace)
        self.score = ""

    def __call__(self, step, epoch, loss, rate, speed):
        self.bar.set_postfix_str(f"epoch {epoch} loss {loss:.3f} lr {rate:.2e} {speed:.1f} images/s{self.score}",
                                 refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.n == self.bar.total:
            self.close()

    def evaluated(self, step, metrics):
        """The last mean IoU stays to be seen."""
        from mindfcn.metrics import MEAN_IOU
        self.score = f" mIoU {metrics[MEAN_IOU]:.3f}"

    def close(self):
        """Take the bar away, so that what follows begins on its own line."""
        if hasattr(self, "bar"):
            self.bar.close()


def _prepare(config):
    from mindfcn.commands.prepare import prepare
    result = prepare(config, _bar, say)
    for summary in filter(None, (result.train, result.val)):
        for file, reason in summary.skipped:
            say(f"left out {file}: {reason}")
    say(f"train: {result.train_path}")
    if result.val_path:
        say(f"val:   {result.val_path}")
    return 0


def _train(config):
    from mindfcn.commands.train import train
    with contextlib.closing(TrainingBar()) as bar:
        result = train(config, bar, _bar, say)
    if _writes():
        if result.signal:
            say(f"stopped by a signal; saved {result.checkpoint}; go on with --resume")
        else:
            if result.evaluation:
                _show(result.evaluation)
            say(f"curves      {os.path.join(result.run_dir, 'curves.png')}")
            say(f"report      {os.path.join(result.run_dir, 'report.html')}")
            say(f"checkpoint  {result.checkpoint}")
    return 128 + result.signal if result.signal else 0


def _eval(config):
    from mindfcn.commands.evaluate import evaluate
    result = evaluate(config, _bar, say)
    if _writes():
        _show(result)
        say(f"report      {os.path.join(result.out, 'report.html')}")
    return 0


def _writes():
    """Whether this is the first of the processes that msrun started, or the only one."""
    from mindfcn.runtime import rank
    return rank() == 0


def _show(result):
    if result.table:
        say(result.table)
    if result.protocol == "course":
        say("course protocol: random crops of the records given, last batch dropped; not comparable with other figures")
    speed = f", {1000 * result.seconds:.1f} ms each (median)" if result.seconds else ""
    say(f"{result.images} images{speed}")
    for name, value in result.metrics.items():
        say(f"{name:24} {value:.4f}")
    for name, value in (result.geometric or {}).items():
        say(f"{'geometric ' + name:24} {value:.4f}")
    say(f"written to  {result.out}")


def _tune_crf(config):
    from mindfcn.commands.tune_crf import tune_crf
    result = tune_crf(config, _bar, say)
    say(result.table)
    say(f"mean IoU without a CRF {100 * result.plain:.2f} %; written to {result.out}")
    return 0


def _predict(config):
    from mindfcn.commands.predict import predict
    from mindfcn.inference.open import open_segmenter
    segment, card = open_segmenter(config)
    result = predict(config, segment, card.labels, say=say, card=card)
    for written in result.written:
        say(f"{written['image']} -> {', '.join(filter(None, list(written.values())[1:]))}")
    if result.failed:
        raise UserError(f"{len(result.failed)} of {len(result.failed) + len(result.written)} images could not be read; "
                        "they are named above")
    return 0


def _export(config):
    from mindfcn.commands.export import export
    result = export(config, say)
    shape = ", ".join(map(str, result.inputs))
    say(f"{result.path}: image ({shape}) float32, {result.card.preprocess.order}, normalised -> logits of "
        f"{len(result.card.labels)} classes; {os.path.getsize(result.path) / 1e6:,.1f} MB")
    if result.card_path:
        say(f"card        {result.card_path}")
    if result.compared:
        say(f"compared    on {result.compared} images: logits differ from MindSpore's by {result.difference:.1e} of "
            "the largest at most")
    return 0


def _serve(config):
    from mindfcn.serve.server import serve
    serve(config, say)
    return 0


def _compare(config):
    from mindfcn.commands.compare import compare
    with contextlib.closing(TrainingBar()) as bar:
        result = compare(config, bar, _bar, say)
    if result.signal:
        say("stopped by a signal; the same command goes on")
        return 128 + result.signal
    say(result.table)
    say(f"written to  {result.out}")
    say(f"report      {os.path.join(result.out, 'report.html')}")
    return 0


def _explain(config):
    from mindfcn.commands.explain import explain
    found = explain(config)
    say(f"{len(found.maps)} maps{', scores of ' * bool(found.found) + found.found}; written to {found.out}")
    return 0


def _describe(config):
    from mindfcn.commands.describe import describe
    found = describe(config)
    for line in (found.table, *found.notes):
        say(line)
    return 0


def _labels(config):
    from mindfcn.commands.propose_labels import propose_labels
    result = propose_labels(config, _bar)
    say(result.table)
    say(f"{result.masks} masks, {result.encoding}, {len(result.labels)} classes; written to {result.out}")
    for note in result.notes:
        say(note)
    return 0


def _inspect(config):
    from mindfcn.commands.inspect_data import inspect
    result = inspect(config, _bar)
    say(result.to_json() if config.json else result.to_text())
    if result.broken:
        raise UserError(f"{len(result.broken)} things to mend; they are in {result.report}")
    return 0
