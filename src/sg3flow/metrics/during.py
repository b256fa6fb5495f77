"""Metrics of every snapshot while training goes on, without a trace in the training."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from sg3flow.data.archive import PackedSet
from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.names import parse_metrics
from sg3flow.metrics.ranks import ALONE, Ranks

NONE = "none"


class SnapshotMetrics:
    """Measures G_ema of each snapshot; all processes of a training share the work.

    Attributes:
        names: of the metrics.
    """

    def __init__(self, evaluator: Evaluator, names: tuple[str, ...]) -> None:
        self.evaluator, self.names = evaluator, names

    def __call__(self, G_ema: Any, snapshot: Path | None, nimg: int) -> Mapping[str, float]:
        """Values by name.

        Args:
            snapshot: the file; None in all processes but the first.
        """
        name = snapshot.name if snapshot is not None else ""
        digest = sha256_file(snapshot) if snapshot is not None else ""
        results = self.evaluator.measure(G_ema, name, nimg // 1000, digest)
        return {result.metric: result.value for result in results}


def snapshot_metrics(
    names: tuple[str, ...], packed: PackedSet, *, batch: int, device: torch.device
) -> SnapshotMetrics | None:
    """What measures the snapshots of a training, ready to go; None for ``none``.

    Raises:
        MetricError: an unknown metric, or weights of its network that cannot be had.
        DataError: a picture cannot be read.
    """
    check_names(names)
    if names == (NONE,):
        return None
    ranks = ALONE
    if distributed.is_initialized():
        # The others wait while the first one does the sums, however long that takes.
        ranks = Ranks.of_group(distributed.new_group(backend="gloo", timeout=timedelta(days=1)))
    evaluator = Evaluator(packed, names, seed=0, batch=batch, device=device, ranks=ranks)
    evaluator.prepare()
    return SnapshotMetrics(evaluator, names)


def check_names(names: tuple[str, ...]) -> None:
    """Check what ``train.metrics`` names.

    Raises:
        MetricError: an unknown metric, or ``none`` beside others.
    """
    if NONE in names and names != (NONE,):
        raise MetricError(f"train.metrics: 'none' stands alone, not in {', '.join(names)}")
    if names != (NONE,):
        parse_metrics(names)
