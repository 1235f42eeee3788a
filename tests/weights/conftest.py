"""Fixtures of the tests on weights."""

import pytest
from caffe_files import Caffe


@pytest.fixture(scope="session")
def caffe():
    """The encoder."""
    return Caffe()
