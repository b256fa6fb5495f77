"""NVRTC, NVIDIA's compiler as a library: found, bound by ctypes, and asked for machine code.

Every torch wheel for CUDA requires the pip packages of NVRTC and of CUDA's headers, so no toolkit
is needed. Neither torch nor a driver is needed for compiling. This module needs nothing but the
standard library.
"""

import ctypes
import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sg3flow.errors import ConfigError, cut
from sg3flow.kernels.nvrtc_search import (
    HEADER,
    NEWEST_MAJOR,
    find_libraries,
    fitting_header_folders,
    other_header_folders,
)
from sg3flow.settings import NVRTC, OPS

_TEXT, _POINTER = ctypes.c_char_p, ctypes.c_void_p
_TEXTS, _SIZE = ctypes.POINTER(_TEXT), ctypes.POINTER(ctypes.c_size_t)
_PROTOTYPES: dict[str, tuple[object, ...]] = {
    "nvrtcVersion": (ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)),
    "nvrtcGetNumSupportedArchs": (ctypes.POINTER(ctypes.c_int),),
    "nvrtcGetSupportedArchs": (ctypes.POINTER(ctypes.c_int),),
    "nvrtcCreateProgram": (
        *(ctypes.POINTER(_POINTER), _TEXT, _TEXT),
        *(ctypes.c_int, _TEXTS, _TEXTS),
    ),
    "nvrtcDestroyProgram": (ctypes.POINTER(_POINTER),),
    "nvrtcAddNameExpression": (_POINTER, _TEXT),
    "nvrtcCompileProgram": (_POINTER, ctypes.c_int, _TEXTS),
    "nvrtcGetProgramLogSize": (_POINTER, _SIZE),
    "nvrtcGetProgramLog": (_POINTER, _TEXT),
    "nvrtcGetLoweredName": (_POINTER, _TEXT, _TEXTS),
    "nvrtcGetCUBINSize": (_POINTER, _SIZE),
    "nvrtcGetCUBIN": (_POINTER, _TEXT),
    "nvrtcGetPTXSize": (_POINTER, _SIZE),
    "nvrtcGetPTX": (_POINTER, _TEXT),
}


@dataclass(frozen=True)
class Compiled:
    """A program: a cubin, or PTX with a 0 byte at its end, and what its kernels are called.

    Attributes:
        names: name expression -> lowered name.
        log: warnings.
    """

    code: bytes
    names: dict[str, str]
    log: str


