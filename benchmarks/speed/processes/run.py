"""Data parallel training on CPU: one and two processes, MindFCN and PyTorch, and a plan for 8 to 64 devices.

    python benchmarks/speed/processes/run.py [--width 0.25] [--size 256] [--batch 4] [--runs 9] [--keep]
    python benchmarks/speed/processes/run.py --plan

FCN-8s on VGG16 without normalisation, the same weights and global batch for all; the losses of six steps must agree
before timing. Needs two cores and, by default, 4 GB; the full-width network (--width 1 --batch 2) needs 20 GB.
`--plan` measures nothing: it computes the table of docs/scaling.md from the network's multiply-adds and gradient bytes.
"""

import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
# The plan's assumptions: sustained multiply-adds/s of a device in half precision (0.4 of its peak), and bytes/s in each
# direction of the slowest link of a ring within one server of 8 devices, and across servers.
SERVERS = {"Ascend 910 (HCCS; RoCE 100 Gb/s a device)": (0.4 * 128e12, 30e9, 12.5e9),
           "V100 (NVLink 2; 100 Gb/s a server)": (0.4 * 62.5e12, 25e9, 12.5e9),
           "A100 (NVLink 3; 200 Gb/s a device)": (0.4 * 156e12, 200e9, 25e9)}
DEVICES = (8, 16, 32, 64)


class Ranks:
    """Workers that take each step together, each pinned to its own cores."""

    def __init__(self, name, python, script, ranks, cores, *settings):
        self.name = name
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        lines = [(rank, ranks, port, cores, *settings) for rank in range(ranks + 1)]
        self.workers = [rivals.Worker(f"{name}, rank {rank}", python, script, *lines[rank]) for rank in range(ranks)]
        self.scheduler = None
        if ranks > 1 and script.name == "worker_mindfcn.py":
            self.scheduler = subprocess.Popen([python, script, *map(str, lines[ranks])], stdout=subprocess.DEVNULL,
                                              env=rivals.environment())

    def ask(self, command):
        """Send a command to all workers and return the largest answer."""
        for worker in self.workers:
            worker.process.stdin.write(command + "\n")
            worker.process.stdin.flush()
        answers = [worker.process.stdout.readline().strip() for worker in self.workers]
        if not all(answers):
            sys.exit(f"{self.name} ended without an answer to {command!r}; see its error message above")
        return str(max(map(float, answers)))

    def end(self):
        """End all processes."""
        for worker in self.workers:
            worker.process.stdin.close()
        for worker in self.workers:
            worker.process.wait()
        if self.scheduler:
            self.scheduler.wait()


