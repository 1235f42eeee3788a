"""The command: its help, its settings, and one clear line for every mistake."""

import contextlib
import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import mindfcn
from mindfcn import runtime
from mindfcn.cli.console import Terminal
from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.cli.verbs import VERBS
from mindfcn.config import ModelConfig, TrainConfig
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.engine.build import build
from mindfcn.labels import LabelSet
from mindfcn.weights.checkpoint import save_checkpoint

TINY = "--model.width 0.125 --model.fc_width 8 --augment.crop_size 32 --augment.batch_size 4"


def run(*words, cwd=None, **environment):
    """Run the command in a separate process."""
    return subprocess.run([sys.executable, "-m", "mindfcn", *words], capture_output=True, text=True, cwd=cwd,
                          timeout=300, check=False, env={**os.environ, **environment})


def out_of(capfd, *words):
    """The output of a call that ends by itself."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code in (0, None)
    return capfd.readouterr().out


# ------------------------------------------------------------------------------------------------- help, settings

def test_mindspore_is_not_imported_for_help_and_settings():
    calls = [["--help"], *([verb, "--help"] for verb in VERBS), ["train", "--print_config"], ["train", "--nothing"]]
    code = ("import sys\nfrom mindfcn.cli.main import main\n"
            f"for words in {calls!r}:\n    try:\n        main(words)\n    except SystemExit as end:\n"
            "        assert not end.code, words\n    assert 'mindspore' not in sys.modules, words")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_the_verbs(capfd):
    output = out_of(capfd, "--help")
    assert all(f"    {verb} " in output for verb in VERBS)
    done = run("--help")
    assert done.returncode == 0 and done.stdout == output and done.stderr == ""


@pytest.mark.parametrize("verb, words", [
    ("prepare", ["--shards", "default: 1)", "--download"]), ("train", ["--optim.lr", "default: 0.05", "pixels"]),
    ("eval", ["--protocol", "{native,course}", "required"]), ("predict", ["images", "--out", "default: predictions"]),
    ("compare", ["--variants", "--train.optim.lr", "runs/compare)"])])
def test_help_of_a_verb_shows_defaults(capfd, verb, words):
    output = out_of(capfd, verb, "--help")
    assert output.startswith(f"usage: mindfcn {verb} ") and "[options]" not in output
    # Lines break between words.
    output = " ".join(output.split())
    assert all(word in output for word in words)


def test_the_help_of_train_begins_with_what_one_needs(capfd):
    short, complete = out_of(capfd, "train", "--help"), out_of(capfd, "train", "--help_all")
    settings = [line.split()[0] for line in short.splitlines() if line.startswith("  --")]
    assert len(settings) == 12 and settings[:2] == ["--help_all", "--config"]
    assert len([line for line in short.splitlines() if line.startswith("  mindfcn train ")]) == 3
    hidden = ("--optim.momentum", "--seed", "--model.padding")
    assert not any(word in short for word in hidden) and all(word in complete for word in (*hidden, *settings))


def test_the_version_is_that_of_the_package(capfd):
    assert out_of(capfd, "--version") == f"mindfcn {mindfcn.__version__}\n"


@pytest.mark.parametrize("verb, needed", [("prepare", []), ("train", []), ("eval", ["--checkpoint", "a.ckpt"]),
                                          ("compare", ["--variants", '[{"name":"fcn8s_vgg16"}]']),
                                          ("predict", ["--checkpoint", "a.ckpt", "b.jpg", "c/"])])
def test_a_printed_config_is_read_again(capfd, tmp_path, verb, needed):
    text = out_of(capfd, verb, *needed, "--print_config")
    (tmp_path / "a.yaml").write_text(text)
    images = [word for word in needed if word in ("b.jpg", "c/")]
    assert parse([verb, "--config", str(tmp_path / "a.yaml"), *images]) == parse([verb, *needed])
    assert out_of(capfd, verb, "--config", str(tmp_path / "a.yaml"), *images, "--print_config") == text


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\noptim:\n  lr: 0.5\n  epochs: 7\n")
    config = parse(["train", "--config", str(tmp_path / "a.yaml"), "--optim.lr", "0.25"])[1]
    assert (config.seed, config.optim.lr, config.optim.epochs, config.optim.momentum) == (3, 0.25, 7, 0.9)


@pytest.mark.parametrize("words, values", [
    ([], (False, False)), (["--resume"], (True, False)), (["--resume", "--overwrite"], (True, True)),
    (["--resume", "--seed", "2"], (True, False)), (["--resume", "false", "--overwrite=true"], (False, True))])
def test_switches_need_no_value(words, values):
    config = parse(["train", *words])[1]
    assert (config.resume, config.overwrite) == values


def test_a_switch_does_not_swallow_an_image():
    config = parse(["predict", "--checkpoint", "a.ckpt", "--probabilities", "a.jpg", "b"])[1]
    assert config.probabilities is True and config.images == ["a.jpg", "b"]
    config = parse(["predict", "--checkpoint", "a.ckpt", "a.jpg", "--scales", "0.75", "1", "--flip"])[1]
    assert (config.images, config.scales, config.flip) == (["a.jpg"], [0.75, 1.0], True)
    assert parse(["eval", "--checkpoint", "a.ckpt"])[1].scales == [1.0]
    assert parse(["prepare", "--download", "voc2012", "sbd", "--skip_bad"])[1].download == ["voc2012", "sbd"]


# ------------------------------------------------------------------------------------------------- the journey

def test_prepare_predict_and_eval_as_typed(tmp_path):
    """In separate processes, with relative paths, as a user types them."""
    done = run("prepare", "--records", "rec", "--source", "sample", "--root", "src", "--samples", "5", "--size", "48",
               cwd=tmp_path)
    assert done.returncode == 0 and "train: rec/train.mindrecord" in done.stdout, done.stderr
    ms.set_seed(1)
    write_checkpoint(tmp_path / "a.ckpt", model="fcn32s_alexnet")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (30, 20), (200, 0, 0)).save(photos / "one.png")
    Image.new("L", (7, 5), 9).save(tmp_path / "two.jpg")
    Image.new("RGB", (5, 5)).save(tmp_path / "glob_3.png")
    done = run("predict", "--checkpoint", "a.ckpt", "photos/", "two.jpg", "glob*", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert sorted(os.listdir(tmp_path / "predictions")) == [
        f"{name}{end}" for name in ("glob_3", "one", "two") for end in (".png", "_overlay.jpg")]
    assert Image.open(tmp_path / "predictions" / "one.png").size == (30, 20)
    # The prediction was compiled; one photograph more is not worth it.
    done = run("eval", "--checkpoint", "a.ckpt", "--records", "rec/val.mindrecord", cwd=tmp_path, MINDFCN_COMPILE="0")
    assert done.returncode == 0 and "mean IoU" in done.stdout and "1 images" in done.stdout
    assert "Traceback" not in done.stderr and (tmp_path / "evaluation" / "metrics.json").exists()


# ------------------------------------------------------------------------------------------------- mistakes

def write_checkpoint(path, labels=SAMPLE, model="fcn8s_vgg16_bn", records="", fc_width=8):
    """A network of random weights with the card that a run of these settings writes."""
    settings = TrainConfig(model=ModelConfig(name=model, width=0.125, fc_width=fc_width))
    net, card, _ = build(settings, labels, records)
    card.training["step"] = 3
    save_checkpoint(path, net, card)


@pytest.fixture(scope="module")
def bench(sample_records, tmp_path_factory):
    """A folder with every kind of wrong file, in which the commands of MISTAKES are typed."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copytree(sample_records / "records", folder / "rec")
    shutil.copytree(sample_records / "source", folder / "src")
    runtime.set_up()
    write_checkpoint(folder / "good.ckpt", records="rec/val.mindrecord")
    write_checkpoint(folder / "norecords.ckpt")
    (folder / "good.onnx").write_bytes(b"")
    write_checkpoint(folder / "paper.ckpt", model="fcn8s_vgg16")
    write_checkpoint(folder / "two.ckpt", LabelSet(("sky", "earth"), ((0, 0, 0), (9, 9, 9))))
    whole = (folder / "good.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[:len(whole) // 2])
    (folder / "flipped.ckpt").write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "text.ckpt").write_text("not a checkpoint\n")
    np.savez(folder / "other.npz", a=np.zeros(3))
    for run_dir, fc_width in (("run", 8), ("wide", 16)):
        os.makedirs(folder / run_dir / "checkpoints")
        (folder / run_dir / "settings.yaml").write_text("seed: 1\n")
        write_checkpoint(folder / run_dir / "checkpoints" / "last.ckpt", fc_width=fc_width)
    os.makedirs(folder / "lost")
    (folder / "lost" / "settings.yaml").write_text("seed: 1\n")
    (folder / "lost" / "log.csv").write_text("step,epoch\n" + "".join(f"{n},{n // 3}\n" for n in range(3, 9)))
    for name, text in {
            "broken.yaml": "optim: {lr: [1\n", "key.yaml": "optim:\n  lrr: 3\n", "top.yaml": "learning: 3\n",
            "text.onnx": "no ONNX\n", "lr.yaml": "lr: 3\n", "group.yaml": "optim:\n  batch_size: 3\n",
            "type.yaml": "optim:\n  lr: fast\n", "words.yaml": "hello\n", "list.yaml": "- a\n- b\n", "void.yaml": "",
            "section.yaml": "optim: 3\n", "null.yaml": "optim:\n", "text.jpg": "not a photograph\n",
            "nam.yaml": "variants:\n- nam: x\n", "variants.yaml": "variants:\n  name: x\n",
            "file": "a file\n", "tab.yaml": "optim:\n\tlr: 3\n", "twice.yaml": "optim:\n  lr: 3\n  lr: 4\n",
            "octal.yaml": "optim:\n  epochs: 010\n", "sixty.yaml": "optim:\n  epochs: 1:30\n",
            "list8.yaml": "model:\n  skip_scales: [0.1, 01]\n", "nothing.yaml": "optim: {lr: null}\n",
            "nameless.yaml": "model: {name: ~}\n", "nowhere.yaml": "run_dir: null\n",
            "nul.yaml": 'run_dir: "a\\0b"\n'}.items():
        (folder / name).write_text(text)
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "none").mkdir()
    return folder


