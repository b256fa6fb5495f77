"""Build plans: the sources, compiler commands and toolkit of each library of kernels.

A build plan is data; ``build`` runs it. Only ``binding.cpp`` includes the headers of torch: they
take longer to compile than all other sources.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3flow.errors import ConfigError

CPU_FOLDER = Path(__file__).parents[1] / "cpu"
CUDA_FOLDER = CPU_FOLDER.with_name("cuda")
_PROBE_SEC = 10
_INSTALLED = "/usr/local/cuda"  # the installer's default, with a link to one of several releases
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
    """How to build one library.

    Attributes:
        name: ``cpu`` or ``cuda``.
        files: every file that the library depends on.
        objects: object file name -> the command that compiles it, without the output.
        link: the command that links the library, without objects and output.
        compilers: version lines of the compilers.
        expected_sec: approximate build time on two cores.
    """

    name: str
    files: tuple[Path, ...]
    objects: dict[str, tuple[str, ...]]
    link: tuple[str, ...]
    compilers: tuple[str, ...]
    expected_sec: int


def make_build_plan(name: str) -> BuildPlan:
    """The build plan for ``cpu`` or ``cuda``.

    Raises:
        ConfigError: a compiler is missing or does not answer; the message says what to install.
    """
    return _cuda_plan() if name == "cuda" else _cpu_plan()


def kernel_files(name: str) -> tuple[Path, ...]:
    """Every file that the library ``cpu`` or ``cuda`` depends on; this runs no compiler."""
    folder = CPU_FOLDER.with_name(name)
    suffixes = {".cpp", ".h", ".cu", ".cuh", ".py"}
    found = (path for path in sorted(folder.iterdir()) if path.suffix in suffixes)
    return (*found, Path(__file__))


def _cpu_plan() -> BuildPlan:
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
    return BuildPlan("cpu", kernel_files("cpu"), objects, link, (version,), 30)


def _cuda_plan() -> BuildPlan:
    nvcc, toolkit = find_nvcc(torch.version.cuda)
    compiler, version = _cxx()
    count = torch.cuda.device_count()
    visible = [torch.cuda.get_device_capability(i) for i in range(count)] if count else None
    options = nvcc_options(architecture_options(toolkit, visible))
    # The same C++ compiler for both: nvcc's default may be newer than nvcc supports.
    base = (str(nvcc), f"-ccbin={compiler}", *options)
    objects = {path.stem: (*base, "-c", str(path)) for path in cuda_kernel_files()}
    home = toolkit_folder(nvcc)
    headers = ("-isystem", str(home / "include"), *_torch_headers())
    objects["binding"] = (compiler, *_FLAGS, *_abi(), *headers, "-c", str(binding_file()))
    libraries = _torch_libraries("c10", "c10_cuda", "torch_cpu", "torch_cuda")
    link = (compiler, "-shared", *libraries, *_cuda_runtime(home))
    named = (version, f"nvcc {toolkit[0]}.{toolkit[1]}")
    return BuildPlan("cuda", kernel_files("cuda"), objects, link, named, 180)


def _cuda_runtime(home: Path) -> tuple[str, ...]:
    """Link options for the CUDA runtime of the toolkit, the static one if it exists.

    A static runtime needs no search when the library is loaded. Its version may differ from that of
    torch: streams, devices and memory belong to the driver, which both share.
    """
    folders = [home / "lib64", home / "lib", home / "targets" / f"{platform.machine()}-linux/lib"]
    for folder in folders:
        if (folder / "libcudart_static.a").is_file():
            return (f"-L{folder}", "-lcudart_static", "-lrt", "-ldl", "-lpthread")
    there = [folder for folder in folders if folder.is_dir()]
    return (*(f"-L{f}" for f in there), *(f"-Wl,-rpath,{f}" for f in there), "-lcudart")


def find_nvcc(torch_cuda: str | None) -> tuple[Path, tuple[int, int]]:
    """nvcc and its CUDA release: the first one that fits a torch built for `torch_cuda`.

    Searches CUDA_HOME, CUDA_PATH, PATH and the default folders of the installer.

    Args:
        torch_cuda: like ``12.8``; None (torch without CUDA): any release fits.

    Raises:
        ConfigError: none is found, or none fits; the message says what to install.
    """

    wanted = "" if torch_cuda is None else f" {torch_cuda}"
    refused: list[ConfigError] = []
    for nvcc in _nvcc_candidates(torch_cuda):
        try:
            toolkit = toolkit_version(nvcc)
        except ConfigError as error:
            refused.append(error)
            continue
        if torch_cuda is None or toolkit[0] == int(torch_cuda.split(".")[0]):
            return nvcc, toolkit
        found = f"{toolkit[0]}.{toolkit[1]}"
        refused.append(ConfigError(f"{nvcc} is CUDA {found}, this torch is for {torch_cuda}"))
    if refused:
        raise ConfigError(
            f"{refused[0]}; install the CUDA toolkit{wanted}, or name it in CUDA_HOME"
        )
    raise ConfigError(
        f"no nvcc is on PATH or in CUDA_HOME; install the CUDA toolkit{wanted} "
        "(https://developer.nvidia.com/cuda-downloads, or conda: cuda-toolkit)"
    )


def _nvcc_candidates(torch_cuda: str | None) -> list[Path]:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    usual = [_INSTALLED, *([f"{_INSTALLED}-{torch_cuda}"] if torch_cuda else [])]
    folders = [*(f"{home}/bin" for home in homes if home), None, *(f"{home}/bin" for home in usual)]
    found = [shutil.which("nvcc", path=folder) for folder in folders]
    return list(dict.fromkeys(Path(path) for path in found if path is not None))


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


OLDEST_TOOLKIT = (12, 6)  # of the oldest supported torch

# Compute capability -> the first toolkit that compiles for it; CUDA 13 supports none below.
_ARCHITECTURES = {
    (7, 5): (10, 0),
    (8, 0): (11, 0),
    (8, 6): (11, 1),
    (8, 9): (11, 8),
    (9, 0): (11, 8),
    (10, 0): (12, 8),
    (12, 0): (12, 8),
}

Capability = tuple[int, int]


def cuda_kernel_files() -> list[Path]:
    """The `.cu` files; each is compiled separately."""
    return sorted(CUDA_FOLDER.glob("*.cu"))


def binding_file() -> Path:
    """The file that registers the kernels with torch."""
    return CUDA_FOLDER / "binding.cpp"


def toolkit_version(nvcc: str | Path) -> tuple[int, int]:
    """(major, minor) of a CUDA toolkit.

    Raises:
        ConfigError: nvcc does not answer, or is older than `OLDEST_TOOLKIT`.
    """
    found = re.search(r"release (\d+)\.(\d+)", _answer(nvcc, "--version"))
    if found is None:
        raise ConfigError(f"{nvcc} --version names no CUDA release; install the CUDA toolkit again")
    version = int(found[1]), int(found[2])
    if version < OLDEST_TOOLKIT:
        raise ConfigError(
            f"{nvcc} is CUDA {version[0]}.{version[1]}; the kernels need "
            f"{OLDEST_TOOLKIT[0]}.{OLDEST_TOOLKIT[1]} or newer: update the CUDA toolkit"
        )
    return version


def toolkit_folder(nvcc: str | Path) -> Path:
    """The folder of the toolkit with `include`; nvcc may be a link or a wrapper script."""
    found = re.search(r"^#\$ TOP=(.+)$", _answer(nvcc, "--dryrun", "-x", "cu", "-"), re.MULTILINE)
    if found is None:
        raise ConfigError(f"{nvcc} --dryrun names no toolkit folder; install the toolkit again")
    return Path(found[1].strip()).resolve()


def _answer(nvcc: str | Path, *options: str) -> str:
    try:
        done = subprocess.run(
            [str(nvcc), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SEC,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        is_slow = isinstance(error, subprocess.TimeoutExpired)
        raise ConfigError(
            f"{nvcc} does not run ({'it does not answer' if is_slow else error}); install the CUDA "
            "toolkit again"
        ) from None
    return done.stdout + done.stderr


def known_architectures(toolkit: tuple[int, int]) -> list[Capability]:
    """The compute capabilities for which a toolkit can compile the kernels."""
    return [arch for arch, since in _ARCHITECTURES.items() if since <= toolkit]


def architecture_options(
    toolkit: tuple[int, int], visible: Iterable[Capability] | None = None
) -> list[str]:
    """Options of nvcc for the machine code of the `visible` GPUs; None: of all supported GPUs.

    Machine code runs on later GPUs of the same major version. A GPU with a newer major version than
    the toolkit supports gets PTX, which the driver compiles at the first use.

    Raises:
        ConfigError: a GPU is older than the kernels support.
    """
    known = known_architectures(toolkit)
    if visible is None:
        return [*map(_machine_code, known), _ptx(known[-1])]
    return sorted({_option(capability, known) for capability in visible})


def _option(capability: Capability, known: list[Capability]) -> str:
    alike = [arch for arch in known if arch[0] == capability[0] and arch <= capability]
    if alike:
        return _machine_code(alike[-1])
    older = [arch for arch in known if arch < capability]
    if not older:
        raise ConfigError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels need "
            f"{known[0][0]}.{known[0][1]} or newer: set SG3FLOW_OPS=torch"
        )
    return _ptx(older[-1])


def _machine_code(arch: Capability) -> str:
    name = f"{arch[0]}{arch[1]}"
    return f"-gencode=arch=compute_{name},code=sm_{name}"


def _ptx(arch: Capability) -> str:
    name = f"{arch[0]}{arch[1]}"
    return f"-gencode=arch=compute_{name},code=compute_{name}"


def nvcc_options(architectures: list[str], optimize: int = 3, strict: bool = False) -> list[str]:
    """The options of one `nvcc -c`, position-independent.

    Args:
        strict: warnings are errors; for tests only, as newer compilers have more warnings.
    """
    host = "-fPIC,-Wall,-Wextra,-Werror" if strict else "-fPIC"
    warnings = ["--Werror=all-warnings"] if strict else []
    options = ["-std=c++17", f"-O{optimize}", *architectures, *warnings]
    return [*options, f"--compiler-options={host}"]
