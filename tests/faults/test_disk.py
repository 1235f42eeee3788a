"""Full disks, read-only folders, vanished records, unplugged mounts: one line, and the run resumes afterwards."""

import os
import shutil
import subprocess
import tempfile
import time

import pytest
from killing import alive, command, leftovers

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes, write_text

long = pytest.mark.long
NOBODY = 65534


def mount(*words):
    """Run mount; skip the test where it is not allowed."""
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def unmount(folder):
    """Take a mount away at once, even while it is in use."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def unmounted(tmp_path):
    """Unmounts what a failed test has left mounted."""
    yield
    with open("/proc/mounts", encoding="utf-8") as file:
        left = [line.split()[1] for line in file if line.split()[1].startswith(f"{tmp_path}/")]
    for folder in left:
        unmount(folder)


@pytest.fixture
def disk(tmp_path):
    """Function (options) -> a folder that is a separate file system in memory."""
    def make(options):
        folder = tmp_path / "disk"
        folder.mkdir()
        mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
        return folder
    return make


def last_line(text):
    """The last line of a command's output, the only one about its end."""
    assert "Traceback" not in text, text
    return text.replace("\r", "\n").strip().splitlines()[-1]


def goes_on(server, verb, whole, folder):
    """Assert that the same command finishes with the files of an undisturbed run."""
    common, digests, _ = whole(verb)
    status, text = server.run(*command(verb, common, folder), *(["--resume"] if verb == "train" else []))
    assert status == 0, text
    found = server.look(folder)
    assert found["wrong"] == {} and leftovers(folder) == []
    assert found["digests"] == digests


