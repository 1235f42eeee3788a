"""The walkthrough: it runs, its text source and the notebook are the same, and its saved results are presentable."""

import os
import re

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = os.path.join(os.path.dirname(__file__), "..", "notebooks")
ROOT = os.path.abspath(os.path.join(NOTEBOOKS, ".."))
LARGEST = 2_000_000  # bytes of a notebook with its pictures


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(os.path.join(NOTEBOOKS, "fcn8s.ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell printed."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


@pytest.mark.parametrize("folder", [NOTEBOOKS, ROOT], ids=["from notebooks/", "from the root"])
def test_it_runs_from_top_to_bottom(notebook, folder, tmp_path, monkeypatch):
    if folder == ROOT:
        # Where to find the repository is decided before anything is computed.
        notebook = nbformat.v4.new_notebook(cells=code_cells(notebook)[:3])
    monkeypatch.setenv("MINDFCN_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("MINDFCN_NOTEBOOK_DIR", str(tmp_path))
    notebook = nbformat.from_dict(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    assert all(cell.outputs for cell in code_cells(notebook))


def test_notebook_and_text_source_are_the_same(notebook):
    source = jupytext.read(os.path.join(NOTEBOOKS, "fcn8s.py"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells], (
            "run: jupytext --sync notebooks/fcn8s.py && jupyter execute --inplace notebooks/fcn8s.ipynb")


def test_every_code_cell_shows_its_result(notebook):
    for number, cell in enumerate(code_cells(notebook), 1):
        assert cell.execution_count == number, "the cells were not run in order, once"
        assert cell.outputs, f"nothing to see below:\n{cell.source}"
        assert all(output.output_type != "error" for output in cell.outputs)


def test_saved_results_are_clean(notebook):
    for cell in code_cells(notebook):
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
        for text in texts(cell):
            assert not re.search(r"(^|[\s'\"(=])/(?!\s)\w+/", text), f"an absolute path: {text}"
            assert not re.search(r"\r|\x1b|it/s|\d%\|", text), f"traces of a progress bar: {text}"


def test_the_file_stays_small():
    assert os.path.getsize(os.path.join(NOTEBOOKS, "fcn8s.ipynb")) < LARGEST
