"""The verbs: for each its settings, function, positional arguments, and the function that prints its result.

MindSpore is imported only when a verb runs.
"""

import dataclasses
import importlib
import json
import os
import shlex
from collections.abc import Callable
from typing import Any

from mindfcn import config as settings
from mindfcn.errors import UserError
from mindfcn.launcher import num_processes


@dataclasses.dataclass(frozen=True)
class Argument:
    """A setting with its own command line form, such as a positional argument or several words.

    Attributes:
        name: name of the setting.
        flags: its option strings; the name itself for a positional argument.
        options: keyword arguments of `argparse.ArgumentParser.add_argument`.
    """
    name: str
    flags: tuple[str, ...]
    options: dict[str, Any]


def _argument(name, *flags, **options):
    return Argument(name, flags or (name,), options)


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb of the command.

    Attributes:
        config: its settings dataclass.
        function: "module:name" of function (config, console) -> result.
        purpose: one line for `mindfcn --help`.
        show: function (result, config, console) that prints the result and returns the exit status, None for 0.
        arguments: settings with their own command line form.
        usage: required arguments, for the usage line of its help.
        essentials: settings that --help shows; --help_all shows the others as well. Empty shows all.
        examples: commands shown below them.
    """
    config: type
    function: str
    purpose: str
    show: Callable[[Any, Any, Any], Any]
    arguments: tuple[Argument, ...] = ()
    usage: str = ""
    essentials: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    def run(self, config, console):
        """Run the verb and print its result. Returns the exit status."""
        module, name = self.function.split(":")
        result = getattr(importlib.import_module(module), name)(config, console)
        console.close()
        return self.show(result, config, console) or 0


# Settings of inspect that training needs, too.
FOLDER_SETTINGS = ("more_roots", "labels", "mask_encoding", "train_split", "val_split", "val_fraction", "image_dir",
                   "mask_dir", "mask_suffix", "group_by", "folds", "fold")


def _show_conversion(result, config, console):
    console.say(result.table)
    console.say(f"{result.photographs} photographs of {result.format}, {len(result.labels)} classes; written to "
                f"{result.out}")
    for note in result.notes:
        console.say(note)


def _show_labels(result, config, console):
    console.say(result.table)
    console.say(f"{result.masks} masks, {result.encoding}, {len(result.labels)} classes; written to {result.out}")
    for note in result.notes:
        console.say(note)


def _show_inspection(result, config, console):
    console.say(result.to_json() if config.json else result.to_text())
    if not result.broken and result.source == "folder" and not config.json:
        defaults = settings.InspectConfig(config.data)
        values = {name: getattr(config, name) for name in FOLDER_SETTINGS}
        given = [f"--data.{name} {shlex.quote(json.dumps(value) if isinstance(value, list) else str(value))}"
                 for name, value in values.items() if value != getattr(defaults, name)]
        command = ["mindfcn train --config configs/own_data.yaml --data.root", shlex.quote(config.data), *given]
        # The recipe weights the classes, which is for masks with one class a pixel.
        command += ["--optim.class_weights none"] * result.labels.multilabel
        _say_next(" ".join(command), console)
    if result.broken:
        raise UserError(f"{len(result.broken)} problems to fix; they are listed in {result.report}")


def _show_records(result, config, console):
    for summary in filter(None, (result.train, result.val)):
        for file, reason in summary.skipped:
            console.say(f"left out {file}: {reason}")
    console.say(f"train: {result.train_path}")
    if result.val_path:
        console.say(f"val:   {result.val_path}")


def _is_first_process():
    from mindfcn.runtime import rank
    return rank() == 0


def _say_next(command, console):
    """Show a command to type next, after the one that activates the environment that a run script has made."""
    first, *rest = filter(None, (os.environ.get("MINDFCN_ACTIVATE"), command))
    console.say(f"next        {first}")
    for line in rest:
        console.say(f"            {line}")


def _show_training(result, config, console):
    if _is_first_process():
        if result.signal:
            console.say(f"stopped by a signal; saved {result.checkpoint}; continue with --resume")
        else:
            if result.evaluation:
                _say_metrics(result.evaluation, console)
            console.say(f"curves      {os.path.join(result.run_dir, 'curves.png')}")
            console.say(f"report      {os.path.join(result.run_dir, 'report.html')}")
            console.say(f"checkpoint  {result.checkpoint}")
            console.say(_advice(result, config))
            _say_next(f"mindfcn predict --checkpoint {shlex.quote(result.checkpoint)} {_image_to_try(config)}", console)
    return 128 + result.signal if result.signal else 0


def _image_to_try(config):
    """The image to try a trained network on: a drawn one where it knows no others, else PHOTO, the user's own."""
    from mindfcn.commands.prepare import DRAWN
    drawn = os.path.join(config.data.root or DRAWN["sample"], "JPEGImages", "sample_000000.jpg")
    return shlex.quote(drawn) if config.data.source == "sample" and os.path.exists(drawn) else "PHOTO"


