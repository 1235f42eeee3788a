"""Options and fixtures of all tests."""

import math
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
def scramble():
    """Function that puts random numbers into every parameter of a network, so that none of them is without effect."""
    import mindspore as ms
    import numpy as np

    def fill(net, seed=1):
        random = np.random.default_rng(seed)
        for parameter in net.get_parameters():
            kind = parameter.name.split(".")[-1]
            if kind in ("gamma", "moving_variance"):
                value = random.uniform(0.5, 1.5, parameter.shape)
            else:
                value = random.standard_normal(parameter.shape)
                value *= (2 / math.prod(parameter.shape[1:])) ** 0.5 if kind == "weight" else 0.1
            if kind != "step":
                parameter.set_data(ms.Tensor(value.astype(np.float32)))
        return net.set_train(False)
    return fill


@pytest.fixture(scope="session")
def tiny(scramble):
    """Function that makes a narrow network of 3 classes by its name, with random numbers in every parameter."""
    from mindfcn.models.factory import create_model

    def make(name, **options):
        narrow = {"width": 0.25} if name.endswith("googlenet") else {"fc_width": 8, "width": 0.125}
        return scramble(create_model(name, 3, **{**narrow, **options}))
    return make


@pytest.fixture(scope="session")
def sample_records(tmp_path_factory):
    """Folder of a tiny sample set: `records/` with 12 training and 3 validation records, `source/` with the files."""
    from mindfcn.config import PrepareConfig
    from mindfcn.engine.prepare import prepare
    folder = tmp_path_factory.mktemp("sample")
    result = prepare(PrepareConfig(records=str(folder / "records"), root=str(folder / "source"), samples=15, size=64))
    assert (result.train.written, result.val.written) == (12, 3)
    return folder
