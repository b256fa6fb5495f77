"""Statistics and features of reference sets, kept by what decides them.

A file's name is the digest of the data's content, of the detector and of the rules; so a changed
picture is another file, and nothing has to be invalidated.
"""

import hashlib
import json
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.distributed import ALONE, Ranks
from sg3flow.downloads import cache_folder
from sg3flow.errors import MetricError
from sg3flow.files import atomic_write
from sg3flow.metrics.distances import FeatureStats, RunningStats
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.generation import CHUNK, num_chunks
from sg3flow.metrics.neighborhoods import neighbor_radii
from sg3flow.progress import progress

_FORMAT = "sg3flow-stats-1"
_ROWS = 4096


def stats_folder() -> Path:
    """``stats`` in the cache folder."""
    return cache_folder() / "stats"


def cached_stats(key: Mapping[str, str], compute: Callable[[], FeatureStats]) -> FeatureStats:
    """The statistics kept for ``key``, or computed now and kept.

    A file that is damaged counts as absent. Two processes may do this at once: each writes a whole
    file, and both files say the same. A folder that cannot be written costs the time of computing
    again, and nothing else.

    Args:
        key: everything that decides the result, as names and texts.
    """
    kept = _read(key)
    if kept is not None and (stats := _sound_stats(kept)):
        return stats
    stats = compute()
    _keep(key, {"count": np.array(stats.count), "mean": stats.mean, "cov": stats.cov})
    return stats


