"""Builds a library of kernels once for all processes, or fails soon and says why.

A build lives in a folder of the cache named after everything that it depends on: sources, commands,
torch, compilers. It is made under another name and moved there when it is complete, so that a build
that was killed leaves nothing that could be taken for one. Processes that need the same build wait
for the one that makes it, for as long as that is at work: which ops compute decides the last bits
of a training, so that it must not depend on who came first.
"""

import hashlib
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sg3flow.downloads import cache_folder
from sg3flow.errors import ConfigError
from sg3flow.files import atomic_folder, sha256_file, write_json
from sg3flow.kernels.build_plan import BuildPlan, kernel_files, make_build_plan
from sg3flow.kernels.watchdog import Heartbeat, limit_sec, locked, run_watched
from sg3flow.progress import progress
from sg3flow.settings import KERNELS

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


def make_build(name: str, *, clean: bool = False) -> Path:
    """The library of ``cpu`` or ``cuda``, built now unless it is there.

    Args:
        anew: build even if it is there, and whatever came of it last time.

    Raises:
        ConfigError: it cannot be built; the message says why, and what to do.
    """
    plan = make_build_plan(name)
    build = kernels_folder() / f"{_stem(name)}-{_digest(plan.compilers, _commands(plan))}"
    try:
        with locked(_work_folder(name).with_suffix(".lock")) as heartbeat:
            if clean or not is_whole(build):
                _check_last_time(build, clean)
                _make(plan, build, clean, heartbeat)
    except OSError as error:
        raise ConfigError(
            f"cannot write the kernels to {build.parent}: {error.strerror or error}; make that "
            "folder writable, or set SG3FLOW_KERNELS to one that is"
        ) from None
    return build / LIBRARY


def kernels_folder() -> Path:
    """Where builds are kept: ``SG3FLOW_KERNELS``, or ``kernels`` in the cache folder."""
    return KERNELS.path() or cache_folder() / "kernels"


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


def _commands(plan: BuildPlan) -> list[str]:
    """The options of every step; paths differ between machines and change nothing."""
    steps = [*plan.objects.values(), plan.link]
    return [" ".join(part for part in step if "/" not in part) for step in steps]


def _check_last_time(build: Path, clean: bool) -> None:
    """A build that failed is not tried again in every process of the next hour, unless more time
    is allowed than it had."""
    note = _failure_note(build)
    with suppress(OSError, ValueError, KeyError, TypeError):
        failure = json.loads(note.read_text(encoding="utf-8"))
        is_recent = time.time() - failure["time"] < _FAILURE_HOLDS_SEC
        if not clean and is_recent and limit_sec() <= failure["limit_sec"]:
            raise ConfigError(f"{failure['reason']}; 'sg3flow doctor --rebuild' tries again now")


def _failure_note(build: Path) -> Path:
    return build.with_name(f".{build.name}.failed")


