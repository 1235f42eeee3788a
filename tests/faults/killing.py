"""The verbs in processes of their own, killed at chosen moments, for tests/faults.

A server (`python killing.py`) imports everything once and forks a child for each command, so that a moment of a
command's life costs what the command costs, and no imports. It reads commands as lines of JSON and answers so.
"""

import hashlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import numpy as np

PYTHON = [sys.executable, os.path.abspath(__file__)]
SOURCE = str(pathlib.Path(__file__).parents[2] / "src")
PATIENCE = 900
DRAWN = ["--source", "sample", "--samples", "15", "--size", "32"]
NARROW = ["--device", "CPU", "--model.name", "fcn32s_alexnet", "--model.width", "0.0625", "--model.fc_width", "16",
          "--augment.crop_size", "32", "--augment.batch_size", "4", "--optim.epochs", "2"]


def command(verb, common, folder):
    """The words of a verb that writes below `folder`."""
    return {"prepare": ["prepare", "--records", folder / "records", "--root", folder / "source", *DRAWN],
            "train": ["train", "--run_dir", folder / "run", "--data.records", common / "prepare" / "records", *NARROW],
            "eval": ["eval", "--checkpoint", common / "train" / "run" / "checkpoints" / "best.ckpt", "--device", "CPU",
                     "--out", folder / "evaluation"]}[verb]


