"""The tiles on the tensor cores access no byte outside their tensors.

The kernels' functions run in a separate process, built with the address sanitizer; the memory
before and after every tensor is poisoned.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sg3flow.kernels.cuda_compile import SOURCES

pytestmark = pytest.mark.medium

HERE = Path(__file__).parent
PROGRAM = """
import ctypes, sys
import torch
from conftest import LAYERS, HostKernels, make_layer
from test_host_tiles import pulled

poison = ctypes.CDLL(None).__asan_poison_memory_region
poison.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
BESIDE = 64  # bytes


def lone(tensor):
    # 8 bytes into a word of 16: that is where the sanitizer lets memory begin
    size = tensor.numel() * tensor.element_size()
    memory = torch.zeros(size + 2 * BESIDE, dtype=torch.uint8)
    begin = BESIDE + (8 - memory.data_ptr() - BESIDE) % 16
    copy = memory[begin : begin + size]
    copy.copy_(tensor.contiguous().flatten().view(torch.uint8))
    poison(memory.data_ptr(), begin)
    poison(memory.data_ptr() + begin + size, 2 * BESIDE - begin)
    return copy.view(tensor.dtype).view(tensor.shape)


class Lone(HostKernels):
    def place(self, tensor):
        return lone(tensor)


kernels = Lone(ctypes.CDLL(sys.argv[1]))
for kind in LAYERS:
    for size in ((25, 38), (25, 31)):
        x, fu, fd, b, options = make_layer(kind, size, torch.float16, planes=(1, 5))
        run = {"flip": False, "gain": 1.3, "slope": 0.2, "tiles": "bands"}
        y, flags = kernels.filtered_lrelu(lone(x), fu, fd, b, clamp=4.0, **options, **run)
        dx = pulled(kernels, x, flags, y, y, fu, fd, options, **run)
        assert not (y.isnan().any() or dx.isnan().any())
print("right")
"""


@pytest.fixture(scope="module")
def sanitizer(address_sanitizer) -> str:
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs g++ and its address sanitizer")
    return address_sanitizer(compiler)


def test_nothing_beside_the_tensors_is_touched(sanitizer, compiled, tmp_path):
    library = tmp_path / "checked.so"
    flags = ["-std=c++17", "-O1", "-fsanitize=address", "-shared", "-fPIC", f"-I{SOURCES}"]
    said = compiled(["g++", *flags, str(HERE / "host_build.cpp")], library)
    assert not said, said
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library)],
        cwd=HERE,
        env=os.environ | {"LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "right\n", (done.returncode, done.stderr[-3000:])
