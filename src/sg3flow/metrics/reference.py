"""Features of a reference set: every picture once, no flips."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from sg3flow.data.archive import PackedSet
from sg3flow.errors import MetricError
from sg3flow.metrics.cache import cached_stats
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.frechet import FeatureStats, RunningStats
from sg3flow.progress import progress

_DECODERS = 4
_RULE = "all pictures, no flips, covariance divided by n"


def reference_stats(packed: PackedSet, extractor: FeatureExtractor, batch: int) -> FeatureStats:
    """Mean and covariance of the features of all pictures, from the cache where it has them.

    Raises:
        MetricError: the features are not finite.
        DataError: a picture cannot be read.
    """
    key = {
        "data": packed.digest,
        "detector": extractor.digest,
        "resize": extractor.resize,
        "rule": _RULE,
    }
    return cached_stats(key, lambda: _compute(packed, extractor, batch))


def _compute(packed: PackedSet, extractor: FeatureExtractor, batch: int) -> FeatureStats:
    stats = RunningStats(extractor.num_features)
    with progress(f"{extractor.name} features of {packed.name}", packed.num_images) as advance:
        for images in picture_batches(packed, batch):
            features = extractor(images)
            if not torch.isfinite(features).all():
                raise MetricError(
                    f"{extractor.name} gives features of {packed.path} that are not finite"
                )
            stats.add(features.cpu().numpy())
            advance(len(images))
    return stats.result()


def picture_batches(packed: PackedSet, batch: int) -> Iterator[torch.Tensor]:
    """All pictures in order, uint8 ``[N, C, H, W]``; the next batch is decoded meanwhile."""
    starts = range(0, packed.num_images, batch)
    with ThreadPoolExecutor(_DECODERS) as pool:
        ahead = _submit(pool, packed, starts[0], batch)
        for start in starts:
            pending, ahead = ahead, _submit(pool, packed, start + batch, batch)
            pictures = np.stack([future.result() for future in pending])  # [N, H, W, C]
            yield torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _submit(
    pool: ThreadPoolExecutor, packed: PackedSet, start: int, batch: int
) -> list[Future[np.ndarray]]:
    end = min(start + batch, packed.num_images)
    return [pool.submit(packed.image, index) for index in range(start, end)]
