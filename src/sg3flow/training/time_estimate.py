"""How long a training takes here: from the times of its first steps, said once.

A regularized step takes longer than a plain one, and the first step of each kind also builds and
tunes kernels. So the steps of each kind are averaged apart, without the first, and weighted by how
often they occur (lazy regularization; Karras et al. 2020, "Analyzing and Improving", appendix B).
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from sg3flow.durations import duration_words, step_words

# Speak after this time at the latest, if a plain step is known.
_ENOUGH_SEC = 20.0
WEEK_SEC = 7 * 86400.0
REFERENCE_KIMG = 25_000  # the default of train.kimg, and the length of published trainings

Kind = frozenset[str]  # the lazy phases of a step; empty: a plain step


class StepTimes:
    """Times of the steps of this process, by kind.

    Args:
        intervals: the interval in steps of each phase, by name.
    """

    def __init__(self, intervals: Mapping[str, int]) -> None:
        self._lazy = {name: n for name, n in intervals.items() if n > 1}
        self._warm: set[str] = set()  # phases that have run before
        self._has_run = False
        self._times: dict[Kind, list[float]] = {}

    def kind(self, index: int) -> Kind:
        """The kind of the step with this number, from 0 on."""
        return frozenset(name for name, n in self._lazy.items() if index % n == 0)

    def add(self, index: int, seconds: float) -> None:
        """Add the time of a step; the first one, and the first with a phase, do not count."""
        kind = self.kind(index)
        if self._has_run and kind <= self._warm:
            self._times.setdefault(kind, []).append(seconds)
        self._has_run = True
        self._warm |= kind

    def are_enough(self) -> bool:
        """Whether every kind is known, or a plain step is and more would take too long."""
        is_plain_known = frozenset() in self._times
        measured = sum(map(sum, self._times.values()))
        return self._times.keys() >= self._cycle().keys() or (
            is_plain_known and measured >= _ENOUGH_SEC
        )

    def mean_step(self) -> float:
        """Seconds per step, over a whole cycle of lazy phases."""
        cycle = self._cycle()
        return sum(self._mean(kind) * n for kind, n in cycle.items()) / sum(cycle.values())

    def _cycle(self) -> dict[Kind, int]:
        """How often each kind occurs in a cycle of lazy phases."""
        counts: dict[Kind, int] = {}
        for index in range(math.lcm(*self._lazy.values())):
            counts[self.kind(index)] = counts.get(self.kind(index), 0) + 1
        return counts

    def _mean(self, kind: Kind) -> float:
        """The mean time of a kind; a phase that is not known yet counts as a plain step."""
        if kind in self._times:
            return sum(self._times[kind]) / len(self._times[kind])
        nearest = max((known for known in self._times if known < kind), key=len)
        return self._mean(nearest) + len(kind - nearest) * self._mean(frozenset())


@dataclass(frozen=True)
class TimeEstimate:
    """The time that a training takes on this machine.

    Attributes:
        step_sec: mean duration of a step of ``batch`` images.
        remaining_nimg: images from here to the end.
        kimg: length of the whole training; a resumed one has less before it.
        is_resumed: whether the training continues a saved state.
        snapshots: snapshots from here to the end.
        snapshot_sec: seconds per snapshot, with its metrics; 0: not known.
    """

    step_sec: float
    batch: int
    remaining_nimg: int
    kimg: int
    is_resumed: bool = False
    snapshots: int = 0
    snapshot_sec: float = 0.0

    @property
    def remaining_sec(self) -> float:
        """Seconds from here to the end."""
        steps = math.ceil(self.remaining_nimg / self.batch)
        return steps * self.step_sec + self.snapshots * self.snapshot_sec

    @property
    def sec_per_kimg(self) -> float:
        """Seconds per thousand images, without snapshots."""
        return self.step_sec * 1000 / self.batch

    def words(self) -> str:
        """One line: ``time: 0.83 s per step …; about 3 h 10 min here for 25 kimg; 9 days for …``"""
        length = f"{self.kimg:,} kimg"
        if self.is_resumed:
            remaining = self.remaining_nimg / 1000
            length = f"the remaining {remaining:,.{0 if remaining >= 10 else 1}f} kimg"
        if self.snapshot_sec and self.snapshots:
            length += f" with {self.snapshots:,} snapshot{'s' * (self.snapshots > 1)}"
        line = (
            f"time: {step_words(self.step_sec)} per step of {self.batch} images; "
            f"about {duration_words(self.remaining_sec)} here for {length}"
        )
        if self.kimg >= REFERENCE_KIMG:
            return line
        reference = duration_words(self.sec_per_kimg * REFERENCE_KIMG)
        return f"{line}; {reference} for {REFERENCE_KIMG:,} kimg"

    def warning(self, on_cpu: bool) -> str:
        """What to lower, if the training takes more than a week; empty: it does not."""
        if self.remaining_sec <= WEEK_SEC:
            return ""
        kimg = int(WEEK_SEC / self.sec_per_kimg)
        week = f"a week is enough for {kimg:,} kimg" if kimg else "a week is too short for 1 kimg"
        gpu = ", train on a GPU" if on_cpu else ""
        return (
            f"this training takes {duration_words(self.remaining_sec)} here, and {week}: lower "
            "train.kimg, pack.resolution, train.cbase or train.cmax, start from trained networks "
            f"(train.resume){gpu}, or go on; an interrupted training resumes"
        )

    def say(self, on_cpu: bool) -> None:
        """Print the line, and the warning to standard error."""
        print(self.words(), flush=True)
        if warning := self.warning(on_cpu):
            print(f"warning: {warning}", file=sys.stderr, flush=True)
