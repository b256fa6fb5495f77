"""Where NVRTC and CUDA's headers are installed: by pip, conda, a CUDA toolkit or the system.

Nothing is loaded or imported here. This module needs nothing but the standard library.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

HEADER = "cuda_fp16.h"  # it and its like are in pip's package of the CUDA runtime
NEWEST_MAJOR = 13
_MAJORS = (NEWEST_MAJOR, 12)
_LIBRARY = "libnvrtc.so"
_TOOLKITS = Path("/usr/local")  # the installer's default


def find_libraries(cuda_major: int | None) -> list[str]:
    """Files to try, the best first; the names without a folder are left to the system's loader."""
    found = [str(path) for folder in _library_folders() for path in _libraries_in(folder)]
    found += [f"{_LIBRARY}.{major}" for major in _MAJORS]

    def distance(file: str) -> int:
        """0 for the wanted release, 1 and up for older ones, then newer ones."""
        behind = (cuda_major or 0) - _major_of(file)
        return behind if behind >= 0 else 100 - behind

    unique = list(dict.fromkeys(found))
    return unique if cuda_major is None else sorted(unique, key=distance)


def _libraries_in(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.glob(f"{_LIBRARY}.*"), key=lambda path: len(path.name))
    return []


def _major_of(file: str) -> int:
    found = re.search(r"\.so\.(\d+)", file)
    return int(found[1]) if found else 0


def _library_folders() -> Iterator[Path]:
    for package in _package_folders("nvidia"):
        yield from sorted(package.glob("*/lib"))
    for package in _package_folders("torch"):
        yield package / "lib"
    yield Path(sys.prefix) / "lib"
    for toolkit in _toolkit_folders():
        yield toolkit / "lib64"
        yield toolkit / "lib"


def _package_folders(name: str) -> list[Path]:
    """The folders of a package, which is not imported."""
    spec = None
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _toolkit_folders() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := os.environ.get(variable):
            yield Path(named)
    yield _TOOLKITS / "cuda"
    with suppress(OSError):
        yield from sorted(_TOOLKITS.glob("cuda-*"), reverse=True)


def fitting_header_folders(library: Path) -> Iterator[Path]:
    """Where a library's own headers may be: beside it."""
    home = library.parent.parent
    yield home / "include"
    yield home.parent / "cuda_runtime" / "include"  # pip's packages of CUDA 12
    yield from sorted(home.glob("targets/*-linux/include"))  # conda


def other_header_folders() -> Iterator[Path]:
    """Where headers of any CUDA release may be."""
    for package in _package_folders("nvidia"):
        yield from sorted(package.glob("*/include"))
    for toolkit in _toolkit_folders():
        yield toolkit / "include"
    yield Path("/usr/include")
