"""The pages are correct: commands and snippets work, links have targets, versions agree."""

import ast
import configparser
import functools
import importlib
import importlib.util
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from mindfcn.cli import parser as cli

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for folder in ("", "docs", "ckpt") for path in (ROOT / folder).glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose Chinese form has all of the English one; that of own_data is shorter.
TRANSLATED = sorted(path.stem[:-3] for path in (ROOT / "docs").glob("*_cn.md") if path.stem != "own_data_cn")
# Commands that a page may contain; any other is a mistake, or an entry is missing here.
ELSEWHERE = ("pip", "jupyter", "git", "mpirun", "curl", "python -m venv", "python -m build", "twine", "cffconvert")
VERB_OF = {"run_train.sh": "train", "run_eval.sh": "eval", "run_predict.sh": "predict"}


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    return [body for language, body in BLOCK.findall(text_of(page)) if language in languages]


def commands(page):
    """The commands of a page's shell blocks and of its texts in backquotes, one per line, without comments."""
    lines = [line for body in blocks(page, "bash", "sh") for line in body.replace("\\\n", " ").splitlines()]
    lines += [line[2:] for body in blocks(page, "") for line in body.splitlines() if line.startswith("$ ")]
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text_of(page)))
    lines += [words for words in inline if re.match(r"(\w+=\S+ )*(mindfcn \S+|bash|python) \S", words)]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


@functools.cache
def check(*words):
    """Raise where a command would not be accepted. Pages of two languages have the same commands: each is read once."""
    line = " ".join(words)
    if words[0] == "mindfcn":
        if not {"--help", "--help_all", "--version"} & set(words) and words[1] not in ("VERB", "子命令"):
            # --print_config would print the settings and end.
            cli.parse([word for word in words[1:] if word != "--print_config"])
    elif words[0] == "bash" and words[1] in VERB_OF:
        verb, rest = VERB_OF[words[1]], words[2:]
        if rest and rest[0].endswith(".yaml"):
            rest = ["--config", *rest]
        elif verb == "eval" and rest and not rest[0].startswith("-"):
            rest = ["--checkpoint", *rest]
        cli.parse([verb, *(rest or ["--checkpoint", "x"] if verb == "eval" else rest)])
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file(), line
    elif words[0] in ("python", "python3") and words[1].startswith(("benchmarks/", "experiments/")):
        shared = ROOT / "benchmarks" / "speed" / "rivals.py"
        script = "".join(path.read_text(encoding="utf-8") for path in (ROOT / words[1], shared))
        for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in script or "parse_known_args" in script, f"{line}: no option {option}"
    elif words[0] in ("ruff", "mypy"):
        assert shutil.which(words[0]) or importlib.util.find_spec(words[0])
    else:
        assert line.startswith(ELSEWHERE) or words[0] in ("mkdocs", "msrun", "cd", "export"), f"unknown: {line}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        check(*words)


@pytest.mark.parametrize("words", [["mindfcn", "train", "--optim.rate", "1"], ["bash", "run_all.sh"], ["mindfnc"],
                                   ["bash", "run_train.sh", "configs/nothing.yaml"],
                                   ["python", "benchmarks/speed/train_step/run.py", "--fast"]])
