"""Predicted time of the CUDA kernels on an H100 from their instructions; no GPU is needed.

python benchmarks/cuda_instructions.py [--loops] [--cubin FILE]

Compiles filtered_lrelu for float16 and sm_90 by NVRTC, disassembles it (cuobjdump in PATH) and
counts the warp instructions of a plane's tiles. Each inner loop counts as often as a full tile runs
it; its loads, products and stores identify it. The rest of the loop over planes counts once per
warp, with both sides of every branch. Loops that a full tile does not run are left out (tensor
ends, odd widths, planes that reach the clamp), and so is the work that a block does once per 8
planes.

A multiprocessor issues 4 instructions per clock. Logic, shifts, comparisons, integer sums and
conversions run at half of that; a 16x8x16 product takes at least 4 clocks of one of 4 tensor cores;
loads and stores move 128 bytes per clock. The largest of the four is the prediction; stalls, bank
conflicts and memory add to it.
"""

import argparse
import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from sg3flow.kernels.cuda_compile import compiled
from sg3flow.kernels.nvrtc import find_nvrtc
from sg3flow.ops.cuda_programs import band_program
from sg3flow.ops.cuda_tiles import FAMILIES

MODES = ("no flags", "writes flags", "reads flags")
H100_CLOCKS, H100_BANDWIDTH = (
    132 * 1.7e9,
    3.35e12,
)  # clocks of all multiprocessors and bytes, per second
_HALF_RATE = frozenset(
    "F2F F2FP HMNMX2 HSET2 HSETP2 I2F IADD3 ISETP LEA LOP3 PLOP3 POPC PRMT SEL SHF VIADD "
    "VIADDMNMX VIMNMX VOTE".split()
)
# (name, (up, taps, radial, down, taps, radial), mode, input, output)
LAYERS = [
    *(("T 150 -> 148", (2, 12, 0, 2, 12, 0), mode, 150, 148) for mode in (0, 1)),
    ("T 278 -> 276", (2, 12, 0, 2, 12, 0), 1, 278, 276),
    ("T 534 -> 532", (2, 12, 0, 2, 12, 0), 1, 534, 532),
    ("T 150 -> 148, gradient", (2, 12, 0, 2, 12, 0), 2, 148, 150),
    *(("T 150 -> 276", (4, 24, 0, 2, 12, 0), mode, 150, 276) for mode in (0, 1)),
    ("T 150 -> 276, gradient", (2, 12, 0, 4, 24, 0), 2, 276, 150),
    *(("R 148 -> 148", (2, 12, 0, 2, 12, 1), mode, 148, 148) for mode in (0, 1)),
    ("R 148 -> 148, gradient", (2, 12, 1, 2, 12, 0), 2, 148, 148),
    *(("R 148 -> 276", (4, 24, 0, 2, 12, 1), mode, 148, 276) for mode in (0, 1)),
    ("R 148 -> 276, gradient", (2, 12, 1, 4, 24, 0), 2, 276, 148),
]

Code = list[tuple[int, str]]  # address, instruction


@dataclasses.dataclass
class Loop:
    """The instructions of a loop, without those of inner loops."""

    begin: int
    end: int
    code: list[str]

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.code)


