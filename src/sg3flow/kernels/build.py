"""Builds a library of kernels once for all processes, or fails soon and says why.

A build lives in a folder of the cache named after everything that it depends on: sources, commands,
torch, compilers. It is made under another name and moved there when it is complete, so that a build
that was killed leaves nothing that could be taken for one. Processes that need the same build wait
for the one that makes it; the lock ends with its owner.
"""

import fcntl
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from sg3flow.downloads import cache_folder
from sg3flow.errors import ConfigError
from sg3flow.files import replaced_folder, sha256_file, write_json
from sg3flow.kernels.recipes import Recipe, kernel_files, make_recipe

LIBRARY = "kernels.so"
RECORD = "build.json"
_LIMIT_SEC = 600.0
_FAILURE_HOLDS_SEC = 3600


def find_build(name: str) -> Path | None:
    """The library of a finished build of ``cpu`` or ``cuda`` for these sources and this torch.

    Asks no compiler: a machine without one uses what another has put into its cache.
    """
    folder = kernels_folder()
    with suppress(OSError):
        builds = sorted(folder.glob(f"{_stem(name)}-*"), key=lambda p: p.stat().st_mtime)
        for build in reversed(builds):
            if is_whole(build):
                return build / LIBRARY
    return None


def make_build(name: str, *, anew: bool = False) -> Path:
    """The library of ``cpu`` or ``cuda``, built now unless it is there.

    Args:
        anew: build even if it is there, and whatever came of it last time.

    Raises:
        ConfigError: it cannot be built; the message says why, and what to do.
    """
    recipe = make_recipe(name)
    build = kernels_folder() / f"{_stem(name)}-{_digest(recipe.compilers, _commands(recipe))}"
    try:
        with _locked(build.with_name(f".{build.name}.lock")):
            if anew or not is_whole(build):
                _check_last_time(build, anew)
                _make(recipe, build)
    except OSError as error:
        raise ConfigError(
            f"cannot write the kernels to {build.parent}: {error.strerror or error}; make that "
            "folder writable, or set SG3FLOW_KERNELS to one that is"
        ) from None
    return build / LIBRARY


def kernels_folder() -> Path:
    """Where builds are kept: ``SG3FLOW_KERNELS``, or ``kernels`` in the cache folder."""
    given = os.environ.get("SG3FLOW_KERNELS")
    return Path(given).expanduser() if given else cache_folder() / "kernels"


def is_whole(build: Path) -> bool:
    """Whether a build folder holds the library that was put there, byte for byte."""
    try:
        record = json.loads((build / RECORD).read_text(encoding="utf-8"))
        return bool(record["sha256"] == sha256_file(build / LIBRARY))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stem(name: str) -> str:
    """Names every build of these sources for this torch on this kind of machine."""
    contents = [f"{path.name}\n{sha256_file(path)}" for path in kernel_files(name)]
    machine = [platform.machine()]
    if name == "cuda":
        count = torch.cuda.device_count()
        machine += sorted({str(torch.cuda.get_device_capability(i)) for i in range(count)})
    return f"{name}-{_digest([torch.__version__], machine, contents)}"


def _digest(*parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _commands(recipe: Recipe) -> list[str]:
    """The options of every step; paths differ between machines and change nothing."""
    steps = [*recipe.objects.values(), recipe.link]
    return [" ".join(part for part in step if "/" not in part) for step in steps]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait, not for ever, until no other process makes the same build."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _limit_sec()
    with path.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"another process holds {path} and does not finish; end it, then run "
                        "'sg3flow doctor --rebuild'"
                    ) from None
                time.sleep(0.2)
        yield


def _limit_sec() -> float:
    """Seconds a build may take: ``SG3FLOW_BUILD_SEC``, or ten minutes."""
    try:
        return float(os.environ.get("SG3FLOW_BUILD_SEC", _LIMIT_SEC))
    except ValueError:
        return _LIMIT_SEC


def _check_last_time(build: Path, anew: bool) -> None:
    """A build that failed is not tried again in every process of the next hour."""
    note = _failure_note(build)
    with suppress(OSError, ValueError, KeyError, TypeError):
        failure = json.loads(note.read_text(encoding="utf-8"))
        if not anew and time.time() - failure["time"] < _FAILURE_HOLDS_SEC:
            raise ConfigError(f"{failure['reason']}; 'sg3flow doctor --rebuild' tries again now")


def _failure_note(build: Path) -> Path:
    return build.with_name(f".{build.name}.failed")


def _make(recipe: Recipe, build: Path) -> None:
    print(
        f"building {recipe.name.upper()} kernels (once, about {recipe.expected_sec} s)",
        file=sys.stderr,
    )
    start = time.monotonic()
    try:
        with replaced_folder(build) as work:
            _run_recipe(recipe, work, start + _limit_sec())
            record = {
                "sha256": sha256_file(work / LIBRARY),
                "seconds": round(time.monotonic() - start, 1),
                "compilers": recipe.compilers,
                "torch": torch.__version__,
            }
            write_json(work / RECORD, record)
    except ConfigError as error:
        with suppress(OSError):
            write_json(_failure_note(build), {"time": time.time(), "reason": str(error)})
        raise
    _failure_note(build).unlink(missing_ok=True)


def _run_recipe(recipe: Recipe, work: Path, deadline: float) -> None:
    """All compilations at once, as many as there are cores, then the link."""
    objects = {work / f"{stem}.o": command for stem, command in recipe.objects.items()}
    runner = _Runner(deadline)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        steps = [
            pool.submit(runner.run, [*command, "-o", str(path)], work)
            for path, command in objects.items()
        ]
        try:
            for step in steps:
                step.result()
        except BaseException:
            runner.stop()
            raise
    runner.run([*recipe.link[:2], *map(str, objects), *recipe.link[2:], "-o", LIBRARY], work)
    for path in objects:
        path.unlink()


class _Runner:
    """Runs compilers until one fails or time is up; then all of them end, with their children."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._stopped = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, command: list[str], folder: Path) -> None:
        with self._lock:
            if self._stopped:
                return
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=max(self._deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            _kill(process)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            raise ConfigError(
                f"{Path(command[0]).name} did not finish in {_limit_sec():.0f} s; is the machine "
                "out of memory, or the compiler broken?"
            ) from None
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0 and not self._stopped:
            raise ConfigError(_failure(command, process.returncode, output))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)  # the thread that waits for it sees its end


def _kill(process: subprocess.Popen[str]) -> None:
    """End a compiler and what it started: they are a session of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(command: list[str], code: int, output: str) -> str:
    lines = output.splitlines()
    telling = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return (
        f"{Path(command[0]).name} failed (exit {code}): {telling.strip()[:300] or 'no message'}; "
        "a C++20 compiler is needed: install g++ 11 or newer, or name one in CXX"
    )
