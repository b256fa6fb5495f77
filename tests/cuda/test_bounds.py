"""The fused kernels access no byte outside their tensors and their shared memory.

They run on the host in a separate process, on tensors that begin or end where memory without access
does: what reads or writes beside them ends the process. The address sanitizer sees shared memory,
too; it is slow to build.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in

HERE = Path(__file__).parent
PROGRAM = """
import ctypes, mmap, os, sys
import torch
from conftest import LAYERS, make_layer
from host_kernels import HostKernels
from test_host_tiles import pulled

_library = ctypes.CDLL(None)
protect = _library.mprotect
protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE, held = mmap.PAGESIZE, []


def lone(tensor, at_end):
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    held.append(memory)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    begin = (pages + 1) * PAGE - size if at_end else PAGE
    copy = whole[begin : begin + size]
    copy.copy_(tensor.contiguous().flatten().view(torch.uint8))
    for place in (0, (pages + 1) * PAGE):
        assert protect(whole.data_ptr() + place, PAGE, 0) == 0
    return copy.view(tensor.dtype).view(tensor.shape)


class Lone(HostKernels):
    at_end = False

    def place(self, tensor):
        return lone(tensor, self.at_end)


kernels = Lone(sys.argv[1])
for kind in LAYERS:
    for dtype, tiles in ((torch.float16, "bands"), (torch.float32, "plain")):
        for size in ((25, 38), (25, 31)):
            x, fu, fd, b, options = make_layer(kind, size, dtype, planes=(1, 5))
            run = {"flip": False, "gain": 1.3, "slope": 0.2, "tiles": tiles}
            for kernels.at_end in (False, True):
                x, fu, fd, b = (kernels.place(each) for each in (x, fu, fd, b))
                y, flags = kernels.filtered_lrelu(x, fu, fd, b, clamp=4.0, **options, **run)
                dx = pulled(kernels, x, flags, y, y, fu, fd, options, **run)
                assert not (y.isnan().any() or dx.isnan().any())
x = lone(torch.ones(3), at_end=True)
child = os.fork()  # shows that it would be seen
if child == 0:
    ctypes.string_at(x.data_ptr(), 13)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status)
print("right")
"""


def run(library, **settings):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library)],
        cwd=HERE,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.medium
def test_nothing_beside_the_tensors_is_touched(whole_library):
    done = run(whole_library)
    assert done.stdout == "right\n", (done.returncode, done.stderr[-3000:])


@pytest.mark.slow
def test_nothing_beside_shared_memory_is_touched(address_sanitizer):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs g++ and its address sanitizer")
    preload = address_sanitizer(stand_in.compiler())
    library = stand_in.build(whole=True, sanitize=True)
    done = run(library, LD_PRELOAD=preload, ASAN_OPTIONS="detect_leaks=0:handle_segv=0")
    assert done.stdout == "right\n", (done.returncode, done.stderr[-3000:])
