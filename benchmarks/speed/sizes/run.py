"""Memory after 5 and after 40 sizes of images, of training and prediction, beside ONNX Runtime's.

    python benchmarks/speed/sizes/run.py [--keep]

FCN-32s on a VGG16 of a quarter of the width, on random images of 12,288 to 24,576 pixels, each task in a process of its
own. Takes about three minutes on two cores; Linux alone tells a process's memory this way.
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import parser, show

WORKER = pathlib.Path(__file__).with_name("worker_memory.py")
TASKS = {"training": "training, PyNative mode", "prediction": "prediction", "onnx": "prediction, ONNX Runtime"}


def main():
    """Print the table."""
    options = parser(__doc__).parse_args()
    rows = []
    for task, title in TASKS.items():
        text = subprocess.run([sys.executable, WORKER, task], capture_output=True, text=True, check=True).stdout
        few, many = map(int, text.split()[-2:])
        rows.append([title, few, many, f"{many / few:.2f}"])
    show("sizes", ["task", "MB after 5 sizes", "MB after 40 sizes", "ratio"], rows, [], options.keep)


if __name__ == "__main__":
    main()
