"""Times by turns, memory, limits of the machine, and the report of a benchmark."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def by_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call. They take turns, so that a busy machine slows all alike."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def by_turns_apart(
    make: Callable[..., Callable[[], object]],
    arguments_of: dict[str, tuple[Any, ...]],
    repeats: int,
) -> dict[str, float]:
    """`by_turns` of ``make(*arguments)``, each in one separate process for all its turns.

    For variants that set up their process differently: the kernels keep freed memory, from which
    variants without kernels must not profit.
    """
    context = get_context("spawn")
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, context, _set_up, (make, arguments)))
            for name, arguments in arguments_of.items()
        }
        for pool in pools.values():
            pool.submit(_seconds).result()
        times: dict[str, list[float]] = {name: [] for name in pools}
        for _ in range(repeats):
            for name, pool in pools.items():
                times[name].append(pool.submit(_seconds).result())
    return {name: statistics.median(values) for name, values in times.items()}


_own: list[Callable[[], object]] = []  # the call that this process is for


def _set_up(make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> None:
    _own.append(make(*arguments))


def _seconds() -> float:
    start = time.perf_counter()
    _own[0]()
    return time.perf_counter() - start


def peak_mib(make: Callable[..., Callable[[], object]], *arguments: Any) -> float | None:
    """Peak memory of ``make(*arguments)()`` in MiB; None: not known on this system.

    In a new process: memory that an earlier call has freed would not count.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_own_peak_mib, make, *arguments).result()


def _own_peak_mib(make: Callable[..., Callable[[], object]], *arguments: Any) -> float | None:
    call = make(*arguments)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1024
    return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def limits() -> dict[str, float]:
    """Limits of this machine: bytes copied (read and written) and products per second."""
    a, b = torch.randn(1 << 25), torch.empty(1 << 25)
    m = torch.randn(1536, 1536)
    times = by_turns({"copy": lambda: b.copy_(a), "matmul": lambda: m @ m}, 7)
    return {
        "bytes_per_sec": 2 * a.numel() * 4 / times["copy"],
        "products_per_sec": 1536**3 / times["matmul"],
    }


def bound_sec(machine: dict[str, float], num_bytes: float, products: float) -> float:
    """The roofline: the longer of the times for memory and for arithmetic alone."""
    return max(num_bytes / machine["bytes_per_sec"], products / machine["products_per_sec"])


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--repeats", type=int, default=5, help="medians are over so many (5)")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    return parser


def show(rows: list[Row]) -> None:
    """Prints a table."""
    columns = list(rows[0])
    cells = [[_shown(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def report(rows: list[Row], machine: dict[str, float], path: Path | None) -> None:
    """Prints a table and, with --json, writes JSON."""
    show(rows)
    print(
        f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()}, "
        f"{torch.backends.cpu.get_cpu_capability()}; measured "
        f"{machine['bytes_per_sec'] / 1e9:.1f} GB/s copied, "
        f"{machine['products_per_sec'] / 1e9:.0f} G products/s; load {os.getloadavg()[0]:.1f}"
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
