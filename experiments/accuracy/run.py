"""Minutes of training until the mean IoU on real validation photographs reaches 0.25 and 0.30.

    python experiments/accuracy/run.py [--together] [--train_only | --report]
                                       [--folder runs/accuracy] [--SETTING VALUE ...]

Compares MindFCN's recipe with the same recipe in PyTorch (equal initial weights, batches, optimiser and schedule) and
with the course's settings, class and loop. Time starts with the request for the first batch and includes compilation,
but not saving and evaluation: weights are saved every 100 images and evaluated later, all by the same code, on the
complete validation split at native size, as many of them as a bisection needs.

Every step of a contestant is a line in FOLDER/CONTESTANT/steps.jsonl, every evaluation one in scores.jsonl. Run
again, the command continues where it stopped: a contestant whose training ended is not trained again. Delete the
folder to start over. With --train_only on an idle machine and --report later, evaluation may share the machine.

Needs the photographs and VGG16's weights in ../shared, or those named by the recipe; 300 MB of disk for each 100
images of the recipe's training; 14 GB of memory. Other options are settings of `mindfcn train` and override the
recipe's.
"""

import bisect
import concurrent.futures
import datetime
import json
import os
import pathlib
import queue
import re
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "speed"))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = (0.25, 0.30)
SHARED_SETTINGS = {"data.root": "data/VOCdevkit", "data.sbd": "data/benchmark_RELEASE",
                   "model.pretrained": "weights/vgg16_imagenet_features.npz"}
# Name: folder, environment (None is this one), pattern of the weight files.
CONTESTANTS = {"MindFCN": ("mindfcn", None, "checkpoints/epoch-*.ckpt"),
               "PyTorch": ("pytorch", "torch", "epoch-*.npz"),
               "course": ("course", None, "epoch-*.ckpt")}
CHECKED_STEPS = 4


class Contest:
    """One comparison, with its results in a folder.

    Args:
        folder: created if it is missing.
        words: settings of `mindfcn train`.
        every: images between saved weights.
        random_scores: initialise the score layers at random, for `check`.
    """

    def __init__(self, folder, words, every, random_scores=False):
        self.folder = pathlib.Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.words = list(map(str, words))
        if not (self.folder / "plan.json").exists():
            run(None, "worker_mindfcn.py", self.folder / "begin.txt", "begin", self.folder, int(random_scores),
                every, *self.words)
        self.plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        self.every = every
        if self.plan["words"] != self.words:
            sys.exit(f"{self.folder} holds results of other settings ({' '.join(self.plan['words'])}); "
                     "delete it or choose another --folder")

    def train(self, name, minutes, steps=10 ** 9):
        """Train a contestant, unless its training has ended."""
        own, environment, _ = CONTESTANTS[name]
        ended = self.folder / own / "ended"
        if not ended.exists():
            (self.folder / own).mkdir(exist_ok=True)
            (self.folder / own / "scores.jsonl").unlink(missing_ok=True)
            run(environment, f"worker_{own}.py", self.folder / own / "log.txt", "train", self.folder, minutes, steps)
            ended.touch()

    def steps(self, name):
        """The objects in steps.jsonl."""
        return lines(self.folder / CONTESTANTS[name][0] / "steps.jsonl")

    def snapshots(self, name):
        """[(step, seconds of training, file)] of the saved weights, in order."""
        own, _, pattern = CONTESTANTS[name]
        seconds = {step["step"]: step["seconds"] for step in self.steps(name)}
        found = []
        for path in (self.folder / own).glob(pattern):
            epoch, _, rest = re.fullmatch(r"epoch-(\d+)(-step-(\d+))?\..+", path.name).groups()
            step = int(epoch) * self.plan["steps_per_epoch"] + int(rest or 0)
            found += [(step, seconds[step], path)] if step in seconds else []
        return sorted(found)

    def scores(self, name):
        """{step: line of scores.jsonl}."""
        return {line["step"]: line for line in lines(self.folder / CONTESTANTS[name][0] / "scores.jsonl")}

    def evaluate(self, name):
        """Evaluate the last saved weights, and those before and after each target is reached."""
        known = {step: line["mean IoU"] for step, line in self.scores(name).items()}
        evaluator = rivals.Worker("the evaluation", sys.executable, HERE / "worker_mindfcn.py", "evaluate", self.folder)
        path = self.folder / CONTESTANTS[name][0] / "scores.jsonl"

        def score(snapshot):
            step, seconds, weights = snapshot
            if step not in known:
                known[step], taken = map(float, evaluator.ask(f"all {weights}").split())
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, "seconds": seconds, "mean IoU": known[step],
                                           "evaluation seconds": round(taken, 1)}) + "\n")
            return known[step]

        snapshots = self.snapshots(name)
        score(snapshots[-1])
        for target in TARGETS:
            bisect.bisect_left(snapshots, target, key=score)
        evaluator.end()

    def minutes_to(self, name, target):
        """(minutes until the target is reached, minutes at the evaluations before and after), or None."""
        scores = sorted(self.scores(name).values(), key=lambda line: line["seconds"])
        place = next((place for place, line in enumerate(scores) if line["mean IoU"] >= target), None)
        if place is None:
            return None
        after = scores[place]
        before = scores[place - 1] if place else after
        rise = after["mean IoU"] - before["mean IoU"]
        share = (target - before["mean IoU"]) / rise if place else 1
        seconds = before["seconds"] + share * (after["seconds"] - before["seconds"])
        return seconds / 60, before["seconds"] / 60 if place else 0, after["seconds"] / 60


