"""The CUDA sources compile, on any machine with nvcc: no GPU is needed for that."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from sg3flow.cuda import sources


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc in PATH: install the CUDA toolkit to compile the GPU kernels")
    return found


@pytest.mark.parametrize("source", sources.kernel_files(), ids=lambda path: path.name)
def test_kernels_compile_without_warnings(nvcc, source, tmp_path):
    version = sources.toolkit_version(nvcc)
    options = sources.nvcc_options(sources.architecture_options(version, [(8, 0)]), optimize=1)
    options += ["-Xcicc=-O1", "-Xptxas=-O1"]  # twice as quick; the warnings are the same
    command = [nvcc, *options, "-c", str(source), "-o", str(tmp_path / "kernel.o")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr


def test_the_binding_compiles_against_torch(nvcc, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    torch_headers = Path(torch.__file__).parent / "include"
    generated = torch_headers / "c10/cuda/impl/cuda_cmake_macros.h"
    if not generated.exists():  # torch for CPUs has every header of the CUDA one but this
        stand_in = tmp_path / "c10/cuda/impl/cuda_cmake_macros.h"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text("#pragma once\n")
    folders = [tmp_path, torch_headers, torch_headers / "torch/csrc/api/include"]
    folders += [sources.toolkit_folder(nvcc) / "include", sysconfig.get_path("include")]
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command += [part for folder in folders for part in ("-isystem", str(folder))]
    built = subprocess.run(
        [*command, str(sources.binding_file())], capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
