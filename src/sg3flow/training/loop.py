"""The training loop: training steps, and at every tick a report, a snapshot or a saved state.

The clock is the number of real images seen. Ticks, snapshots, schedules, random numbers and the
position in the data depend only on it and the seed, so a resumed run makes the same steps as an
uninterrupted one.

With several processes each of them runs this loop; the main process writes the record.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sg3flow import distributed
from sg3flow.data.dataset import Batch, TrainingSet
from sg3flow.errors import DivergedError
from sg3flow.ops.conv_forms import usual_forms
from sg3flow.runs.run_folder import Stat
from sg3flow.training.assembly import Parts
from sg3flow.training.batch_size_finder import (
    MemorySettings,
    memory_stats,
    memory_warning,
    out_of_memory_advice,
)
from sg3flow.training.recorder import RunRecord
from sg3flow.training.step import training_step
from sg3flow.training.time_estimate import StepTimes, TimeEstimate
from sg3flow.training.work_folder import capture_state, check_equal


@dataclass(frozen=True)
class LoopSettings:
    """The settings of ``TrainConfig`` that the loop itself needs."""

    seed: int
    batch: int
    batch_gpu: int
    kimg: int
    tick: int
    snap: int
    max_nonfinite_updates: int


@dataclass
class Clock:
    """Progress of a run; steps depend on ``nimg`` only, the other fields are for reports.

    Attributes:
        nimg: real images seen.
        reported_nimg: ``nimg`` at the last report; -1 before the first.
        elapsed_sec: training time before the run was resumed.
    """

    nimg: int = 0
    reported_nimg: int = -1
    elapsed_sec: float = 0.0


class Measure(Protocol):
    """Measures a generator in memory; it must not change the generator or the state of torch.

    Attributes:
        names: of the values; a metric may have several.
    """

    names: tuple[str, ...]

    def __call__(self, G_ema: Any, snapshot: Path | None, nimg: int) -> Mapping[str, float]:
        """Values by metric name; a collective call, ``snapshot`` is set in the main process."""
        ...


@dataclass
class TrainingLoop:
    """A training that is ready to run; only the main process has a ``record``."""

    settings: LoopSettings
    memory: MemorySettings
    parts: Parts
    items: TrainingSet
    batches: Iterator[Batch]
    clock: Clock
    record: RunRecord | None
    measure: Measure | None = None

    def run(self, stop_asked: Callable[[], bool], advance: Callable[[int], None]) -> bool:
        """Train until the run is complete (True) or a stop is requested (False)."""
        self._started = self._tick_started = time.monotonic()
        self._maintenance_sec = self._snapshot_sec = 0.0
        self._warned = False
        self._step_times = self._new_step_times()
        self._tick_nimg = self._started_nimg = self.clock.nimg
        total = self.settings.kimg * 1000
        folder = self.record.folder if self.record is not None else None
        while True:
            done = self.clock.nimg >= total
            due = self.record is not None and self.record.state_is_due()
            stopping, state_due = distributed.any_true(stop_asked(), due)
            if self.record is not None and self._early_sample_due(done):
                self._save_early_sample(self.record)
            if self._report_due(done):
                self._maintain(done, keep=stopping or state_due)
            elif stopping or state_due:
                self._check_stats()
                self._save_state()
            if done or stopping:
                return done
            with out_of_memory_advice(self.memory, self.parts.device, folder), self._timed_step():
                self.clock.nimg = training_step(
                    self.parts,
                    self.items,
                    self.batches,
                    self.clock.nimg,
                    seed=self.settings.seed,
                    batch=self.settings.batch,
                    batch_gpu=self.settings.batch_gpu,
                )
            if self.record is not None:
                self.record.averages.update(self.parts.G, self.clock.nimg)
            advance(self.settings.batch)

    def _report_due(self, done: bool) -> bool:
        nimg, reported = self.clock.nimg, self.clock.reported_nimg
        period = self.settings.tick * 1000
        if reported < 0 or (done and reported != nimg):
            return True
        return nimg // period > reported // period

    def _early_sample_due(self, done: bool) -> bool:
        """Whether the last step reached 1, 2, 4, 8… kimg, before the first snapshot of those.

        It depends on the clock only: a resumed training writes the same grids.
        """
        kimg, before = self.clock.nimg // 1000, (self.clock.nimg - self.settings.batch) // 1000
        is_before_snapshot = 0 < kimg < self.settings.tick * self.settings.snap and not done
        return is_before_snapshot and kimg.bit_length() > max(before, 0).bit_length()

    def _save_early_sample(self, record: RunRecord) -> None:
        """Save a sample grid between two snapshots; its time counts as maintenance."""
        started = time.monotonic()
        record.save_fakes(self.parts, self.clock.nimg)
        spent = time.monotonic() - started
        self._tick_started += spent
        self._maintenance_sec += spent

    def _new_step_times(self) -> StepTimes | None:
        """Times of steps, in the process that tells the user; None: in another one."""
        if self.record is None:
            return None
        return StepTimes({phase.name: phase.interval for phase in self.parts.phases})

    @contextmanager
    def _timed_step(self) -> Iterator[None]:
        """Time the step, until it is known how long the training takes; then say it."""
        times, nimg = self._step_times, self.clock.nimg
        if times is None:
            yield
            return
        self._wait_for_device()
        started = time.monotonic()
        yield
        self._wait_for_device()
        times.add(nimg // self.settings.batch, time.monotonic() - started)
        if times.are_enough():
            self._step_times = None
            self._estimate(times).say(on_cpu=self.parts.device.type == "cpu")

    def _wait_for_device(self) -> None:
        if self.parts.device.type == "cuda":
            torch.cuda.synchronize(self.parts.device)

    def _estimate(self, times: StepTimes) -> TimeEstimate:
        total, nimg = self.settings.kimg * 1000, self.clock.nimg
        period = self.settings.tick * self.settings.snap * 1000
        snapshots = total // period - nimg // period + bool(total % period)
        return TimeEstimate(
            step_sec=times.mean_step(),
            batch=self.settings.batch,
            remaining_nimg=max(total - nimg, 0),
            kimg=self.settings.kimg,
            is_resumed=self._started_nimg > 0,
            snapshots=snapshots if self._snapshot_sec else 0,
            snapshot_sec=self._snapshot_sec,
        )

    def _maintain(self, done: bool, keep: bool) -> None:
        """Report, snapshot and state at a tick; the next report contains the time of this."""
        tick_ended = time.monotonic()
        nimg = self.clock.nimg
        stats = self._check_stats()
        tick = nimg // (self.settings.tick * 1000)
        snapshot_due = tick % self.settings.snap == 0 or done
        if self.record is not None:
            stats |= self._progress_stats(tick, tick_ended)
            with usual_forms():
                stats |= self.record.early_warning.measure(self.parts, nimg, snapshot_due)
            self.record.report(stats, nimg)
            if not self._warned:
                self._warned = memory_warning(self.memory, self.parts.device, self.record.folder)
        if snapshot_due:
            started = time.monotonic()
            self._save_snapshot()
            self._snapshot_sec = time.monotonic() - started
            keep = True
        self.clock.reported_nimg = nimg
        self.parts.collector.clear()
        cheap = self.record is not None and self.record.saving_is_cheap()
        if keep or distributed.any_true(cheap)[0]:
            self._save_state()
        self._tick_started, self._tick_nimg = time.monotonic(), nimg
        self._maintenance_sec = self._tick_started - tick_ended

    def _save_snapshot(self) -> None:
        nimg = self.clock.nimg
        check_equal(self.parts)
        if self.record is not None:
            self.record.save_snapshot(self.parts, nimg)
        distributed.barrier(f"snapshot-{nimg}")
        if self.measure is not None:
            self._measure_snapshot(self.measure)
        if self.record is not None:
            self.record.prune()

    def _measure_snapshot(self, measure: Measure) -> None:
        nimg, record = self.clock.nimg, self.record
        known = record is not None and record.has_metrics(measure.names, nimg)
        if distributed.any_true(known)[0]:
            return
        path = record.snapshot_path(nimg) if record is not None else None
        with usual_forms():  # as the evaluate stage
            values = measure(self.parts.G_ema, path, nimg)
        if record is not None:
            record.metrics(values, nimg)

    def _check_stats(self) -> dict[str, Stat]:
        """Statistics since the last report.

        Raises:
            DivergedError: a value is not finite, or too many updates had non-finite gradients; the
                last good snapshot and state remain.
        """
        collector = self.parts.collector
        stats, first_bad = collector.read(), collector.first_bad()
        broken = [name for name in first_bad if not name.startswith("Repairs/")]
        if broken:
            name = min(broken, key=lambda name: first_bad[name])
            raise self._diverged(f"{name} is no longer finite", first_bad[name])
        repaired = {n: round(s.num * s.mean) for n, s in stats.items() if n.startswith("Repairs/")}
        count = sum(repaired.values())
        if count > self.settings.max_nonfinite_updates > 0:
            name = max(repaired, key=lambda name: repaired[name])
            raise self._diverged(
                f"the gradients of {name.removeprefix('Repairs/')} and others were not finite in "
                f"{count} updates since the last report "
                f"(max_nonfinite_updates {self.settings.max_nonfinite_updates})",
                min(first_bad.values()),
            )
        return stats

    def _diverged(self, what: str, nimg: int) -> DivergedError:
        step = nimg // self.settings.batch
        return DivergedError(
            f"training diverged: {what}, first in step {step} (after {nimg} images); the last good "
            "snapshot and state remain; try a larger --gamma or a smaller --glr"
        )

    def _progress_stats(self, tick: int, now: float) -> dict[str, Stat]:
        nimg = self.clock.nimg
        tick_sec = now - self._tick_started
        tick_kimg = max(nimg - self._tick_nimg, 1) / 1000
        pipe = self.parts.augment_pipe
        values = {
            "Progress/tick": tick,
            "Progress/kimg": nimg / 1000,
            "Progress/augment": float(pipe.p) if pipe is not None else 0.0,
            "Timing/total_sec": self.clock.elapsed_sec + now - self._started,
            "Timing/sec_per_tick": tick_sec,
            "Timing/sec_per_kimg": tick_sec / tick_kimg,
            "Timing/maintenance_sec": self._maintenance_sec,
        }
        values |= memory_stats(self.parts.device)
        return {name: Stat(1, float(value), 0.0) for name, value in values.items()}

    def _save_state(self) -> None:
        """Save a state: a collective call, the main process writes the file."""
        state = capture_state(self.parts, self.clock.nimg)
        if self.record is None:
            return
        elapsed_sec = self.clock.elapsed_sec + time.monotonic() - self._started
        clock = {"reported_nimg": self.clock.reported_nimg, "elapsed_sec": elapsed_sec}
        self.record.save_state(state | {"clock": clock})
