"""Fixtures of the fault suite: commands in processes of their own, and the figures that docs/reliability.md gives."""

import pytest
from killing import Server

LINES = []


@pytest.fixture(scope="session")
def server():
    """Server that runs the verbs in processes of their own."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def figures():
    """List of lines that are printed at the end."""
    return LINES


def pytest_terminal_summary(terminalreporter):
    """Print what the suite measured."""
    for line in LINES:
        terminalreporter.write_line(line)
