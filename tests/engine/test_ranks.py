"""Several processes on CPU: they see and learn the same as one process with the joined batch, and one rank writes."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import read_table
from PIL import Image

from mindfcn import runtime
from mindfcn.data.dataset import SegDataset

SCRIPT = pathlib.Path(__file__).with_name("on_ranks.py")
MSRUN = os.path.join(os.path.dirname(sys.executable), "msrun")
long = pytest.mark.long
TINY = ["--device", "CPU", "--augment.crop_size", "32", "--model.width", "0.125", "--model.fc_width", "8"]


def alone(task, folder, *arguments):
    """Run a task in one process."""
    done = subprocess.run([sys.executable, SCRIPT, task, folder, *arguments], capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def start(task, folder, *arguments, **environment):
    """Start two ranks with msrun."""
    if not os.path.exists(MSRUN):
        pytest.skip("this MindSpore has no msrun")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # msrun starts the first `python` on PATH.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.Popen(
        [MSRUN, "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", "--tail_worker_log=0",
         f"--log_dir={folder}/log", str(SCRIPT), task, str(folder), *map(str, arguments)],
        cwd=folder, env={**os.environ, "PATH": path, **environment}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def on_two(task, folder, *arguments, status=0, **environment):
    """Run a task on two ranks and return what they printed."""
    running = start(task, folder, *arguments, **environment)
    output = running.communicate(timeout=300)[0]
    assert running.returncode == status, output[-5000:]
    return output


def saved(folder, name, ranks):
    """The arrays that every rank saved."""
    return [np.load(folder / f"{name}-{ranks}-{rank}.npz") for rank in range(ranks)]


def differences(one, other):
    """The largest difference of each array, as a share of its largest entry."""
    return {name: np.abs(one[name] - other[name]).max() / max(np.abs(one[name]).max(), 1e-3) for name in one.files}


@pytest.mark.parametrize("ranks, batch_size", [(2, 2), (3, 1)])
def test_at_each_step_the_ranks_batches_are_the_joined_batch(ranks, batch_size, sample_records):
    def training(**options):
        path = str(sample_records / "records" / "train.mindrecord")
        return SegDataset(data_file=path, crop_size=32, seed=5, **options)
    joined = training(batch_size=ranks * batch_size)
    shares = [training(batch_size=batch_size, rank=rank, rank_size=ranks) for rank in range(ranks)]
    assert {share.steps_per_epoch for share in shares} == {joined.steps_per_epoch}
    for epoch in range(2):
        for step in range(joined.steps_per_epoch):
            parts = [name for share in shares for name in share.batch_names(epoch, step)]
            assert sorted(parts) == sorted(joined.batch_names(epoch, step))
            assert len(set(parts)) == ranks * batch_size


def test_alone_a_sum_over_ranks_is_the_array_itself():
    array = np.array([2 ** 62 + 1, -3])
    assert runtime.sum_over_ranks(array) is array
    assert runtime.gather_over_ranks(np.array([0.5, np.nan])).shape == (1, 2)
    with pytest.raises(KeyError), runtime.fail_on_all_ranks():
        raise KeyError("its own error")


@long
def test_sums_are_exact_signals_reach_all_ranks_and_masks_differ(tmp_path):
    on_two("sums", tmp_path)
    alone("sums", tmp_path)
    both, (single,) = saved(tmp_path, "sums", 2), saved(tmp_path, "sums", 1)
    for one in both:
        # The signed sum of 2^62 and 2^62 + 1 does not fit, and wraps around.
        assert one["counts"].tolist() == [[-2 ** 63 + 1, -10], [9 * 10 ** 9, 1]]
        np.testing.assert_array_equal(one["scores"], [1 / 3 + (1 / 3 + 1), np.nan, 2.0 ** 61, 2e-300])
        assert one["one"] == 3 and one["none"].shape == (0, 2)
        assert one["signal"] == 15
    masks = [*both[0]["masks"], *both[1]["masks"]]
    assert len({mask.tobytes() for mask in masks}) == 6
    # Independent draws of half agree in half of the places.
    assert np.mean((masks[0] > 0) == (masks[3] > 0)) == pytest.approx(0.5, abs=0.02)
    assert not np.array_equal(both[0]["cells"], both[1]["cells"])
    assert all(np.array_equal(single[name], both[0][name]) for name in ("masks", "cells"))


@long
def test_a_failure_of_one_rank_is_an_error_on_all(tmp_path):
    on_two("failures", tmp_path)
    assert [str(one["message"]) for one in saved(tmp_path, "failures", 2)] == [
        "process 1 failed; its own log has the reason", "no such thing"]


@long
def test_two_ranks_learn_what_one_process_learns_from_the_joined_batch(tmp_path):
    alone("curves", tmp_path)
    on_two("curves", tmp_path)
    for name in ("curve-mean-1", "curve-mean-2", "curve-sum-1", "curve-mean-1-weighted", "curve-bootstrapped-1",
                 "curve-focal-1", "curve-dice-1"):
        (single,), (first, second) = saved(tmp_path, name, 1), saved(tmp_path, name, 2)
        assert all(first[entry].tobytes() == second[entry].tobytes() for entry in first.files), name
        np.testing.assert_allclose(first["losses"], single["losses"], rtol=2e-6, err_msg=name)
        assert max(differences(single, first).values()) < 1e-4, name
        assert abs(single["losses"][5] / single["losses"][0] - 1) > 0.01, name


def train_arguments(records, *arguments):
    return [*TINY, "--data.records", str(records / "records"), "--data.source", "sample", "--data.root",
            str(records / "source"), "--data.samples", "15", "--data.size", "64", *arguments]


@long
def test_the_verb_train_leaves_what_one_process_leaves(sample_records, tmp_path):
    """The paper's network without dropout: the same curves and metrics, and nothing written by rank 1."""
    common = train_arguments(sample_records, "--model.name", "fcn8s_vgg16", "--model.dropout", "0",
                             "--optim.epochs", "2", "--optim.lr", "0.05")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone("train", tmp_path / "one", *common, "--augment.batch_size", "4")
    on_two("train", tmp_path / "two", *common, "--augment.batch_size", "2")
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    assert not (tmp_path / "two" / "other").exists()
    assert sorted(path.relative_to(one) for path in one.rglob("*")) == sorted(
        path.relative_to(two) for path in two.rglob("*"))
    for table in ("log.csv", "evaluation.csv"):
        single, shared = read_table(one / table), read_table(two / table)
        assert len(single) == len(shared) > 0
        for key in set(single[0]) - {"images_per_s"}:
            np.testing.assert_allclose([float(row[key]) for row in shared], [float(row[key]) for row in single],
                                       rtol=2e-5, atol=2e-4, err_msg=f"{table} {key}")
    counts = [json.loads((run / "evaluation" / "metrics.json").read_text())["confusion matrix"] for run in (one, two)]
    assert np.sum(counts[0]) == np.sum(counts[1]) == labelled(sample_records)
    first, second = saved(tmp_path / "two", "train", 2)
    assert first["evaluated"] and not second["evaluated"]