def test_a_wrong_command_is_noticed(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, cli.UserError)):
        check(*words)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        found = (ROOT / page).parent / path if path else ROOT / page
        assert "*" in path or found.exists(), f"{page}: {target}"
        if anchor and found.suffix == ".md":
            heads = [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-")
                     for head in re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)]
            assert anchor in heads, f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_file_that_a_page_names_is_there(page):
    """A path may begin at the repository, at the package or at any folder; NAME is the reader's own."""
    folders = ("src", "tests", "benchmarks", "experiments", "notebooks")
    files = [f"/{path.as_posix()}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"(?<![\w/.])(?:\.\./)?([\w/]+\.py)\b", text_of(page)))
    missing = [name for name in named if "NAME" not in name and not any(file.endswith(f"/{name}") for file in files)]
    assert not missing


def test_python_in_the_readme_runs(sample_records, tmp_path, monkeypatch):
    """With random numbers in place of VGG16's weights; the class and the batches are the real ones."""
    monkeypatch.chdir(sample_records.parent)
    # One photograph is not worth compiling.
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    weights = {}
    for place, inside, outside in zip(places, channels, channels[1:]):
        weights[f"features.{place}.weight"] = np.zeros((outside, inside, 3, 3), np.float32)
        weights[f"features.{place}.bias"] = np.zeros(outside, np.float32)
    np.savez(tmp_path / "vgg16.npz", **weights)
    english, chinese = ([re.sub(r"#.*", "", body) for body in blocks(page, "python")]
                        for page in ("README.md", "README_CN.md"))
    assert len(english) == 2 and english == chinese
    scope = {}
    for body in english:
        for name, place in (("vgg16.pth", tmp_path / "vgg16.npz"), ("data/records/sample", sample_records / "records"),
                            ("docs/pictures", ROOT / "docs" / "pictures")):
            body = body.replace(name, str(place))
        exec(compile(body, "README.md", "exec"), scope)
    assert scope["net"].trainable_params() and scope["batches"].get_dataset_size() == 3
    assert scope["card"].labels.names[scope["mask"][150, 200]] == "cat"


@functools.cache
def learned(name):
    """How many weights a network of 21 classes learns."""
    from mindspore import nn

    from mindfcn import create_model
    with nn.no_init_parameters():
        net = create_model(name, 21)
    return sum(one.size for one in net.get_parameters()
               if "upscore" not in one.name and ".moving_" not in one.name and not one.name.endswith(".step"))


@pytest.mark.parametrize("page", ["README.md", "README_CN.md"])
def test_the_table_of_networks_is_correct(page):
    """Parameters are counted, scores are those that `compare` shows; a dash where nothing is published of a network."""
    from mindfcn.report.published import published
    rows = re.findall(r"^\| `(fcn\w+)` \| ([\d,]+) \| [^|]+ \| ([^|]+) \|$", text_of(page), re.MULTILINE)
    assert len(rows) == 9
    for name, parameters, scores in rows:
        assert parameters == f"{learned(name):,}", name
        known = {f"{row.metrics[2] / 100:.3f}" for row in published(name)}
        assert scores == "-" or set(re.findall(r"0\.\d+", scores)) == known, name


@pytest.mark.parametrize("page", ["README.md", "README_CN.md"])
def test_the_table_of_published_networks_has_the_zoos_figures(page):
    rows = re.findall(r"^\| (`fcn[^|]+) \| [^|]+ \| ([^|]+) \|$", text_of(page), re.MULTILINE)
    zoo = {name: f"{float(score) / 100:.3f}" for name, score in
           re.findall(r"^\| `([\w-]+)` \|.* ([\d.]+) mIoU, ", text_of("docs/zoo.md"), re.MULTILINE)}
    rows = [row for row in rows if set(re.findall(r"`([\w-]+)`", row[0])) & set(zoo)]
    assert len(rows) == 5
    for names, scores in rows:
        assert [zoo[name] for name in re.findall(r"`([\w-]+)`", names)] == re.findall(r"\b0\.\d+", scores)


def test_python_on_the_export_page_runs(color_net, tmp_path, monkeypatch):
    """On a network whose answer is known: pure red, green and blue pixels are classes 1, 2 and 3."""
    import cv2
    body, = blocks("docs/export.md", "python")
    expected = np.random.default_rng(0).integers(0, 4, (20, 30))
    colors = np.array([(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)], np.uint8)[expected]
    cv2.imwrite(str(tmp_path / "photo.png"), colors[..., ::-1])
    shutil.copy(color_net, tmp_path / "best.onnx")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(body.replace("photo.jpg", "photo.png"), "docs/export.md", "exec"), scope)
    np.testing.assert_array_equal(scope["mask"], expected)


