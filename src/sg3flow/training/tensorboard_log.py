"""TensorBoard event files of a training, beside its record; their steps are kimg.

They are in the state folder and not in the output folder, which DVC caches as a whole when the
training is complete: event files grow while it runs, contain the time and the machine, and repeat
the sample grids.

A resumed training appends. What was written after its saved state is written again, and purge_step
lets TensorBoard forget the first time.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sg3flow.errors import ConfigError
from sg3flow.runs.run_folder import Reporter, Stat

_MOST_PIXELS = 1920  # side of a grid


def check_tensorboard(is_wanted: bool) -> None:
    """Check that the package is there, if event files are wanted.

    Raises:
        ConfigError: it is not.
    """
    if is_wanted and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "train.tensorboard needs the Python package tensorboard, which is not installed: pip "
            "install tensorboard, or leave --tensorboard out"
        )


class TensorBoardReporter:
    """Passes everything on to another reporter, and writes scalars and grids as events.

    Events are flushed at once, so a saved state never has more than they do.

    Args:
        resumed_nimg: images seen by the saved state; -1: the training starts.
    """

    def __init__(self, inner: Reporter, folder: Path, resumed_nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._inner, self._resumed_nimg = inner, resumed_nimg
        # Also at the first start: TensorBoard takes the first session of a folder for no restart.
        purge_step = resumed_nimg // 1000 + 1 if resumed_nimg >= 0 else 0
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)

    def stats(self, values: Mapping[str, Stat], nimg: int) -> None:
        """Write the means as scalars."""
        self._inner.stats(values, nimg)
        self._scalars({name: stat.mean for name, stat in values.items()}, nimg)

    def image(self, path: Path, key: str, nimg: int) -> None:
        """Write an image, a large one scaled down."""
        self._inner.image(path, key, nimg)
        self.show(path, key, nimg)

    def show(self, path: Path, key: str, nimg: int) -> None:
        """As ``image``, for one that the other reporter has."""
        if nimg <= self._resumed_nimg:
            return
        with Image.open(path) as image:
            shown = image.convert("RGB")
        shown.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
        self._writer.add_image(key, np.asarray(shown), nimg // 1000, dataformats="HWC")
        self._writer.flush()

    def snapshot(self, path: Path, nimg: int, sha256: str) -> None:
        """Pass it on."""
        self._inner.snapshot(path, nimg, sha256)

    def pruned(self, path: Path, nimg: int) -> None:
        """Pass it on."""
        self._inner.pruned(path, nimg)

    def metric(self, snapshot: Path, name: str, value: float, nimg: int) -> None:
        """Write the value of a metric as a scalar."""
        self._inner.metric(snapshot, name, value, nimg)
        self._scalars({f"Metrics/{name}": value}, nimg)

    def has_metric(self, snapshot: Path, name: str) -> bool:
        """Ask the other reporter."""
        return self._inner.has_metric(snapshot, name)

    def artifact(self, path: Path) -> None:
        """Pass it on."""
        self._inner.artifact(path)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _scalars(self, values: Mapping[str, float], nimg: int) -> None:
        if nimg <= self._resumed_nimg:
            return  # written before the state was saved
        for name, value in values.items():
            self._writer.add_scalar(name, value, nimg // 1000)
        self._writer.flush()