class Server:
    """Runs commands of mindfcn. Use as a context.

    Args:
        compiled: whether networks are compiled.

    Attributes:
        seconds: processor time of the command that ended last.
    """

    def __init__(self, compiled=False):
        self.compiled = compiled

    def __enter__(self):
        paths = [SOURCE, os.environ.get("PYTHONPATH", "")]
        # A killed process would compile its networks again.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                       "MINDFCN_COMPILE": str(int(self.compiled))}
        self.process = subprocess.Popen(PYTHON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()

    def start(self, *words):
        """Start a command. Returns its process id."""
        return self._ask(do="start", words=[str(word) for word in words])["pid"]

    def end(self, pid, timeout=PATIENCE):
        """Wait for a command. Returns (exit status, -9 where it was killed; what it wrote)."""
        answer = self._ask(do="end", pid=pid, timeout=timeout)
        self.seconds = answer["seconds"]
        return answer["status"], answer["text"]

    def run(self, *words):
        """Start a command and wait for it."""
        return self.end(self.start(*words))

    def look(self, folder):
        """{path under the folder: what is wrong with it} of the files under their final names, and their digests."""
        return self._ask(do="look", folder=str(folder))

    def _ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def kill_at(server, pid, seconds):
    """SIGKILL a command after some seconds of processor time, unless it has ended before.

    Time on the clock would kill at other moments where other programs take the processor. Returns whether it was
    killed.
    """
    return _kill_once(server, pid, lambda: computed(pid) >= seconds, 0)[0] == -signal.SIGKILL


def kill_while_writing(server, pid, path, seconds):
    """SIGKILL some seconds after a path has appeared. Returns whether it was killed."""
    return _kill_once(server, pid, lambda: os.path.exists(path), seconds)[0] == -signal.SIGKILL


def kill_after(server, pid, path, seconds):
    """SIGKILL once a path exists and some seconds of processor time have passed. Returns the command's output."""
    done = []

    def happened():
        if not done and os.path.exists(path):
            done.append(computed(pid))
        return done and computed(pid) >= done[0] + seconds
    return _kill_once(server, pid, happened, 0)[1]


def _kill_once(server, pid, happened, seconds):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and alive(pid) and not happened():
        time.sleep(2e-4)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return server.end(pid)


def computed(pid):
    """Seconds of processor time that a process has taken."""
    return sum(map(int, _status(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def alive(pid):
    """Whether a process is running; a zombie is not."""
    return _status(pid)[0] != "Z"


def _status(pid):
    """The fields of /proc/PID/stat after the name; they exist until a child is waited for."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def leftovers(folder):
    """Paths of incomplete output and of locks, without what is inside incomplete output."""
    found = [path for path in pathlib.Path(folder).rglob("*")
             if path.name.startswith(".partial-") or path.name.endswith(".lock")]
    return [str(path) for path in found if not path.parent.name.startswith(".partial-")]


# ------------------------------------------------------------------------------------------------- in the children

def look(folder):
    """Read every file under a final name as its readers do. Returns {"wrong": {path: why}, "digests": {path: hex}}.

    Digests leave out what differs between two runs of the same settings: times.
    """
    wrong, digests = {}, {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or ".partial-" in name or name.endswith(".lock"):
            continue
        try:
            content = READERS.get(path.suffix, lambda path: path.read_bytes())(path)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
        else:
            if content is not None:
                digests[name] = hashlib.blake2b(content, digest_size=12).hexdigest()
    return {"wrong": wrong, "digests": digests}


def write_checkpoints(folder):
    """Save one checkpoint after the other as a run does, each filled with its number, and print those saved.
    """
    import mindspore as ms
    from mindspore import nn

    from mindfcn.engine.run_dir import RunDir
    from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint
    run, net = RunDir(folder), nn.Dense(256, 512)
    with run.hold():
        first = int(load_checkpoint(run.last)[0]["bias"][0]) + 1 if os.path.exists(run.last) else 1
        for number in range(first, first + 10 ** 6):
            for parameter in net.get_parameters():
                parameter.set_data(ms.Tensor(np.full(parameter.shape, number, np.float32)))
            save_checkpoint(run.checkpoint(number), net, Card({"name": "dense"}, training={"step": number}))
            run.make_last(run.checkpoint(number))
            print(number, flush=True)


def read_weights(path):
    """Weights, moments and counters of a checkpoint as bytes, in order; its checksum is checked."""
    from mindfcn.weights.checkpoint import load_checkpoint
    weights, card, state = load_checkpoint(str(path))
    training = {name: value for name, value in card.training.items() if name != "settings"}
    entries = [repr((name, value.dtype.str, value.shape)).encode() + value.tobytes()
               for part in (weights, state) for name, value in sorted(part.items())]
    return b"".join(entries) + json.dumps([training, card.metrics], sort_keys=True).encode()


def read_table(path):
    """A table without its column of times; every row is complete."""
    import csv
    import io
    text = path.read_text(encoding="utf-8")
    head, *rows = csv.reader(io.StringIO(text))
    # Rows are appended; the last may be cut, which its reader sees by the missing end of line.
    whole = rows if text.endswith("\n") else rows[:-1]
    if any(len(row) != len(head) for row in whole):
        raise ValueError(f"a row of {path.name} is cut")
    return repr([row[:4] if "images_per_s" in head else row for row in whole]).encode()


def read_metrics(path):
    """The JSON of an evaluation, a manifest of records or versions, without times; of records the hash alone.

    Nor checksums of MindRecord's files, whose bytes differ from run to run; their contents are compared.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("seconds per image", "git revision", "checksums", "checksum"):
        content.pop(name, None)
    for name in {"identity", "records"} & content.keys():
        content[name] = content[name]["hash"]
    return json.dumps(content, sort_keys=True).encode()


def read_record(path):
    """All records of a file whose manifest is there; without it each file is complete, but some may be missing."""
    from mindfcn.data.records.mindrecord import read_manifest, read_records
    if not os.path.exists(f"{path}.json"):
        return None
    if read_manifest(path) is None:
        raise ValueError("not the files of its manifest")
    return b"".join(repr(row).encode() for row in read_records(path))


def read_picture(path):
    """Pixels of a picture, decoded to its last row."""
    from PIL import Image
    with Image.open(path) as picture:
        return picture.tobytes()


def read_yaml(path):
    """A YAML file, parsed; the folders that it names differ between runs."""
    import yaml
    if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
        raise ValueError("cut")


def read_page(path):
    """A page, to its end; it holds times."""
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("cut")


READERS = {".ckpt": read_weights, ".csv": read_table, ".json": read_metrics, ".mindrecord": read_record,
           ".png": read_picture, ".jpg": read_picture, ".yaml": read_yaml, ".html": read_page, ".db": lambda path: None}


def start(words):
    """Fork a child for a command. Returns (process id, handle of what it writes)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 70
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        if words[0] == "look":
            print(json.dumps(look(words[1])))
            status = 0
        elif words[0] == "checkpoints":
            write_checkpoints(words[1])
        else:
            from mindfcn.cli import main as cli
            status = cli.main(words)
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(pid, reading, timeout):
    """Wait for a child, reading what it writes. Returns (status, text, seconds of processor time)."""
    text, deadline = b"", time.monotonic() + timeout
    while True:
        if not select.select([reading], [], [], max(0, deadline - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
            break
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        text += piece
    os.close(reading)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), text.decode("utf-8", "replace"), used.ru_utime + used.ru_stime


def serve():
    """Answer questions until there are no more."""
    os.environ.setdefault("GLOG_v", "4")
    # Forked children inherit these imports. Compute nothing here: a fork does not copy threads.
    import jinja2  # noqa: F401
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    from mindfcn.cli import main as cli  # noqa: F401
    from mindfcn.cli import parser
    from mindfcn.commands import evaluate, prepare, train  # noqa: F401
    parser.parse(["train"])
    # The first drawing reads fonts.
    figure = Figure()
    figure.subplots().set_title("fonts")
    backend_agg.FigureCanvasAgg(figure).draw()
    answers, children = os.fdopen(os.dup(1), "w"), {}
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        do = question.pop("do")
        if do == "start":
            pid, children_output = start(**question)
            children[pid] = children_output
            answer = {"pid": pid}
        elif do == "end":
            status, text, seconds = end(question["pid"], children.pop(question["pid"]), question["timeout"])
            answer = {"status": status, "text": text, "seconds": seconds}
        else:
            status, text, _ = end(*start(["look", question["folder"]]), PATIENCE)
            answer = json.loads(text.strip().splitlines()[-1]) if status == 0 else {"wrong": {"look": text}}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
