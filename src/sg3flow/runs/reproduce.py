"""Reproduces a training in a worktree and compares the digests of its snapshots."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sg3flow
from sg3flow.errors import DataError, Sg3flowError
from sg3flow.files import sha256_file, write_json, write_text
from sg3flow.runs.machine import DECIDING_VARIABLES
from sg3flow.runs.provenance import installed_packages
from sg3flow.runs.reproduction_inputs import Log, find_data, find_network, last_line, shown_path
from sg3flow.runs.run_folder import CONV_FORMS, list_snapshots, read_packages, read_provenance
from sg3flow.runs.worktree import REPORT, Record, Worktree, prepare_worktree, read_report
from sg3flow.settings import OPS

EQUAL, DIFFERS, MISSING = "equal", "differs", "no recorded digest"

_WORDS = {
    "torch": "torch",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "cpu_capability": "instruction set",
    "threads": "threads",
    "device": "device",
    "gpu": "GPU",
    "ops": "ops",
    "python": "Python",
}

_PARAMS = "params.json"  # JSON is YAML
# Depends on the GPUs of this machine. Ops and threads are set to those of the run.
_NOT_RESTORED = {"CUDA_VISIBLE_DEVICES"}
# Packages that decide the numbers: a difference is a warning before days of training.
_NUMERIC_PACKAGES = ("torch", "numpy", "pillow", "scipy", "pyspng")
_MOST_SHOWN = 8


@dataclass(frozen=True)
class ReproductionResult:
    """The result of a comparison.

    Attributes:
        equal: the last snapshot, and every other one with a recorded digest, is equal.
        snapshots: the result of each snapshot by file name, the oldest first.
        differences: what differs from the record, as text.
    """

    equal: bool
    snapshots: Mapping[str, str]
    differences: list[str]

    def lines(self) -> Iterator[str]:
        """The result as text."""
        for name, outcome in self.snapshots.items():
            yield f"{name}: {outcome}"
        if self.equal:
            yield "equal: every snapshot has the recorded SHA-256"
        elif DIFFERS not in self.snapshots.values():
            yield (
                f"NOT compared to the end: the run recorded no digest of {list(self.snapshots)[-1]}"
            )
        elif self.differences:
            yield f"NOT equal. Differences from the record: {'; '.join(self.differences)}"
        else:
            yield (
                "NOT equal, without a difference from the record. Sums on a GPU may differ between "
                "runs; on a CPU please report this"
            )


def compare(record: Record, out: Path, fingerprint: str) -> ReproductionResult:
    """Compare the snapshots in ``out`` with those of the record.

    Args:
        fingerprint: of the settings, data and code of the reproduction.

    Raises:
        DataError: the two have no snapshot in common.
    """
    made = list_snapshots(out)
    snapshots = {p.name: _outcome(record.digests.get(p.name), sha256_file(p)) for p in made}
    if all(outcome == MISSING for outcome in snapshots.values()):
        raise DataError(
            f"{record.origin} recorded no digest of any of these snapshots, so nothing can be "
            f"compared; the snapshots are in {out}"
        )
    # The first snapshot is of untrained networks: it says nothing about the training.
    equal = DIFFERS not in snapshots.values() and snapshots[made[-1].name] == EQUAL
    return ReproductionResult(
        equal, snapshots, [] if equal else list(_differences(record, out, fingerprint))
    )


def _outcome(recorded: str | None, made: str) -> str:
    if recorded is None:
        return MISSING
    return EQUAL if recorded == made else DIFFERS


def _differences(record: Record, out: Path, fingerprint: str) -> Iterator[str]:
    now: Mapping[str, Any] = read_provenance(out) or {}
    if fingerprint != record.run["fingerprint"]:
        yield f"fingerprint changed: {record.run['fingerprint']} -> {fingerprint}"
    before, after = record.provenance["compute"], now.get("compute", {})
    for key, word in _WORDS.items():
        if before.get(key) != after.get(key):
            yield f"{word} changed: {before.get(key)!s} -> {after.get(key)!s}"
    if record.provenance.get("precision", now.get("precision")) != now.get("precision"):
        yield f"precision changed: {record.provenance['precision']} -> {now.get('precision')}"
    if record.provenance.get("conv_forms") != now.get("conv_forms"):
        yield "forms of convolutions changed"
    machine, mine = record.provenance.get("machine", {}), now.get("machine", {})
    if machine.get("cpu") != mine.get("cpu"):
        yield f"processor changed: {machine.get('cpu')} -> {mine.get('cpu')}"
    there, here = record.packages, read_packages(out)
    differing = [n for n in there if here.get(n) != there[n] and n != "torch"]
    if differing:
        yield f"{len(differing)} packages changed, for example {', '.join(differing[:5])}"


def reproduce(
    record: Record,
    root: Path,
    log: Log,
    *,
    data: Path | None = None,
    resume: str = "",
    kimg: int | None = None,
    clean: bool = False,
    force: bool = False,
) -> ReproductionResult:
    """Reproduce the training of ``record`` and compare the digests of its snapshots.

    An interrupted attempt is resumed.

    Args:
        root: the user's project: its repository has the commit, its caches may have the data;
            only ``reproductions/`` below it is written.
        log: prints a line about the progress.
        data: path of the packed set; None: search for it.
        resume: path of the network that the run started from; empty: where the run had it.
        kimg: reproduce only the first N kimg; the run must have recorded a snapshot there. None:
            the whole run.
        clean: remove an earlier attempt first.
        force: continue despite mismatches in the record.

    Raises:
        DataError: the record, its commit, changes, data or network cannot be used.
        CheckpointError, TrackingError: the network it started from is not available.
        Sg3flowError: the training failed.
    """
    kimg = _checked_length(record, kimg)
    worktree = prepare_worktree(record, root, clean=clean)
    network = find_network(record, root, resume, worktree)
    log(f"{record.origin}: {record.code_words} in {shown_path(worktree.tree, root)}")
    for warning in _warnings(record, worktree):
        log(f"warning: {warning}")
    packed = find_data(record, worktree, root, data, log)
    _write_settings(record, worktree, kimg, network.recorded)
    found = _fingerprint(record, worktree, packed)
    if found != record.run["fingerprint"]:
        problem = _contradiction(record, found)
        if not force:
            raise DataError(f"{problem}; give --force to train despite that")
        log(f"warning: {problem}")
    _write_settings(record, worktree, kimg, network.kept_in(worktree.folder))
    _write_conv_forms(record, worktree, found)
    log(f"training into {shown_path(worktree.run, root)}")
    _train(record, worktree, packed)
    result = compare(record, worktree.run, found)
    _write_report(worktree, record, result)
    return result


def _warnings(record: Record, worktree: Worktree) -> Iterator[str]:
    """Reasons, known before the training, why the result may not be equal."""
    code = record.provenance["code"]
    if code.get("untracked"):
        shown = ", ".join(code["untracked"][:3])
        yield f"files that git did not track are missing: {shown}"
    if code.get("diff", {}).get("withheld"):
        yield f"changes of {', '.join(code['diff']['withheld'][:3])} were not recorded"
    if not code.get("package_in_tree", True) and (worktree.project / "src" / "sg3flow").is_dir():
        yield "the run used an installed package, not the code of its folder"
    elif _is_other_version(record):
        yield f"the run used sg3flow {record.installed}, here is {sg3flow.__version__}"
    setups = record.provenance.get("setups", [])
    if len(setups) > 1:
        yield f"the run was trained on {len(setups)} set-ups; the last one is reproduced"
    here, there = installed_packages(), record.packages
    differing = [name for name in there if here.get(name) != there[name]]
    if differing:
        first = [name for name in _NUMERIC_PACKAGES if name in differing] or differing[:3]
        shown = ", ".join(f"{n} {there[n]} (here {here.get(n, 'none')})" for n in first)
        yield f"{len(differing)} packages differ from the run's: {shown}"


def _checked_length(record: Record, kimg: int | None) -> int:
    """The kimg to train, which must end at a snapshot with a recorded digest.

    Raises:
        DataError: there is no such snapshot.
    """
    longest = int(record.run["params"]["kimg"])
    length = longest if kimg is None else kimg
    if not 1 <= length <= longest:
        raise DataError(f"--kimg must be from 1 to {longest}, the length of the run, not {length}")
    name = record.snapshot_at(length)
    if name not in record.digests:
        known = ", ".join(sorted(record.digests)[:_MOST_SHOWN]) or "none"
        raise DataError(
            f"{record.origin} recorded no digest of {name}, so the result at {length} "
            f"kimg could not be compared; give the --kimg of a recorded one: {known}"
        )
    return length


def _contradiction(record: Record, found: str) -> str:
    """A sentence about a fingerprint that differs from that of the run."""
    if _is_other_version(record):
        return (
            f"the run used sg3flow {record.installed}, and {sg3flow.__version__} here trains "
            f"with other numbers (fingerprint {found}, the run had {record.run['fingerprint']}); "
            f"`pip install sg3flow=={record.installed}` and run again"
        )
    if record.network.get("shortened"):
        cause = "the record has the URL of its initial network without password or query"
    elif record.installed:
        cause = f"the record was edited, or this is another build of sg3flow {record.installed}"
    else:
        cause = "the record was edited, or code that git did not track was used"
    return (
        f"the recorded settings, data and code have fingerprint {found}, the run had "
        f"{record.run['fingerprint']}: {cause}"
    )


def _write_settings(record: Record, worktree: Worktree, kimg: int, resume: str) -> None:
    """Write the resolved settings as a params file: nothing is left to automatic choice."""
    settings = {**record.run["params"], "kimg": kimg, "resume": resume}
    # These do not change the numbers, and all snapshots can be compared.
    neutral = {"metrics": ["none"], "notify": "", "tensorboard": False, "keep_snapshots": "all"}
    neutral |= {"phema": []}
    settings |= {name: value for name, value in neutral.items() if name in settings}
    if settings.get("device") == "auto":
        settings["device"] = record.provenance["compute"]["device"]
    write_text(worktree.folder / _PARAMS, json.dumps({"train": settings}, indent=2) + "\n")


def _write_conv_forms(record: Record, worktree: Worktree, fingerprint: str) -> None:
    """Let the training resume with the recorded forms: measuring could choose others."""
    if record.conv_forms:
        folder = worktree.state / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONV_FORMS, record.conv_forms)


def _fingerprint(record: Record, worktree: Worktree, packed: Path) -> str:
    """The fingerprint that the checked-out code computes, before the training."""
    done = subprocess.run(
        [*_command(worktree, packed), "--dry-run"],
        cwd=worktree.project,
        env=_environment(record, worktree),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        other = f"; the run used sg3flow {record.installed}" if _is_other_version(record) else ""
        raise Sg3flowError(f"the recorded settings are refused: {last_line(done.stderr)}{other}")
    try:
        return str(json.loads(done.stdout)["fingerprint"])
    except (ValueError, KeyError):
        raise Sg3flowError("the recorded code printed no fingerprint") from None


def _train(record: Record, worktree: Worktree, packed: Path) -> None:
    """Run the train stage in this terminal; after Ctrl-C it saves its state."""
    with subprocess.Popen(
        _command(worktree, packed), cwd=worktree.project, env=_environment(record, worktree)
    ) as stage:
        with _ignored_interrupt():
            code = stage.wait()
    if code != 0:
        raise Sg3flowError(
            f"the training in {worktree.project} ended with exit code {code}; see the message "
            "above; the same command resumes it"
        )


@contextmanager
def _ignored_interrupt() -> Iterator[None]:
    """Ignore Ctrl-C here: the stage receives it too, saves and ends, and then we end."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_other_version(record: Record) -> bool:
    """Whether the run used an installed package of another version than this."""
    return record.installed not in ("", sg3flow.__version__)


