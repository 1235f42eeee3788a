"""The notebooks: they run, their text sources match, their results are presentable, both languages have one code."""

import ast
import os
import re
from pathlib import Path

import cv2
import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
LARGEST = 3_000_000  # bytes of a notebook with its pictures
CHINESE = re.compile("[\u4e00-\u9fff]")

# Narrower networks and smaller photographs than the reader's, where they change nothing but the numbers.
NARROWER = {"own_data": {"SIDE = 96": "SIDE = 64"},
            "fcn8s": {"FCN8s(21)": "FCN8s(21, width=0.125, fc_width=64)",
                      'name="fcn8s_vgg16_bn", width=0.25': 'name="fcn8s_vgg16_bn", width=0.125'}}

every_notebook = pytest.mark.parametrize("name", NAMES)


def run(notebook, folder, tmp_path, monkeypatch):
    """Execute a notebook's cells in `folder`, with few steps; what it writes goes to `tmp_path`."""
    monkeypatch.setenv("MINDFCN_NOTEBOOK_QUICK", "1")
    # So few steps and photographs are not worth compiling.
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    monkeypatch.setenv("MINDFCN_NOTEBOOK_DIR", str(tmp_path))
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(folder)}}).execute()


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell printed."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def test_every_source_has_its_notebook():
    assert NAMES == sorted(path.stem for path in FOLDER.glob("*.py")) and "fcn8s" in NAMES


@every_notebook
def test_the_first_picture_comes_within_twenty_lines_of_code(name):
    """The network of the repository segments a photograph of the repository, before anything is trained."""
    cell = code_cells(read(name))[0]
    assert len([line for line in cell.source.splitlines() if line.strip()]) <= 20
    assert "mindfcn.load_segmenter()" in cell.source and "docs/pictures/photographs/" in cell.source
    assert any("image/jpeg" in output.get("data", {}) for output in cell.outputs)


# The Chinese notebooks have the English ones' code (tested below), so running one of each pair is enough. Those of the
# family and of what an FCN misses take more than a minute each; what they call has tests of its own. One is run from
# the repository's folder: the lines that find it are the same in all.
@pytest.mark.parametrize("name, folder", [
    pytest.param(name, ROOT if name == "fcn8s" else FOLDER, marks=[] if name in ("fcn8s", "own_data")
                 else [pytest.mark.long]) for name in NAMES], ids=NAMES)
def test_it_runs_from_top_to_bottom(name, folder, tmp_path, monkeypatch):
    notebook = read(name)
    for text, narrower in NARROWER.get(name, {}).items():
        cell, = (cell for cell in code_cells(notebook) if text in cell.source)
        cell.source = cell.source.replace(text, narrower)
    run(notebook, folder, tmp_path, monkeypatch)
    assert all(cell.outputs for cell in code_cells(notebook))


def test_all_find_the_repository_with_the_same_lines():
    """From the folder of the notebooks and from the repository's own."""
    first = {re.sub(" *#.*", "", code_cells(read(name))[0].source.partition("import cv2")[0]) for name in NAMES}
    assert len(first) == 1 and 'os.chdir(".." if os.path.isdir("../ckpt") else ".")' in first.pop()


@pytest.mark.long
def test_the_notebook_on_own_data_takes_another_folder(tmp_path, monkeypatch):
    """Grey masks of three classes; the names are those of the folder's labels file, which stays as it is."""
    random, folder = np.random.default_rng(0), tmp_path / "streets"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(16):
        mask = np.zeros((50, 70), np.uint8)
        mask[5:25, 5:40], mask[30:45, 30:60] = 1, 2
        photo = random.integers(0, 60, (50, 70, 3), np.uint8) + 80 * mask[..., None]
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), photo)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    labels = "names: [road, car, tram]\ncolours:\n- [0, 0, 0]\n- [200, 0, 0]\n- [0, 0, 200]\nignore_label: 255\n"
    (folder / "labels.yaml").write_text(labels, encoding="utf-8")
    notebook = read("own_data")
    for cell in notebook.cells:
        cell.source = cell.source.replace('DATA = ""', f"DATA = {str(folder)!r}")
    run(notebook, FOLDER, tmp_path / "work", monkeypatch)
    printed = "".join(text for cell in code_cells(notebook) for text in texts(cell))
    assert (folder / "labels.yaml").read_text(encoding="utf-8") == labels
    assert "tram" in printed and "beetle" not in printed


