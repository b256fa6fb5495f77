"""Plant one-line faults in a copy of the tree, one at a time; the tests must catch each of them.

    python tests/mutants/plant.py [--only PATTERN] [--jobs N] [--check]

The table of faults is in ``faults.py``. The tests run without the folder of golden numbers and
without those marked medium, slow or gpu: what catches a fault here is part of `make test-fast`.
Exit status 1: a fault survived, or the table no longer fits the sources.
"""

import argparse
import compileall
import importlib
import multiprocessing
import os
import py_compile
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("src", "tests", "pyproject.toml")
TIMEOUT_SEC = 600
CAUGHT, SURVIVED, SAME = "caught", "SURVIVED", "changes nothing"
# A fault that makes the code crash says nothing about the tests of its values.
_CRASHES = ("NameError", "AttributeError", "TypeError", "ImportError", "SyntaxError", "IndexError",
            "RuntimeError")  # fmt: skip
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Fault:
    """A fault of one line.

    Attributes:
        file: the source, relative to the root; tests: the files that should catch the fault.
        old, new: a fragment that occurs once in the source, and its replacement.
        means: what the fault makes wrong.
        same: why the fault changes nothing, so that no test can catch it; empty: it does.
        hangs: whether a run that does not end in time counts as caught.
    """

    file: str
    tests: tuple[str, ...]
    old: str
    new: str
    means: str
    same: str = ""
    hangs: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: a word, and the test that caught it or the reason."""

    word: str
    detail: str


def misfits(root: Path, faults: Iterable[Fault]) -> list[str]:
    """One line for each fault that cannot be planted in the tree."""
    found = []
    for fault in faults:
        where = f"{fault.file}: {fault.means}"
        count = (root / fault.file).read_text().count(fault.old)
        if count != 1:
            found.append(f"{where}: {fault.old!r} occurs {count} times, not once")
        if fault.old == fault.new or "\n" in fault.old + fault.new:
            found.append(f"{where}: it must change one line")
        found += [f"{where}: no {name}" for name in fault.tests if not (root / name).is_file()]
    return found


def make_copy(root: Path, folder: Path) -> Path:
    """A copy of the sources and tests, compiled so that every later change is seen."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=ignore)
        else:
            shutil.copy(root / name, folder / name)
    # By time and size, as usual, two faults planted in the same second could be taken for one.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "src", quiet=2, invalidation_mode=mode)
    (folder / "nothing-shared").mkdir()
    return folder


def run_tests(copy: Path, tests: Sequence[str], *options: str) -> tuple[int | None, str]:
    """Exit status (None: no end in time) and output of test files, without golden numbers."""
    output = copy / "output.txt"
    arguments = ["-q", "-p", "no:cacheprovider", "--tb=no"]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of ``LIBRARIES``
    arguments += ["-m", "not gpu and not slow and not medium", *options, *tests]
    process = _FORK.Process(target=_run_pytest, args=(copy, output, arguments))
    process.start()
    process.join(TIMEOUT_SEC)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None, ""
    return process.exitcode, output.read_text()


def _run_pytest(copy: Path, output: Path, arguments: list[str]) -> None:
    """In a process of its own: pytest on the sources of the copy."""
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(copy)
    os.environ["COLUMNS"] = "400"  # the summary names the exception after the test
    os.environ["PYTHONPATH"] = str(copy / "src")
    os.environ["SG3FLOW_SHARED"] = str(copy / "nothing-shared")
    sys.path.insert(0, str(copy / "src"))
    sys.dont_write_bytecode = True
    import pytest

    sys.exit(int(pytest.main(arguments)))


def plant(copy: Path, fault: Fault) -> Outcome:
    """Plant a fault in a copy, run its tests and repair the copy."""
    path = copy / fault.file
    sound = path.read_text()
    path.write_text(sound.replace(fault.old, fault.new))
    try:
        status, output = run_tests(copy, fault.tests, "-x")
    finally:
        path.write_text(sound)
    return judged(fault, status, output)


def judged(fault: Fault, status: int | None, output: str) -> Outcome:
    """The outcome of a run by pytest's exit status (0: passed, 1: failed) and its summary."""
    if status is None:
        return Outcome(CAUGHT if fault.hangs else "NO END", f"no end within {TIMEOUT_SEC} s")
    if status == 0:
        return Outcome(SAME, fault.same) if fault.same else Outcome(SURVIVED, "every test passed")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)(?: - (\w+))?", output, re.MULTILINE)
    if status != 1 or failed is None:
        last = (output.strip().splitlines() or ["no output"])[-1]
        return Outcome("BROKEN", f"pytest ended with status {status}: {last:.80}")
    if failed[2] in _CRASHES:
        return Outcome("BROKEN", f"{failed[2]} in {failed[1]}: plant a fault of values")
    if fault.same:
        return Outcome("BROKEN", f"it changes something, in {failed[1]}: {fault.same}")
    return Outcome(CAUGHT, failed[1].removeprefix("tests/"))


_copy: Path  # of this worker process


def _start_worker(root: Path, folder: str) -> None:
    global _copy
    _copy = make_copy(root, Path(folder, str(os.getpid())))


def _plant_here(fault: Fault) -> Outcome:
    return plant(_copy, fault)


def plant_all(root: Path, faults: Sequence[Fault], jobs: int) -> list[Outcome]:
    """The outcomes of faults, ``jobs`` at a time; prints them as they come.

    Raises:
        SystemExit: the tests do not pass without a fault.
    """
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        _require_sound(make_copy(root, Path(folder, "sound")), faults)
        workers = ProcessPoolExecutor(jobs, _FORK, _start_worker, (root, folder))
        with workers as pool:
            for fault, outcome in zip(faults, pool.map(_plant_here, faults), strict=True):
                print(f"{outcome.word:<15} {_line(fault)}\n{'':<16}{outcome.detail}", flush=True)
                outcomes.append(outcome)
    return outcomes


def _require_sound(copy: Path, faults: Sequence[Fault]) -> None:
    """Without a fault, the tests must pass: else a failure would say nothing."""
    status, output = run_tests(copy, sorted({name for fault in faults for name in fault.tests}))
    if status != 0:
        raise SystemExit(f"{output[-2000:]}\nerror: the tests fail without any fault")


def _line(fault: Fault) -> str:
    return f"{fault.file.removeprefix('src/sg3flow/')}: {fault.means}: {fault.new.strip()}"


def main() -> int:
    """Plant the faults of the table and print what became of them."""
    from faults import FAULTS, LIBRARIES

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="faults whose line has it")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--check", action="store_true", help="check the table, plant nothing")
    options = parser.parse_args()
    try:
        pattern = re.compile(options.only)
    except re.error as error:
        parser.error(f"--only is no regular expression: {error}")
    faults = [fault for fault in FAULTS if pattern.search(_line(fault))]
    if wrong := misfits(ROOT, faults):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if options.check or not faults:
        print(f"{len(faults)} faults fit the sources")
        return 0 if faults else 1
    os.environ["OMP_NUM_THREADS"] = "1"  # tensors are tiny, and a fork must not meet threads
    for name in LIBRARIES:
        importlib.import_module(name)
    words = [outcome.word for outcome in plant_all(ROOT, faults, max(options.jobs, 1))]
    print(", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    return int(not set(words) <= {CAUGHT, SAME})


if __name__ == "__main__":
    sys.exit(main())
