"""The tests of the ops, with kernels that watch every byte they touch (AddressSanitizer)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WATCHED = '#!/bin/sh\nexec "{compiler}" "$@" -O1 -fsanitize=address,undefined {strict}\n'
STRICT = "-fno-sanitize-recover=all -fno-omit-frame-pointer"


@pytest.fixture(scope="module")
def watched(library, tmp_path_factory) -> dict[str, str]:
    """The environment in which kernels are built and loaded so."""
    folder = tmp_path_factory.mktemp("watched")
    compiler = os.environ.get("CXX", "c++")
    asked = (compiler, "-print-file-name=libasan.so")
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(runtime).is_file():
        pytest.skip(f"{compiler} has no AddressSanitizer")
    script = folder / "c++"
    script.write_text(WATCHED.format(compiler=compiler, strict=STRICT))
    script.chmod(0o755)
    return os.environ | {
        "CXX": str(script),
        "SG3FLOW_KERNELS": str(folder / "kernels"),
        "SG3FLOW_OPS": "cpu",
        "LD_PRELOAD": runtime,
        # the interpreter keeps what it has until its end
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
    }


@pytest.mark.parametrize("instructions", ["default", "avx2", "avx512"])
def test_no_byte_outside_is_touched(watched, instructions):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/ops", "--deselect", "tests/ops/test_backend.py"],
        cwd=ROOT,
        env=watched | {"ATEN_CPU_CAPABILITY": instructions},
        capture_output=True,
        text=True,
        check=False,
    )
    fault = done.stderr.find("ERROR: AddressSanitizer")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[max(fault, 0) :][:4000]
    assert " passed" in done.stdout
