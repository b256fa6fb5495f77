"""Every CUDA kernel compiles without a warning, and takes what the tables say.

The default suite checks the front end for all architectures and the machine code of half-precision
training on one; `slow` tests compile everything.
"""

import ctypes
import re

import pytest
import torch
from cubin import architecture, kernels_of
from kernel_resources import ARCHITECTURES, SPREAD, programs_of, read_table, table_of

from sg3flow.errors import ConfigError
from sg3flow.kernels.nvrtc import Nvrtc, find_nvrtc
from sg3flow.ops.cuda_programs import FAMILIES, band_kernel, band_program
from sg3flow.ops.cuda_structs import FilteredLrelu, TileGrid
from sg3flow.ops.cuda_tiles import KINDS

_SHARED = 48 * 1024  # bytes that a kernel has without asking for more
_RESERVED = 1024  # by the system, from compute capability 9.0 on
_REGISTERS = 64 * 1024  # of a multiprocessor


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    try:
        return find_nvrtc()
    except ConfigError as error:
        pytest.skip(str(error))


def headers(nvrtc, tmp_path):
    return f"-I{nvrtc.headers_folder(tmp_path)}"


@pytest.mark.medium
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_the_front_end_has_no_warning(nvrtc, tmp_path, sm):
    """All programs; the machine code, which takes twenty times as long, is for the slow tests."""
    options = [f"--gpu-architecture=compute_{sm}", "--fdevice-syntax-only", "-std=c++17"]
    options += ["-default-device", headers(nvrtc, tmp_path)]
    for program in programs_of(sm):
        texts = (program.text(), program.source, program.headers())
        made = nvrtc.compile(*texts, program.kernels, options)
        assert made.log == "" and len(made.names) == len(program.kernels), program.name


def compare(nvrtc, sm, programs):
    found, rows = table_of(programs, sm, nvrtc)
    version, table = read_table(sm)
    if version != found:
        pytest.skip(f"the tables are of NVRTC {version}, this is {found}")
    noted = {kernel: numbers for kernel, *numbers in map(split, table)}
    for kernel, *numbers in map(split, rows):
        check_limits(sm, kernel, numbers)
        for found, wanted, spread in zip(numbers, noted[kernel], SPREAD.values(), strict=True):
            assert abs(found - wanted) <= spread, (kernel, numbers, noted[kernel])


def split(row):
    kernel, *numbers = row.split("\t")
    return kernel, *map(int, numbers)


def check_limits(sm, kernel, numbers):
    """What the kernels are built on: see docs/cuda-kernels.md."""
    registers, stack, stores, loads, shared, threads = numbers
    assert shared <= _SHARED + (_RESERVED if sm >= 90 else 0), kernel
    assert (stack == 0) == (stores == loads == 0), kernel
    assert stack <= 16 * 4, kernel  # 16 registers
    if kernel.startswith("band_kernel"):  # band_shape.h: RESIDENT
        blocks = 2 if "true, 4, 24" in kernel else 3
        assert blocks * threads * -(-registers // 8) * 8 <= _REGISTERS, kernel
    if kernel.startswith("tile_kernel"):
        assert stack == 0, kernel


@pytest.mark.medium
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_training_takes_what_the_table_says(nvrtc, family):
    """T needs the separable kinds, R both."""
    compare(nvrtc, 90, [band_program(family, torch.float16)])


@pytest.mark.slow
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_every_kernel_takes_what_the_table_says(nvrtc, sm):
    compare(nvrtc, sm, programs_of(sm))


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_the_tables_hold_what_the_kernels_are_built_on(sm):
    _, table = read_table(sm)
    rows = list(map(split, table))
    kernels = [kernel.replace("sg3::", "") for p in programs_of(sm) for kernel in p.kernels]
    assert [row[0] for row in rows] == sorted(kernels)
    for kernel, *numbers in rows:
        check_limits(sm, kernel, numbers)


@pytest.mark.medium
def test_cubins_are_read_as_ptxas_says(nvrtc, tmp_path):
    """Of a kernel that spills: the figures of the assembler's own report."""
    kind = next(kind for kind in KINDS if kind.up_radial)
    kernel = band_kernel(kind, torch.float16, "READ_FLAGS")
    program = band_program("radial", torch.float16)
    texts = (program.text(), program.source, program.headers())
    options = ["--gpu-architecture=sm_80", "-std=c++17", "-default-device"]
    options += [headers(nvrtc, tmp_path), "--ptxas-options=-v"]
    made = nvrtc.compile(*texts, [kernel], options)
    (found,) = kernels_of(made.code)
    assert architecture(made.code) == 80 and found.name == made.names[kernel]
    report = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*Used (\d+) registers.* (\d+) bytes smem",
        made.log,
        re.DOTALL,
    )
    stack, stored, filled, registers, shared = map(int, report.groups())
    assert (found.stack, found.registers, found.shared) == (stack, registers, shared)
    # an instruction moves 4 to 16 bytes
    assert found.stores <= stored / 4 <= 4 * found.stores
    assert found.loads <= filled / 4 <= 4 * found.loads
    structures = tuple(map(ctypes.sizeof, (FilteredLrelu, TileGrid)))
    assert found.parameters == structures and found.threads == 256