def _advice(result, config):
    """A sentence about what to do after a run."""
    if not result.evaluation:
        return "There were no validation records, so look at masks of photographs that the network has not seen:"
    if result.epoch == result.best_epoch and config.optim.epochs > 1:
        return (f"The last epoch was the best one; --resume --optim.epochs {2 * result.epoch} trains longer. Open the "
                "report for the worst images, then segment an image:")
    return "Open the report for the worst images, then segment an image:"


def _show_evaluation(result, config, console):
    if _is_first_process():
        _say_metrics(result, console)
        console.say(f"report      {os.path.join(result.out, 'report.html')}")


def _say_metrics(result, console):
    if result.table:
        console.say(result.table)
    if result.protocol == "course":
        console.say("course protocol: random crops of the given records, last batch dropped; not comparable with other "
                    "results")
    console.say(f"{result.images} images, {1000 * result.seconds:.1f} ms each (median)" if result.seconds else
                f"{result.images} images")
    for name, value in result.metrics.items():
        console.say(f"{name:24} {value:.4f}")
    for name, value in (result.geometric or {}).items():
        console.say(f"{'geometric ' + name:24} {value:.4f}")
    console.say(f"written to  {result.out}")


def _show_crf(result, config, console):
    console.say(result.table)
    console.say(f"mean IoU without a CRF {100 * result.plain:.2f} %; written to {result.out}")


def _show_predictions(result, config, console):
    totals, several = result.totals, num_processes() > 1
    for written in () if several else result.written:
        console.say(f"{written['image']} -> {', '.join(filter(None, list(written.values())[1:]))}")
    if _is_first_process() if several else totals["skipped"]:
        console.say(f"{totals['written']} images segmented, {totals['skipped']} skipped because their results are in "
                    f"{config.out}")
    if totals["failed"]:
        where = "above" if not several else "above and in the logs of the other processes"
        raise UserError(f"{totals['failed']} of {sum(totals.values())} images were left out; they are listed {where}")


def _show_export(result, config, console):
    shape = ", ".join(map(str, result.inputs))
    console.say(f"{result.path}: image ({shape}) float32, {result.card.preprocess.order}, normalised -> logits of "
                f"{len(result.card.labels)} classes; {os.path.getsize(result.path) / 1e6:,.1f} MB")
    if result.card_path:
        console.say(f"card        {result.card_path}")
    if result.compared:
        console.say(f"compared    on {result.compared} images: logits differ from MindSpore's by "
                    f"{result.difference:.1e} of the largest at most")


def _show_comparison(result, config, console):
    if result.signal:
        console.say("stopped by a signal; run the same command to continue")
        return 128 + result.signal
    console.say(result.table)
    console.say(f"written to  {result.out}")
    console.say(f"report      {os.path.join(result.out, 'report.html')}")
    failed = [row.label for row in result.rows if row.failure]
    if failed:
        raise UserError(f"{len(failed)} of {len(result.rows)} networks failed: {', '.join(failed)}; the reasons are "
                        "above")
    return 0


def _show_explanation(result, config, console):
    scores = f", scores of {result.found}" if result.found else ""
    console.say(f"{len(result.maps)} maps{scores}; written to {result.out}")


def _show_weights(result, config, console):
    if result.table:
        console.say(result.table)
        console.say(f"kept in {result.folder}; fetched where --checkpoint NAME or --model.pretrained NAME needs them, "
                    "or with mindfcn weights fetch NAME")
    for path in result.fetched:
        console.say(path)


def _show_description(result, config, console):
    for line in (result.table, *result.notes):
        console.say(line)


SCALES = _argument("scales", "--scales", nargs="+", type=float, default=[1.0], metavar="SCALE",
                   help="scale factors at which each photograph is segmented; probabilities are averaged")
MORE_ROOTS = _argument("more_roots", "--more_roots", nargs="+", default=[], metavar="FOLDER",
                       help="your own folder: further folders of the same classes; their photographs are named after "
                       "them, folder_name")
