"""One process per run directory; the lock and files of a dead process are taken over."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from killing import SOURCE, alive, command, leftovers

from mindfcn.config import TrainConfig
from mindfcn.engine.callbacks import Signals
from mindfcn.engine.run_dir import RunDir
from mindfcn.errors import UserError
from mindfcn.storage.files import append_text, atomic_path, held, remove_leftovers, write_text
from mindfcn.weights.checkpoint import load_checkpoint

# Holds a lock, prints a line, and waits to be killed.
HOLDER = """
import sys, time
from mindfcn.storage.files import {name}
with {call} as inside:
    open(sys.argv[1] + "/ready", "w").close()
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder, name, call):
    """A process inside a context of mindfcn.storage.files; killed in the end."""
    with subprocess.Popen([sys.executable, "-c", HOLDER.format(name=name, call=call), str(folder)],
                          env={**os.environ, "PYTHONPATH": SOURCE}) as process:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "ready").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.remove(folder / "ready")
            yield process
        finally:
            process.kill()


def test_the_second_run_is_refused_and_names_the_first(server, whole, tmp_path):
    common, digests, _ = whole("train")
    words = command("train", common, tmp_path)
    first = server.start(*words)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "run.lock").exists() and alive(first) and time.monotonic() < deadline:
        time.sleep(1e-3)
    time.sleep(0.1)
    # Stopped, it holds its folder however long the others take.
    os.kill(first, signal.SIGSTOP)
    for options in ([], ["--resume"], ["--overwrite"]):
        status, text = server.run(*words, *options)
        assert status == 1
        assert text.strip().startswith(f"mindfcn train: run directory {tmp_path}/run is in use by process {first} on ")
        assert text.strip().endswith("wait for it to end, or choose another folder")
    os.kill(first, signal.SIGCONT)
    assert server.end(first)[0] == 0
    assert server.look(tmp_path)["digests"] == digests and leftovers(tmp_path) == []


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    lock = tmp_path / "run.lock"
    with holder(tmp_path, "held", 'held(sys.argv[1] + "/run.lock", "folder x")') as process:
        with pytest.raises(UserError, match=f"folder x is in use by process {process.pid} on .* since"):
            with held(lock, "folder x"):
                pass
        process.kill()
        process.wait()
        assert lock.exists()
        with held(lock, "folder x"):
            assert f"process {os.getpid()} on" in lock.read_text()
    assert not lock.exists()


def test_nothing_is_written_below_the_name_of_a_held_folder_that_is_gone(tmp_path):
    """It would fill another folder, such as the one below a mount point."""
    run, moved = tmp_path / "run", tmp_path / "moved"
    with held(run / "run.lock", "folder x"):
        write_text(run / "deep" / "first.txt", "1")
        os.rename(run, moved)
        for write in (write_text, append_text):
            for path in (run / "second.txt", run / "deep" / "second.txt"):
                with pytest.raises(UserError, match="folder x was unmounted, moved or deleted while it was in use"):
                    write(path, "2")
        assert not run.exists()
        write_text(tmp_path / "run.txt", "next to it")
        os.rename(moved, run)
        write_text(run / "deep" / "second.txt", "2")
    write_text(run / "third.txt", "3")
    assert sorted(path.name for path in run.rglob("*.*")) == ["first.txt", "second.txt", "third.txt"]


