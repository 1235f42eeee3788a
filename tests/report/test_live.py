"""The live curve: a notebook's cell that trains shows one picture, which grows."""

import io

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from mindfcn.report import live

# A run of 12 steps and 2 evaluations, each drawn: a drawing takes no longer than it is.
CELL = """
from mindfcn import LiveCurve
show = LiveCurve(seconds=0)
show.begin_training(6, 2, 0)
for step in range(1, 13):
    show.due = 0
    show.step(step, 1 + (step - 1) // 6, 2 / step, 0.1, 33.0)
    if step % 6 == 0:
        show.evaluated(step, {"mean IoU": step / 20})
print("trained")
"""


def client_of(cell):
    return NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), timeout=120,
                          kernel_name="python3")


def test_a_notebook_shows_one_picture_that_grows():
    client, updates = client_of(CELL), []
    taken = client.process_message

    def process_message(message, cell, index):
        if message["header"]["msg_type"] == "update_display_data":
            updates.append(message["content"]["data"]["image/png"])
        return taken(message, cell, index)

    client.process_message = process_message
    outputs = client.execute().cells[0].outputs
    pictures = [one for one in outputs if one.output_type == "display_data"]
    assert len(pictures) == 1 and pictures[0].data["image/png"].strip() == updates[-1].strip()
    assert len(set(updates)) == len(updates) == 13, "the first is drawn, 11 steps and 2 evaluations are drawn over it"
    assert [one.text for one in outputs if one.output_type == "stream"] == ["trained\n"]


class Cell:
    """A cell's picture, as IPython's `display` makes it."""

    def __init__(self):
        self.heights = []

    def update(self, image):
        self.heights.append(np.asarray(Image.open(io.BytesIO(image.data))).shape[0])


def test_it_draws_now_and_then_and_always_at_the_end(monkeypatch):
    cell, now = Cell(), [0.0]

    def display(image, display_id):
        cell.update(image)
        return cell

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    show = live.LiveCurve(seconds=10)
    show.begin_training(25, 2, 0)
    for step in range(1, 51):
        now[0] = step
        show.step(step, 1, 1.0, 0.1, 1.0)
    # at steps 1, 11, 21, 31, 41 and at the last one
    assert len(cell.heights) == 6
    show.evaluated(50, {"mean IoU": 0.5})
    assert cell.heights[-1] > cell.heights[-2], "the metrics have a panel of their own"


def test_drawing_takes_a_small_part_of_the_time(monkeypatch):
    cell, now = Cell(), [0.0]
    monkeypatch.setattr("IPython.display.display", lambda image, display_id: cell)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])

    def slow(*rows):
        now[0] += 3
        return live_curves(*rows)

    live_curves = live.curves
    monkeypatch.setattr(live, "curves", slow)
    show = live.LiveCurve(seconds=1)
    show.begin_training(100, 1, 0)
    show.step(1, 1, 1.0, 0.1, 1.0)
    assert show.due == pytest.approx(3 + 3 / live.SHARE)