TRAIN = f"train --data.records rec --device CPU {TINY}"
EVAL = "eval --device CPU --checkpoint"
PREPARE = "prepare --source sample --root src --samples 15 --size 64"
COMPARE = "compare " + f"--data.records rec --device CPU {TINY} ".replace("--", "--train.") + "--variants"
# (command, what its line must contain: the cause, and words of the remedy)
MISTAKES = [
    ("", ["verb", "labels, inspect, prepare, train, eval"]),
    ("tain", ["'tain'", "labels, inspect, prepare, train, eval"]),
    ("train --optim.lrr 3", ["--optim.lrr", "did you mean --optim.lr?"]),
    ("train --see 2", ["--see", "did you mean --seed?"]),
    ("train --lr 3", ["there is no option --lr; did you mean --optim.lr?"]),
    ("train --epochs=3", ["--epochs; did you mean --optim.epochs?"]),
    ("train --batch-size 3", ["--batch_size; did you mean --augment.batch_size?"]),
    ("train --learning_rate 3", ["did you mean --optim.lr?"]),
    ("train --optim.cropsize 3", ["did you mean --augment.crop_size?"]),
    ("compare --lr 3", ["did you mean --train.optim.lr?"]),
    ("train --config lr.yaml", ["lr.yaml", "there is no setting lr; did you mean optim.lr?"]),
    ("train --config group.yaml", ["there is no setting optim.batch_size; did you mean augment.batch_size?"]),
    ("train quickly", ["quickly", "mindfcn train --help"]),
    ("train --optim.lr", ["--optim.lr", "expected one argument"]),
    ("train --optim.lr fast", ["--optim.lr: expected a number, got 'fast'"]),
    ("train --optim.epochs 1.5", ["--optim.epochs: expected a whole number, got '1.5'"]),
    ("train --resume=maybe", ["--resume: expected true or false, got 'maybe'"]),
    ("train --model.name fcn9s", ["'fcn9s'", "HEAD_BACKBONE", "fcn8s_atonce"]),
    ("train --model.output_stride 7", ["--model.output_stride: expected one of 8, 16, 32, got '7'"]),
    ("train --model.skip_scales 3", ["--model.skip_scales: expected 2 numbers, such as [0.01, 0.0001], got '3'"]),
    ("train --model.skip_scales [a,1]", ["--model.skip_scales: expected 2 numbers", "got 'a'"]),
    ("describe fcn8s_vgg16 --size 4096", ["--size 4096: must be in 1..1024"]),
    ("train --device TPU", ["--device: expected one of auto, CPU, GPU, Ascend, got 'TPU'"]),
    ("train --data.sbd_splits val", ["--data.sbd_splits: expected a list such as [a, b]", "'val'"]),
    ("train --data.download sbd", ["--data.download: expected a list", "voc2012, sbd, course", "'sbd'"]),
    ("prepare --download imagenet", ["--download", "'imagenet'", "voc2012"]),
    ("eval", ["--checkpoint", "mindfcn eval --help"]),
    ("predict --checkpoint good.ckpt", ["images", "mindfcn predict --help"]),
    ("train --config missing.yaml", ["missing.yaml", "check the path"]),
    ("train --config none", ["none", "directory", "check the path"]),
    ("train --config broken.yaml", ["broken.yaml, line 2", "not YAML"]),
    ("train --config tab.yaml", ["tab.yaml, line 2", "not YAML"]),
    ("train --config bytes.yaml", ["bytes.yaml", "UTF-8"]),
    ("train --config twice.yaml", ["twice.yaml, line 3", "the key lr appears twice"]),
    ("train --config octal.yaml", ["octal.yaml: optim.epochs: 010 is not a decimal number"]),
    ("train --config sixty.yaml", ["sixty.yaml: optim.epochs: 1:30 is not a decimal number"]),
    ("train --config list8.yaml", ["list8.yaml: model.skip_scales: 01 is not a decimal number"]),
    ("train --config nothing.yaml", ["optim.lr: expected a number, got null"]),
    ("train --config nameless.yaml", ["model.name: expected text, got null"]),
    ("train --config nowhere.yaml", ["run_dir: expected text, got null"]),
    ("train --config nul.yaml", ["run_dir: the text contains a NUL character"]),
    ("eval good.ckpt", ["unexpected argument good.ckpt; did you mean --checkpoint good.ckpt?"]),
    ("explain --checkpoint good.ckpt photo.jpg", ["unexpected argument photo.jpg; did you mean --image photo.jpg?"]),
    ("describe fcn8s_vgg16_small", ["a file of weights", "its network, fcn8s_vgg16"]),
    ("tune_crf --checkpoint good.ckpt --records rec/val.mindrecord --out_file good.ckpt", ["ends in .yaml"]),
    ("explain --checkpoint good.ckpt --image src/JPEGImages/sample_000000.jpg "
     "--out_file src/JPEGImages/../JPEGImages/sample_000000.jpg", ["would overwrite", "choose another name"]),
    ("export --checkpoint good.ckpt --format ckpt --out_file ./good.ckpt", ["would overwrite", "choose another name"]),
    ("train --config words.yaml", ["words.yaml", "no settings", "--print_config"]),
    ("train --config list.yaml", ["list.yaml", "no settings"]),
    ("train --config void.yaml", ["void.yaml", "no settings"]),
    ("train --config key.yaml", ["key.yaml", "optim.lrr", "did you mean optim.lr?"]),
    ("train --config top.yaml", ["top.yaml", "learning", "mindfcn train --help"]),
    ("train --config type.yaml", ["type.yaml: optim.lr: expected a number, got 'fast'"]),
    ("train --config section.yaml", ["section.yaml", "optim must hold settings"]),
    ("train --config null.yaml", ["null.yaml", "optim must hold settings"]),
    ("train --optim missing.yaml", ["--optim", "missing.yaml"]),
    (f"{TRAIN} --device GPU", ["device GPU", "use CPU"]),
    (f"{TRAIN} --optim.epochs -1", ["--optim.epochs -1", "at least 1"]),
    (f"{TRAIN} --optim.lr 0", ["--optim.lr 0.0", "above 0"]),
    (f"{TRAIN} --optim.lr .nan", ["--optim.lr nan", "above 0"]),
    (f"{TRAIN} --optim.lr .inf", ["--optim.lr inf", "above 0"]),
    (f"{TRAIN} --optim.power -1", ["--optim.power -1.0", "above 0"]),
    (f"{TRAIN} --optim.loss_scale 0.5", ["--optim.loss_scale 0.5", "at least 1, or 0"]),
    (f"{TRAIN} --seed -1", ["--seed -1", "0..2147483647"]),
    (f"{TRAIN} --keep 0", ["--keep 0", "at least 1"]),
    (f"{TRAIN} --model.dropout 1", ["--model.dropout 1.0", "0..1"]),
    (f"{TRAIN} --model.width 0", ["--model.width 0.0", "above 0"]),
    (f"{TRAIN} --augment.crop_size -1", ["--augment.crop_size -1", "1..8192"]),
    (f"{TRAIN} --augment.crop_size 0", ["--augment.batch_size 4", "1 with --augment.crop_size 0", "accumulate"]),
    (f"{TRAIN} --optim.keep_cells 0", ["--optim.keep_cells 0.0", "0..1"]),
    (f"{TRAIN} --optim.ema 1", ["--optim.ema 1.0", "1 excluded"]),
    (f"{TRAIN} --optim.ema 0.9 --optim.recalibrate 5", ["--optim.recalibrate 5", "0 with --optim.ema"]),
    (f"{TRAIN} --optim.hard_pixels 0", ["--optim.hard_pixels 0", "at least 1"]),
    (f"{TRAIN} --optim.focal_gamma 0.5", ["--optim.focal_gamma 0.5", "at least 1, or 0"]),
    (f"{TRAIN} --optim.label_smoothing 1", ["--optim.label_smoothing 1.0", "1 excluded"]),
    (f"{TRAIN} --optim.label_smoothing 0.1 --optim.loss dice", ["--optim.label_smoothing 0.1", "0 with", "dice"]),
    (f"{TRAIN} --optim.name adam", ["--optim.lr 0.05", "at most 0.01 with --optim.name adam"]),
    (f"{TRAIN} --optim.beta2 1", ["--optim.beta2 1.0", "1 excluded"]),
    (f"{TRAIN} --optim.clip_norm -1", ["--optim.clip_norm -1.0", "at least 0"]),
    (f"{TRAIN} --optim.freeze conv2", ["--optim.freeze conv2", "stay random", "--model.pretrained"]),
    (f"{TRAIN} --model.name fcn32s_fixed_vgg16", ["fcn32s_fixed_vgg16", "stay random", "give weights"]),
    (f"{TRAIN} --patience -1", ["--patience -1", "at least 0"]),
    (f"{TRAIN} --patience 2 --eval_every 0", ["--patience 2", "0 with --eval_every 0"]),
    (f"{TRAIN} --best_by circles", ["--best_by circles", "mean IoU", "disc"]),
    (f"{TRAIN} --augment.rotate 181", ["--augment.rotate 181.0", "0..180"]),
    (f"{TRAIN} --augment.rare_crops 1.1", ["--augment.rare_crops 1.1", "0..1"]),
    (f"{TRAIN} --augment.pipeline missing.yaml", ["missing.yaml", "check the path"]),
    (f"{TRAIN} --augment.pipeline a.yaml --augment.crop_size 0 --augment.batch_size 1",
     ["--augment.pipeline a.yaml", "left out with --augment.crop_size 0"]),
    (f"{TRAIN} --augment.photometric 2", ["--augment.photometric 2.0", "0..1"]),
    (f"{TRAIN} --augment.max_class_share 0", ["--augment.max_class_share 0.0", "0 excluded"]),
    (f"{TRAIN} --optim.loss max", ["--optim.loss: expected one of mean, sum,", "got 'max'"]),
    (f"{TRAIN} --augment.batch_size 0", ["--augment.batch_size 0", "at least 1"]),
    (f"{TRAIN} --augment.min_scale 3", ["--augment.min_scale 3.0", "augment.max_scale"]),
    (f"{TRAIN} --augment.max_scale .inf", ["--augment.max_scale inf", "at most 16"]),
    (f"{TRAIN} --augment.batch_size 64", ["12 records", "smaller batch size"]),
    ("train --optim.precision mixed", ["--optim.precision: expected one of auto, float32, float32_strict, float16"]),
    (f"{TRAIN} --optim.precision float16", ["--optim.precision float16 on CPU", "slower", "use float32"]),
    (f"{TRAIN} --optim.precision bfloat16", ["--optim.precision bfloat16 on CPU", "no such", "use float32"]),
    (f"{EVAL} good.ckpt --precision float16", ["--precision float16 on CPU", "slower", "use float32"]),
    ("predict --device CPU --checkpoint good.ckpt --precision bfloat16 text.jpg", ["--precision bfloat16 on CPU"]),
    (f"{TRAIN} --run_dir file", ["file", "choose a folder"]),
    (f"{TRAIN} --run_dir /proc/run", ["/proc/run", "choose a folder"]),
    (f"{TRAIN} --run_dir run", ["run", "--resume", "--overwrite"]),
    (f"{TRAIN} --run_dir lost --resume", ["last.ckpt is gone", "6 steps", "--overwrite"]),
    (f"{TRAIN} --run_dir wide --resume", ["last.ckpt", "model.fc_width 16, not 8", "settings.yaml"]),
    (f"{TRAIN} --run_dir run --resume", ["last.ckpt", "other batches", "settings.yaml"]),
    (f"{TRAIN} --model.pretrained missing.pth", ["missing.pth", "check the path"]),
    (f"{TRAIN} --model.pretrained paper.ckpt", ["paper.ckpt", "another architecture"]),
    (f"{TRAIN} --model.pretrained other.npz", ["other.npz", "VGG16"]),
    (f"{TRAIN} --model.pretrained cut.ckpt", ["cut.ckpt", "damaged"]),
    ("train --data.records away --data.root away --data.source voc", ["away", "ImageSets", "--download voc2012"]),
    ("train --data.records file/x --data.source sample --data.root src --data.samples 15 --data.size 64",
     ["file/x", "Not a directory", "choose a folder"]),
    (f"{EVAL} missing.ckpt", ["missing.ckpt", "check the path"]),
    (f"{EVAL} none", ["none", ".ckpt"]),
    (f"{EVAL} text.ckpt", ["text.ckpt", "damaged"]),
    (f"{EVAL} cut.ckpt", ["cut.ckpt", "damaged", "fetch it again"]),
    (f"{EVAL} flipped.ckpt", ["flipped.ckpt", "damaged"]),
    (f"{EVAL} empty.ckpt", ["empty.ckpt", "empty"]),
    (f"{EVAL} other.npz --records rec/val.mindrecord", ["other.npz", "holds no segmentation network"]),
    (f"{EVAL} norecords.ckpt", ["norecords.ckpt", "--records"]),
    (f"{EVAL} two.ckpt --records rec/val.mindrecord", ["two.ckpt", "7 classes", "2 (sky"]),
    (f"{EVAL} good.ckpt --records away", ["away", "prepare"]),
    (f"{EVAL} good.ckpt --records text.jpg", ["text.jpg", "not a MindRecord file"]),
    (f"{EVAL} good.ckpt --out file", ["file", "choose a folder"]),
    (f"{EVAL} good.ckpt --worst -1", ["--worst -1", "at least 0"]),
    (f"{EVAL} good.ckpt --device Ascend", ["device Ascend", "use CPU"]),
    (f"{EVAL} good.ckpt --protocol course", ["3 records", "batch"]),
    (f"{EVAL} good.ckpt --scales 0.5 0", ["--scales 0.5 0.0", "above 0"]),
    (f"{EVAL} good.ckpt --scales half", ["--scales", "half"]),
    (f"{EVAL} good.ckpt --window 64", ["--window 64", "larger than the overlap, 544", "--window 1280"]),
    (f"{EVAL} good.ckpt --crf nobody", ["--crf nobody", "deeplab_v1", "nor a file"]),
    (f"{EVAL} good.ckpt --limit -1", ["--limit -1", "at least 0"]),
    ("tune_crf", ["missing: --checkpoint FILE"]),
    ("tune_crf --device CPU --checkpoint good.ckpt --start text.ckpt", ["text.ckpt", "does not hold a CRF"]),
    ("predict --checkpoint good.ckpt text.jpg --overlap 8", ["--overlap", "give --window"]),
    ("predict --checkpoint good.ckpt --scales 1 text.jpg", ["--scales", "'text.jpg'"]),
    ("predict --checkpoint missing.ckpt text.jpg", ["missing.ckpt", "check the path"]),
    ("predict --checkpoint good.ckpt away.jpg", ["away.jpg", "check the path"]),
    ("predict --checkpoint good.ckpt *.tif", ["*.tif", "check the path"]),
    ("predict --checkpoint good.ckpt none", ["none", "holds no image"]),
    ("predict --checkpoint good.ckpt text.jpg", ["1 of 1 images"]),
    ("predict --checkpoint good.ckpt text.jpg --out file", ["file", "choose another"]),
    ("predict --checkpoint good.ckpt text.jpg --runtime onnx", ["good.ckpt", "mindfcn export"]),
    ("predict --checkpoint good.onnx text.jpg --runtime mindspore", ["good.onnx", "--runtime onnx"]),
    ("predict --checkpoint missing.onnx text.jpg", ["missing.onnx", "check the path"]),
    ("predict --checkpoint text.onnx text.jpg", ["text.onnx", "mindfcn export"]),
    ("predict --checkpoint text.onnx text.jpg --precision float16", ["ONNX files", "float16", "float32"]),
    ("predict --checkpoint text.onnx text.jpg --device Ascend", ["device Ascend", "use CPU"]),
    ("export --checkpoint good.ckpt", ["missing: --out_file FILE"]),
    ("export --checkpoint good.ckpt --out_file net.ckpt", ["--out_file net.ckpt", "ends in .onnx"]),
    ("export --checkpoint good.ckpt --out_file net.onnx --format mindir", ["--out_file net.onnx", "ends in .mindir"]),
    ("export --checkpoint good.ckpt --out_file net.onnx --format tflite", ["--format: expected one of onnx, mindir"]),
    ("export --checkpoint good.ckpt --out_file net.mindir --format mindir --size [0,9]", ["--size [0, 9]", "must be"]),
    ("export --checkpoint cut.ckpt --out_file net.onnx", ["cut.ckpt", "damaged"]),
    ("export --checkpoint good.ckpt --out_file net.onnx --photos away.jpg", ["away.jpg", "check the path"]),
    ("export --checkpoint good.ckpt --out_file net.onnx --photos text.jpg", ["text.jpg", "not an image"]),
    ("export --checkpoint good.ckpt --out_file file/net.onnx", ["file/net.onnx", "choose a folder"]),
    ("serve --checkpoint good.ckpt --port 70000", ["--port 70000", "0..65535"]),
    ("serve --checkpoint cut.ckpt --port 0", ["cut.ckpt", "damaged"]),
    (f"{PREPARE} --records new --samples 1", ["samples 1", "5 to"]),
    (f"{PREPARE} --records new --shards 0", ["0 shards", "choose 1"]),
    (f"{PREPARE} --records /proc/new", ["/proc/new", "choose a folder"]),
    (f"{PREPARE} --records new --size 96", ["src", "choose another root"]),
    ("prepare --records new --source sample --root file", ["file", "not a folder"]),
    ("prepare --records new --root src", ["no source", "--source folder --root"]),
    ("prepare --records new --source voc --root none", ["none", "ImageSets", "VOCdevkit"]),
    ("prepare --records new --source voc --root src --train_split away", ["'away'", "train, val"]),
    ("prepare --records new --source voc --root src --train_split val", ["'val'", "splits that differ"]),
    ("prepare --records new --source voc --root src --sbd away", ["away", "--download sbd"]),
    ("prepare --records new --source folder --root none", ["labels.yaml", "check the path"]),
    ("prepare --records new --source folder --root src --labels away.yaml", ["away.yaml", "check the path"]),
    ("labels", ["--from FOLDER", "mindfcn labels --help"]),
    ("labels --from away", ["away", "folder of the masks"]),
    ("labels --from rec", ["no masks in rec", ".png"]),
    ("labels --from src/SegmentationClass --out_file labels.txt", ["labels.txt", ".yaml"]),
    ("labels --from src/SegmentationClass --out_file src/labels.yaml", ["src/labels.yaml exists", "--overwrite"]),
    ("labels --from src/SegmentationClass --names a b --out_file src/new.yaml", ["2 names", "7 classes"]),
    ("labels --from src/JPEGImages", ["15 JPEG files", "sample_000000.jpg, sample_000001.jpg", "PNG"]),
    ("inspect", ["missing: data", "mindfcn inspect --help"]),
    ("inspect away", ["no away", "VOC"]),
    ("inspect none", ["none", "ImageSets"]),
    ("inspect text.jpg", ["text.jpg", "not a MindRecord file"]),
    ("inspect src --pictures -1", ["--pictures -1", "at least 0"]),
    ("inspect rec --out file", ["file", "choose a folder"]),
    ("compare", ["no variants", "configs/compare/sample.yaml"]),
    ("compare --variants fcn8s_vgg16", ["--variants: expected a list such as [{name:", "'fcn8s_vgg16'"]),
    ("compare --variants [fcn8s_vgg16]", ["--variants: expected a list such as [{name:", "'fcn8s_vgg16'"]),
    ('compare --variants [{"label":"x"}]', ["variants", "needs a name"]),
    ('compare --variants [{"name":3}]', ["variants: name: expected text, got '3'"]),
    ('compare --variants [{"name":"x","settings":3}]', ["variants: settings: expected settings such as", "'3'"]),
    ("compare --config nam.yaml", ["nam.yaml: there is no setting variants 1: nam; did you mean variants 1: name?"]),
    ("compare --config variants.yaml", ["variants.yaml: variants must be a list of settings"]),
    (f'{COMPARE} [{{"name":"fcn9s"}}]', ["'fcn9s'", "HEAD_BACKBONE"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16"}},{{"name":"fcn8s_vgg16"}}]', ["fcn8s_vgg16", "two variants", "label"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16","pretrained":"b"}},{{"name":"fcn8s_vgg16","label":"b"}}]',
     ["starts from b", "change the order"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16","pretrained":"away.npz"}}]', ["away.npz", "neither a file nor the label"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16_bn","checkpoint":"two.ckpt"}}]', ["two.ckpt", "7 classes", "2 (sky"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16","checkpoint":"good.ckpt"}}]', ["good.ckpt", "correct its name"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16_bn"}}] --out file', ["file", "choose a folder"]),
    (f'{COMPARE} [{{"name":"fcn8s_vgg16_bn"}}] --train.resume', ["--train.resume", "automatically"]),
]


