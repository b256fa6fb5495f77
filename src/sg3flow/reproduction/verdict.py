"""Whether a training that was made again came out the same, and if not, what was not the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError
from sg3flow.files import sha256_file
from sg3flow.provenance.files import read_packages, read_provenance
from sg3flow.reproduction.record import Record

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
class Verdict:
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


def compare(record: Record, out: Path, fingerprint: str) -> Verdict:
    """Compare the snapshots in ``out`` with those of the record.

    Args:
        fingerprint: of the settings, data and code that made them.

    Raises:
        DataError: the two have no snapshot in common.
    """
    made = sorted(out.glob("network-snapshot-*.pkl"), key=lambda p: (len(p.name), p.name))
    snapshots = {p.name: _outcome(record.digests.get(p.name), sha256_file(p)) for p in made}
    if all(outcome == MISSING for outcome in snapshots.values()):
        raise DataError(
            f"{record.origin} recorded no digest of any of these snapshots, so nothing can be "
            f"compared; they are in {out}"
        )
    # The first snapshot is of untrained networks: it is equal whatever the training does.
    equal = DIFFERS not in snapshots.values() and snapshots[made[-1].name] == EQUAL
    return Verdict(equal, snapshots, [] if equal else list(_differences(record, out, fingerprint)))


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
