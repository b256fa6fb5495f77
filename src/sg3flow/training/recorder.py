"""The record of a run: sample grids, statistics, snapshots and states.

A run keeps the latents and the real images of its grids from the first to the last snapshot.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sg3flow.checkpoints import save_snapshot
from sg3flow.data.dataset import TrainingSet
from sg3flow.data.packed_form import is_one_hot
from sg3flow.errors import ConfigError, DataError
from sg3flow.files import atomic_write
from sg3flow.networks.layers import to_uint8
from sg3flow.params_file import parse_pair
from sg3flow.runs.machine import SystemMonitor
from sg3flow.runs.run_folder import (
    DIGESTS,
    STATS,
    Reporter,
    Stat,
    averages_name,
    fakes_name,
    list_snapshots,
    metric_file,
    snapshot_kimg,
    snapshot_name,
)
from sg3flow.runs.snapshot_retention import (
    ALL,
    Retention,
    needed_snapshots,
    rank_measured,
    surplus,
)
from sg3flow.training.assembly import Parts
from sg3flow.training.early_warning import EarlyWarning
from sg3flow.training.power_averages import PowerAverages
from sg3flow.training.work_folder import RunFolder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleGrid:
    """The contents of a run's sample grids.

    Attributes:
        columns, rows: size of the grid in images.
        items: indices of the real images, row by row.
        z: latents [columns * rows, z_dim]; c: labels [columns * rows, c_dim].
    """

    columns: int
    rows: int
    items: list[int]
    z: torch.Tensor
    c: torch.Tensor


def grid_size(setting: str, resolution: int) -> tuple[int, int]:
    """Columns and rows of the grid: those of the setting, or as many as fit 7680 x 4320 pixels.

    Args:
        setting: like ``8x4``; empty: not set.

    Raises:
        ConfigError: the setting has another form or is outside 1x1 to 64x64.
    """
    if not setting:
        columns = int(np.clip(7680 // resolution, 7, 32))
        return columns, int(np.clip(4320 // resolution, 4, 32))
    columns, rows = parse_pair(setting, "train.grid (columns x rows)")
    if not (1 <= columns <= 64 and 1 <= rows <= 64):
        raise ConfigError(f"train.grid must be between 1x1 and 64x64, not '{setting[:60]}'")
    return columns, rows


def choose_samples(items: TrainingSet, size: tuple[int, int], z_dim: int, seed: int) -> SampleGrid:
    """Draw the images and latents of a run's grids; with classes, one class per row.

    Labels that are not classes belong to one image each, so each image is drawn with its own.
    """
    columns, rows = size
    random = np.random.RandomState(seed)
    classes = _items_by_class(items)
    if not classes:
        order = random.permutation(len(items))
        chosen = [int(order[i % len(order)]) for i in range(columns * rows)]
    else:
        chosen = _rows_by_class(classes, columns, rows, random)
    z = torch.from_numpy(random.randn(columns * rows, z_dim).astype(np.float32))
    c = torch.stack([items.label(i) for i in chosen])
    return SampleGrid(columns, rows, chosen, z, c)


def _items_by_class(items: TrainingSet) -> list[list[int]]:
    """The items of each class, class 0 first; empty: there are no labels that are classes."""
    if items.label_dim == 0:
        return []
    by_label: dict[tuple[float, ...], list[int]] = {}
    for i in range(len(items)):
        label = tuple(items.label(i).tolist())
        if label not in by_label and not is_one_hot(label):
            return []
        by_label.setdefault(label, []).append(i)
    return [by_label[label] for label in sorted(by_label, reverse=True)]


def _rows_by_class(
    classes: list[list[int]], columns: int, rows: int, random: np.random.RandomState
) -> list[int]:
    chosen = []
    for row in range(rows):
        members = classes[row % len(classes)]
        order = random.permutation(len(members))
        chosen += [members[order[i % len(order)]] for i in range(columns)]
    return chosen


def save_reals(path: Path, items: TrainingSet, grid: SampleGrid) -> None:
    """Write the grid of real images."""
    images = torch.stack([items[i][0] for i in grid.items])
    save_mosaic(path, images, grid.columns)


@torch.no_grad()
def save_fakes(path: Path, G: Any, grid: SampleGrid, batch: int, device: torch.device) -> None:
    """Write the grid of generated images."""
    images = []
    for z, c in zip(torch.split(grid.z, batch), torch.split(grid.c, batch), strict=True):
        img = G(z.to(device), c.to(device), noise_mode="const")
        images.append(to_uint8(img).cpu())
    save_mosaic(path, torch.cat(images), grid.columns)


def save_mosaic(path: Path, images: torch.Tensor, columns: int) -> None:
    """Write uint8 images [N, C, H, W] as one PNG with ``columns`` images per row."""
    n, channels, height, width = images.shape
    rows = n // columns
    mosaic = images.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels = mosaic.reshape(rows * height, columns * width, channels).numpy()
    mosaic_image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    with atomic_write(path) as stream:
        mosaic_image.save(stream, format="PNG")


# A state is saved at a tick if that takes less than this share of the time since the last one,
# and in any case after _LONGEST_STATE_SEC.
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
    """Writes the files of one run; the main process has one.

    Attributes:
        batch_gpu: images per forward pass of the sample grids.
        training_set: the description of the data that snapshots contain.
        load: measures the use of the machine.
        early_warning: measures the networks at ticks and tells the user of trouble.
        keep: which snapshots stay.
        ranked_by: metric that ranks them, and whether higher is better; None: not measured.
        averages: of G, written beside each snapshot; the loop updates them.
    """

    batch_gpu: int
    folder: RunFolder
    reporter: Reporter
    grid: SampleGrid
    training_set: dict[str, Any]
    load: SystemMonitor
    early_warning: EarlyWarning
    keep: Retention
    ranked_by: tuple[str, bool] | None
    averages: PowerAverages
    _saved: float = field(default_factory=time.monotonic)
    _save_sec: float = 0.0

    def report(self, values: Mapping[str, Stat], nimg: int) -> None:
        """Write the statistics of a tick to the files and print a line of them."""
        self.reporter.stats({**values, **self.load.read()}, nimg)
        columns = [
            f"{label} {values[name].mean:<{width}}"
            for label, name, width in _TICK_COLUMNS
            if name in values
        ]
        print(" ".join(columns), flush=True)
        self.folder.publish(STATS)

    def save_snapshot(self, parts: Parts, nimg: int) -> None:
        """Write the networks and a grid of samples."""
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
        self.save_fakes(parts, nimg)
        self.reporter.snapshot(snapshot, nimg, sha256)
        self.folder.publish(snapshot.name)
        self.folder.publish(DIGESTS)
        self._save_averages(parts, nimg)

    def _save_averages(self, parts: Parts, nimg: int) -> None:
        """Write the power-function averages, if there are any; none of them stands before a step.

        They stay when ``keep_snapshots`` removes the snapshot: others are made from all of them.
        """
        if nimg and self.averages.names:
            name = averages_name(nimg)
            self.averages.save(self.folder.work / name, parts.G, nimg)
            self.folder.publish(name)

    def save_fakes(self, parts: Parts, nimg: int) -> None:
        """Write a grid of samples, again if the file exists."""
        name = fakes_name(nimg)
        path = self.folder.work / name
        save_fakes(path, parts.G_ema, self.grid, self.batch_gpu, parts.device)
        self.reporter.image(path, "samples", nimg)
        self.folder.publish(name)

    def snapshot_path(self, nimg: int) -> Path:
        """The file of the snapshot after ``nimg`` images."""
        return self.folder.work / snapshot_name(nimg)

    def prune(self) -> None:
        """Remove the snapshots that ``keep_snapshots`` does not keep; an error is a warning."""
        if self.keep.kind == ALL:
            return
        work = self.folder.work
        there = {path.name: path for path in list_snapshots(work)}
        try:
            ranking = rank_measured(work, *self.ranked_by) if self.ranked_by else []
            for name in surplus(self.keep, list(there), ranking, needed_snapshots(work)):
                # First: what is recorded and still there is removed the next time.
                self.reporter.pruned(there[name], (snapshot_kimg(name) or 0) * 1000)
                self.folder.remove_snapshot(name)
        except (OSError, DataError) as error:
            _log.warning("a snapshot that keep_snapshots does not keep stays: %s", error)

    def has_metrics(self, names: tuple[str, ...], nimg: int) -> bool:
        """Whether the snapshot was measured before the run was resumed."""
        return all(self.reporter.has_metric(self.snapshot_path(nimg), name) for name in names)

    def metrics(self, values: Mapping[str, float], nimg: int) -> None:
        """Write and print the metric values of a snapshot."""
        snapshot = self.snapshot_path(nimg)
        for name, value in values.items():
            print(f"{snapshot.name}: {name} {value:.4f}", flush=True)
            self.reporter.metric(snapshot, name, value, nimg)
            self.folder.publish(metric_file(name))

    def state_is_due(self) -> bool:
        """Whether to save a state now, between two ticks."""
        return time.monotonic() - self._saved > _LONGEST_STATE_SEC

    def saving_is_cheap(self) -> bool:
        """Whether saving a state takes little time, judged by the last one."""
        return self._save_sec < _STATE_SHARE * (time.monotonic() - self._saved)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write a resumable state."""
        started = time.monotonic()
        self.folder.states.save(state | self.averages.state())
        self._saved = time.monotonic()
        self._save_sec = self._saved - started
