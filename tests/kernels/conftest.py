"""A fake compiler that can be fast, slow or broken, and processes that use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sg3flow.errors import ConfigError

SCRIPT = """#!/bin/sh
# compiles nothing: objects are empty, and the library is a copy of a real one
if [ "$1" = --version ]; then echo "stand-in 1.0"; exit 0; fi
echo x >> "{folder}/calls"
{behavior}
while [ $# -gt 1 ]; do [ "$1" = -o ] && out="$2"; [ "$1" = -shared ] && link=1; shift; done
if [ "$link" ]; then cp "{library}" "$1"; else : > "$1"; fi
"""
USE = """
import torch
from sg3flow.ops import backend_name, filter2d
y = filter2d(torch.ones(1, 2, 20, 20), torch.ones(3, 3) / 9)
print(backend_name("cpu"), round(float(y[0, 0, 9, 9]), 4))
"""


@pytest.fixture(scope="session")
def library() -> Path:
    """The real library for this machine."""
    from sg3flow.ops.backend import load_kernels

    try:
        return load_kernels("cpu")
    except ConfigError as error:
        pytest.skip(f"no CPU kernels: {error}")


@pytest.fixture
def compiler(tmp_path, library, monkeypatch):
    """Installs a fake compiler with a behavior (shell lines) and an empty kernel cache; the result
    is a function that returns the number of its calls."""

    def install(behavior: str = ""):
        folder = tmp_path / "compiler"
        folder.mkdir(exist_ok=True)
        script = folder / "c++"
        script.write_text(SCRIPT.format(folder=folder, behavior=behavior, library=library))
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        calls = folder / "calls"
        calls.unlink(missing_ok=True)
        return lambda: len(calls.read_text().split()) if calls.exists() else 0

    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "cache"))
    monkeypatch.delenv("SG3FLOW_OPS", raising=False)
    return install


@pytest.fixture
def use_ops():
    """Starts a process that uses an op; it prints the backend and a result that must be 1."""

    def start(*wrapper: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*wrapper, sys.executable, "-W", "error", "-c", USE],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def draw():
    """Seeded normal numbers of a shape."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator)