def cached_features(
    key: Mapping[str, str], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Features ``[N, F]`` kept for ``key``, or computed now and kept; as ``cached_stats``."""
    kept = _read(key)
    if kept is not None and "features" in kept:
        features = kept["features"]
        if features.ndim == 2 and features.dtype == np.float32 and _all_finite(features):
            return features
    features = compute()
    _keep(key, {"features": features})
    return features


def _all_finite(features: NDArray[np.float32]) -> bool:
    parts = range(0, len(features), _ROWS)  # the mask of all at once is a quarter of their size
    return all(bool(np.isfinite(features[start : start + _ROWS]).all()) for start in parts)


def _keep(key: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
    path, content = _place(key)
    try:
        with atomic_write(path) as stream:
            np.savez(stream, allow_pickle=False, key=np.array(content), **arrays)
    except OSError as error:
        print(f"warning: statistics not kept in {path.parent}: {error.strerror}", file=sys.stderr)


def _read(key: Mapping[str, str]) -> dict[str, NDArray[Any]] | None:
    path, content = _place(key)
    try:
        # A stream of our own: numpy leaves its file open where the content is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays) if str(arrays["key"]) == content else None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _place(key: Mapping[str, str]) -> tuple[Path, str]:
    content = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    return stats_folder() / f"{hashlib.sha256(content.encode()).hexdigest()}.npz", content


def _sound_stats(arrays: Mapping[str, NDArray[Any]]) -> FeatureStats | None:
    try:
        stats = FeatureStats(int(arrays["count"]), arrays["mean"], arrays["cov"])
    except (KeyError, TypeError, ValueError):
        return None
    size = stats.mean.shape[0] if stats.mean.ndim == 1 else -1
    finite = bool(np.isfinite(stats.mean).all() and np.isfinite(stats.cov).all())
    return stats if finite and stats.cov.shape == (size, size) and stats.count > 0 else None


T = TypeVar("T")
_Chunks = Iterator[tuple[int, NDArray[np.float32]]]

_DECODERS = 4
_RULE = "all pictures, no flips, covariance divided by n"
_FEATURES_RULE = "pictures in order, no flips"


class Pictures(Protocol):
    """A set of pictures that are read by number; a packed set is one."""

    path: Path
    name: str
    num_images: int

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 ``[H, W, 1 or 3]``."""
        ...


class Reference:
    """What a detector sees in a set of pictures; each thing is computed once, and kept on disk.

    Args:
        pictures: the set.
        extractor: the detector.
        batch: pictures at a time; changes speed and memory only.
        device: where distances are computed.
        ranks: processes that share the work; what comes out is on the first of them only.
    """

    def __init__(
        self,
        pictures: Pictures,
        extractor: FeatureExtractor,
        batch: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.pictures, self.extractor = pictures, extractor
        self._batch, self._device, self._ranks = batch, device, ranks
        self._stats: FeatureStats | None = None
        self._has_stats = False  # on all processes, where the first one alone keeps them
        self._gathered: set[int] = set()
        self._features: dict[int, torch.Tensor] = {}
        self._radii: dict[tuple[int, int], torch.Tensor] = {}

    def prepare_stats(self) -> None:
        """Compute mean and covariance of the features of all pictures, or read them.

        Raises:
            MetricError: the features are not finite.
            DataError: a picture cannot be read.
        """
        if self._has_stats:
            return
        self._has_stats = True
        rule, count = {"rule": _RULE}, self.pictures.num_images
        if count not in self._gathered:
            self._stats = self._shared(cached_stats, rule, range(count), self._gather_stats)
        elif self._ranks.is_main_process:
            chunks = enumerate(torch.split(self._features[count], CHUNK))
            kept = ((index, features.numpy()) for index, features in chunks)
            self._stats = cached_stats(self._key(rule), lambda: self._gather_stats(kept, count))

    def prepare_features(self, limit: int) -> None:
        """Compute the features of all pictures, or of ``limit`` drawn at random if there are more.

        Raises:
            MetricError, DataError: as ``prepare_stats``.
        """
        count = self.count(limit)
        if count not in self._gathered:
            self._gathered.add(count)
            indices = self._drawn(count)
            rule = {"rule": _FEATURES_RULE, "pictures": str(count)}
            found = self._shared(cached_features, rule, indices, self._gather_features)
            if found is not None:
                self._features[count] = torch.from_numpy(found)

    def stats(self) -> FeatureStats:
        """Mean and covariance, once prepared; on the first process."""
        assert self._stats is not None
        return self._stats

    def features(self, limit: int) -> torch.Tensor:
        """Features ``[N, F]``, once prepared for that limit; on the first process."""
        return self._features[self.count(limit)]

    def count(self, limit: int) -> int:
        """Pictures that stand for the set where at most ``limit`` are taken."""
        return min(limit, self.pictures.num_images)

    def radii(self, limit: int, k: int) -> torch.Tensor:
        """Distance of each of those features to the ``k``-th nearest other, ``[N]``.

        Raises:
            MetricError: there are too few pictures.
        """
        features = self.features(limit)
        if not 1 <= k < len(features):
            raise MetricError(
                f"neighbour {k} needs more than {k} pictures, {self.pictures.path} holds "
                f"{len(features)}"
            )
        key = (len(features), k)
        if key not in self._radii:
            self._radii[key] = neighbor_radii(features, k, self._device)
        return self._radii[key]

    def _drawn(self, count: int) -> Sequence[int]:
        """The pictures that stand for all: the same ones for whatever asks for as many."""
        if count == self.pictures.num_images:
            return range(count)
        drawn = np.random.RandomState(0).permutation(self.pictures.num_images)[:count]
        return sorted(drawn.tolist())

    def _shared(
        self,
        cached: Callable[[dict[str, str], Callable[[], T]], T],
        rule: dict[str, str],
        indices: Sequence[int],
        gather: Callable[[_Chunks, int], T],
    ) -> T | None:
        """From the cache, or computed by all ranks if the first does not find it there."""
        if not self._ranks.is_main_process:
            while self._ranks.broadcast(lambda: False):  # True: the first wants help
                deque(self._chunks(indices), maxlen=0)
            return None

        def compute() -> T:
            self._ranks.broadcast(lambda: True)
            return gather(self._chunks(indices), len(indices))

        found = cached(self._key(rule), compute)
        self._ranks.broadcast(lambda: False)
        return found

    def _key(self, rule: dict[str, str]) -> dict[str, str]:
        extractor = self.extractor
        detector = {"detector": extractor.digest, "resize": extractor.resize}
        return {"data": self.pictures.digest} | detector | rule

    def _gather_stats(self, chunks: _Chunks, count: int) -> FeatureStats:
        stats = RunningStats(self.extractor.num_features)
        for _, features in chunks:
            stats.add(features)
        return stats.result()

    def _gather_features(self, chunks: _Chunks, count: int) -> NDArray[np.float32]:
        found = np.empty((count, self.extractor.num_features), np.float32)
        for index, features in chunks:
            start = index * CHUNK
            found[start : start + len(features)] = features
        return found

    def _chunks(self, indices: Sequence[int]) -> _Chunks:
        title = f"{self.extractor.name} features of {self.pictures.name}"
        with progress_of(self._ranks, title, len(indices)) as advance:
            compute = partial(self._chunk, indices, advance)
            for index, features in self._ranks.in_order(num_chunks(len(indices)), compute):
                if index % self._ranks.size != self._ranks.rank:
                    advance(len(features))
                yield index, features

    def _chunk(
        self, indices: Sequence[int], advance: Callable[[int], None], index: int
    ) -> NDArray[np.float32]:
        mine = indices[index * CHUNK : (index + 1) * CHUNK]
        parts = []
        for images in picture_batches(self.pictures, self._batch, mine):
            parts.append(finite_features(self.extractor, images))
            advance(len(images))
        return np.concatenate(parts)


def finite_features(extractor: FeatureExtractor, images: torch.Tensor) -> NDArray[np.float32]:
    """Features ``[N, F]`` of pictures, on the CPU.

    Raises:
        MetricError: they are not finite.
    """
    features = extractor(images).cpu()
    if not torch.isfinite(features).all():
        raise MetricError(f"{extractor.name} gives features that are not finite")
    found: NDArray[np.float32] = features.numpy()
    return found


def progress_of(
    ranks: Ranks, description: str, total: int
) -> AbstractContextManager[Callable[[int], None]]:
    """Progress that one process shows for all."""
    return (
        progress(description, total) if ranks.is_main_process else nullcontext(lambda steps: None)
    )


def picture_batches(
    pictures: Pictures, batch: int, indices: Sequence[int] | None = None
) -> Iterator[torch.Tensor]:
    """Pictures in order, uint8 ``[N, C, H, W]``; the next ones are decoded meanwhile.

    Neighbors of one form go together, ``batch`` of them at most.

    Args:
        indices: which pictures; None: all.
    """
    chosen = range(pictures.num_images) if indices is None else indices
    with ThreadPoolExecutor(_DECODERS) as pool:
        waiting: deque[NDArray[np.uint8]] = deque()
        for image in _decoded(pool, pictures, chosen, batch):
            if waiting and (len(waiting) == batch or waiting[0].shape != image.shape):
                yield _stacked(waiting)
                waiting.clear()
            waiting.append(image)
        if waiting:
            yield _stacked(waiting)


def _decoded(
    pool: ThreadPoolExecutor, pictures: Pictures, indices: Sequence[int], batch: int
) -> Iterator[NDArray[np.uint8]]:
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    for index in indices:
        pending.append(pool.submit(pictures.image, index))
        if len(pending) > 2 * batch:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _stacked(images: Iterable[NDArray[np.uint8]]) -> torch.Tensor:
    pictures = np.stack(list(images))  # [N, H, W, C]
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
