"""The training loop: it steps, and at every tick reports, shows, saves.

The clock is the number of real images seen. Ticks, snapshots, schedules, random numbers and the
place in the data all follow from it and the seed, so a run that goes on from a saved state makes
the steps that an uninterrupted run would have made.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from sg3flow.checkpoints import save_snapshot
from sg3flow.config import TrainConfig
from sg3flow.data.dataset import Batch, TrainingSet
from sg3flow.errors import Diverged
from sg3flow.reporting import Reporter, Stat
from sg3flow.training.build import Parts
from sg3flow.training.folder import RunFolder
from sg3flow.training.grids import SampleGrid, save_fakes
from sg3flow.training.state import capture
from sg3flow.training.step import RealBatch, random_draw, run_step, seed_step

_STATE_INTERVAL_SEC = 600.0

_TICK_COLUMNS = (
    ("tick", "Progress/tick", "5.0f"),
    ("kimg", "Progress/kimg", "8.1f"),
    ("time", "Timing/total_sec", "7.0f"),
    ("sec/kimg", "Timing/sec_per_kimg", "8.2f"),
    ("maintenance", "Timing/maintenance_sec", "6.1f"),
    ("memory", "Resources/cpu_mem_gb", "6.2f"),
    ("gpu memory", "Resources/peak_gpu_mem_gb", "6.2f"),
    ("augment", "Progress/augment", "6.3f"),
    ("G", "Loss/G/loss", "7.3f"),
    ("D", "Loss/D/loss", "7.3f"),
)


@dataclass
class Clock:
    """Progress of a run; ``nimg`` decides everything, the rest is for the reports.

    Attributes:
        nimg: real images seen.
        reported_nimg: ``nimg`` at the last report; -1 before the first.
        elapsed_sec: training time of earlier starts of this run.
    """

    nimg: int = 0
    reported_nimg: int = -1
    elapsed_sec: float = 0.0


@dataclass
class TrainingLoop:
    """A training that is ready to step."""

    config: TrainConfig
    parts: Parts
    items: TrainingSet
    batches: Iterator[Batch]
    grid: SampleGrid
    folder: RunFolder
    reporter: Reporter
    training_set: dict[str, Any]
    clock: Clock

    def run(self, stop_asked: Callable[[], bool], advance: Callable[[int], None]) -> bool:
        """Train until the run is complete (True) or a stop was asked for (False)."""
        self._started = self._tick_started = self._saved = time.monotonic()
        self._maintenance_sec = 0.0
        self._tick_nimg = self.clock.nimg
        total = self.config.kimg * 1000
        while True:
            done = self.clock.nimg >= total
            stopping = stop_asked()
            if self._report_due(done):
                self._maintain(done)
            elif stopping or time.monotonic() - self._saved > _STATE_INTERVAL_SEC:
                self._save_state()
            if done or stopping:
                return done
            self._step()
            advance(self.config.batch)

    def _step(self) -> None:
        nimg, device = self.clock.nimg, self.parts.device
        real = RealBatch.of(next(self.batches), device)
        seed_step(self.config.seed, nimg, rank=0)
        draw = random_draw(self.items, self.parts.G.z_dim, self.config.batch, device)
        run_step(self.parts, real, draw, nimg, self.config.batch_gpu)
        self.clock.nimg = nimg + self.config.batch

    def _report_due(self, done: bool) -> bool:
        nimg, reported, period = self.clock.nimg, self.clock.reported_nimg, self.config.tick * 1000
        if reported < 0 or (done and reported != nimg):
            return True
        return nimg // period > reported // period

    def _maintain(self, done: bool) -> None:
        """All that happens between two ticks; the time it takes is reported with the next."""
        tick_ended = time.monotonic()
        stats = self._checked_stats()
        tick = self.clock.nimg // (self.config.tick * 1000)
        values = stats | self._progress_stats(tick, tick_ended)
        self.reporter.stats(values, self.clock.nimg)
        self._print_tick(values)
        if tick % self.config.snap == 0 or done:
            self._save_snapshot()
        self.clock.reported_nimg = self.clock.nimg
        self.parts.collector.clear()
        self._save_state()
        self.folder.publish("stats.jsonl")
        self._tick_started, self._tick_nimg = time.monotonic(), self.clock.nimg
        self._maintenance_sec = self._tick_started - tick_ended

    def _checked_stats(self) -> dict[str, Stat]:
        """Statistics since the last report.

        Raises:
            Diverged: one of them is not finite; the last good snapshot and state stand.
        """
        stats = self.parts.collector.read()
        for name, stat in stats.items():
            if not math.isfinite(stat.mean):
                since = max(self.clock.reported_nimg, 0)
                raise Diverged(
                    f"training diverged: {name} became {stat.mean} between image {since} and "
                    f"{self.clock.nimg}; try a larger --gamma or a smaller --glr (the last good "
                    f"snapshot stands in {self.folder.out})"
                )
        return stats

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
            "Resources/cpu_mem_gb": psutil.Process().memory_info().rss / 2**30,
        }
        if self.parts.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.parts.device)
            values["Resources/peak_gpu_mem_gb"] = peak / 2**30
            torch.cuda.reset_peak_memory_stats(self.parts.device)
        return {name: Stat(1, float(value), 0.0) for name, value in values.items()}

    def _print_tick(self, values: dict[str, Stat]) -> None:
        parts = [
            f"{label} {values[name].mean:<{width}}"
            for label, name, width in _TICK_COLUMNS
            if name in values
        ]
        print(" ".join(parts), flush=True)

    def _save_snapshot(self) -> None:
        nimg = self.clock.nimg
        kimg = nimg // 1000
        snapshot = self.folder.work / f"network-snapshot-{kimg:06d}.pkl"
        pipe = self.parts.augment_pipe
        save_snapshot(
            snapshot,
            G=self.parts.G,
            D=self.parts.D,
            G_ema=self.parts.G_ema,
            augment_p=float(pipe.p) if pipe is not None else 0.0,
            training_set=self.training_set,
            progress={"nimg": nimg},
        )
        self._save_fakes(self.folder.work / f"fakes{kimg:06d}.png")
        self.reporter.snapshot(snapshot, nimg)
        self.folder.publish(snapshot.name)

    def _save_fakes(self, path: Path) -> None:
        if self.clock.nimg == 0:
            path = path.with_name("fakes_init.png")
        save_fakes(path, self.parts.G_ema, self.grid, self.config.batch_gpu, self.parts.device)
        self.reporter.image(path, "samples", self.clock.nimg)
        self.folder.publish(path.name)

    def _save_state(self) -> None:
        self._saved = time.monotonic()
        clock = {
            "reported_nimg": self.clock.reported_nimg,
            "elapsed_sec": self.clock.elapsed_sec + self._saved - self._started,
        }
        self.folder.states.save(capture(self.parts, self.clock.nimg) | {"clock": clock})