class Nvrtc:
    """The bound library."""

    def __init__(self, file: str) -> None:
        try:
            _load_builtins(Path(file))
            self._library = ctypes.CDLL(file)
            for function, types in _PROTOTYPES.items():
                getattr(self._library, function).argtypes = types
            self._library.nvrtcGetErrorString.restype = _TEXT
        except (OSError, AttributeError) as error:
            raise ConfigError(
                f"NVRTC {cut(file, 200)} cannot be loaded ({cut(str(error), 200)}); install it "
                f"again, or name another one in {NVRTC.name}"
            ) from None
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.file, self.version = file, (major.value, minor.value)

    def architectures(self) -> list[int]:
        """The compute capabilities that it knows, ascending: 10 * major + minor."""
        count = ctypes.c_int()
        self._check("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._check("nvrtcGetSupportedArchs", found)
        return sorted(found)

    def headers_folder(self, extracted: Path) -> Path:
        """The folder with CUDA's own headers that fit this library.

        Args:
            extracted: where NVRTC 13.3 and newer may put those that they bring, 26 MB, if there are
                no others.

        Raises:
            ConfigError: there are none.
        """
        found = _with_header(fitting_header_folders(Path(self.file)))
        if found is not None:
            return found
        problem = self._extract_headers(extracted)
        if not problem:
            return extracted
        found = _with_header(other_header_folders())
        if found is not None:
            return found
        raise ConfigError(
            f"{HEADER}, which the CUDA kernels need, is not where NVRTC {self.file} is installed"
            f"{problem}; {_advice(self.version[0])}"
        )

    def _extract_headers(self, folder: Path) -> str:
        """Write the headers that NVRTC brings; what was in the way."""
        if not hasattr(self._library, "nvrtcInstallBundledHeaders"):
            return ", and it brings none"
        install = self._library.nvrtcInstallBundledHeaders
        install.argtypes = (_TEXT, ctypes.c_uint, _TEXTS)
        problem = _TEXT()
        code = install(str(folder).encode(), 0, ctypes.byref(problem))
        if not code:
            return ""
        words = (problem.value or b"").decode(errors="replace") or self._words(code)
        return f", and it cannot write its own to {folder} ({words[:200]})"

    def compile(
        self,
        source: str,
        name: str,
        headers: Mapping[str, str],
        kernels: Sequence[str],
        options: Sequence[str],
    ) -> Compiled:
        """Compile a program.

        Args:
            source: the text of its main file.
            name: of that file, in messages.
            headers: name in ``#include`` -> text; other headers come from ``-I`` options.
            kernels: name expressions of the kernels that are wanted.
            options: as of NVRTC; ``--gpu-architecture=sm_90`` gives a cubin, ``compute_90`` PTX.

        Raises:
            ConfigError: it does not compile; the message has the first error.
        """
        program = _POINTER()
        self._check(
            "nvrtcCreateProgram",
            *(ctypes.byref(program), source.encode(), name.encode(), len(headers)),
            *(_texts(headers.values()), _texts(headers)),
        )
        try:
            for kernel in kernels:
                self._check("nvrtcAddNameExpression", program, kernel.encode())
            code = self._library.nvrtcCompileProgram(program, len(options), _texts(options))
            log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if code:
                raise ConfigError(
                    f"NVRTC {self._version_text()} cannot compile {name}: "
                    f"{_first_error(log) or self._words(code)}; please report this "
                    f"({OPS.name}=torch runs without compiled kernels)"
                )
            is_ptx = any("=compute_" in option for option in options)
            return Compiled(
                self._bytes(program, "PTX" if is_ptx else "CUBIN"),
                {kernel: self._lowered(program, kernel) for kernel in kernels},
                log,
            )
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _lowered(self, program: ctypes.c_void_p, kernel: str) -> str:
        name = _TEXT()
        self._check("nvrtcGetLoweredName", program, kernel.encode(), ctypes.byref(name))
        return (name.value or b"").decode()

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(max(size.value, 1))
        self._check(f"nvrtcGet{what}", program, content)
        return content.raw[: size.value]

    def _check(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise ConfigError(f"{function} of NVRTC failed: {self._words(code)}")

    def _words(self, code: int) -> str:
        words: bytes = self._library.nvrtcGetErrorString(code)
        return words.decode(errors="replace")

    def _version_text(self) -> str:
        return ".".join(map(str, self.version))


def _with_header(folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in folders if (folder / HEADER).is_file()), None)


def _texts(values: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [value.encode() for value in values]
    return (_TEXT * max(len(encoded), 1))(*encoded)


def _first_error(log: str) -> str:
    """The first error in a log, with its place."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[0][:300]


def _load_builtins(library: Path) -> None:
    """Load ``libnvrtc-builtins`` first: NVRTC does not look for it in its own folder."""
    if not library.is_absolute():
        return  # the system's loader finds both
    with suppress(OSError):
        for path in sorted(library.parent.glob("libnvrtc-builtins.so*")):
            ctypes.CDLL(str(path))


def find_nvrtc(cuda_major: int | None = None) -> Nvrtc:
    """NVRTC: the file that ``SG3FLOW_NVRTC`` names, or the first that is found and loads.

    Searched are pip's packages, the folders of torch and of this Python environment, CUDA toolkits
    (``CUDA_HOME``, ``CUDA_PATH``, /usr/local/cuda*) and the system.

    Args:
        cuda_major: CUDA release of torch: one of this release is preferred, then an older one,
            as the driver may not know the code of a newer one.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    return _found(NVRTC.text(), cuda_major)


@functools.cache
def _found(named: str, cuda_major: int | None) -> Nvrtc:
    if named:
        return Nvrtc(_absolute(named))
    refused = []
    for file in find_libraries(cuda_major):
        try:
            return Nvrtc(file)
        except ConfigError as error:
            if Path(file).is_absolute():  # it is there
                refused.append(str(error))
    problem = refused[0] if refused else "NVRTC, which compiles the CUDA kernels, was not found"
    raise ConfigError(f"{problem}; {_advice(cuda_major or NEWEST_MAJOR)}")


def _absolute(named: str) -> str:
    """The path of a file; what is none is a name for the system's loader."""
    with suppress(OSError, RuntimeError):  # a name that is too long; no home folder
        path = Path(named).expanduser()
        if path.exists():
            return str(path.absolute())
    return named


def _advice(major: int) -> str:
    suffix = "" if major >= 13 else f"-cu{major}"
    return (
        f"pip install nvidia-cuda-nvrtc{suffix} nvidia-cuda-runtime{suffix}, or name the file of "
        f"NVRTC in {NVRTC.name}"
    )