def run(environment, script, output, *arguments):
    """Run a worker to its end and write its output to the file `output`."""
    python = rivals.python_of(environment) if environment else sys.executable
    # The rivals' environments lack MindFCN; the data functions they import from src do not need MindSpore.
    with open(output, "w", encoding="utf-8") as file:
        ended = subprocess.run([python, HERE / script, *map(str, arguments)],
                               stdout=file, stderr=subprocess.STDOUT, env=rivals.environment(rivals.ROOT / "src"))
    if ended.returncode:
        sys.exit(f"{script} failed; the end of {output}:\n{pathlib.Path(output).read_text()[-2000:]}")


def lines(path):
    """The objects in a file of JSON lines; stops at an incomplete line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def check(contest):
    """Exit unless MindFCN's and PyTorch's recipes are equal. Returns a note for the table.

    Both take CHECKED_STEPS steps without dropout from random score layers and must give equal losses; both evaluate
    these initial weights, which predict every class, on a few validation images and must give equal mean IoU.
    """
    trial = Contest(contest.folder / "check", [*contest.words, "--model.dropout", "0"], contest.every, True)
    names = ("MindFCN", "PyTorch")
    for name in names:
        trial.train(name, 1000, CHECKED_STEPS)
    mindfcn, pytorch = ([step["loss"] for step in trial.steps(name)] for name in names)
    difference = max(abs(a / b - 1) for a, b in zip(mindfcn, pytorch))
    weights = trial.folder / "start.npz"
    evaluator = rivals.Worker("the evaluation", sys.executable, HERE / "worker_mindfcn.py", "evaluate", trial.folder)
    score = float(evaluator.ask(f"few {weights}").split()[0])
    evaluator.end()
    run("torch", "worker_pytorch.py", trial.folder / "score.txt", "evaluate", trial.folder, weights)
    rival_score = float((trial.folder / "score.txt").read_text().split()[-1])
    checked = (f"Checked before training: {CHECKED_STEPS} steps without dropout give losses equal to {difference:.0e}; "
            f"the same weights give mean IoU {score:.4g} here and {rival_score:.4g} in PyTorch.")
    if difference > 1e-4 or abs(score / rival_score - 1) > 1e-2:
        sys.exit(f"the recipes differ. {checked}")
    return checked


def compete(contest, minutes, together, trains, evaluates):
    """Train and evaluate the contestants, one after the other on all cores, or together on one core each."""
    cores = sorted(os.sched_getaffinity(0))
    free = queue.Queue()
    for share in ([{core} for core in cores] if together else [set(cores)]):
        free.put(share)
    os.environ["OMP_NUM_THREADS"] = "1" if together else str(len(cores))

    def both(name):
        if trains:
            contest.train(name, minutes[name])
        if evaluates and contest.snapshots(name):
            contest.evaluate(name)

    # Processes inherit the cores of the thread that starts them.
    def take_cores():
        os.sched_setaffinity(0, free.get())

    with concurrent.futures.ThreadPoolExecutor(free.qsize(), initializer=take_cores) as pool:
        list(pool.map(both, minutes))


def row(contest, name):
    """A contestant's row of the table."""
    steps, scores = contest.steps(name), contest.scores(name)
    if len(steps) < 3:
        return [name, "-", "-", "-", *["-"] * 2 * len(TARGETS)]
    taken = [after["seconds"] - before["seconds"] for before, after in zip(steps[1:], steps[2:])]
    reached = f"{scores[max(scores)]['mean IoU']:.3f}" if scores else "-"
    cells = [name, f"{statistics.median(taken):.2f}", f"{steps[-1]['seconds'] / 60:.1f}", reached]
    for target in TARGETS:
        own, rival = contest.minutes_to(name, target), contest.minutes_to("PyTorch", target)
        if own is None:
            cells += [f"not within {steps[-1]['seconds'] / 60:.1f}", "-"]
        else:
            cells += ["{:.1f} ({:.1f}-{:.1f})".format(*own), f"{own[0] / rival[0]:.2f}" if rival else "-"]
    return cells


