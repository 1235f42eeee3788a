"""HHA of one depth image: seconds, compared with the same recipe with one least-squares fit per pixel.

    python benchmarks/speed/hha/run.py [--images 5] [--row 40]

Prints wall and CPU seconds of `mindfcn.data.hha.encode_hha` for NYUDv2's two sizes, and of the plain version, which
fits the two planes of every pixel with numpy.linalg.lstsq. That takes minutes per image, so it computes every ROW-th
row and its time is multiplied by ROW. The normals of both are compared. The published recipe's Python port took 2.3 s
per image on a machine with two cores (cited, not run here).
"""

import argparse
import time
from functools import partial

import numpy as np

from mindfcn.data.hha import COARSE, FINE, KINECT, encode_hha, normals
from mindfcn.data.synthetic.rooms import draw_room

CITED = 2.3


def main():
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--images", type=int, default=5)
    options.add_argument("--row", type=int, default=40)
    options = options.parse_args()
    depths = [draw_room(640, 1, index)[1] for index in range(options.images)]
    cases = {"640x480": (depths, KINECT),
             "560x425": ([depth[45:470, 40:600] for depth in depths], KINECT.cropped(45, 40))}
    print(f"{'image':8} {'method':34} {'wall s':>8} {'CPU s':>8} {'CPU, of 2.3 s':>14}")
    for size, (images, camera) in cases.items():
        encode_hha(images[0], camera)
        wall, processor = timed(partial(encode_all, images, camera))
        show(size, "encode_hha", wall / len(images), processor / len(images))
        wall, processor, degrees = plain(images[0], camera, options.row)
        show(size, f"one fit per pixel (every {options.row}th row)", wall * options.row, processor * options.row)
        print(f"{'':8} normals differ by at most {degrees:.1e} degrees")


def encode_all(images, camera):
    """The HHA of every image."""
    return [encode_hha(image, camera) for image in images]


def show(size, method, wall, processor):
    """One line of the table."""
    print(f"{size:8} {method:34} {wall:8.3f} {processor:8.3f} {CITED / processor:13.1f}x")


def timed(work):
    """(wall seconds, CPU seconds) of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def plain(depth, camera, step):
    """(wall seconds, CPU seconds, largest angle to `normals` in degrees) of every `step`-th row, one fit per pixel."""
    depth = 100 * depth
    rows, columns = np.mgrid[1:depth.shape[0] + 1, 1:depth.shape[1] + 1]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(depth.shape)])
    chosen = range(step // 2, depth.shape[0], step)
    found = {}

    def fit():
        for size in (FINE, COARSE):
            for row in chosen:
                band = slice(max(0, row - size), row + size + 1)
                for column in range(depth.shape[1]):
                    window = band, slice(max(0, column - size), column + size + 1)
                    points = rays[(slice(None), *window)].reshape(3, -1).T
                    normal = np.linalg.lstsq(points, 1 / depth[window].ravel(), rcond=None)[0]
                    found[size, row, column] = normal / np.linalg.norm(normal)

    wall, processor = timed(fit)
    fast = dict(zip((FINE, COARSE), normals(rays, depth, np.ones(depth.shape, bool))))
    cross = [np.linalg.norm(np.cross(fast[size][:, row, column], normal))
             for (size, row, column), normal in found.items()]
    return wall, processor, np.degrees(np.arcsin(max(cross)))


if __name__ == "__main__":
    main()
