"""The tests of the ops with kernels under AddressSanitizer, which checks their memory accesses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WATCHED = '#!/bin/sh\nexec "{compiler}" "$@" -O1 -fsanitize=address,undefined {strict}\n'
STRICT = "-fno-sanitize-recover=all -fno-omit-frame-pointer"
BUILD = "from sg3flow.ops.backend import load_kernels; load_kernels('cpu')"
# processes of their own, and torch's compiler, are too long under a sanitizer
LEFT_OUT = "not backend and not instruction_set and not compile and not graph"


def run(arguments: list[str], environment: dict[str, str]) -> str:
    """The output of a process; a memory fault ends it."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    fault = done.stderr.find("ERROR: AddressSanitizer")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[max(fault, 0) :][:4000]
    return done.stdout


@pytest.fixture(scope="module")
def watched(library, address_sanitizer, tmp_path_factory) -> dict[str, str]:
    """The environment in which kernels are built and loaded with it; they are built already."""
    folder = tmp_path_factory.mktemp("watched")
    compiler = os.environ.get("CXX", "c++")
    preload = address_sanitizer(compiler)
    script = folder / "c++"
    script.write_text(WATCHED.format(compiler=compiler, strict=STRICT))
    script.chmod(0o755)
    environment = os.environ | {
        "CXX": str(script),
        "SG3FLOW_KERNELS": str(folder / "kernels"),
        "SG3FLOW_OPS": "cpu",
        "LD_PRELOAD": preload,
        # the interpreter keeps what it has until its end
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
    }
    run(["-c", BUILD], environment)
    return environment


@pytest.mark.parametrize(
    ("instructions", "flag"), [("default", ""), ("avx2", "avx2"), ("avx512", "avx512f")]
)
def test_no_byte_outside_is_touched(watched, instructions, flag):
    if flag not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this machine has no {instructions}")
    tests = ["tests/ops", "tests/kernels/test_library.py", "-k", LEFT_OUT]
    options = ["-q", "-x", "-s", "-p", "no:cacheprovider"]
    printed = run(
        ["-m", "pytest", *options, *tests], watched | {"ATEN_CPU_CAPABILITY": instructions}
    )
    assert " passed" in printed and "no CPU kernels" not in printed
