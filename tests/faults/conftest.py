"""Fixtures of the fault suite: commands in separate processes, and the figures that docs/reliability.md gives."""

import pytest
from damage import Reader
from killing import Server, command, leftovers

LINES = []


@pytest.fixture(scope="session")
def server():
    """Server that runs the verbs in separate processes."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def whole(server, tmp_path_factory):
    """Function (verb) -> (digests of all files of an undisturbed run, its seconds of processor time)."""
    common, done = tmp_path_factory.mktemp("whole"), {}

    def made(verb):
        before = {"train": "prepare", "eval": "train"}
        if verb in before:
            made(before[verb])
        if verb not in done:
            status, text = server.run(*command(verb, common, common / verb))
            assert status == 0, text
            seconds, found = server.seconds, server.look(common / verb)
            assert not found["wrong"] and not leftovers(common / verb)
            done[verb] = found["digests"], seconds
        return common, *done[verb]
    return made


@pytest.fixture(scope="module")
def reader():
    """A process that reads files and reports what it found."""
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture(scope="session")
def figures():
    """List of lines that are printed at the end."""
    return LINES


def pytest_terminal_summary(terminalreporter):
    """Print what the suite measured."""
    for line in LINES:
        terminalreporter.write_line(line)
