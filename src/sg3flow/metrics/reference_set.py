"""Statistics and features of reference sets, and their cache on disk.

A cache file is named by a digest of the image content, the detector and the rules. A changed image
gives another name, so nothing has to be invalidated.
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
from sg3flow.errors import MetricError
from sg3flow.files import atomic_write
from sg3flow.metrics.distances import FeatureStats, RunningStats
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.generation import CHUNK, num_chunks
from sg3flow.metrics.neighborhoods import neighbor_radii
from sg3flow.progress import progress
from sg3flow.settings import cache_folder

EVERYTHING = 1 << 40  # as a limit: all images
_FORMAT = "sg3flow-stats-1"
_ROWS = 4096
T = TypeVar("T")
_Chunks = Iterator[tuple[int, NDArray[np.float32]]]
_DECODERS = 4
# Parts of keys: a changed word makes a cache useless.
_ALL_RULE = "all pictures, no flips, covariance divided by n"
_ORDER_RULE = {
    False: "pictures in order, no flips",
    True: "pictures in order, then the same flipped left to right",
}


def stats_folder() -> Path:
    """``stats`` in the cache folder."""
    return cache_folder() / "stats"


def cached_stats(key: Mapping[str, str], compute: Callable[[], FeatureStats]) -> FeatureStats:
    """The cached statistics of ``key``, computed and cached if missing.

    A damaged file counts as missing. Concurrent processes are safe: each writes a complete file
    with the same content. If the cache cannot be written, a warning is printed.

    Args:
        key: everything that determines the result, as text by name.
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
    """The cached features ``[N, F]`` of ``key``; see ``cached_stats``."""
    kept = _read(key)
    if kept is not None and "features" in kept:
        features = kept["features"]
        if features.ndim == 2 and features.dtype == np.float32 and _all_finite(features):
            return features
    features = compute()
    _keep(key, {"features": features})
    return features


def _all_finite(features: NDArray[np.float32]) -> bool:
    parts = range(0, len(features), _ROWS)  # one mask for all would take a quarter of their size
    return all(bool(np.isfinite(features[start : start + _ROWS]).all()) for start in parts)


