"""Options and fixtures of all tests."""

import os

# MindSpore reads it when it is imported: its C++ warnings and errors stay off the terminal, exceptions tell all.
os.environ.setdefault("GLOG_v", "4")

import pytest  # noqa: E402


def pytest_addoption(parser):
    """Add --long."""
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config, items):
    """Skip the tests marked long unless they are asked for."""
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --long"))


@pytest.fixture(scope="session")
def sample_records(tmp_path_factory):
    """Folder of a tiny sample set: `records/` with 12 training and 3 validation records, `source/` with the files."""
    from mindfcn.config import PrepareConfig
    from mindfcn.engine.prepare import prepare
    folder = tmp_path_factory.mktemp("sample")
    result = prepare(PrepareConfig(records=str(folder / "records"), root=str(folder / "source"), samples=15, size=64))
    assert (result.train.written, result.val.written) == (12, 3)
    return folder