def notes(contest, names, recipe):
    """Lines below the table."""
    folders = [contest.folder / CONTESTANTS[name][0] / "steps.jsonl" for name in names]
    days = sorted({str(datetime.date.fromtimestamp(path.stat().st_mtime)) for path in folders if path.exists()})
    taken = [line["evaluation seconds"] for name in names for line in contest.scores(name).values()]
    settings = contest.plan["settings"]
    return [f"{settings['model']['name']}, {contest.plan['images']} training images, "
            f"{contest.plan['validation']} validation images at native size; "
            f"recipe {recipe}; trained {', '.join(days)}.",
            "Minutes are training time, interpolated linearly between the evaluations before and after "
            f"(in brackets). An evaluation took another {statistics.median(taken or [0]):.0f} s."]


def main():
    """Train, evaluate, print the table."""
    parser = rivals.parser(__doc__)
    parser.add_argument("--folder", default=rivals.ROOT / "runs" / "accuracy", help="folder of the results")
    parser.add_argument("--recipe", default=rivals.ROOT / "configs" / "voc_cpu.yaml", help="YAML file of settings")
    parser.add_argument("--minutes", type=float, default=90, help="maximum training time of MindFCN and PyTorch")
    parser.add_argument("--course_minutes", type=float, default=15, help="maximum training time of the course")
    parser.add_argument("--every", type=int, default=100, help="images between saved weights")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--together", action="store_true", help="train all at once, on one core and thread each")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--train_only", action="store_true", help="train only; --report evaluates later")
    parts.add_argument("--report", action="store_true", help="evaluate and report existing weights without training")
    options, words = parser.parse_known_args()
    folder = pathlib.Path(options.folder).resolve()
    paths = {name: rivals.SHARED / path for name, path in SHARED_SETTINGS.items() if rivals.SHARED.exists()}
    if not paths:
        print(f"{rivals.SHARED} does not exist; using the recipe's own paths", file=sys.stderr)
    paths["data.records"] = folder / "records"
    contest = Contest(folder, ["--config", options.recipe, *(word for name, path in paths.items()
                                                             for word in (f"--{name}", path)), *words],
                      options.every)
    checked = [check(contest)] if "PyTorch" in options.contestants else []
    compete(contest, {name: options.course_minutes if name == "course" else options.minutes
                      for name in options.contestants}, options.together, not options.report,
            not options.train_only)
    if options.train_only:
        print("Trained; the same command with --report instead of --train_only evaluates and prints the table.")
        return
    header = ["", "s/step", "minutes trained", "mean IoU then"]
    for target in TARGETS:
        header += [f"minutes to {target:.2f}", "of PyTorch's"]
    recipe = " ".join([pathlib.Path(options.recipe).stem, *words])
    mode = "one core and one thread each, at the same time" if options.together else "in turn, with all cores"
    rivals.show("accuracy", header, [row(contest, name) for name in options.contestants],
                [*notes(contest, options.contestants, recipe), *checked, f"Trained {mode}."], options.keep)


if __name__ == "__main__":
    main()
