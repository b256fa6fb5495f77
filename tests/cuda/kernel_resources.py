"""What each CUDA kernel takes of a multiprocessor: tables, by the NVRTC of ``constraints.txt``.

    python tests/cuda/kernel_resources.py [ARCHITECTURE ...]     (75 80 86 89 90 100 120)

compiles every kernel, some 3 CPU minutes for all architectures, and writes the tables of
``kernel_resources/``. Columns: registers, bytes of a thread's stack, spilling stores and loads in
the code, bytes of shared memory, most threads of a block.

NVRTC 13.0 gives other machine code from one run to the next, and from one compilation to the next
in a process: in 3 of 15 processes that compiled nothing but the radial kernels for 8.9 or 9.0, one
kernel had a register more or less; without address randomization in 1 of 3 of them. So a comparison
allows for `SPREAD`. Renew a table for a change that is larger.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cubin import Kernel, compiler_of, kernels_of

from sg3flow.kernels.cuda_compile import Program, compiled
from sg3flow.kernels.nvrtc import Nvrtc, find_nvrtc
from sg3flow.ops.cuda_programs import all_programs

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FOLDER = Path(__file__).with_name("kernel_resources")
# Columns, and how far two compilations of the same source may be apart.
SPREAD = {"registers": 2, "stack": 8, "stores": 2, "loads": 2, "shared": 0, "threads": 0}
_HEAD = ("kernel", *SPREAD)


def programs_of(architecture: int) -> list[Program]:
    """Every program for a GPU."""
    return all_programs(has_tensor_cores=architecture >= 80)


def table_of(programs: Iterable[Program], architecture: int, nvrtc: Nvrtc) -> tuple[str, list[str]]:
    """(version, rows) of programs, compiled now or taken from the cache of kernels."""
    version, rows = "", []
    for program in programs:
        made = compiled(program, f"sm_{architecture}", nvrtc)
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
