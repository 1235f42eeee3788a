"""Imports point down only (the picture in the README)."""

import ast
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "src" / "mindfcn"
FLOORS = (("__main__",), ("cli",), ("serve",), ("commands",), ("engine", "inference"), ("report", "evaluation"),
          ("models", "data"), ("weights",), ("losses", "metrics", "schedules", "labels", "runtime"), ("storage",),
          ("config", "preprocess", "logits", "random_bits", "console"), ("errors", "mindspore_versions"))
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def imported_rooms(path):
    for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mindfcn."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "mindfcn":
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_its_own_package_and_from_layers_below(path):
    room = path.parts[0].removesuffix(".py")
    for other in imported_rooms(path):
        assert other == room or HEIGHT[other] < HEIGHT[room], f"{path} imports {other}"


def test_only_the_command_line_prints_or_parses_arguments():
    for path in FILES:
        calls = [node.func.id for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        assert "print" not in calls or path.parts[0] == "cli", f"{path} prints"
