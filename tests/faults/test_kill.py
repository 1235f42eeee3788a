"""SIGKILL at random moments: no file under its final name is cut, and the same command again ends with the same bits.

    bash run_tests.sh --long tests/faults/test_kill.py

kills a hundred times. The network and the images are tiny: what is asked for is when files change, not how large
they are.
"""

import random
import shutil

import pytest
from killing import command, kill_after, kill_at, kill_while_writing, leftovers

from mindfcn.weights.checkpoint import load_checkpoint

long = pytest.mark.long
WRITTEN = [".partial-epoch-0001.ckpt", ".partial-last.ckpt", ".partial-best.ckpt", ".partial-epoch-0002.ckpt"]


def survive(server, verb, whole, folder, kill):
    """Kill a run and resume it. Returns (whether it was killed before its end, whether it left something behind)."""
    common, digests, seconds = whole(verb)
    words = command(verb, common, folder)
    killed = kill(server.start(*words), seconds)
    assert server.look(folder)["wrong"] == {}
    left = bool(leftovers(folder))
    status, text = server.run(*words, *(["--resume"] if verb == "train" else []))
    assert status == 0, text
    after = server.look(folder)
    assert after["wrong"] == {} and leftovers(folder) == []
    assert after["digests"] == digests
    shutil.rmtree(folder)
    return killed, left


def at(server, moment):
    """Kill after this share of an undisturbed run's processor time."""
    return lambda pid, seconds: kill_at(server, pid, moment * seconds)


def writing(server, path, delay):
    """Kill while a file is written."""
    return lambda pid, _: kill_while_writing(server, pid, path, delay)


@pytest.mark.parametrize("moment", [0.55, 0.9])
def test_prepare(server, whole, tmp_path, moment):
    survive(server, "prepare", whole, tmp_path / "run", at(server, moment))


def test_train_while_a_checkpoint_is_written(server, whole, tmp_path):
    path = tmp_path / "killed" / "run" / "checkpoints" / ".partial-epoch-0002.ckpt"
    survive(server, "train", whole, tmp_path / "killed", writing(server, path, 0))


def test_eval(server, whole, tmp_path):
    survive(server, "eval", whole, tmp_path / "killed", at(server, 0.8))


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=long)])
def test_a_checkpoint_is_there_once_it_is_saved(server, tmp_path, figures, count):
    """One process saves checkpoint after checkpoint and is killed within it; the next one continues where it ended."""
    generator, left, saved = random.Random(f"checkpoints {count}"), 0, 0
    for _ in range(count):
        text = kill_after(server, server.start("checkpoints", tmp_path), tmp_path / "run.lock",
                          generator.uniform(0, 0.15))
        numbers = [int(line) for line in text.splitlines() if line.isdigit()]
        assert "Traceback" not in text, text
        saved = max([saved, *numbers])
        left += any("partial" in path for path in leftovers(tmp_path))
        found = {path.name: load_checkpoint(path)[0] for path in (tmp_path / "checkpoints").glob("[el]*.ckpt")}
        for name, weights in found.items():
            numbers = {float(number) for weight in weights.values() for number in weight.ravel()}
            assert len(numbers) == 1 and (name == "last.ckpt" or name == f"epoch-{int(*numbers):04d}.ckpt")
            # One more than was printed may already be complete.
            assert name != "last.ckpt" or numbers <= {saved, saved + 1}
        if saved:
            assert "last.ckpt" in found
            saved = int(found["last.ckpt"]["bias"][0])
    assert saved > count / 4
    figures.append(f"checkpoints: {count} kills among {saved} checkpoints, {left} within the writing of a file; every "
                   "file whole, none lost that was saved")


@long
@pytest.mark.parametrize("verb, count", [("prepare", 34), ("eval", 26), ("train", 40)])
def test_random_moments(server, whole, tmp_path, figures, verb, count):
    """Half of the moments of `train` are while a checkpoint is written."""
    generator, killed, left = random.Random(f"{verb} 1"), 0, 0
    for number in range(count):
        folder = tmp_path / str(number)
        kill = at(server, generator.random())
        if verb == "train" and number % 2:
            kill = writing(server, folder / "run" / "checkpoints" / generator.choice(WRITTEN),
                           generator.choice([0, 0.001, 0.003]))
        was_killed, was_left = survive(server, verb, whole, folder, kill)
        killed, left = killed + was_killed, left + was_left
        print(f"{verb} {number + 1}: killed {killed}, leftovers {left}", flush=True)
    figures.append(f"{verb}: {count} moments, {killed} killed before the end, {left} of them within the writing of "
                   f"a file or a run; all {count} finished with the same bits, no file cut, no leftovers")
    assert killed > 0.8 * count