def contents(folder):
    """{path: when it was written and its size}, or None for a folder."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
            for path in folder.rglob("*")}


@pytest.mark.parametrize("command, words", MISTAKES, ids=[command or "nothing" for command, _ in MISTAKES])
def test_a_mistake_is_reported_in_one_line(bench, monkeypatch, capfd, command, words):
    monkeypatch.chdir(bench)
    before = contents(bench)
    status = main(command.split())
    output = capfd.readouterr()
    assert status in (1, 2)
    assert output.err.startswith("mindfcn") and output.err.endswith("\n") and output.err.count("\n") == 1, output.err
    assert all(word in output.err for word in words), output.err
    assert "Traceback" not in output.out + output.err
    # Nothing is left: no partial record, run or result (MindSpore's kernel folders are ignored).
    after = contents(bench)
    left = {path for path in after.keys() - before.keys() if path.relative_to(bench).parts[0] != "rank_0"}
    assert not [path for path in left if path.is_file()], left
    assert {path: written for path, written in after.items() if path in before} == before


# Before MindSpore is imported, from MindSpore itself, and after a network and records were read.
@pytest.mark.parametrize("command", [
    "train --optim.lr fast", f"{TRAIN} --device GPU", f"{EVAL} two.ckpt --records rec/val.mindrecord"])
def test_the_same_line_from_a_process_of_its_own(bench, monkeypatch, capfd, command):
    monkeypatch.chdir(bench)
    status = main(command.split())
    done = run(*command.split(), cwd=bench)
    assert (done.returncode, done.stderr) == (status, capfd.readouterr().err)


@pytest.mark.skipif(os.name == "nt", reason="the shell's redirections")
def test_closed_streams_and_a_deleted_folder(tmp_path):
    """Without stdout, the next file that is opened would be standard output to MindSpore's C++."""
    def shell(line, folder=tmp_path):
        return subprocess.run(["sh", "-c", line, sys.executable], cwd=folder, capture_output=True, text=True,
                              timeout=300, check=False)
    for closed in (">&-", ">&- 2>&-", "<&- >&-"):
        done = shell(f'"$0" -m mindfcn train --print_config {closed}')
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if os.path.exists("/dev/full"):
        done = shell('"$0" -m mindfcn train --print_config >/dev/full')
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "standard output: No space" in done.stderr
    (tmp_path / "gone").mkdir()
    done = shell('rmdir "$PWD"; "$0" -m mindfcn weights', tmp_path / "gone")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert "the current folder was deleted" in done.stderr


