"""The CUDA sources compile, on any machine with nvcc: no GPU is needed for that."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels import build_plan
from sg3flow.kernels.build_plan import make_build_plan

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc in PATH: install the CUDA toolkit to compile the GPU kernels")
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.mark.parametrize("source", build_plan.cuda_kernel_files(), ids=lambda path: path.name)
def test_kernels_compile_without_warnings(nvcc, compiled, source, objects):
    version = build_plan.toolkit_version(nvcc)
    options = build_plan.nvcc_options(
        build_plan.architecture_options(version, [(8, 0)]), optimize=1, strict=True
    )
    options += ["-Xcicc=-O1", "-Xptxas=-O1"]  # twice as quick; the warnings are the same
    said = compiled([nvcc, *options, "-c", str(source)], objects / f"{source.stem}.o")
    assert not said, said


@pytest.fixture
def plan(nvcc):
    try:
        return make_build_plan("cuda")
    except ConfigError as error:
        pytest.skip(f"no build plan here: {error}")


def test_the_library_links_and_returns_errors(plan, objects, c_structures):
    """Linked as in the build plan, without torch's CUDA libraries; nothing is launched."""
    parts = [objects / f"{source.stem}.o" for source in build_plan.cuda_kernel_files()]
    if not all(part.exists() for part in parts):
        pytest.skip("the kernels were not compiled in this run")
    path = objects / "kernels.so"
    libraries = [part for part in plan.link[2:] if part not in ("-lc10_cuda", "-ltorch_cuda")]
    command = [*plan.link[:2], *map(str, parts), *libraries, "-Wl,-z,defs", "-o", str(path)]
    linked = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert linked.returncode == 0, linked.stderr
    library = ctypes.CDLL(str(path))
    library.sg3_error_words.restype = ctypes.c_char_p
    library.sg3_filtered_lrelu_workspace.restype = ctypes.c_size_t
    assert library.sg3_error_words(1) == b"invalid argument"
    empty, unknown = c_structures.BiasAct(count=0), c_structures.BiasAct(count=1, type=9)
    assert library.sg3_bias_act(ctypes.byref(empty), None) == 0
    assert library.sg3_bias_act(ctypes.byref(unknown), None) == 1
    odd = c_structures.FilteredLRelu(planes=5, mid_w=10, mid_h=20, up_x=1, down_x=2, type=2)
    assert library.sg3_filtered_lrelu(ctypes.byref(odd), None) == 0  # no outputs
    assert library.sg3_filtered_lrelu_workspace(ctypes.byref(odd)) == 5 * 10 * 20 * 4


def test_the_binding_compiles_against_torch(plan, tmp_path):
    """With the command of the build plan; a torch without CUDA allows a syntax check only."""
    generated = Path(torch.__file__).parent / "include/c10/cuda/impl/cuda_cmake_macros.h"
    if not generated.exists():  # torch for CPUs has every header of the CUDA one but this
        stand_in = tmp_path / "c10/cuda/impl/cuda_cmake_macros.h"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text("#pragma once\n")
    command = [*plan.objects["binding"], "-isystem", str(tmp_path)]
    command += ["-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
