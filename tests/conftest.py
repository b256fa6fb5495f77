"""Fixtures for every test: where the outside files are, and a seeded start."""

import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("SG3FLOW_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of expected numbers from an independent implementation."""
    folder = _SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("no folder of golden numbers beside the project (set SG3FLOW_SHARED)")
    return folder


@pytest.fixture(scope="session")
def afhq_sample() -> Path:
    """A zip of 43 real AFHQ photos in the layout of AFHQ v1."""
    path = _SHARED / "afhq" / "afhq-sample.zip"
    if not path.is_file():
        pytest.skip("no AFHQ sample beside the project (set SG3FLOW_SHARED)")
    return path
