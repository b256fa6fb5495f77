"""Build the library of CPU kernels once for all processes, or fail early with the reason.

A build is a folder of the cache; its name is a digest of everything that it depends on: sources,
commands, torch, compilers. The folder is written under a temporary name and renamed when complete,
so a killed build leaves no partial one. Other processes wait for a running build instead of using
plain PyTorch: the choice of ops affects the last bits of a training, so it must not depend on which
process was first.
"""

import hashlib
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sg3flow.errors import ConfigError
from sg3flow.files import atomic_folder, sha256_file, write_json
from sg3flow.kernels.build_plan import BuildPlan, kernel_files, make_build_plan
from sg3flow.kernels.watchdog import locked, run_watched
from sg3flow.progress import elapsed_shown, progress
from sg3flow.settings import kernels_folder

LIBRARY = "kernels.so"
RECORD = "build.json"


def find_build() -> Path | None:
    """The library of a complete build for these sources and this torch.

    It runs no compiler: a machine without one can use a build that another machine has cached.
    """
    folder = kernels_folder()
    with suppress(OSError):
        builds = sorted(folder.glob(f"{_stem()}-*"), key=lambda p: p.stat().st_mtime)
        for build in reversed(builds):
            if is_complete(build):
                return build / LIBRARY
    return None


def make_build(*, clean: bool = False) -> Path:
    """The library, built now unless a complete build exists.

    Args:
        clean: build even if one exists.

    Raises:
        ConfigError: it cannot be built; the message gives the reason and the next step.
    """
    plan = make_build_plan()
    build = kernels_folder() / f"{_stem()}-{_digest(plan.compilers, _commands(plan))}"
    failure = _last_failure(build)
    try:
        with locked(_work_folder().with_suffix(".lock")):
            if clean or not is_complete(build):
                _check_failure_meanwhile(build, failure)
                _make(plan, build, clean)
    except OSError as error:
        raise ConfigError(
            f"cannot write the kernels to {build.parent}: {error.strerror or error}; make that "
            "folder writable, or set SG3FLOW_KERNELS to one that is"
        ) from None
    return build / LIBRARY


def find_outdated_builds() -> Iterator[tuple[Path, str]]:
    """Entries of the folder of kernels that this version does not use, and what each is.

    Whether the kernels of a GPU are in use is known on a machine with NVRTC only, so all of them
    are given: they are compiled again in seconds.
    """
    found, work = find_build(), _work_folder()
    for path in sorted(kernels_folder().glob("cpu-*")):
        if path.is_dir() and not path.is_symlink() and (found is None or path != found.parent):
            is_own = path.name.startswith(_stem())
            yield path, "an older build of these sources" if is_own else "of another version"
    for path in sorted(kernels_folder().glob(".cpu-*.work")):
        if path.is_dir() and not path.is_symlink() and path != work:
            yield path, "object files for another torch"
    for pattern in ("cuda-*.bin", ".cpu-*.failed"):
        for path in sorted(kernels_folder().glob(pattern)):
            if path.is_file() and not path.is_symlink():
                yield path, "compiled for a GPU" if pattern.startswith("cuda") else "a failed build"


def is_complete(build: Path) -> bool:
    """Whether a build folder contains the library with the recorded checksum."""
    try:
        record = json.loads((build / RECORD).read_text(encoding="utf-8"))
        return bool(record["sha256"] == sha256_file(build / LIBRARY))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stem() -> str:
    """The common start of the names of all builds of these sources, torch and kind of machine."""
    contents = [f"{path.name}\n{sha256_file(path)}" for path in kernel_files()]
    return f"cpu-{_digest([torch.__version__], [platform.machine()], contents)}"