def labelled(records):
    """Pixels of the validation masks that count."""
    dataset = SegDataset(data_file=str(records / "records" / "val.mindrecord"), training=False)
    return sum(int((mask != 255).sum()) for _, _, mask in dataset.samples(range(dataset.count)))


@long
@pytest.mark.parametrize("ema", ["0", "0.5"], ids=["plain", "averaged"])
def test_moving_averages_are_joined_and_the_checkpoint_gives_the_noted_metrics(ema, sample_records, tmp_path):
    """Those of the normalisation, and of the weights' averages, which both ranks evaluate a share with."""
    on_two("train", tmp_path, *train_arguments(sample_records, "--model.name", "fcn8s_vgg16_bn", "--optim.epochs", "1",
                                               "--augment.batch_size", "2", "--optim.ema", ema))
    first, second = saved(tmp_path, "train", 2)
    moving = [name for name in first.files if "moving_" in name]
    assert len(moving) == 30
    # At the end only the first rank loads the best weights: the averages where there are any.
    assert ema != "0" or all(first[name].tobytes() == second[name].tobytes() for name in moving)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "best.ckpt")
    evaluated = ["eval", "--checkpoint", checkpoint, "--device", "CPU", "--out"]
    alone("command", tmp_path, *evaluated, str(tmp_path / "alone"))
    output = on_two("command", tmp_path, *evaluated, str(tmp_path / "shared"))
    assert output.count("mean IoU") == 1
    single, shared, noted = (json.loads((folder / "metrics.json").read_text()) for folder in (
        tmp_path / "alone", tmp_path / "shared", tmp_path / "run" / "evaluation"))
    for entry in ("images", "metrics", "confusion matrix", "image IoU"):
        assert single[entry] == shared[entry] == noted[entry]