@every_notebook
def test_notebook_and_text_source_are_the_same(name):
    source = jupytext.read(FOLDER / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in read(name).cells] == [
        (cell.cell_type, cell.source) for cell in source.cells], (
            f"run: jupytext --sync notebooks/{name}.py && jupyter execute --inplace notebooks/{name}.ipynb")


@every_notebook
def test_every_code_cell_shows_its_result(name):
    for number, cell in enumerate(code_cells(read(name)), 1):
        assert cell.execution_count == number, "the cells were not run in order, once"
        assert cell.outputs, f"nothing to see below:\n{cell.source}"
        assert all(output.output_type != "error" for output in cell.outputs)


@every_notebook
def test_saved_results_are_clean(name):
    for cell in code_cells(read(name)):
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
        for text in texts(cell):
            assert not re.search(r"(^|[\s'\"(=])/(?!\s)\w+/", text), f"an absolute path: {text}"
            assert not re.search(r"\r|\x1b|it/s|\d%\|", text), f"traces of a progress bar: {text}"


@every_notebook
def test_the_file_stays_small(name):
    assert os.path.getsize(FOLDER / f"{name}.ipynb") < LARGEST


@every_notebook
def test_links_lead_to_files(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)", cell.source):
                assert "://" in target or (FOLDER / target).exists(), target


class Words(ast.NodeTransformer):
    """Removes the words from code; the rest is the same in every language."""

    def __init__(self):
        self.found = []

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            self.found.append(node.value)
            return ast.Constant("")
        return node

    def visit_JoinedStr(self, node):
        """An f-string: its values stay, with their formats."""
        self.found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        values = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        for part in values:
            part.value = self.visit(part.value)
        return ast.JoinedStr(values)


def without_words(code):
    """(the code's structure, its strings in their order); comments are in neither."""
    words = Words()
    return ast.dump(words.visit(ast.parse(code))), words.found


def outline(text):
    """The parts of a text that a translation must keep: headings, formulas, rows of tables and lists, code, numbers."""
    return (re.findall(r"^#+ (?:\d[\d.]*)?", text, re.M), re.findall(r"\$.+?\$", text),
            re.findall(r"^(?:\||- |\d+\. )", text, re.M), set(re.findall(r"`[^`\n]+`", text)),
            set(re.findall(r"\d+(?:[.,]\d+)*", text)))


@pytest.mark.parametrize("name", [name[:-3] for name in NAMES if name.endswith("_cn")])
def test_a_chinese_notebook_is_a_translation_of_the_english_one(name):
    english, chinese = (jupytext.read(FOLDER / f"{name}{language}.py").cells for language in ("", "_cn"))
    assert [cell.cell_type for cell in english] == [cell.cell_type for cell in chinese]
    for one, other in zip(english, chinese):
        if one.cell_type == "markdown":
            assert outline(one.source) == outline(other.source)
            assert CHINESE.search(other.source) and not CHINESE.search(one.source.replace("[中文]", ""))
            continue
        (code, words), (code_cn, words_cn) = without_words(one.source), without_words(other.source)
        assert code == code_cn, f"not the same code:\n{one.source}\n\n{other.source}"
        # Names that the code uses, such as "cosine", are not translated.
        assert len(words) == len(words_cn)
        assert all(word == word_cn or CHINESE.search(word_cn) for word, word_cn in zip(words, words_cn))