@pytest.mark.long
def test_the_course_page_runs_from_top_to_bottom(sample_records, tmp_path, monkeypatch, pynative, capsys):
    """Its cells, on small crops, with a narrow network that starts without VGG16's weights."""
    cells = blocks("docs/course.md", "python")
    assert cells == blocks("docs/course_cn.md", "python")
    monkeypatch.chdir(tmp_path)
    photo = next((sample_records / "source" / "JPEGImages").glob("*.jpg"))
    # Where the loss of so narrow a network begins depends on its random weights.
    import mindspore as ms
    ms.set_seed(1)
    scope = {}
    for cell in cells:
        if "load_vgg16" in cell:
            continue
        for before, after in (("data/records/sample", str(sample_records / "records")),
                              ("crop_size = 512", "crop_size = 32"),
                              ("n_class=num_classes", "n_class=num_classes, width=0.05, fc_width=8"),
                              ("data/sample/JPEGImages/sample_000000.jpg", str(photo))):
            cell = cell.replace(before, after)
        exec(compile(cell, "docs/course.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "tutorial nan here 0.0" in printed and scope["mask"].shape == scope["image"].shape[:2]
    for epochs, rate in ((1, 0.05), (2, 0.02525), (3, 0.0005)):
        assert f"{epochs} epochs: the tutorial's rate is {rate}" in printed
    losses = [float(loss) for loss in re.findall(r"loss is ([\d.]+)", printed)]
    assert len(losses) == 3 and 2 < losses[0] < 4


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_on_the_pages_compiles_and_its_names_are_there(page):
    """Code that needs the network or torchvision is compiled, not run."""
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mindfcn":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_citation_and_package_agree():
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    citation = yaml.safe_load(text_of("CITATION.cff"))
    for name in ("version", "license"):
        assert citation[name] == package["metadata"][name]
    assert f"## {citation['version']}" in text_of("CHANGELOG.md")


def test_the_badges_are_true():
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    for name, setting, pattern in (("python", package["options"]["python_requires"], r">=(3\.\d+),<3\.(\d+)"),
                                   ("mindspore", package["options"]["install_requires"],
                                    r"mindspore>=([\d.]+),<2\.(\d+)")):
        first, after = re.search(pattern, setting).groups()
        words = f"{first} to {first.split('.')[0]}.{int(after) - 1}"
        assert f"{words}</title>" in text_of(f"docs/pictures/badges/{name}.svg") and f"{words}]" in text_of("README.md")
    assert f"{package['metadata']['license']}</title>" in text_of("docs/pictures/badges/licence.svg")


def test_every_dependency_has_its_line_on_its_page():
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = [package["options"]["install_requires"], *package["options.extras_require"].values()]
    names = {re.match(r"[\w-]+", line).group() for text in wanted for line in text.splitlines()
             if line and not line.startswith("#")}
    assert len(names) > 20
    rows = "".join(line for line in text_of("docs/dependencies.md").splitlines() if line.startswith("|"))
    assert not [name for name in sorted(names) if not re.search(rf"\b{name}\b", rows)]


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_same_parts(page):
    """Headings, rows of tables and their figures, and code without its comments; pages name each other at the top."""
    english, chinese = (text_of(f"docs/{page}{language}.md") for language in ("", "_cn"))
    assert f"]({page}_cn.md)" in english[:200] and f"]({page}.md)" in chinese[:200]
    for part in (r"^#+ ", r"^\|"):
        assert len(re.findall(part, english, re.MULTILINE)) == len(re.findall(part, chinese, re.MULTILINE)), part
    code, code_cn = ([re.sub(r" *# .*", "", body) for _, body in BLOCK.findall(text)] for text in (english, chinese))
    assert code == code_cn
    for row, row_cn in zip(*(re.findall(r"^\|.*", text, re.MULTILINE) for text in (english, chinese))):
        figures, figures_cn = ([cell for cell in map(str.strip, one.split("|")) if re.fullmatch(r"[+-]?[\d.,]+", cell)]
                               for one in (row, row_cn))
        assert figures == figures_cn, row


def test_the_chinese_table_of_combinations_is_the_english_one():
    cells, cells_cn = (re.findall(pattern, text_of(page)) for page, pattern in (
        ("docs/combinations.md", r"\| (yes|no)(?: \((\d+)\))?(?= \|)"),
        ("docs/combinations_cn.md", r"\| (可以|不可以)(?: \((\d+)\))?(?= \|)")))
    assert [({"yes": "可以", "no": "不可以"}[word], note) for word, note in cells] == cells_cn
    assert len(cells) > 100
    reasons, reasons_cn = (re.findall(r"^\d+\. ", text_of(f"docs/combinations{end}.md"), re.MULTILINE)
                           for end in ("", "_cn"))
    assert reasons == reasons_cn


def test_both_languages_answer_the_same_questions():
    english, chinese = (re.findall(r"^- \*\*.+?\*\*", text_of(f"docs/questions{language}.md"), re.MULTILINE)
                        for language in ("", "_cn"))
    assert len(english) == len(chinese) > 10
    for readme, page in (("README.md", "docs/questions.md"), ("README_CN.md", "docs/questions_cn.md")):
        assert f"]({page})" in text_of(readme)


def test_the_code_is_lint_clean():
    pytest.importorskip("ruff")
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True,
                           text=True)
    assert found.returncode == 0, found.stdout


def test_the_files_and_names_of_contributing_exist():
    """Sections of numbered steps: paths exist, and other names in code style occur in the section's files."""
    sections = [text for text in text_of("CONTRIBUTING.md").split("\n## ")[1:] if "\n1. " in text]
    assert len(sections) >= 7
    for section in sections:
        quoted = re.findall(r"`([^`\n]+)`", section[section.index("\n1. "):])
        paths = [path for path in quoted if "/" in path and "NAME" not in path]
        assert [path for path in paths if not (ROOT / path).exists()] == []
        sources = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths if path.endswith((".py", ".pyi")))
        names = [part for name in quoted if re.fullmatch(r"[\w.]+(\(\))?", name) and "NAME" not in name
                 for part in re.findall(r"\w+", name)]
        assert [name for name in names if name not in sources] == [], section.splitlines()[0]
