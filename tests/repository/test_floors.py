"""Imports point down only, and the pages show the floors and files that the package has."""

import ast
import pathlib
import re
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mindfcn"
# From the top down; rooms on one floor do not import each other.
FLOORS = (("__main__",), ("cli",), ("serve",), ("commands",), ("engine", "inference"), ("report", "evaluation"),
          ("models", "data"), ("weights",), ("losses", "metrics", "schedules", "labels", "runtime"), ("storage",),
          ("combinations", "config", "preprocess", "logits", "random_bits", "console"),
          ("errors", "launcher", "memory", "mindspore_versions"),
          ("cuda_libraries",))
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def imported_rooms(path):
    for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mindfcn."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "mindfcn":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mindfcn."))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_its_own_room_and_from_floors_below(path):
    room = path.parts[0].removesuffix(".py")
    for other in imported_rooms(path):
        assert other == room or HEIGHT[other] < HEIGHT[room], f"{path} imports {other}"


def test_only_the_command_line_prints_or_parses_arguments():
    for path in FILES:
        calls = [node.func.id for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        assert "print" not in calls or path.parts[0] == "cli", f"{path} prints"


def floors_of(page):
    """The floors that a page shows, from the top down: a block of lines in README, a table in CONTRIBUTING.

    Yields a tuple of names for each floor, folders with a slash at the end.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "CONTRIBUTING.md":
        for cell in re.findall(r"^\| \d+ \| ([^|]+) \|", text, re.MULTILINE):
            yield tuple(re.findall(r"`([^`]+)`", cell))
    else:
        block, = re.findall(r"^```\n(__main__ .*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines():
            yield tuple(line.split("  ")[0].split())


@pytest.mark.parametrize("page", ["README.md", "README_CN.md", "CONTRIBUTING.md"])
def test_a_page_shows_the_floors(page):
    floors = list(floors_of(page))
    assert [tuple(name.removesuffix("/") for name in floor) for floor in floors] == list(FLOORS)
    for name in (name for floor in floors for name in floor):
        assert (SOURCE / name).is_dir() if name.endswith("/") else (SOURCE / f"{name}.py").is_file(), name


def test_every_file_and_folder_has_its_floor():
    found = {path.name.removesuffix(".py") for path in SOURCE.iterdir()
             if path.suffix == ".py" and path.stem != "__init__" or path.is_dir() and path.name != "__pycache__"}
    assert found == set(HEIGHT)


def tree(folder, depth=0):
    """Lines of a folder's tree: its modules by their names, other files with their suffix, then its folders."""
    entries = sorted(path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__"))
    files = " ".join(path.name.removesuffix(".py") for path in entries if path.is_file())
    start = f"{'  ' * depth}{folder.name}/".ljust(18)
    yield from textwrap.wrap(files, 110, initial_indent=start, subsequent_indent=" " * 18) or [start]
    for path in entries:
        if path.is_dir():
            yield from tree(path, depth + 1)


def test_the_readme_shows_the_files():
    expected = "\n".join(line for floor in FLOORS for room in floor if (SOURCE / room).is_dir()
                         for line in tree(SOURCE / room))
    assert f"```\n{expected}\n```" in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md lacks\n{expected}"