def measure(options):
    """Measure one and two processes and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (pathlib.Path(folder), options.width, options.size, options.batch)
        teams, first = {}, None
        for rival, python, script in (("MindFCN", sys.executable, HERE / "worker_mindfcn.py"),
                                      ("PyTorch", rivals.python_of("torch"), HERE / "worker_pytorch.py")):
            for ranks, cores in ((1, 1), (1, 2), (2, 1)):
                name = f"{rival}, {ranks} process{'es' * (ranks > 1)} x {cores} core{'s' * (cores > 1)}"
                teams[rival, ranks, cores] = Ranks(name, python, script, ranks, cores, *settings)
                # One after the other, because the first writes the weights.
                curve = [float(teams[rival, ranks, cores].ask("loss")) for _ in range(6)]
                first = first or curve
                apart = np.abs(np.divide(curve, first) - 1).max()
                print(f"{name}: losses {', '.join(f'{loss:.6f}' for loss in curve)}", file=sys.stderr)
                if apart > 1e-4:
                    sys.exit(f"the losses of {name} differ by {apart:.1e}; nothing was timed")
        seconds = rivals.take_turns(teams.values(), options.runs, 2)
        pair = teams["MindFCN", 2, 1]
        parts = {command: [float(pair.ask(command)) for _ in range(options.runs + 1)][1:]
                 for command in ("local", "reduce")}
        size = float(pair.ask("bytes"))
        for team in teams.values():
            team.end()
    rows = []
    for (rival, ranks, cores), team in teams.items():
        rate = options.batch / statistics.median(seconds[team.name])
        one, both = (options.batch / statistics.median(seconds[teams[rival, 1, number].name]) for number in (1, 2))
        rows.append([team.name, rivals.median(seconds[team.name]), f"{rate:.2f}", f"{rate / (ranks * cores * one):.2f}",
                     f"{rate / both:.2f}"])
    notes = [f"FCN-8s, width {options.width:g}, {options.size}x{options.size}, global batch {options.batch}, float32; "
             "the losses of six steps agree within 1e-4 between all rows. Efficiency: images/s over those of one core "
             "times the cores.",
             f"MindFCN, 2 processes: {size / 1e6:.1f} MB of gradients a step; the step without the sum over ranks "
             f"takes {rivals.median(parts['local'])} s, the sum alone {rivals.median(parts['reduce'])} s "
             f"({size / statistics.median(parts['reduce']) / 1e6:.0f} MB/s)."]
    rivals.show("processes", ["", "s/step", "images/s", "efficiency", "over 1 process x 2 cores"], rows, notes,
                options.keep)


def all_reduce_seconds(devices, size, rate):
    """Seconds of a ring all-reduce: each device sends and receives 2 (n - 1) / n of the bytes over its slowest link."""
    return 2 * (devices - 1) / devices * size / rate


def efficiency(compute, reduce, overlap):
    """Compute time / step time; with overlap 1, the backward pass (2/3 of the compute) hides the all-reduce."""
    return compute / (compute + max(0.0, reduce - overlap * compute * 2 / 3))


def plan_rows(multiply_adds, parameters, batch):
    """Rows of the plan, from the multiply-adds of one image's forward pass and the number of gradients."""
    for server, (rate, inside, between) in SERVERS.items():
        for devices in DEVICES:
            # The backward pass takes twice the forward pass.
            compute = 3 * multiply_adds * batch / rate
            sums = [all_reduce_seconds(devices, width * parameters, inside if devices <= 8 else between)
                    for width in (4, 2)]
            shares = [[efficiency(compute, seconds, overlap) for overlap in (0, 1)] for seconds in sums]
            yield [server, devices, devices * batch, f"{compute:.3f}", *(f"{seconds:.3f}" for seconds in sums),
                   *(f"{alone:.2f} ({hidden:.2f})" for alone, hidden in shares),
                   f"{devices * batch / compute * shares[0][0]:.0f}"]


def plan(options):
    """Compute and print the plan; measures nothing."""
    from mindfcn.commands.describe import describe
    from mindfcn.config import DescribeConfig
    found = describe(DescribeConfig(name="fcn8s_vgg16_bn", size=512))
    parameters = found.parameters + found.upsampling
    print(f"Computed, not measured: fcn8s_vgg16_bn, 512x512, batch {options.batch} per device; "
          f"{found.multiply_adds / 1e9:.1f} billion multiply-adds forward, {parameters / 1e6:.1f} million gradients. "
          "Efficiency, in brackets with the sum overlapping the backward pass; images/s with 4 bytes and no overlap.\n")
    header = ["server", "devices", "global batch", "compute s", "sum s, 4 bytes", "sum s, 2 bytes",
              "efficiency, 4 bytes", "efficiency, 2 bytes", "images/s"]
    for row in (header, ["---", *["--:"] * 8], *plan_rows(found.multiply_adds, parameters, options.batch)):
        print("| " + " | ".join(map(str, row)) + " |")


def main():
    """Measure, or print the plan."""
    parser = rivals.parser(__doc__, runs=9)
    parser.add_argument("--width", type=float, default=0.25, help="width of the network, 1 is full width")
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels")
    parser.add_argument("--batch", type=int, default=4,
                        help="images per step over all processes; in the plan, per device")
    parser.add_argument("--plan", action="store_true", help="compute the table for 8 to 64 devices")
    options = parser.parse_args()
    (plan if options.plan else measure)(options)


if __name__ == "__main__":
    main()
