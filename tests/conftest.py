"""Fixtures for every test: where the outside files are, and a seeded start."""

import os
from pathlib import Path

import pytest

from sg3flow.downloads import cache_folder
from sg3flow.errors import ConfigError

# Tests give themselves empty caches; the kernels are built once for all of them.
os.environ.setdefault("SG3FLOW_KERNELS", str(cache_folder() / "kernels"))

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


@pytest.fixture(params=["torch", "cpu"])
def each_backend(request, monkeypatch) -> str:
    """Runs a test in plain PyTorch, and with the compiled kernels for what they serve: float32."""
    if request.param == "cpu":
        from sg3flow.kernels.loader import load_kernels

        try:
            load_kernels("cpu")
        except ConfigError as error:
            pytest.skip(f"no CPU kernels: {error}")
    monkeypatch.setenv("SG3FLOW_OPS", request.param)
    return str(request.param)