def full(server, verb, whole, folder, kilobytes):
    """Run a verb on a disk of that size, then a large one. Returns its last line, or "" where the disk was enough."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)
    status, text = server.run(*command(verb, whole(verb)[0], folder))
    if status:
        line = last_line(text)
        assert line.startswith(f"mindfcn {verb}: cannot write {folder}"), text
        assert line.endswith("; free some space or choose another folder"), line
        assert server.look(folder)["wrong"] == {} and leftovers(folder) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    goes_on(server, verb, whole, folder)
    for entry in folder.iterdir():
        shutil.rmtree(entry)
    return line if status else ""


# There is room for the first checkpoint, not for the second.
@pytest.mark.parametrize("verb, kilobytes, words", [
    ("prepare", 60, "source"), ("prepare", 340, "mindrecord"), ("eval", 120, "evaluation"),
    pytest.param("train", 3300, "epoch-0002.ckpt", marks=long)])
def test_a_full_disk(server, whole, disk, verb, kilobytes, words):
    assert words in full(server, verb, whole, disk("size=64m"), kilobytes)


@long
@pytest.mark.parametrize("verb, sizes", [("prepare", range(20, 1000, 40)), ("eval", range(4, 400, 16)),
                                         ("train", range(4, 5000, 200))])
def test_disks_of_many_sizes(server, whole, disk, figures, verb, sizes):
    folder = disk("size=64m")
    lines = [full(server, verb, whole, folder, size) for size in sizes]
    failed = [line for line in lines if line]
    files = {line.split("cannot write ")[1].split(": ")[0].replace(str(folder), "") for line in failed}
    figures.append(f"{verb}: {len(sizes)} full disks, {len(failed)} stopped it in one line, at {len(files)} different "
                   "files; all went on to the same bits with room again")


@pytest.mark.parametrize("verb", ["prepare", "train", "eval"])
def test_a_read_only_disk(server, whole, disk, verb):
    folder = disk("ro,size=64m")
    status, text = server.run(*command(verb, whole(verb)[0], folder))
    assert status == 1
    line = last_line(text)
    assert line.startswith(f"mindfcn {verb}: cannot write {folder}")
    assert line.endswith("Read-only file system; choose a folder that can be written")


def wait_for(path, pid):
    """Wait until a command has written a file."""
    deadline = time.monotonic() + 900
    while not os.path.exists(path) and alive(pid) and time.monotonic() < deadline:
        time.sleep(1e-3)
    assert os.path.exists(path) and alive(pid)


@long
def test_checkpoints_become_read_only_during_a_run(server, whole, tmp_path):
    pid = server.start(*command("train", whole("train")[0], tmp_path))
    kept = tmp_path / "run" / "checkpoints"
    wait_for(kept / "best.ckpt", pid)
    mount("--bind", kept, kept)
    mount("-o", "remount,ro,bind", kept)
    status, text = server.end(pid)
    unmount(kept)
    assert status == 1
    assert last_line(text) == (f"mindfcn train: cannot write {kept}/epoch-0002.ckpt: Read-only file system; "
                               "choose a folder that can be written")
    assert server.look(tmp_path)["wrong"] == {} and leftovers(tmp_path) == []
    goes_on(server, "train", whole, tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_folder_of_another_user():
    """Root may write everywhere, so this is tried as another user."""
    # Only root can read pytest's folders.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        write_text(f"{folder}/file.txt", "old")
        os.seteuid(NOBODY)
        try:
            with pytest.raises(UserError) as caught:
                write_text(f"{folder}/file.txt", "new")
        finally:
            os.seteuid(0)
        assert str(caught.value) == (f"cannot write {folder}/file.txt: Permission denied; "
                                     "choose a folder that can be written")
        assert os.listdir(folder) == ["file.txt"] and read_bytes(f"{folder}/file.txt") == b"old"


@pytest.fixture
def records(whole, tmp_path):
    """A copy of the records that a test may remove."""
    shutil.copytree(whole("train")[0] / "prepare" / "records", tmp_path / "data" / "records")
    return tmp_path / "data" / "records"


def train_words(whole, folder, records):
    words = command("train", whole("train")[0], folder)
    return [records if str(word).endswith("/prepare/records") else word for word in words]


@long
def test_records_that_vanish(server, whole, records, tmp_path):
    words = train_words(whole, tmp_path / "run", records)
    pid = server.start(*words)
    wait_for(tmp_path / "run" / "run" / "checkpoints" / "epoch-0001.ckpt", pid)
    os.rename(records, f"{records}-away")
    status, text = server.end(pid)
    assert status == 1
    line = last_line(text)
    assert str(records) in line and ".mindrecord" in line and "check" in line, line
    os.rename(f"{records}-away", records)
    status, text = server.run(*words, "--resume")
    assert status == 0, text
    assert server.look(tmp_path / "run")["digests"] == whole("train")[1]


@long
def test_a_mount_of_records_that_is_unplugged(server, whole, records, tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    mount("--bind", records, mounted)
    words = train_words(whole, tmp_path / "run", mounted)
    pid = server.start(*words)
    wait_for(tmp_path / "run" / "run" / "checkpoints" / "epoch-0001.ckpt", pid)
    unmount(mounted)
    status, text = server.end(pid)
    assert status == 1 and str(mounted) in last_line(text)
    mount("--bind", records, mounted)
    status, text = server.run(*words, "--resume")
    assert status == 0, text
    assert server.look(tmp_path / "run")["digests"] == whole("train")[1]


@long
def test_a_mount_of_the_run_that_is_unplugged(server, whole, tmp_path):
    """Files written afterwards would be hidden below the mount point."""
    real, mounted = tmp_path / "real", tmp_path / "mounted"
    real.mkdir()
    mounted.mkdir()
    mount("--bind", real, mounted)
    pid = server.start(*command("train", whole("train")[0], mounted))
    wait_for(mounted / "run" / "checkpoints" / "best.ckpt", pid)
    unmount(mounted)
    status, text = server.end(pid)
    assert status == 1
    assert "was unmounted, moved or deleted while it was in use" in last_line(text)
    assert not list(mounted.rglob("*.*"))
    assert server.look(real)["wrong"] == {}
    mount("--bind", real, mounted)
    goes_on(server, "train", whole, mounted)
