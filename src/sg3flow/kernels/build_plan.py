"""The build plan of the library of CPU kernels: its sources and compiler commands.

A build plan is data; ``build`` runs it. Only ``binding.cpp`` includes the headers of torch: they
take longer to compile than all other sources.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3flow.errors import ConfigError

CPU_FOLDER = Path(__file__).parents[1] / "cpu"
_PROBE_SEC = 10
_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wno-psabi")
# Allows branches to become selections and sqrt not to set errno.
_KERNEL_FLAGS = ("-fno-math-errno", "-fno-trapping-math")
_CPU_SOURCES = (
    "convolution",
    "convolution_taps",
    "matrix_product",
    "pointwise",
    "resampling",
    "table",
    "weight_gradient",
)
_X86 = {
    "avx2": ("-mavx2", "-mfma", "-mbmi2"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mbmi2"),
        "-mprefer-vector-width=512",
    ),
}


@dataclass(frozen=True)
class BuildPlan:
    """How to build the library.

    Attributes:
        files: every file that the library depends on.
        objects: object file name -> the command that compiles it, without the output.
        link: the command that links the library, without objects and output.
        compilers: version lines of the compilers.
        expected_sec: approximate build time on two cores.
    """

    files: tuple[Path, ...]
    objects: dict[str, tuple[str, ...]]
    link: tuple[str, ...]
    compilers: tuple[str, ...]
    expected_sec: int


def kernel_files() -> tuple[Path, ...]:
    """Every file that the library depends on; this runs no compiler."""
    found = (path for path in sorted(CPU_FOLDER.iterdir()) if path.suffix in (".cpp", ".h"))
    return (*found, Path(__file__))


def make_build_plan() -> BuildPlan:
    """The build plan of the library.

    Raises:
        ConfigError: a compiler is missing or does not answer; the message says what to install.
    """
    compiler, version = _cxx()
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    base = (compiler, *_FLAGS, *_abi(), *(("-DSG3FLOW_X86",) if is_x86 else ()))
    objects = {"binding": (*base, *_torch_headers(), "-c", str(CPU_FOLDER / "binding.cpp"))}
    # Portable objects first: when several objects contain a template of the C++ library, the linker
    # keeps the first, and that must not use instructions that some machines lack.
    for isa, flags in ({"portable": ()} | (_X86 if is_x86 else {})).items():
        for source in _CPU_SOURCES:
            kernel = (*base, *_KERNEL_FLAGS, *flags, f"-DSG3FLOW_ISA={isa}")
            objects[f"{source}-{isa}"] = (*kernel, "-c", str(CPU_FOLDER / f"{source}.cpp"))
    link = (compiler, "-shared", *_torch_libraries("torch_cpu", "c10"))
    return BuildPlan(kernel_files(), objects, link, (version,), 30)


def _cxx() -> tuple[str, str]:
    """The C++ compiler (``CXX``, or ``c++``) and its version line."""
    wanted = os.environ.get("CXX", "c++")
    found = shutil.which(wanted)
    if found is None:
        raise ConfigError(
            f"no C++ compiler '{wanted}' found; install one (Debian and Ubuntu: "
            "apt install g++; Fedora: dnf install gcc-c++; conda: gxx) or name it in CXX"
        )
    try:
        done = subprocess.run(
            [found, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SEC,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise ConfigError(
            f"the C++ compiler {found} does not run or does not answer; install g++ again, or name "
            "another compiler in CXX"
        ) from None
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise ConfigError(
            f"the C++ compiler {found} --version failed (exit {done.returncode}); install "
            "g++ again, or name another compiler in CXX"
        )
    return found, lines[0]


def _abi() -> tuple[str, ...]:
    """The ABI of std::string in torch; a library with another one does not load."""
    return (f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",)


def _torch_headers() -> tuple[str, ...]:
    from torch.utils.cpp_extension import include_paths

    return tuple(part for path in include_paths() for part in ("-isystem", path))


def _torch_libraries(*names: str) -> tuple[str, ...]:
    from torch.utils.cpp_extension import library_paths

    folders = library_paths()
    paths = (*(f"-L{folder}" for folder in folders), *(f"-Wl,-rpath,{f}" for f in folders))
    return (*paths, *(f"-l{name}" for name in names))