@pytest.mark.parametrize("words, status", [("#umsg#Memory not enough:#umsg#Alloc device memory[1] failed.\n---", 1),
                                           ("Select GPU operator fail!", None)])
def test_a_device_whose_memory_is_used_up_is_one_line_and_other_errors_keep_their_traceback(
        monkeypatch, capfd, words, status):
    def fail(*_):
        raise RuntimeError(words)

    # MindSpore's message for a GPU, from the text of its library.
    monkeypatch.setattr("mindfcn.commands.describe.describe", fail)
    with pytest.raises(RuntimeError) if status is None else contextlib.nullcontext():
        assert main(["describe", "fcn32s_vgg16"]) == status
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (status or 0) and all("--augment.batch_size" in line for line in lines)


def test_unreadable_images_are_named_and_the_rest_is_written(bench, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(bench)
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    assert main(["predict", "--checkpoint", "good.ckpt", "text.jpg", str(tmp_path / "good.png"), "--device", "CPU",
                 "--out", str(tmp_path / "out")]) == 1
    output = capfd.readouterr()
    assert "left out: text.jpg" in output.out and "1 of 2 images" in output.err
    assert sorted(os.listdir(tmp_path / "out")) == ["good.png", "good_overlay.jpg"]


def test_a_log_file_gets_lines_instead_of_a_progress_bar(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    bar = Terminal()
    bar.begin_training(10, 2, 0)
    for step in range(1, 21):
        now[0] = 20.0 * step
        bar.step(step, 1 + (step - 1) // 10, 1 / step, 0.1, 4.0)
        if step == 10:
            bar.evaluated(10, {"mean IoU": 0.25})
    lines = capsys.readouterr().err.splitlines()
    assert "\r" not in "".join(lines) and len(lines) == 11, "a line every 40 seconds"
    assert "epoch 1 loss 0.250 lr 1.00e-01 4.0 images/s" in lines[2] and "mIoU" not in lines[2]
    assert "epoch 2 loss 0.062 lr 1.00e-01 4.0 images/s mIoU 0.250" in lines[8]
