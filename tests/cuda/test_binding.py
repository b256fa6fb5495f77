"""The binding, with all of its checks and arithmetic, on a machine without a GPU.

It is compiled unchanged for CPU tensors: two fake headers replace those of a CUDA torch for devices
and streams, and the launch interface runs the kernels' functions, one thread after the other. Then
the GPU tests in `test_gpu_ops.py` run on it, in a separate process.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sg3flow.kernels.build_plan import CUDA_FOLDER

pytestmark = pytest.mark.medium

HERE = Path(__file__).parent
# What they all take from a GPU, or too long: streams, bfloat16, large tensors.
TESTS = (
    "half_precision and size0 and dtype0 and not odd",
    "any_kind and not gradcheck and (identity or padded or t-up4)",
    "upfirdn2d and (dtype0 or dtype1)",
    "bias_act and not dtype3",
    "views or empty",
    "begin_anywhere and dtype0",
)


@pytest.fixture(scope="session")
def binding(tmp_path_factory, compiled) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build the binding for the host")
    folder = tmp_path_factory.mktemp("binding")
    torch_folder = Path(torch.__file__).parent
    headers = [HERE / "stand_ins", torch_folder / "include"]
    headers.append(torch_folder / "include/torch/csrc/api/include")
    flags = ["-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{CUDA_FOLDER}"]
    flags += [part for path in headers for part in ("-isystem", str(path))]
    # the arithmetic is worth optimizing, the checks are not
    for source, level in (("host_binding", "-O0"), ("host_launch", "-O1")):
        command = [compiler, level, *flags, "-c", str(HERE / f"{source}.cpp")]
        require(compiled(command, folder / f"{source}.o"))
    libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"]
    objects = [str(path) for path in folder.glob("*.o")]
    command = [compiler, "-shared", *objects, *libraries, "-o", str(folder / "kernels.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "kernels.so"


def require(said: str) -> None:
    if "has no member named" in said or "_Float16" in said:
        pytest.skip("the C++ compiler has no 16-bit floats")
    assert not said, said


def test_the_tests_of_a_gpu_pass_on_the_host(binding):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", "-p", "no:cacheprovider"]
    command += [str(HERE / "test_gpu_ops.py"), "-k", " or ".join(f"({t})" for t in TESTS)]
    settings = {"SG3FLOW_TEST_BINDING": str(binding)}
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


CHECKS = """
import math, sys, torch
from sg3flow.ops import op_registration as library
from sg3flow.ops.backend import TOLERANCES, largest_error
torch.ops.load_library(sys.argv[1])
for dtype in (torch.float32, torch.float16):
    assert largest_error("cpu", dtype) <= TOLERANCES[dtype], dtype
ops, x, f = torch.ops.sg3flow, torch.ones(1, 2, 8, 8), torch.ones(12) / 12
rates = ((2, 2), (2, 2), (9, 8, 9, 8), False, 1.0)
lrelu = (*rates[:4], 1.0, 0.2, -1.0, True)
wrong = [
    (ops.upfirdn2d, (x[0], f, *rates), "images must be"),
    (ops.upfirdn2d, (x.transpose(2, 3), f, *rates), "must be contiguous"),
    (ops.upfirdn2d, (x.int(), f, *rates), "float16, bfloat16"),
    (ops.upfirdn2d, (x, f.double(), *rates), "filters must be float32"),
    (ops.upfirdn2d, (x, f, (0, 1), *rates[1:]), "rates go from 1"),
    (ops.upfirdn2d, (x, f, (1, 1), (1, 1), (0, 0, 0, 0), False, 1.0), "smaller than the filter"),
    (ops.upfirdn2d, (x, f, (1, 1), (1, 1), (2**40, 0, 0, 0), False, 1.0), "beyond what"),
    (ops.bias_act, (x, f, 0.2, 1.0, -1.0), "one value for each channel"),
    (ops.bias_act, (x, f[:2].half(), 0.2, 1.0, -1.0), "the bias must be"),
    (ops.bias_act_grad, (x, x[:, :1].contiguous(), 0.2, 1.0, -1.0), "gradient must be like y"),
    (ops.filtered_lrelu, (x.bfloat16(), f, f, None, *lrelu), "could not run: no such type"),
    (ops.filtered_lrelu, (x, f, f, f, *lrelu), "one value for each channel"),
    (
        ops.filtered_lrelu_flagged,
        (x, torch.zeros(1, 2, 4, 4).byte(), f, f, *rates[:3], (0, 0), 99, False, 1.0, 0.2),
        "do not hold",
    ),
]
for op, arguments, message in wrong:
    try:
        op(*arguments)
    except RuntimeError as error:
        assert message in str(error), (message, str(error))
    else:
        raise AssertionError(message)
empty = ops.filtered_lrelu(x[:0], f, f, None, *lrelu)
assert empty[0].shape == (0, 2, 6, 6) and empty[1].numel() == 0
assert ops.bias_act(x[:, :0], None, 0.2, 1.0, -1.0).numel() == 0
print("right")
"""


def test_the_self_check_passes_and_errors_have_messages(binding):
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, str(binding)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "right\n", done.stderr[-3000:]
