"""Memory after 5 and after 40 sizes of images, of training and prediction, beside ONNX Runtime's.

    python benchmarks/speed/sizes/run.py [--keep]

FCN-32s and FCN-16s on a VGG16 of a quarter of the width, on random images of 12,288 to 24,576 pixels, each task in a
process of its own. Takes about six minutes on two cores; Linux alone tells a process's memory this way.
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import parser, show

WORKER = pathlib.Path(__file__).with_name("worker_memory.py")
NETWORKS = ("fcn32s_vgg16", "fcn16s_vgg16")
TASKS = {"training": "training, PyNative mode", "prediction": "prediction", "onnx": "prediction, ONNX Runtime"}


def main():
    """Print the table."""
    options = parser(__doc__).parse_args()
    rows = []
    for network in NETWORKS:
        for task, title in TASKS.items():
            text = subprocess.run([sys.executable, WORKER, task, network], capture_output=True, text=True,
                                  check=True).stdout
            few, many = map(int, text.split()[-2:])
            rows.append([f"`{network}`", title, few, many, f"{many / few:.2f}"])
    show("sizes", ["network", "task", "MB after 5 sizes", "MB after 40 sizes", "ratio"], rows, [], options.keep)


if __name__ == "__main__":
    main()
