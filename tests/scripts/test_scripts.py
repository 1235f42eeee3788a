"""The run scripts in a plain shell: which Python they take, what they install, and how they refuse.

A stub stands for an interpreter: it makes a virtual environment as the real one does and notes what pip is asked for,
since packages cannot be fetched in a test. The real installation is what .ci/run does.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STUB = r"""#!/bin/sh
echo "$0 $*" >>"$LOG"
case "$1 $2" in
    "-c "*) exit ${CHECK:-0} ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
case "$1" in */check_python.py) echo "$ANSWER"; exit ${SERVER:-1} ;; esac
"""
UV = r"""#!/bin/sh
echo "uv $*" >>"$LOG"
for last; do :; done
mkdir -p "$last/bin" && cp "$STUBS/stub" "$last/bin/python"
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with spaces and a quote in its name that holds the scripts, and an empty PATH folder for stubs."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    for name in ("run_train.sh", "run_eval.sh", "run_predict.sh", "run_tests.sh", "setup.cfg", "scripts", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "sed", "dirname", "readlink", "cksum", "sort", "tr", "mkdir", "cp", "rm", "xargs", "ls",
                 "grep", "cat"):
        os.symlink(shutil.which(name), tools / name)
    (tools / "stub").write_text(STUB)
    (tools / "stub").chmod(0o755)
    return folder


def add(checkout, name, text=STUB):
    path = checkout.parent / "tools" / name
    path.write_text(text)
    path.chmod(0o755)


def run(checkout, *words, script=None, **environment):
    """(exit status, output, lines of what the stubs were asked)."""
    log = checkout.parent / "log"
    log.write_text("")
    tools = str(checkout.parent / "tools")
    environment = {"PATH": tools, "LOG": str(log), "STUBS": tools, "HOME": tools, **environment}
    done = subprocess.run(["bash", str(script or checkout / "run_train.sh"), *words], capture_output=True, text=True,
                          cwd=checkout, env=environment)
    return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()


def installs(calls):
    return [call for call in calls if "pip install" in call]


def test_the_first_run_makes_an_environment_and_the_second_installs_nothing(checkout):
    add(checkout, "python3.11")
    status, _, calls = run(checkout)
    assert status == 0 and len(installs(calls)) == 1 and f"--editable {checkout}" in installs(calls)[0]
    assert calls[-1].startswith(f"{checkout}/.venv/bin/python -m mindfcn train --config {checkout}/configs/sample.yaml")
    status, output, calls = run(checkout)
    assert status == 0 and installs(calls) == [] and "installing" not in output
    # The tests need more, once.
    assert "[test]" in installs(run(checkout, script=checkout / "run_tests.sh")[2])[0]
    assert installs(run(checkout, script=checkout / "run_tests.sh")[2]) == []
    # New packages in setup.cfg are installed, with the groups that were there.
    with open(checkout / "setup.cfg", "a", encoding="utf-8") as file:
        file.write("\n")
    assert "[test]" in installs(run(checkout)[2])[0]


def test_for_a_gpu_the_wheels_of_cuda_are_installed_once(checkout):
    add(checkout, "python3.11")
    assert "[" not in installs(run(checkout, DEVICE_TARGET="CPU")[2])[0].rpartition("/")[2]
    assert "[gpu]" in installs(run(checkout, DEVICE_TARGET="GPU")[2])[0]
    assert installs(run(checkout, DEVICE_TARGET="GPU")[2]) == []
    assert "[gpu,test]" in installs(run(checkout, script=checkout / "run_tests.sh")[2])[0]


def test_a_moved_checkout_is_installed_again(checkout):
    add(checkout, "python3.11")
    run(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    status, output, calls = run(moved)
    assert status == 0 and "another place" in output and f"--editable {moved}" in installs(calls)[0]
    # The interpreter is gone.
    (moved / ".venv" / "bin" / "python").unlink()
    os.symlink("/nowhere/python", moved / ".venv" / "bin" / "python")
    status, output, calls = run(moved)
    assert status == 0 and "its Python is gone" in output and len(installs(calls)) == 1


def test_without_a_suitable_python_uv_makes_one(checkout):
    add(checkout, "uv", UV)
    add(checkout, "python3", STUB.replace("${CHECK:-0}", "1"))
    status, output, calls = run(checkout)
    assert status == 0, output
    assert any(call.startswith("uv venv") and "--python 3.12" in call for call in calls) and len(installs(calls)) == 1


def test_without_python_and_uv_one_line_names_the_command_to_type(checkout):
    status, output, calls = run(checkout)
    assert status == 1 and "no Python 3.9 to 3.12 found" in output and "curl -LsSf" in output and calls == []
    add(checkout, "apt-get", "#!/bin/sh\n")
    assert "apt-get install python3" in run(checkout)[1]
    (checkout.parent / "tools" / "apt-get").unlink()
    add(checkout, "brew", "#!/bin/sh\n")
    assert "brew install python" in run(checkout)[1]


def test_a_servers_own_python_is_used_and_what_it_lacks_is_named(checkout):
    add(checkout, "python")
    answer = "MindSpore works here, but these packages are missing: pip install 'tqdm'"
    status, output, calls = run(checkout, SERVER="0")
    assert status == 0 and "and its MindSpore" in output and installs(calls) == []
    # The first question is whether MindSpore works, the second which packages there are.
    add(checkout, "python", STUB.replace("exit ${SERVER:-1}", '[ "$2" = mindspore ]; exit $?'))
    status, output, _ = run(checkout, ANSWER=answer)
    assert status == 1 and answer in output


@pytest.mark.parametrize("name, value", [("DEVICE_NUM", "two"), ("DEVICE_NUM", "0"), ("NODES", "-1")])
def test_counts_are_checked(checkout, name, value):
    add(checkout, "python3.11")
    status, output, _ = run(checkout, **{name: value})
    assert status == 2 and f"{name}={value}: must be a whole number from 1" in output


def test_it_may_be_called_from_anywhere_by_any_name(checkout, tmp_path):
    add(checkout, "python3.11")
    link = tmp_path / "link.sh"
    os.symlink(checkout / "run_eval.sh", link)
    status, _, calls = run(checkout, "a b.ckpt", script=link, CDPATH=str(tmp_path))
    assert status == 0 and calls[-1] == f"{checkout}/.venv/bin/python -m mindfcn eval --checkpoint a b.ckpt"


def test_photographs_are_segmented_by_the_package_in_venv(checkout):
    add(checkout, "python3.11")
    script = checkout / "run_predict.sh"
    status, _, calls = run(checkout, "a photo.jpg", script=script)
    assert status == 0 and calls[-1] == f"{checkout}/.venv/bin/python -m mindfcn predict a photo.jpg"
    status, output, _ = run(checkout, script=script)
    assert status == 2 and "run_predict.sh PHOTO_OR_FOLDER" in output


def test_the_real_check_names_what_is_missing():
    """On this interpreter nothing of install_requires is missing; a package that nobody has is named."""
    import sys
    check = [sys.executable, str(ROOT / "scripts" / "check_python.py")]
    done = subprocess.run([*check, "packages"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    assert subprocess.run([*check, "mindspore"], env={**os.environ, "GLOG_v": "4"}).returncode == 0
