"""Programs of CUDA kernels: compiled by NVRTC once for all processes, and kept.

A program is one source file of ``cuda/`` and the kernels that are wanted of it. Its machine code is
a file of the kernel cache, whose name has a digest of all that decides it: texts of the sources,
kernels, options, architecture, NVRTC and CUDA's headers. A file is written under a temporary name
and renamed, and carries a checksum: one that is damaged is made again. Processes that want the same
program wait for the first one that compiles it. A cache that cannot be used costs time, nothing
else.
"""

import functools
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sg3flow.errors import ConfigError
from sg3flow.files import atomic_write, file_lock
from sg3flow.kernels.nvrtc import Compiled, Nvrtc
from sg3flow.settings import BUILD_SEC, KERNELS, OPS, kernels_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

SOURCES = Path(__file__).parents[1] / "cuda"
OLDEST = 75  # compute capability
_FORM = "sg3flow CUDA program 1"  # the first line of a file; the second one is JSON
_OPTIONS = ("-std=c++17", "-default-device")
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
_CUDA_HEADERS = ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp")
_QUIET_SEC = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """What is compiled together.

    Attributes:
        name: unique; a part of the file's name.
        source: a file of ``cuda/``.
        kernels: name expressions of the kernels, such as ``sg3::upfirdn_kernel<float>``.
        checks: C++ after the source, static assertions about what Python assumes of it.
    """

    name: str
    source: str
    kernels: tuple[str, ...]
    checks: str = ""

    def text(self) -> str:
        """The main file."""
        return source_text(self.source) + self.checks

    def headers(self) -> dict[str, str]:
        """The headers of ``cuda/`` that it includes, directly or not."""
        found: dict[str, str] = {}
        waiting = _INCLUDE.findall(source_text(self.source))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = source_text(name)
                waiting += _INCLUDE.findall(found[name])
        return dict(sorted(found.items()))


@functools.cache
def source_text(name: str) -> str:
    """A file of ``cuda/``."""
    return (SOURCES / name).read_text(encoding="utf-8")


def target(capability: tuple[int, int], nvrtc: Nvrtc) -> str:
    """What a program is compiled for: ``sm_90``, or ``compute_90`` for PTX.

    A GPU that NVRTC does not know gets PTX of the newest older one, which the driver compiles.

    Raises:
        ConfigError: the GPU is too old.
    """
    wanted = capability[0] * 10 + capability[1]
    known = [each for each in nvrtc.architectures() if OLDEST <= each <= wanted]
    if not known:
        raise ConfigError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels need "
            f"{OLDEST // 10}.{OLDEST % 10} or newer: set {OPS.name}=torch"
        )
    return f"sm_{wanted}" if wanted in known else f"compute_{known[-1]}"


def compiled(program: Program, architecture: str, nvrtc: Nvrtc) -> Compiled:
    """The machine code of a program, from the cache or compiled now.

    Args:
        architecture: of ``target``.

    Raises:
        ConfigError: it does not compile; the message has the first error.
    """
    cuda_headers = nvrtc.headers_folder(kernels_folder() / f"headers-{_version(nvrtc)}")
    path = cache_file(program, architecture, nvrtc, cuda_headers)
    if (kept := read_compiled(path)) is not None:
        return kept
    with _turn(path):
        if (kept := read_compiled(path)) is not None:
            return kept
        print(f"compiling CUDA kernels: {program.name} for {architecture}", file=sys.stderr)
        options = [f"--gpu-architecture={architecture}", *_OPTIONS, f"-I{cuda_headers}"]
        made = nvrtc.compile(
            program.text(), program.source, program.headers(), program.kernels, options
        )
        _keep(path, made)
        return made


def cache_file(program: Program, architecture: str, nvrtc: Nvrtc, cuda_headers: Path) -> Path:
    """The file of the cache that holds a program's machine code."""
    parts = [
        *(_FORM, program.source, program.text(), program.headers(), program.kernels),
        *(architecture, _OPTIONS, _version(nvrtc), _digest_of_headers(cuda_headers)),
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return kernels_folder() / f"cuda-{program.name}-{architecture}-{digest[:24]}.bin"


def remove_compiled() -> None:
    """Remove all programs of the cache."""
    for path in kernels_folder().glob("cuda-*.bin"):
        path.unlink(missing_ok=True)


def read_compiled(path: Path) -> Compiled | None:
    """The content of a file of the cache; None: there is none, or it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        form, record, code = path.read_bytes().split(b"\n", 2)
        described = json.loads(record)
        if form == _FORM.encode() and described["sha256"] == hashlib.sha256(code).hexdigest():
            return Compiled(code, dict(described["names"]), described["log"])
    return None


def _keep(path: Path, made: Compiled) -> None:
    record = {"sha256": hashlib.sha256(made.code).hexdigest(), "names": made.names, "log": made.log}
    try:
        with atomic_write(path) as stream:
            stream.write(f"{_FORM}\n{json.dumps(record)}\n".encode() + made.code)
    except OSError as error:
        _say_not_kept(path.parent, error.strerror or str(error))


@functools.cache
def _say_not_kept(folder: Path, reason: str) -> None:
    _log.warning(
        "compiled CUDA kernels cannot be kept in %s (%s), so each process compiles them again; "
        "make that folder writable, or set %s to one that is",
        folder,
        reason,
        KERNELS.name,
    )


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait while another process compiles the same program.

    Only to save work: after the time limit of a build, or on a disk without locks, both compile.
    """
    lock = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = file_lock(path.with_name(f".{path.stem}.lock"))
        _acquire(lock)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(lock: "BaseFileLock") -> None:
    from filelock import Timeout

    try:
        lock.acquire(timeout=min(_QUIET_SEC, BUILD_SEC.seconds()))
    except Timeout:
        print("waiting for another process that compiles CUDA kernels", file=sys.stderr)
        with suppress(Timeout):
            lock.acquire(timeout=BUILD_SEC.seconds())


def _version(nvrtc: Nvrtc) -> str:
    return ".".join(map(str, nvrtc.version))


@functools.cache
def _digest_of_headers(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in (folder / name for name in _CUDA_HEADERS):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