def test_two_threads_write_one_file_one_after_the_other(tmp_path):
    """Each time the file is one of the two texts, complete."""
    path, wrong = tmp_path / "file.txt", []

    def write(letter):
        for _ in range(40):
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                for _ in range(20):
                    file.write(letter * 100)
                    file.flush()
            text = path.read_text(encoding="utf-8")
            if len(text) != 2000 or len(set(text)) != 1:
                wrong.append(text)

    threads = [threading.Thread(target=write, args=letter) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and os.listdir(tmp_path) == ["file.txt"]


def test_leftovers_of_dead_processes_are_removed_and_files_of_running_ones_stay(tmp_path):
    with holder(tmp_path, "atomic_path", 'atomic_path(sys.argv[1] + "/deep/name.txt")') as process:
        assert remove_leftovers(tmp_path, ["deep"]) == []
        process.kill()
        process.wait()
        left = [str(tmp_path / "deep" / ".partial-name.txt")]
        assert leftovers(tmp_path) == left and remove_leftovers(tmp_path, ["deep"]) == left


@pytest.mark.parametrize("path", [".partial-report.txt", ".partial-mine/notes.txt", ".partial-mine/.lock/x",
                                  "deep/.partial-name.txt/.lock", ".partial-name.txt/.lock and notes.txt"])
def test_files_of_others_stay_whatever_their_names(tmp_path, path):
    """A file, folders with other files, and a folder at a place where this program writes nothing."""
    path, _, other = path.partition(" and ")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("mine")
    if other:
        (tmp_path / path).with_name(other).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert remove_leftovers(tmp_path, ["checkpoints"]) == [] and sorted(tmp_path.rglob("*")) == before


def test_a_file_stays_as_it_was_where_its_writer_fails(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("ne")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_failed_append_is_reported(tmp_path):
    with pytest.raises(UserError, match="/dev/full: No space left on device; free some space"):
        append_text("/dev/full", "row\n")


def started_run(path, steps=0):
    """A run directory with the log of some steps, two an epoch, and no checkpoint."""
    run = RunDir(str(path))
    run.begin(TrainConfig(run_dir=str(path)))
    run.add_steps([[step, (step + 1) // 2, "1.0", "0.1", "9.9"] for step in range(1, steps + 1)])
    return run


def test_only_a_run_without_a_checkpoint_starts_again(tmp_path):
    assert not RunDir(str(tmp_path / "none")).can_resume()
    assert not started_run(tmp_path / "started_run").can_resume()
    assert not started_run(tmp_path / "first-epoch", 2).can_resume()
    with pytest.raises(UserError, match=r"last.ckpt is gone, but .*log.csv records 3 steps"):
        started_run(tmp_path / "lost", 3).can_resume()


@pytest.mark.parametrize("cut", ["4", "4,2", "4,2,1.0,0.1", "4,2,1.0,0.1,9."])
def test_a_truncated_row_is_dropped(tmp_path, cut):
    """Cut after the first digit, 40 would be 4, a step of the past."""
    run = started_run(tmp_path, 3)
    whole = (tmp_path / "log.csv").read_text()
    with open(run.log, "a", encoding="utf-8") as file:
        file.write(cut)
    run.rewind(99)
    assert (tmp_path / "log.csv").read_text() == whole


def test_checkpoints_are_ordered_by_their_numbers(tmp_path):
    run = RunDir(str(tmp_path), keep=3)
    os.makedirs(tmp_path / "checkpoints")
    paths = [run.checkpoint(*place) for place in ((9998, 0), (9999, 0), (9999, 3), (10000, 0), (10000, 12))]
    for path in paths:
        write_text(path, "weights")
        run.make_last(path)
    assert run.checkpoints() == [run.last, *paths[3:1:-1]]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted(
        ["last.ckpt", *(os.path.basename(path) for path in paths[2:])])


def test_deleting_an_earlier_run_is_completed_after_a_kill(tmp_path):
    """A partly deleted run must not be resumed."""
    run = started_run(tmp_path, 2)
    os.makedirs(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "last.ckpt").write_text("of the earlier run")
    os.makedirs(tmp_path / ".partial-deleting")
    assert run.can_resume()
    with run.hold():
        assert not run.can_resume()
        assert sorted(os.listdir(tmp_path)) == ["run.lock", "versions.json"]


@pytest.mark.long
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_resumed(server, whole, tmp_path):
    common, digests, _ = whole("train")
    words = command("train", common, tmp_path)
    assert server.run(*words)[0] == 0
    for name in ("last", "best"):
        with open(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", "r+b") as file:
            file.seek(2000)
            file.write(b"\0" * 64)
    status, text = server.run(*words, "--resume")
    assert status == 0, text
    assert "last.ckpt" in text and "looking for an older checkpoint" in text and "continuing after step 3" in text
    found = server.look(tmp_path)["digests"]
    # The best epoch before, which their cards name, was lost with best.ckpt.
    differ = {f"run/checkpoints/{name}.ckpt" for name in ("last", "best", "epoch-0002")}
    assert {name: found[name] for name in found.keys() - differ} == {
        name: digests[name] for name in digests.keys() - differ}
    for file in differ:
        pairs = zip(*(load_checkpoint(folder / file)[::2] for folder in (tmp_path, common / "train")))
        assert all(mine[name].tobytes() == theirs[name].tobytes() for mine, theirs in pairs for name in theirs)


@pytest.mark.parametrize(("setting", "agreed"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)])
def test_closing_the_terminal_stops_a_run_unless_the_signal_is_ignored(setting, agreed):
    # The tests themselves may run under nohup.
    before = signal.signal(signal.SIGHUP, setting)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.agreed() == agreed
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_evaluation_that_is_not_complete_has_no_metrics(server, whole, tmp_path):
    """metrics.json of an earlier evaluation would not match the files of this one."""
    words = command("eval", whole("eval")[0], tmp_path)
    assert server.run(*words)[0] == 0
    done = tmp_path / "evaluation" / "metrics.json"
    assert json.loads(done.read_text())["images"] == 3
    pid = server.start(*words)
    deadline = time.monotonic() + 300
    while done.exists() and alive(pid) and time.monotonic() < deadline:
        time.sleep(2e-4)
    os.kill(pid, signal.SIGKILL)
    server.end(pid)
    assert not done.exists()
    assert server.run(*words)[0] == 0
    assert server.look(tmp_path)["digests"] == whole("eval")[1] and leftovers(tmp_path) == []
