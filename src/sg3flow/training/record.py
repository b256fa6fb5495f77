"""What a training leaves behind: reports, sample grids, snapshots, states. One process does it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.checkpoints import save_snapshot
from sg3flow.config import TrainConfig
from sg3flow.provenance.load import LoadSampler
from sg3flow.reporting import DIGESTS, Reporter, Stat
from sg3flow.training.build import Parts
from sg3flow.training.folder import RunFolder
from sg3flow.training.grids import SampleGrid, save_fakes

# A state is saved when that costs less than this share of the time since the last one, and after
# the longest time in any case.
_STATE_SHARE = 0.02
_LONGEST_STATE_SEC = 600.0

_TICK_COLUMNS = (
    ("tick", "Progress/tick", "5.0f"),
    ("kimg", "Progress/kimg", "8.1f"),
    ("time", "Timing/total_sec", "7.0f"),
    ("sec/kimg", "Timing/sec_per_kimg", "8.2f"),
    ("maintenance", "Timing/maintenance_sec", "6.1f"),
    ("memory", "Resources/cpu_mem_gb", "6.2f"),
    ("gpu memory", "Resources/peak_gpu_mem_gb", "6.2f"),
    ("reserved", "Resources/peak_gpu_mem_reserved_gb", "6.2f"),
    ("augment", "Progress/augment", "6.3f"),
    ("G", "Loss/G/loss", "7.3f"),
    ("D", "Loss/D/loss", "7.3f"),
)


@dataclass
class RunRecord:
    """The record of one run, kept by the first process.

    Attributes:
        training_set: what a snapshot remembers of its data.
        load: watches the machine.
    """

    config: TrainConfig
    folder: RunFolder
    reporter: Reporter
    grid: SampleGrid
    training_set: dict[str, Any]
    load: LoadSampler
    _saved: float = field(default_factory=time.monotonic)
    _save_sec: float = 0.0

    def report(self, values: Mapping[str, Stat], nimg: int) -> None:
        """A line of statistics, in the files and on the screen."""
        self.reporter.stats({**values, **self.load.read()}, nimg)
        columns = [
            f"{label} {values[name].mean:<{width}}"
            for label, name, width in _TICK_COLUMNS
            if name in values
        ]
        print(" ".join(columns), flush=True)
        self.folder.publish("stats.jsonl")

    def save_snapshot(self, parts: Parts, nimg: int) -> None:
        """The networks and a grid of samples."""
        snapshot = self.snapshot_path(nimg)
        pipe = parts.augment_pipe
        sha256 = save_snapshot(
            snapshot,
            G=parts.G,
            D=parts.D,
            G_ema=parts.G_ema,
            augment_p=float(pipe.p) if pipe is not None else 0.0,
            training_set=self.training_set,
            progress={"nimg": nimg},
        )
        self._save_fakes(parts, nimg)
        self.reporter.snapshot(snapshot, nimg, sha256)
        self.folder.publish(snapshot.name)
        self.folder.publish(DIGESTS)

    def _save_fakes(self, parts: Parts, nimg: int) -> None:
        name = f"fakes{nimg // 1000:06d}.png" if nimg else "fakes_init.png"
        path = self.folder.work / name
        save_fakes(path, parts.G_ema, self.grid, self.config.batch_gpu, parts.device)
        self.reporter.image(path, "samples", nimg)
        self.folder.publish(name)

    def snapshot_path(self, nimg: int) -> Path:
        """Where the snapshot of this moment stands."""
        return self.folder.work / f"network-snapshot-{nimg // 1000:06d}.pkl"

    def has_metrics(self, names: tuple[str, ...], nimg: int) -> bool:
        """Whether an earlier start of this run has measured the snapshot already."""
        return all(self.reporter.has_metric(self.snapshot_path(nimg), name) for name in names)

    def metrics(self, values: Mapping[str, float], nimg: int) -> None:
        """What the metrics say of the snapshot."""
        snapshot = self.snapshot_path(nimg)
        for name, value in values.items():
            print(f"{snapshot.name}: {name} {value:.4f}", flush=True)
            self.reporter.metric(snapshot, name, value, nimg)
            self.folder.publish(f"metric-{name}.jsonl")

    def state_is_due(self) -> bool:
        """Whether it is time to save a state between two reports."""
        return time.monotonic() - self._saved > _LONGEST_STATE_SEC

    def saving_is_cheap(self) -> bool:
        """Whether a state costs next to nothing, measured by the last one."""
        return self._save_sec < _STATE_SHARE * (time.monotonic() - self._saved)

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep a state to go on from."""
        started = time.monotonic()
        self.folder.states.save(state)
        self._saved = time.monotonic()
        self._save_sec = self._saved - started
