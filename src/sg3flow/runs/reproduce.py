"""Whether a training that was made again came out the same, and if not, what was not the same."""

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

from sg3flow.errors import DataError, Sg3flowError
from sg3flow.files import sha256_file, write_json, write_text
from sg3flow.runs.machine import DECIDING_VARIABLES
from sg3flow.runs.provenance import installed_packages, read_packages
from sg3flow.runs.reproduction_inputs import Say, find_data, find_network, last_line, shown_path
from sg3flow.runs.run_folder import list_snapshots, read_provenance
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


@dataclass(frozen=True)
class ReproductionResult:
    """The outcome of a comparison.

    Attributes:
        equal: the last snapshot that was made, and every other one that the run has too, has the
            recorded digest.
        snapshots: how each of them compares, by file name, the oldest first.
        differences: what was not as recorded, in words.
    """

    equal: bool
    snapshots: Mapping[str, str]
    differences: list[str]

    def lines(self) -> Iterator[str]:
        """The outcome for a person."""
        for name, outcome in self.snapshots.items():
            yield f"{name}: {outcome}"
        if self.equal:
            yield "equal: every snapshot has the recorded SHA-256"
        elif DIFFERS not in self.snapshots.values():
            yield (
                f"NOT compared to its end: the run recorded no digest of {list(self.snapshots)[-1]}"
            )
        elif self.differences:
            yield f"NOT equal. Not as recorded: {'; '.join(self.differences)}"
        else:
            yield (
                "NOT equal, and nothing that was recorded differs. Sums of a GPU may differ from "
                "run to run; on a CPU this is worth a report"
            )


def compare(record: Record, out: Path, fingerprint: str) -> ReproductionResult:
    """Compare the snapshots in ``out`` with those of the record.

    Args:
        fingerprint: of the settings, data and code that made them.

    Raises:
        DataError: the two have no snapshot in common.
    """
    made = list_snapshots(out)
    snapshots = {p.name: _outcome(record.digests.get(p.name), sha256_file(p)) for p in made}
    if all(outcome == MISSING for outcome in snapshots.values()):
        raise DataError(
            f"{record.origin} recorded no digest of any of these snapshots, so nothing can be "
            f"compared; they are in {out}"
        )
    # The first snapshot is of untrained networks: it is equal whatever the training does.
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
        yield f"fingerprint {record.run['fingerprint']} was, {fingerprint} is"
    was, has = record.provenance["compute"], now.get("compute", {})
    for key, word in _WORDS.items():
        if was.get(key) != has.get(key):
            yield f"{word} {was.get(key)!s} was, {has.get(key)!s} is"
    machine, mine = record.provenance.get("machine", {}), now.get("machine", {})
    if machine.get("cpu") != mine.get("cpu"):
        yield f"processor {machine.get('cpu')} was, {mine.get('cpu')} is"
    there, here = record.packages, read_packages(out)
    differing = [n for n in there if here.get(n) != there[n] and n != "torch"]
    if differing:
        yield f"{len(differing)} packages, {', '.join(differing[:5])} among them"


_PARAMS = "params.json"  # JSON is YAML
# What follows from the machine's GPUs is left to it; the ops and threads are set by what was used.
_NOT_RESTORED = {"CUDA_VISIBLE_DEVICES"}
# What decides the numbers; a difference there is worth a warning before days of training.
_NUMERIC_PACKAGES = ("torch", "numpy", "pillow", "scipy", "pyspng")
_MOST_SHOWN = 8


def reproduce(
    record: Record,
    root: Path,
    say: Say,
    *,
    data: Path | None = None,
    resume: str = "",
    kimg: int | None = None,
    clean: bool = False,
    force: bool = False,
) -> ReproductionResult:
    """Make the training of ``record`` again and compare the digests of its snapshots.

    An attempt that was interrupted goes on.

    Args:
        root: the user's project: its repository has the commit, its caches may have the data;
            only ``reproductions/`` below it is written.
        say: takes a line about what happens.
        data: where the packed set is; None: it is looked for.
        resume: where the network is that the run started from; empty: where the run had it.
        kimg: stop after so many thousand images, an age of which the run recorded a snapshot;
            None: train as long as the run did.
        anew: remove an earlier attempt first.
        anyway: train although the record contradicts itself.

    Raises:
        DataError: the record, its commit, its changes, its data or its network cannot be used.
        CheckpointError, TrackingError: the network it started from cannot be brought here.
        Sg3flowError: the training failed.
    """
    kimg = _checked_length(record, kimg)
    network = find_network(record, root, resume)
    place = prepare_worktree(record, root, clean=clean)
    say(f"{record.origin}: commit {record.commit[:12]} in {shown_path(place.tree, root)}")
    for warning in _warnings(record):
        say(f"warning: {warning}")
    packed = find_data(record, place, root, data, say)
    _write_settings(record, place, kimg, network.recorded)
    found = _fingerprint(record, place, packed)
    if found != record.run["fingerprint"]:
        problem = _contradiction(record, found)
        if not force:
            raise DataError(f"{problem}; --anyway trains all the same")
        say(f"warning: {problem}")
    _write_settings(record, place, kimg, network.kept_in(place.folder))
    say(f"training into {shown_path(place.run, root)}")
    _train(record, place, packed)
    verdict = compare(record, place.run, found)
    _note(place, record, verdict)
    return verdict


