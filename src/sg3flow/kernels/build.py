"""Builds a library of kernels once for all processes, or fails soon and says why.

A build lives in a folder of the cache named after everything that it depends on: sources, commands,
torch, compilers. It is made under another name and moved there when it is complete, so that a build
that was killed leaves nothing that could be taken for one. Processes that need the same build wait
for the one that makes it, for as long as that is at work: which ops compute decides the last bits
of a training, so that it must not depend on who came first.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sg3flow.downloads import cache_folder
from sg3flow.errors import ConfigError
from sg3flow.files import replaced_folder, sha256_file, write_json
from sg3flow.kernels.compilation import compile_recipe
from sg3flow.kernels.recipes import Recipe, kernel_files, make_recipe
from sg3flow.kernels.watching import Beat, limit_sec, locked, run_watched

LIBRARY = "kernels.so"
RECORD = "build.json"
_FAILURE_HOLDS_SEC = 3600
_TRIAL_SHARE = 0.1  # of the time that a build may take


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
        with locked(_work_folder(name).with_suffix(".lock")) as beat:
            if anew or not is_whole(build):
                _check_last_time(build, anew)
                _make(recipe, build, anew, beat)
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
    return f"{name}-{_digest([torch.__version__], _machine(name), contents)}"


def _machine(name: str) -> list[str]:
    """The kind of machine: its processor, and for ``cuda`` the kinds of its GPUs."""
    kinds = [platform.machine()]
    if name == "cuda":
        count = torch.cuda.device_count()
        kinds += sorted({str(torch.cuda.get_device_capability(i)) for i in range(count)})
    return kinds


def _digest(*parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _commands(recipe: Recipe) -> list[str]:
    """The options of every step; paths differ between machines and change nothing."""
    steps = [*recipe.objects.values(), recipe.link]
    return [" ".join(part for part in step if "/" not in part) for step in steps]


def _check_last_time(build: Path, anew: bool) -> None:
    """A build that failed is not tried again in every process of the next hour, unless more time
    is allowed than it had."""
    note = _failure_note(build)
    with suppress(OSError, ValueError, KeyError, TypeError):
        failure = json.loads(note.read_text(encoding="utf-8"))
        is_recent = time.time() - failure["time"] < _FAILURE_HOLDS_SEC
        if not anew and is_recent and limit_sec() <= failure["limit_sec"]:
            raise ConfigError(f"{failure['reason']}; 'sg3flow doctor --rebuild' tries again now")


def _failure_note(build: Path) -> Path:
    return build.with_name(f".{build.name}.failed")


def _make(recipe: Recipe, build: Path, anew: bool, beat: Beat) -> None:
    print(
        f"building {recipe.name.upper()} kernels (once, about {recipe.expected_sec} s)",
        file=sys.stderr,
    )
    start = time.monotonic()
    work = _work_folder(recipe.name)
    if anew:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        library = compile_recipe(recipe, work, beat)
        _try_apart(recipe.name, library, beat)
        with replaced_folder(build) as folder:
            shutil.copy(library, folder / LIBRARY)
            record = {
                "sha256": sha256_file(folder / LIBRARY),
                "seconds": round(time.monotonic() - start, 1),
                "compilers": recipe.compilers,
                "torch": torch.__version__,
            }
            write_json(folder / RECORD, record)
    except ConfigError as error:
        with suppress(OSError):
            note = {"time": time.time(), "limit_sec": limit_sec(), "reason": str(error)}
            write_json(_failure_note(build), note)
        raise
    _failure_note(build).unlink(missing_ok=True)


def _work_folder(name: str) -> Path:
    """Where objects are made and kept: one folder for each torch and kind of machine."""
    return kernels_folder() / f".{name}-{_digest([torch.__version__], _machine(name))}.work"


def _try_apart(name: str, library: Path, beat: Beat) -> None:
    """Try new kernels on the GPU in a process of their own.

    There, what spoils a process for good (an access out of bounds, an endless loop) spoils only
    the trial.

    Raises:
        ConfigError: they do not run, or compute something else than plain PyTorch.
    """
    if name != "cuda":
        return
    command = [sys.executable, "-m", "sg3flow.kernels.trial", name, str(library)]
    code, output = run_watched(command, library.parent, beat, _TRIAL_SHARE * limit_sec())
    if code != 0:
        last = (output.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"the new {name} kernels failed their trial (exit {code}): {last[:300]}")