@dataclasses.dataclass(frozen=True)
class Plan:
    """band_shape.h: how a layer is split into tiles, and the resources of a tile."""

    kind: tuple[int, ...]
    out: int

    def _sizes(self) -> tuple[int, int]:
        """Warps and blocks at most."""
        _, _, up_radial, down, _, down_radial = self.kind
        if down_radial:
            return 7, 7
        return 8, 8 if up_radial else (12 if down == 4 else 10)

    def _share(self, most: int) -> int:
        tiles = -(-self.out // most)
        return -(-self.out // tiles)

    @property
    def rows(self) -> int:
        return self._share((self._sizes()[0] * 16 - self.kind[4] + 1) // self.kind[3])

    @property
    def cols(self) -> int:
        most = (self._sizes()[1] * 16 - self.kind[4] + 1) // self.kind[3] // 2 * 2
        return min(-(-self._share(most) // 4) * 4, most)

    @property
    def warps(self) -> int:
        up, _, up_radial, down, taps, _ = self.kind
        warps = -(-(self.rows * down + taps - 1) // 16)
        return -(-warps // up) * up if up_radial else warps

    @property
    def blocks(self) -> int:
        blocks = -(-(self.cols * self.kind[3] + self.kind[4] - 1) // 16)
        return blocks if self.kind[5] else -(-blocks // 2) * 2

    @property
    def tiles(self) -> int:
        return -(-self.out // self.rows) * -(-self.out // self.cols)

    @property
    def together(self) -> int:
        """Outputs that one store takes."""
        fours = self.out % 4 == 0 and self.cols % 4 == 0 and not self.kind[5]
        return 4 if fours else (2 if self.out % 2 == 0 else 1)

    def turns(self, loop: Loop) -> float:
        """How often a warp of a full tile runs a loop; 0: never."""
        up = self.kind[0]
        if loads := loop.count(r"LDG\.E\.128"):  # input
            in_cols = -(-self.blocks // (up // 2)) * 8 + 8
            in_rows = (self.warps - 1) * (16 // up) + 16
            if self.kind[2]:
                in_rows = self.warps // up * 16 + 8
            step = self.warps * 32 // (in_cols // 8 + 1) // 4 * 4
            return -(-in_rows // step) / loads
        if loop.count("HMMA") and loop.count("STG"):  # units of outputs
            width = {4: r"STG\.E\.64", 2: r"STG\.E desc", 1: r"STG\.E\.U16"}[self.together]
            return self.units() / self.warps if loop.count(width) else 0
        if loop.count("HMMA"):  # four blocks
            return self.blocks / 4
        if loop.count(r"LDG\.E ") and loop.count("STS"):  # flags to read
            step = self.warps * 32 // (self.blocks + 2) // 4 * 4
            return -(-self.warps * 16 // step) / loop.count(r"LDG\.E ")
        if stores := loop.count(r"STG\.E\.U8"):  # flags written, an own row
            return self.flag_turns(stores)
        return 0

    def units(self) -> int:
        return -(-self.cols // 8) if self.kind[5] else -(-self.rows // 16) * -(-self.cols // 16)

    def flag_turns(self, stores: int) -> float:
        bytes_ = -(-self.cols * self.kind[3] // 4)
        step = self.warps * 32 // bytes_
        return -(-self.rows * self.kind[3] // step) / stores


def disassemble(cubin: Path | None) -> str:
    if shutil.which("cuobjdump") is None:
        sys.exit("error: no cuobjdump is on PATH; it is part of the CUDA toolkit")
    with tempfile.TemporaryDirectory() as folder:
        if cubin is None:
            nvrtc = find_nvrtc()
            for family in FAMILIES:
                made = compiled(band_program(family, torch.float16), "sm_90", nvrtc)
                (Path(folder) / f"{family}.cubin").write_bytes(made.code)
        cubins = sorted(Path(folder).glob("*.cubin")) if cubin is None else [cubin]
        return "".join(map(_sass, cubins))


def _sass(cubin: Path) -> str:
    command = ["cuobjdump", "-sass", str(cubin)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernels(sass: str) -> dict[tuple[tuple[int, ...], int], Code]:
    """The code of each tile kernel on the tensor cores, by its kind and what it does with flags."""
    found: dict[tuple[tuple[int, ...], int], Code] = {}
    code: Code = []
    for line in sass.splitlines():
        if "Function :" in line:
            code = []
            numbers = re.findall(r"L[ib](\d+)E", line.split("BandShape")[-1])
            if "BandShape" in line:
                found[tuple(map(int, numbers[:6])), int(re.findall(r"E(\d)EE", line)[-1])] = code
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            code.append((int(match[1], 16), match[2]))
    return found


def loops_of(code: Code) -> list[Loop]:
    """Inner loops, and last the loop over planes: the one that is around most others."""
    ends: dict[int, int] = {}
    for address, line in code:
        target = re.search(r"BRA\S* .*?(0x[0-9a-f]+)", line)
        if target and int(target[1], 16) < address:
            ends[int(target[1], 16)] = address
    loops = []
    for begin, end in ends.items():
        inner = [(b, e) for b, e in ends.items() if begin <= b and e <= end and b != begin]
        own = [
            line
            for address, line in code
            if begin <= address <= end and not any(b <= address <= e for b, e in inner)
        ]
        loops.append((len(inner), Loop(begin, end, own)))
    planes = max(loops, key=lambda counted: counted[0])[1]
    return [loop for n, loop in loops if loop is not planes and planes.begin <= loop.begin] + [
        planes
    ]


def load_store_clocks(line: str) -> int:
    """Clocks of a load or store of a warp without bank conflicts."""
    if not re.match(r"(@!?U?P\d+ )?(LD[GS]|ST[GS]|LDSM)\b", line):
        return 0
    return 4 if "LDSM" in line or ".128" in line else (2 if ".64 " in line else 1)


def class_of(line: str) -> str:
    return re.sub(r"^@!?U?P\d+ ", "", line).split()[0].split(".")[0]


def tile_counts(code: Code, plan: Plan, show: bool) -> Counter[str]:
    """Instructions that a warp of a full tile issues, by their class."""
    *inner, planes = loops_of(code)
    turns = [plan.turns(loop) for loop in inner]
    # of the two that bend samples, the longer one clips them
    bending = [i for i, loop in enumerate(inner) if loop.count("HMMA") and not loop.count("STG")]
    for i in sorted(bending, key=lambda i: len(inner[i].code))[1:]:
        turns[i] = 0
    total: Counter[str] = Counter()
    for loop, times in zip([*inner, planes], [*turns, 1.0], strict=True):
        if show and times:
            most = ", ".join(
                f"{n} {c}" for c, n in Counter(map(class_of, loop.code)).most_common(9)
            )
            print(f"    {times:5.2f} x {len(loop.code):4d}: {most}")
        for line in loop.code:
            total[class_of(line)] += times
            total["load, store"] += times * load_store_clocks(line)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cubin", type=Path, help="compiled before")
    parser.add_argument("--loops", action="store_true", help="show what counts how often")
    args = parser.parse_args()
    codes = kernels(disassemble(args.cubin))
    clocks_of = "issue, half rate, tensor, load and store"
    print(f"layer | flags | instructions a pixel | clocks: {clocks_of} | ps | bandwidth")
    for name, kind, mode, size_in, size_out in LAYERS:
        plan = Plan(kind, size_out)
        counts = tile_counts(codes[kind, mode], plan, args.loops)
        scale = plan.warps * plan.tiles / size_out**2
        moves = counts.pop("load, store")
        all_, half = sum(counts.values()), sum(n for c, n in counts.items() if c in _HALF_RATE)
        clocks = [n * scale / 4 for n in (all_, 2 * half, 4 * counts["HMMA"], 4 * moves)]
        seconds = max(clocks) / H100_CLOCKS
        # a gradient's middle samples are those of the layer, whose flags it reads
        middle = (size_out * kind[3] + kind[4] - 1) ** 2
        bytes_ = 2 * (size_in**2 + size_out**2) + (middle / 4 if mode else 0)
        share = bytes_ / size_out**2 / seconds / H100_BANDWIDTH
        print(
            f"{name} | {MODES[mode]} | {all_ * scale:.2f} | "
            + ", ".join(f"{c:.2f}" for c in clocks)
            + f" | {seconds * 1e12:.1f} | {share:.0%}"
        )


if __name__ == "__main__":
    main()