def _digest(*parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _commands(plan: BuildPlan) -> list[str]:
    """The options of every command without paths: these differ between machines."""
    steps = [*plan.objects.values(), plan.link]
    return [" ".join(part for part in step if "/" not in part) for step in steps]


def _check_failure_meanwhile(build: Path, known: int) -> None:
    """Do not repeat a build that failed while this process waited for it.

    Earlier failures do not count: their cause may be gone.

    Args:
        known: ``_last_failure`` before the wait.
    """
    if _last_failure(build) == known:
        return
    with suppress(OSError, ValueError, KeyError, TypeError):
        raise ConfigError(json.loads(_failure_note(build).read_text(encoding="utf-8"))["reason"])


def _last_failure(build: Path) -> int:
    """When the last failure was noted, in nanoseconds; 0: none is."""
    with suppress(OSError):
        return _failure_note(build).stat().st_mtime_ns
    return 0


def _failure_note(build: Path) -> Path:
    return build.with_name(f".{build.name}.failed")


def _make(plan: BuildPlan, build: Path, clean: bool) -> None:
    print(
        f"building CPU kernels (once, about {plan.expected_sec} s)",
        file=sys.stderr,
    )
    start = time.monotonic()
    work = _work_folder()
    if clean:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        with elapsed_shown("building CPU kernels"):
            library = compile_plan(plan, work)
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
            write_json(_failure_note(build), {"reason": str(error)})
        raise
    _failure_note(build).unlink(missing_ok=True)


def _work_folder() -> Path:
    """The folder of the object files: one per torch version and kind of machine."""
    return kernels_folder() / f".cpu-{_digest([torch.__version__], [platform.machine()])}.work"


_RULE = "rule run\n  command = $line\n"


def compile_plan(plan: BuildPlan, work: Path) -> Path:
    """Build the library of a plan in the folder ``work``, reusing the object files there.

    Raises:
        ConfigError: a compiler failed or hung, or ninja is missing; the message says what to do.
    """
    ninja = _ninja()
    objects = {name: f"{name}-{_object_inputs(plan, name)}.o" for name in plan.objects}
    library = f"library-{_object_digest(*plan.link, *objects.values())}.so"
    lines = {objects[name]: [*command, "-o"] for name, command in plan.objects.items()}
    lines[library] = [*plan.link[:2], *objects.values(), *plan.link[2:], "-o"]
    text = _RULE
    for output, command in lines.items():
        inputs = " ".join(objects.values()) if output == library else ""
        text += f"build {output}: run {inputs}\n  line = {_shell_line(command, output)}\n"
    (work / "build.ninja").write_text(text, encoding="utf-8")
    _remove_outdated(work, set(lines))
    with progress("CPU kernels (files)", len(lines)) as advance:
        shown = 0

        def show_progress() -> None:
            nonlocal shown
            made = sum((work / name).exists() for name in lines)
            if made > shown:
                advance(made - shown)
                shown = made

        code, output = run_watched([ninja], work, show_progress)
        if code != 0:
            raise ConfigError(_failure(plan, output))
        show_progress()
    return work / library


def _ninja() -> str:
    """The ninja of this environment or else of the system."""
    beside = Path(sys.executable).parent
    found = shutil.which("ninja", path=str(beside)) or shutil.which("ninja")
    if found is None:
        raise ConfigError(
            "ninja is needed to build the kernels and was not found; pip install ninja"
        )
    return found


def _object_inputs(plan: BuildPlan, name: str) -> str:
    """A digest of an object's inputs: command, source, all headers, torch, compilers."""
    command = plan.objects[name]
    used = [p for p in plan.files if p.suffix == ".h" or str(p) in command]
    contents = [f"{path.name} {sha256_file(path)}" for path in used]
    return _object_digest(torch.__version__, *plan.compilers, *command, *contents)


def _object_digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _shell_line(command: list[str], output: str) -> str:
    """The command for ninja; it writes to a temporary name and renames the complete output."""
    part = f"{output}.$$.part"  # $$: the process id of the shell
    line = f"{shlex.join(command)} {part} && mv {part} {output}"
    return line.replace("$", "$$")


def _remove_outdated(work: Path, wanted: set[str]) -> None:
    """Remove the files of earlier versions of the sources."""
    for path in work.iterdir():
        if path.suffix in (".o", ".so", ".part") and path.name not in wanted:
            path.unlink(missing_ok=True)


def _failure(plan: BuildPlan, output: str) -> str:
    """The first error line of the compiler, and the next step."""
    lines = [line for line in output.splitlines() if not line.startswith(("ninja:", "[", "FAILED"))]
    errors = [line for line in lines if "error" in line.lower() and " && mv " not in line]
    shown = errors[0] if errors else (lines[-1] if lines else "no message")
    return (
        f"{Path(plan.link[0]).name} failed: {shown.strip()[:300]}; a C++20 compiler is needed: "
        "install g++ 11 or newer, or name one in CXX"
    )