@long
def test_a_signal_to_one_rank_saves_and_stops_both_and_the_run_resumes_bit_for_bit(sample_records, tmp_path):
    common = train_arguments(sample_records, "--model.name", "fcn8s_vgg16", "--augment.batch_size", "2",
                             "--optim.epochs", "2", "--optim.keep_cells", "0.75")
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    on_two("train", tmp_path / "whole", *common)
    running = start("train", tmp_path / "parts", *common, WAIT_AT="4")
    until((tmp_path / "parts" / "waiting").exists, running)
    os.kill(int((tmp_path / "parts" / "pid1").read_text()), signal.SIGTERM)
    output = running.communicate(timeout=200)[0]
    assert running.returncode == 0, output[-3000:]
    assert [int(one["signal"]) for one in saved(tmp_path / "parts", "train", 2)] == [15, 15]
    assert read_table(tmp_path / "parts" / "run" / "log.csv")[-1]["step"] == "4"
    on_two("train", tmp_path / "parts", *common, "--resume", "true")
    for one, other in zip(saved(tmp_path / "whole", "train", 2), saved(tmp_path / "parts", "train", 2)):
        assert all(one[name].tobytes() == other[name].tobytes() for name in one.files)


@long
@pytest.mark.parametrize("runtime_name", ["onnx", "mindspore"])
def test_ranks_share_the_images_of_predict_and_count_the_failures_of_all(runtime_name, color_net, tmp_path):
    """The masks of one process; a call that was cut short continues; the failure is in the share of rank 1."""
    checkpoint = str(color_net) if runtime_name == "onnx" else "fcn8s_vgg16_small"
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(1)
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (40, 60 + number, 3), np.uint8)).save(
            tmp_path / "photos" / f"{number}.png")
    common = ["predict", str(tmp_path / "photos"), "--checkpoint", checkpoint, "--device", "CPU", "--out"]
    alone("command", tmp_path, *common, str(tmp_path / "one"))
    (tmp_path / "photos" / "3.png").write_bytes(b"no photograph")
    output = on_two("command", tmp_path, *common, str(tmp_path / "two"), status=1)
    assert output.count("4 images segmented, 0 skipped") == 1 and "1 of 5 images were left out" in output
    assert "3.png" in (tmp_path / "log" / "worker_1.log").read_text()
    names = [f"{number}{end}" for number in (0, 1, 2, 4) for end in (".png", "_overlay.jpg")]
    assert sorted(os.listdir(tmp_path / "two")) == sorted(names)
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    os.remove(tmp_path / "photos" / "3.png")
    os.remove(tmp_path / "two" / "2.png")
    output = on_two("command", tmp_path, *common, str(tmp_path / "two"), "--skip_existing", "true")
    assert output.count("1 images segmented, 3 skipped") == 1
    assert (tmp_path / "two" / "2.png").read_bytes() == (tmp_path / "one" / "2.png").read_bytes()


def until(true, running, seconds=120):
    """Wait for something while the ranks run."""
    end = time.monotonic() + seconds
    while not true():
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@long
def test_without_records_the_first_rank_makes_them_and_its_failure_ends_all(tmp_path):
    nowhere = [*TINY, "--data.source", "voc", "--data.records", str(tmp_path / "records"), "--data.root",
               str(tmp_path / "nothing"), "--run_dir", str(tmp_path / "run")]
    on_two("command", tmp_path, "train", *nowhere, status=1)
    logs = [(tmp_path / "log" / f"worker_{rank}.log").read_text() for rank in range(2)]
    assert str(tmp_path / "nothing") in logs[0]
    assert "process 0 failed" in logs[1]
    assert set(os.listdir(tmp_path / "run")) <= {"run.lock"}


@long
def test_no_rank_waits_for_ever_for_one_that_failed_in_training(sample_records, tmp_path):
    arguments = train_arguments(sample_records, "--augment.batch_size", "2")
    on_two("train", tmp_path, *arguments, status=1, FAIL_AT="2")
    assert "this process has had enough" in (tmp_path / "log" / "worker_1.log").read_text()