def _keep(key: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
    path, content = _place(key)
    try:
        with atomic_write(path) as stream:
            np.savez(stream, allow_pickle=False, key=np.array(content), **arrays)
    except OSError as error:
        print(
            f"warning: cannot write to the cache {path.parent}: {error.strerror}", file=sys.stderr
        )


def _read(key: Mapping[str, str]) -> dict[str, NDArray[Any]] | None:
    path, content = _place(key)
    try:
        # Own stream: numpy does not close its file if the content is damaged.
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


class Pictures(Protocol):
    """A set of images with numbers, such as a packed set."""

    path: Path
    name: str
    num_images: int

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 ``[H, W, 1 or 3]``."""
        ...


class ComparedSet(Pictures, Protocol):
    """A set of images of any size."""

    @property
    def conversion(self) -> str:
        """Rules that convert some of the images; empty: none are converted."""
        ...

    @property
    def num_lossy(self) -> int:
        """Number of images whose compression changes pixels, such as JPEG."""
        ...

    @property
    def ignored(self) -> Mapping[str, int]:
        """Number of files that are no images, by suffix."""
        ...


class WithFlips:
    """A set of images and, after them, the same images flipped left to right.

    It is what a training with ``mirror`` sees: image n + i is the flipped image i of n.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.path, self.name = pictures.path, pictures.name
        self.num_images = 2 * pictures.num_images
        self._pictures = pictures

    @property
    def digest(self) -> str:
        """SHA-256 of the content without flips."""
        return self._pictures.digest

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 ``[H, W, 1 or 3]``."""
        flipped, number = divmod(index, self._pictures.num_images)
        image = self._pictures.image(number)
        return image[:, ::-1] if flipped else image


class Reference:
    """Features and statistics of a set of images; each is computed once and cached on disk.

    Args:
        pictures: the set.
        extractor: the detector.
        batch: images per batch; affects speed and memory only.
        device: where distances are computed.
        ranks: processes that share the work; only the main process gets the results.
        flips: whether the flipped images belong to the set, too.
        conversion: rules that convert the images of the set; empty: they are read as stored.
    """

    def __init__(
        self,
        pictures: Pictures,
        extractor: FeatureExtractor,
        batch: int,
        device: torch.device,
        ranks: Ranks = ALONE,
        flips: bool = False,
        conversion: str = "",
    ) -> None:
        self._conversion = {"conversion": conversion} if conversion else {}
        self.pictures, self.extractor, self.flips = pictures, extractor, flips
        self._items: Pictures = WithFlips(pictures) if flips else pictures
        self._batch, self._device, self._ranks = batch, device, ranks
        self._stats: dict[int, FeatureStats | None] = {}  # None on all but the main process
        self._gathered: set[int] = set()
        self._features: dict[int, torch.Tensor] = {}
        self._radii: dict[tuple[int, int], torch.Tensor] = {}
        self._numbers: dict[tuple[str, int, str], float] = {}

    def prepare_stats(self, limit: int = EVERYTHING) -> None:
        """Compute or load mean and covariance of the features that ``prepare_features`` gives.

        Raises:
            MetricError: the features are not finite.
            DataError: an image cannot be read.
        """
        count = self.count(limit)
        if count in self._stats:
            return
        self._stats[count] = None
        rule = self._stats_rule(count)
        if count not in self._gathered:
            indices = self._drawn(count)
            self._stats[count] = self._shared(cached_stats, rule, indices, self._gather_stats)
        elif self._ranks.is_main_process:
            chunks = enumerate(torch.split(self._features[count], CHUNK))
            kept = ((index, features.numpy()) for index, features in chunks)
            self._stats[count] = cached_stats(self._key(rule), lambda: self._gather_stats(kept))

    def prepare_features(self, limit: int) -> None:
        """Compute or load the features of all images, or of a random sample of ``limit``.

        Raises:
            MetricError, DataError: see ``prepare_stats``.
        """
        count = self.count(limit)
        if count not in self._gathered:
            self._gathered.add(count)
            indices = self._drawn(count)
            found = self._shared(
                cached_features,
                self._features_rule(count),
                indices,
                partial(self._gather_features, count),
            )
            if found is not None:
                self._features[count] = torch.from_numpy(found)

    def stats(self, limit: int = EVERYTHING) -> FeatureStats:
        """The prepared mean and covariance for a limit; on the main process only."""
        stats = self._stats[self.count(limit)]
        assert stats is not None
        return stats

    def features(self, limit: int) -> torch.Tensor:
        """The prepared features ``[N, F]`` for a limit; on the main process only."""
        return self._features[self.count(limit)]

    def once(self, key: tuple[str, int, str], compute: Callable[[], float]) -> float:
        """A number about this set that does not depend on the generator, computed once.

        Args:
            key: what it is, and what else it depends on.
        """
        if key not in self._numbers:
            self._numbers[key] = compute()
        return self._numbers[key]

    def count(self, limit: int) -> int:
        """Number of images used if at most ``limit`` are allowed."""
        return min(limit, self._items.num_images)

    def radii(self, limit: int, k: int) -> torch.Tensor:
        """Distance of each of these features to its ``k``-th nearest other one, ``[N]``.

        Raises:
            MetricError: there are too few images.
        """
        features = self.features(limit)
        if not 1 <= k < len(features):
            raise MetricError(
                f"neighbor {k} needs more than {k} images, {self.pictures.path} has {len(features)}"
            )
        key = (len(features), k)
        if key not in self._radii:
            self._radii[key] = neighbor_radii(features, k, self._device)
        return self._radii[key]

    def _drawn(self, count: int) -> Sequence[int]:
        """The sample of images: the same for every caller with the same count."""
        if count == self._items.num_images:
            return range(count)
        drawn = np.random.RandomState(0).permutation(self._items.num_images)[:count]
        return sorted(drawn.tolist())

    def _shared(
        self,
        cached: Callable[[dict[str, str], Callable[[], T]], T],
        rule: dict[str, str],
        indices: Sequence[int],
        gather: Callable[[_Chunks], T],
    ) -> T | None:
        """Load from the cache, or compute on all ranks if the main process does not find it."""
        if not self._ranks.is_main_process:
            while self._ranks.broadcast(lambda: False):  # True: the main process needs help
                deque(self._chunks(indices), maxlen=0)
            return None

        def compute() -> T:
            self._ranks.broadcast(lambda: True)
            return gather(self._chunks(indices))

        found = cached(self._key(rule), compute)
        self._ranks.broadcast(lambda: False)
        return found

    def _key(self, rule: dict[str, str]) -> dict[str, str]:
        extractor = self.extractor
        detector = {"detector": extractor.digest, "resize": extractor.resize}
        return {"data": self.pictures.digest} | detector | rule | self._conversion

    def _features_rule(self, count: int) -> dict[str, str]:
        return {"rule": _ORDER_RULE[self.flips], "pictures": str(count)}

    def _stats_rule(self, count: int) -> dict[str, str]:
        if not self.flips and count == self.pictures.num_images:
            return {"rule": _ALL_RULE}
        words = f"{_ORDER_RULE[self.flips]}, covariance divided by n"
        return {"rule": words, "pictures": str(count)}

    def _gather_stats(self, chunks: _Chunks) -> FeatureStats:
        stats = RunningStats(self.extractor.num_features)
        for _, features in chunks:
            stats.add(features)
        return stats.result()

    def _gather_features(self, count: int, chunks: _Chunks) -> NDArray[np.float32]:
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
        for images in image_batches(self._items, self._batch, mine):
            parts.append(finite_features(self.extractor, images))
            advance(len(images))
        return np.concatenate(parts)


def finite_features(extractor: FeatureExtractor, images: torch.Tensor) -> NDArray[np.float32]:
    """Features ``[N, F]`` of images, on the CPU.

    Raises:
        MetricError: they are not finite.
    """
    features = extractor(images).cpu()
    if not torch.isfinite(features).all():
        raise MetricError(f"{extractor.name} returns features that are not finite")
    found: NDArray[np.float32] = features.numpy()
    return found


def progress_of(
    ranks: Ranks, description: str, total: int
) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar on the main process, for all of them."""
    return (
        progress(description, total) if ranks.is_main_process else nullcontext(lambda steps: None)
    )


def image_batches(
    pictures: Pictures, batch: int, indices: Sequence[int] | None = None
) -> Iterator[torch.Tensor]:
    """Images in order, uint8 ``[N, C, H, W]``; the next ones are decoded in the background.

    Consecutive images of one shape form a batch, at most ``batch`` of them.

    Args:
        indices: numbers of the images; None: all.
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
