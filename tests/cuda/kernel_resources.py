"""What each CUDA kernel takes of a multiprocessor: tables, by the NVRTC of ``constraints.txt``.

    python tests/cuda/kernel_resources.py [ARCHITECTURE ...]     (75 80 86 89 90 100 120)

compiles every kernel, some 3 CPU minutes for all architectures, and writes the tables of
``kernel_resources/``. Columns: registers, bytes of a thread's stack, spilling stores and loads in
the code, bytes of shared memory, most threads of a block.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cubin import Kernel, compiler_of, kernels_of
from stand_in import BUILDS

from sg3flow.kernels.cuda_compile import Program, _keep, cache_file, read_compiled
from sg3flow.kernels.nvrtc import Compiled, Nvrtc, find_nvrtc
from sg3flow.ops.cuda_programs import all_programs

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FOLDER = Path(__file__).with_name("kernel_resources")
_HEAD = ("kernel", "registers", "stack", "stores", "loads", "shared", "threads")


def programs_of(architecture: int) -> list[Program]:
    """Every program for a GPU."""
    return all_programs(has_tensor_cores=architecture >= 80)


_ALONE = """
import pickle, sys
from sg3flow.kernels.nvrtc import Nvrtc
file, arguments = pickle.load(sys.stdin.buffer)
pickle.dump(Nvrtc(file).compile(*arguments), sys.stdout.buffer)
"""


def compiled_alone(program: Program, architecture: int, nvrtc: Nvrtc) -> Compiled:
    """The machine code of a program, from the cache of test builds or compiled now.

    In a process of its own: NVRTC's choice of registers depends on what it compiled before.
    """
    headers = nvrtc.headers_folder(BUILDS / "headers")
    target = f"sm_{architecture}"
    path = BUILDS / cache_file(program, target, nvrtc, headers).name
    if (kept := read_compiled(path)) is not None:
        return kept
    options = [f"--gpu-architecture={target}", "-std=c++17", "-default-device", f"-I{headers}"]
    texts = (program.text(), program.source, program.headers(), program.kernels, options)
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        input=pickle.dumps((nvrtc.file, texts)),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    made: Compiled = pickle.loads(done.stdout)
    _keep(path, made)
    return made


def table_of(programs: Iterable[Program], architecture: int, nvrtc: Nvrtc) -> tuple[str, list[str]]:
    """(version, rows) of programs."""
    version, rows = "", []
    for program in programs:
        made = compiled_alone(program, architecture, nvrtc)
        assert made.log == "", made.log
        version = compiler_of(made.code)
        found = {kernel.name: kernel for kernel in kernels_of(made.code)}
        assert set(found) == set(made.names.values())
        rows += [_row(kernel, found[made.names[kernel]]) for kernel in program.kernels]
    return version, sorted(rows)


def _row(expression: str, kernel: Kernel) -> str:
    numbers = (kernel.registers, kernel.stack, kernel.stores, kernel.loads, kernel.shared)
    name = expression.replace("sg3::", "")
    return "\t".join((name, *map(str, (*numbers, kernel.threads))))


def read_table(architecture: int) -> tuple[str, list[str]]:
    """(version, rows) of a table."""
    version, _, *rows = (FOLDER / f"sm_{architecture}.tsv").read_text().splitlines()
    return version, rows


def write_table(architecture: int, nvrtc: Nvrtc) -> None:
    version, rows = table_of(programs_of(architecture), architecture, nvrtc)
    text = "\n".join((version, "\t".join(_HEAD), *rows)) + "\n"
    (FOLDER / f"sm_{architecture}.tsv").write_text(text)


def main(arguments: Sequence[str]) -> None:
    for architecture in map(int, arguments or ARCHITECTURES):
        write_table(architecture, find_nvrtc())


if __name__ == "__main__":
    main(sys.argv[1:])