def _make(plan: BuildPlan, build: Path, clean: bool, heartbeat: Heartbeat) -> None:
    print(
        f"building {plan.name.upper()} kernels (once, about {plan.expected_sec} s)",
        file=sys.stderr,
    )
    start = time.monotonic()
    work = _work_folder(plan.name)
    if clean:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        library = compile_plan(plan, work, heartbeat)
        _try_apart(plan.name, library, heartbeat)
        with atomic_folder(build) as folder:
            shutil.copy(library, folder / LIBRARY)
            record = {
                "sha256": sha256_file(folder / LIBRARY),
                "seconds": round(time.monotonic() - start, 1),
                "compilers": plan.compilers,
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


def _try_apart(name: str, library: Path, heartbeat: Heartbeat) -> None:
    """Try new kernels on the GPU in a process of their own.

    There, what spoils a process for good (an access out of bounds, an endless loop) spoils only
    the trial.

    Raises:
        ConfigError: they do not run, or compute something else than plain PyTorch.
    """
    if name != "cuda":
        return
    command = [sys.executable, "-m", "sg3flow.ops.backend", name, str(library)]
    code, output = run_watched(command, library.parent, heartbeat, _TRIAL_SHARE * limit_sec())
    if code != 0:
        last = (output.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"the new {name} kernels failed their trial (exit {code}): {last[:300]}")


_RULE = "rule run\n  command = $line\n"


def compile_plan(plan: BuildPlan, work: Path, heartbeat: Heartbeat) -> Path:
    """The library of a recipe, made in ``work`` of what is there already and the rest.

    Raises:
        ConfigError: a compiler failed or hung, or there is no ninja; the message says what to do.
    """
    ninja = _ninja()
    objects = {name: f"{name}-{_made_of(plan, name)}.o" for name in plan.objects}
    library = f"library-{_object_digest(*plan.link, *objects.values())}.so"
    lines = {objects[name]: [*command, "-o"] for name, command in plan.objects.items()}
    lines[library] = [*plan.link[:2], *objects.values(), *plan.link[2:], "-o"]
    text = _RULE
    for output, command in lines.items():
        inputs = " ".join(objects.values()) if output == library else ""
        text += f"build {output}: run {inputs}\n  line = {_shell_line(command, output)}\n"
    (work / "build.ninja").write_text(text, encoding="utf-8")
    _remove_others(work, set(lines))
    with progress(f"{plan.name.upper()} kernels (files)", len(lines)) as advance:
        known = 0

        def beaten() -> None:
            nonlocal known
            heartbeat()
            made = sum((work / name).exists() for name in lines)
            if made > known:
                advance(made - known)
                known = made

        code, output = run_watched([ninja], work, beaten)
        if code != 0:
            raise ConfigError(_failure(plan, output))
        beaten()
    return work / library


def _ninja() -> str:
    """The program: of this environment's package, or of the system."""
    beside = Path(sys.executable).parent
    found = shutil.which("ninja", path=str(beside)) or shutil.which("ninja")
    if found is None:
        raise ConfigError("there is no ninja to build the kernels with; pip install ninja")
    return found


def _made_of(plan: BuildPlan, name: str) -> str:
    """Names what an object is made of: its command, its source, every header, torch, compilers."""
    command = plan.objects[name]
    used = [p for p in plan.files if p.suffix in (".h", ".cuh") or str(p) in command]
    contents = [f"{path.name} {sha256_file(path)}" for path in used]
    return _object_digest(torch.__version__, *plan.compilers, *command, *contents)


def _object_digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _shell_line(command: list[str], output: str) -> str:
    """The command, with its output under another name until it is complete; as ninja reads it."""
    part = f"{output}.$$.part"  # $$: the shell's number, another one for each process
    line = f"{shlex.join(command)} {part} && mv {part} {output}"
    return line.replace("$", "$$")


def _remove_others(work: Path, wanted: set[str]) -> None:
    """What earlier versions of the sources left behind."""
    for path in work.iterdir():
        if path.suffix in (".o", ".so", ".part") and path.name not in wanted:
            path.unlink(missing_ok=True)


def _failure(plan: BuildPlan, output: str) -> str:
    """What the compiler said, by its first line that speaks of an error, and what to do."""
    lines = [line for line in output.splitlines() if not line.startswith(("ninja:", "[", "FAILED"))]
    said = [line for line in lines if "error" in line.lower() and " && mv " not in line]
    telling = said[0] if said else (lines[-1] if lines else "no message")
    by_nvcc = any(word in telling for word in ("nvcc", "ptxas", "cudafe", "nvlink", ".cu"))
    return f"{_blamed(plan, by_nvcc)}: {telling.strip()[:300]}; {_advice(by_nvcc)}"


def _blamed(plan: BuildPlan, by_nvcc: bool) -> str:
    program = "nvcc" if by_nvcc else Path(plan.link[0]).name
    return f"{program} failed"


def _advice(by_nvcc: bool) -> str:
    if by_nvcc:
        return (
            "name a C++ compiler that this CUDA toolkit supports in CXX, or another toolkit in "
            "CUDA_HOME"
        )
    return "a C++20 compiler is needed: install g++ 11 or newer, or name one in CXX"
