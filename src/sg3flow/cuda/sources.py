"""What the CUDA library is built from: its files, nvcc's options, and for which GPUs.

`.cu` files need nvcc alone; `binding.cpp` needs torch's headers and an ordinary C++ compiler.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from sg3flow.errors import ConfigError

FOLDER = Path(__file__).parent
OLDEST_TOOLKIT = (12, 6)  # that of the oldest torch
_PROBE_SEC = 10

# compute capability -> the first toolkit that compiles for it; CUDA 13 dropped what is older
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


def kernel_files() -> list[Path]:
    """The `.cu` files, each a compilation of its own."""
    return sorted(FOLDER.glob("*.cu"))


def binding_file() -> Path:
    """The file that registers the kernels with torch."""
    return FOLDER / "binding.cpp"


def all_files() -> list[Path]:
    """Everything that the library depends on: what a build is named after."""
    suffixes = {".cu", ".cuh", ".h", ".cpp"}
    return sorted(path for path in FOLDER.iterdir() if path.suffix in suffixes)


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
    """The toolkit's own folder, which holds `include`; nvcc may be a link or a wrapper script."""
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
        said = "it does not answer" if isinstance(error, subprocess.TimeoutExpired) else error
        raise ConfigError(f"{nvcc} does not run ({said}); install the CUDA toolkit again") from None
    return done.stdout + done.stderr


def known_architectures(toolkit: tuple[int, int]) -> list[Capability]:
    """The capabilities, of those that the project compiles for, that a toolkit knows."""
    return [arch for arch, since in _ARCHITECTURES.items() if since <= toolkit]


def architecture_options(
    toolkit: tuple[int, int], visible: Iterable[Capability] | None = None
) -> list[str]:
    """nvcc's options for the machine code of the `visible` GPUs; None for every known one.

    Machine code runs on later GPUs of the same major version. A GPU of a newer major version than
    the toolkit knows gets portable code (PTX), which its driver compiles at the first use.

    Raises:
        ConfigError: a GPU is older than any that the kernels are compiled for.
    """
    known = known_architectures(toolkit)
    if visible is None:
        return [*map(_machine_code, known), _portable_code(known[-1])]
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
    return _portable_code(older[-1])


def _machine_code(arch: Capability) -> str:
    name = f"{arch[0]}{arch[1]}"
    return f"-gencode=arch=compute_{name},code=sm_{name}"


def _portable_code(arch: Capability) -> str:
    name = f"{arch[0]}{arch[1]}"
    return f"-gencode=arch=compute_{name},code=compute_{name}"


def nvcc_options(architectures: list[str], optimize: int = 3, strict: bool = False) -> list[str]:
    """The options of one `nvcc -c`, position-independent.

    Args:
        strict: warnings are errors. Not on users' machines: later compilers warn of more.
    """
    host = "-fPIC,-Wall,-Wextra,-Werror" if strict else "-fPIC"
    warnings = ["--Werror=all-warnings"] if strict else []
    options = ["-std=c++17", f"-O{optimize}", *architectures, *warnings]
    return [*options, f"--compiler-options={host}"]