def _warnings(record: Record) -> Iterator[str]:
    """What may keep the result from being equal, known before anything is trained."""
    code = record.provenance["code"]
    if code.get("untracked"):
        shown = ", ".join(code["untracked"][:3])
        yield f"files that git did not have are not here: {shown}"
    if code.get("diff", {}).get("withheld"):
        yield f"changes of {', '.join(code['diff']['withheld'][:3])} were not recorded"
    if not code.get("package_in_tree", True):
        yield "the run used an installed package, not the code of its folder"
    setups = record.provenance.get("setups", [])
    if len(setups) > 1:
        yield f"the run was trained in turns on {len(setups)} set-ups; the last is made again"
    here, there = installed_packages(), record.packages
    differing = [name for name in there if here.get(name) != there[name]]
    if differing:
        first = [name for name in _NUMERIC_PACKAGES if name in differing] or differing[:3]
        shown = ", ".join(f"{n} {there[n]} (here {here.get(n, 'none')})" for n in first)
        yield f"{len(differing)} packages differ from the run's: {shown}"


def _checked_length(record: Record, kimg: int | None) -> int:
    """How long to train: to a snapshot whose digest is known, or nothing would be compared.

    Raises:
        DataError: there is no such snapshot.
    """
    longest = int(record.run["params"]["kimg"])
    length = longest if kimg is None else kimg
    if not 1 <= length <= longest:
        raise DataError(f"--kimg must be within 1 and the run's {longest}, not {length}")
    name = record.snapshot_at(length)
    if name not in record.digests:
        known = ", ".join(sorted(record.digests)[:_MOST_SHOWN]) or "none at all"
        raise DataError(
            f"{record.origin} recorded no digest of {name}, so nothing after its start could be "
            f"compared at {length} kimg; give --kimg of one that it recorded: {known}"
        )
    return length


def _contradiction(record: Record, found: str) -> str:
    """Why the settings may have another fingerprint than the run had."""
    if record.network.get("shortened"):
        cause = (
            "the address of the network it started from stands in the record without its password "
            "or query"
        )
    else:
        cause = "the record was edited, or code that git did not have took part"
    return (
        f"settings, data and code as recorded give fingerprint {found}, and the run had "
        f"{record.run['fingerprint']}: {cause}"
    )


def _write_settings(record: Record, place: Worktree, kimg: int, resume: str) -> None:
    """The resolved settings as a params file: what was automatic then is not decided again."""
    settings = {**record.run["params"], "kimg": kimg, "resume": resume}
    if "metrics" in settings:
        settings["metrics"] = ["none"]  # measured while it trains, they change nothing
    if settings.get("device") == "auto":
        settings["device"] = record.provenance["compute"]["device"]
    write_text(place.folder / _PARAMS, json.dumps({"train": settings}, indent=2) + "\n")


def _fingerprint(record: Record, place: Worktree, packed: Path) -> str:
    """What the checked-out code says of the settings, before anything is trained."""
    done = subprocess.run(
        [*_command(place, packed), "--dry-run"],
        cwd=place.project,
        env=_environment(record, place),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Sg3flowError(f"the recorded settings are refused: {last_line(done.stderr)}")
    try:
        return str(json.loads(done.stdout)["fingerprint"])
    except (ValueError, KeyError):
        raise Sg3flowError(
            "the recorded code did not tell the fingerprint of its settings"
        ) from None


def _train(record: Record, place: Worktree, packed: Path) -> None:
    """Run the train stage; it writes to this terminal, and Ctrl-C lets it save its state."""
    with subprocess.Popen(
        _command(place, packed), cwd=place.project, env=_environment(record, place)
    ) as stage:
        with _waits_for_the_stage():
            code = stage.wait()
    if code != 0:
        raise Sg3flowError(
            f"the training in {place.project} ended with exit code {code}; what is said above "
            "tells why, and the same command goes on"
        )


@contextmanager
def _waits_for_the_stage() -> Iterator[None]:
    """A Ctrl-C reaches the stage too: it saves and ends, and only then do we."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _command(place: Worktree, packed: Path) -> list[str]:
    stage = place.project / "stages" / "train.py"
    params = place.folder / _PARAMS
    return [
        *(sys.executable, str(stage), "--params", str(params)),
        *("--data", str(packed), "--run-dir", str(place.run)),
    ]


def _environment(record: Record, place: Worktree) -> dict[str, str]:
    """This environment, with what decided the numbers then, and nothing of the user's project."""
    recorded, compute = record.provenance.get("variables", {}), record.provenance["compute"]
    dropped = ("DVC_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT", *DECIDING_VARIABLES - _NOT_RESTORED)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    restored = {k: v for k, v in recorded.items() if k not in _NOT_RESTORED}
    restored.setdefault("OMP_NUM_THREADS", str(compute["threads"]))
    # Another one that the user asks for now wins.
    restored[OPS.name] = OPS.text() if OPS.is_set() else compute["ops"].split(" ")[0]
    return (
        kept
        | restored
        | place.variables
        | {
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(place.project / "src"), os.environ.get("PYTHONPATH")])
            ),
        }
    )


def _note(place: Worktree, record: Record, verdict: ReproductionResult) -> None:
    known: Mapping[str, Any] = read_report(place.folder) or {}
    outcome = {
        "of": record.origin,
        "commit": record.commit,
        "time": round(time.time()),
        "equal": verdict.equal,
        "snapshots": verdict.snapshots,
        "differences": verdict.differences,
    }
    write_json(place.folder / REPORT, {**known, **outcome})