def _command(worktree: Worktree, packed: Path) -> list[str]:
    script = worktree.project / "stages" / "train.py"
    # -P: a file of the project must not hide a module of the standard library.
    stage = (str(script),) if script.is_file() else ("-P", "-m", "sg3flow", "train")
    params = worktree.folder / _PARAMS
    return [
        *(sys.executable, *stage, "--params", str(params)),
        *("--data", str(packed), "--run-dir", str(worktree.run)),
    ]


def _environment(record: Record, worktree: Worktree) -> dict[str, str]:
    """The present environment, the recorded variables, and nothing of the user's project."""
    recorded, compute = record.provenance.get("variables", {}), record.provenance["compute"]
    dropped = ("DVC_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT", *DECIDING_VARIABLES - _NOT_RESTORED)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    restored = {k: v for k, v in recorded.items() if k not in _NOT_RESTORED}
    restored.setdefault("OMP_NUM_THREADS", str(compute["threads"]))
    # A present setting of the user takes precedence.
    restored[OPS.name] = OPS.text() if OPS.is_set() else compute["ops"].split(" ")[0]
    return (
        kept
        | restored
        | worktree.variables
        | {
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(worktree.project / "src"), os.environ.get("PYTHONPATH")])
            ),
        }
    )


def _write_report(worktree: Worktree, record: Record, result: ReproductionResult) -> None:
    known: Mapping[str, Any] = read_report(worktree.folder) or {}
    outcome = {
        "of": record.origin,
        "commit": record.commit,
        "time": round(time.time()),
        "equal": result.equal,
        "snapshots": result.snapshots,
        "differences": result.differences,
    }
    write_json(worktree.folder / REPORT, {**known, **outcome})
