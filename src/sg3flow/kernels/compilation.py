"""Carries out a recipe with ninja: in parallel, and only what was not made before.

An object is named after its sources and its command, and takes its name when it is complete. So
what a build that was killed has made serves the next one, and nothing half-written or outdated can:
not even where an orphan of the killed one still compiles.

`torch.utils.cpp_extension` gives the folders of headers and libraries. Its `load` is not used: it
waits without end for a lock file that a killed process left behind.
"""

import hashlib
import shlex
import shutil
import sys
from pathlib import Path

import torch

from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file
from sg3flow.kernels.recipes import Recipe
from sg3flow.kernels.watching import Beat, run_watched
from sg3flow.progress import progress

_RULE = "rule run\n  command = $line\n"


def compile_recipe(recipe: Recipe, work: Path, beat: Beat) -> Path:
    """The library of a recipe, made in ``work`` of what is there already and the rest.

    Raises:
        ConfigError: a compiler failed or hung, or there is no ninja; the message says what to do.
    """
    ninja = _ninja()
    objects = {name: f"{name}-{_made_of(recipe, name)}.o" for name in recipe.objects}
    library = f"library-{_digest(*recipe.link, *objects.values())}.so"
    lines = {objects[name]: [*command, "-o"] for name, command in recipe.objects.items()}
    lines[library] = [*recipe.link[:2], *objects.values(), *recipe.link[2:], "-o"]
    text = _RULE
    for output, command in lines.items():
        inputs = " ".join(objects.values()) if output == library else ""
        text += f"build {output}: run {inputs}\n  line = {_shell_line(command, output)}\n"
    (work / "build.ninja").write_text(text, encoding="utf-8")
    _remove_others(work, set(lines))
    with progress(f"{recipe.name.upper()} kernels (files)", len(lines)) as advance:
        known = 0

        def beaten() -> None:
            nonlocal known
            beat()
            made = sum((work / name).exists() for name in lines)
            if made > known:
                advance(made - known)
                known = made

        code, output = run_watched([ninja], work, beaten)
        if code != 0:
            raise ConfigError(_failure(recipe, output))
        beaten()
    return work / library


def _ninja() -> str:
    """The program: of this environment's package, or of the system."""
    beside = Path(sys.executable).parent
    found = shutil.which("ninja", path=str(beside)) or shutil.which("ninja")
    if found is None:
        raise ConfigError("there is no ninja to build the kernels with; pip install ninja")
    return found


def _made_of(recipe: Recipe, name: str) -> str:
    """Names what an object is made of: its command, its source, every header, torch, compilers."""
    command = recipe.objects[name]
    used = [p for p in recipe.files if p.suffix in (".h", ".cuh") or str(p) in command]
    contents = [f"{path.name} {sha256_file(path)}" for path in used]
    return _digest(torch.__version__, *recipe.compilers, *command, *contents)


def _digest(*parts: str) -> str:
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


def _failure(recipe: Recipe, output: str) -> str:
    """What the compiler said, by its first line that speaks of an error, and what to do."""
    lines = [line for line in output.splitlines() if not line.startswith(("ninja:", "[", "FAILED"))]
    said = [line for line in lines if "error" in line.lower() and " && mv " not in line]
    telling = said[0] if said else (lines[-1] if lines else "no message")
    by_nvcc = any(word in telling for word in ("nvcc", "ptxas", "cudafe", "nvlink", ".cu"))
    return f"{_blamed(recipe, by_nvcc)}: {telling.strip()[:300]}; {_advice(by_nvcc)}"


def _blamed(recipe: Recipe, by_nvcc: bool) -> str:
    program = "nvcc" if by_nvcc else Path(recipe.link[0]).name
    return f"{program} failed"


def _advice(by_nvcc: bool) -> str:
    if by_nvcc:
        return (
            "name a C++ compiler that this CUDA toolkit supports in CXX, or another toolkit in "
            "CUDA_HOME"
        )
    return "a C++20 compiler is needed: install g++ 11 or newer, or name one in CXX"