VERBS = {
    "convert": Verb(
        settings.ConvertConfig, "mindfcn.commands.convert:convert",
        "an annotation tool's export -> a folder of images, masks and labels", _show_conversion, usage="source ",
        arguments=(_argument("source", type=str, help="file or folder that the tool exported"),
                   _argument("names", "--names", nargs="+", help="labelme, yolo: class names in order, or a text file "
                             "with one per line; those in the files if not given"))),
    "labels": Verb(
        settings.LabelsConfig, "mindfcn.commands.propose_labels:propose_labels",
        "a folder of masks -> a labels file with their classes", _show_labels, usage="--from FOLDER ",
        arguments=(_argument("masks", "--masks", "--from", type=str, required=True, metavar="FOLDER",
                             help="folder of the masks"),
                   _argument("names", "--names", nargs="+", help="class names in order, or a text file with one "
                             "name per line; numbered if not given"))),
    "inspect": Verb(
        settings.InspectConfig, "mindfcn.commands.inspect_data:inspect",
        "a data set -> its contents, its problems, and a contact sheet", _show_inspection,
        usage="data ",
        arguments=(_argument("data", type=str, help="your folder (images/, masks/, labels.yaml), a VOC folder, a "
                             "folder of records or a MindRecord file"), MORE_ROOTS)),
    "prepare": Verb(
        settings.PrepareConfig, "mindfcn.commands.prepare:prepare",
        "photographs and masks -> MindRecord", _show_records,
        arguments=(_argument("download", "--download", nargs="+", choices=["voc2012", "sbd", "course"],
                             help="fetch a source first: voc2012 and sbd into root and sbd, course (ready records) "
                             "into records"),
                   _argument("processes", "--processes", type=int, default=0,
                             help="number of processes that read and check the pairs; 0 is one for each core"),
                   MORE_ROOTS)),
    "train": Verb(
        settings.TrainConfig, "mindfcn.commands.train:train", "MindRecord -> a trained network", _show_training,
        essentials=("run_dir", "resume", "data.source", "data.root", "augment.crop_size", "augment.batch_size",
                    "model.name", "model.pretrained", "optim.epochs", "optim.lr"),
        examples=("mindfcn train --config configs/sample.yaml                            a drawn set, in minutes",
                  "mindfcn train --config configs/own_data.yaml --data.root mydata       your own folder",
                  "mindfcn train --config runs/own_data/settings.yaml --resume           continue a stopped run")),
    "eval": Verb(
        settings.EvalConfig, "mindfcn.commands.evaluate:evaluate",
        "a checkpoint -> metrics, tables and pictures of a complete split", _show_evaluation, (SCALES,),
        "--checkpoint FILE "),
    "tune_crf": Verb(
        settings.TuneCrfConfig, "mindfcn.commands.tune_crf:tune_crf",
        "a checkpoint -> parameters of a fully connected CRF, tuned on validation records", _show_crf,
        usage="--checkpoint FILE "),
    "predict": Verb(
        settings.PredictConfig, "mindfcn.commands.predict:predict",
        "a checkpoint and photographs or videos -> masks", _show_predictions,
        (_argument("images", nargs="+", type=str, help="image or video files, folders or glob patterns"), SCALES),
        "images [images ...] "),
    "export": Verb(
        settings.ExportConfig, "mindfcn.commands.export:export",
        "a checkpoint -> an ONNX or MindIR file for other runtimes", _show_export,
        usage="--checkpoint FILE --out_file FILE ",
        arguments=(_argument("photos", "--photos", nargs="+", type=str, default=[],
                             help="files, folders or glob patterns to compare on; default: a random image"),)),
    "serve": Verb(
        settings.ServeConfig, "mindfcn.serve.server:serve", "a checkpoint -> a page and an HTTP interface to try it",
        lambda result, config, console: 0,
        (_argument("images", "--images", nargs="+", type=str, default=[],
                   help="files, folders or glob patterns; the page offers the first 8 pictures to try, and anyone who "
                   "reaches it can see them"),)),
    "compare": Verb(
        settings.CompareConfig, "mindfcn.commands.compare:compare",
        "several networks on one data set -> one table, with published figures", _show_comparison),
    "explain": Verb(
        settings.ExplainConfig, "mindfcn.commands.explain:explain",
        "a checkpoint and a photograph -> the feature maps of the network, layer by layer", _show_explanation,
        usage="--image FILE ",
        arguments=(_argument("image", "--image", type=str, required=True, metavar="FILE", help="photograph"),)),
    "weights": Verb(
        settings.WeightsConfig, "mindfcn.commands.weights:published_weights",
        "published weights by name: list them, or fetch some", _show_weights, usage="[fetch NAME [NAME ...]] ",
        arguments=(_argument("action", nargs="?", choices=["list", "fetch"], default="list",
                             help="list the files, or fetch those named"),
                   _argument("names", nargs="*", type=str, default=[],
                             help="names; all, for a list, if none is given"))),
    "describe": Verb(
        settings.DescribeConfig, "mindfcn.commands.describe:describe",
        "a network's name -> its layers: output sizes, receptive fields, parameters, multiply-adds", _show_description,
        (_argument("name", type=str, help="name of the network, such as fcn32s_vgg16"),), "name "),
}
