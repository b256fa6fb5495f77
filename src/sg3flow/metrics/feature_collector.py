"""Collects from one generator what metrics need: features, motion errors, path lengths.

Latents are drawn in chunks of 1024; the processes of an evaluation share the chunks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from sg3flow.data.archive import PackedSet
from sg3flow.distributed import Ranks
from sg3flow.errors import MetricError
from sg3flow.metrics.equivariance import motion_errors, random_motions
from sg3flow.metrics.estimates import Estimate, mean_estimate
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.features.vgg import Lpips
from sg3flow.metrics.generation import (
    CHUNK,
    Latents,
    MeasuredGenerator,
    generate_images,
    num_chunks,
    overlapped,
)
from sg3flow.metrics.names import Metric
from sg3flow.metrics.reference_set import finite_features

# Images that share one random motion. Fixed: values must not depend on the batch size.
_PICTURES_PER_MOTION = 4
_EPSILON = 1e-4  # the part of a path that is measured
_LARGEST = 256  # side in pixels; LPIPS sees larger images averaged down
_FAR_ENDS = 0x9E3779B9  # added to the seed (32 bits) for the ends of the paths

Advance = Callable[[int], None]
Batch = tuple[torch.Tensor, torch.Tensor]
T = TypeVar("T")


class FeatureCollector:
    """Generates images with one network and collects features and errors.

    Results are complete on the main process and empty on the others.

    Args:
        G: the generator, in eval mode.
        packed: the training set, for its labels.
        seed: seed of the latents.
        batch: images per batch.
        device: device of the detectors.
        ranks: processes that share the work.
    """

    def __init__(
        self,
        G: MeasuredGenerator,
        packed: PackedSet,
        seed: int,
        batch: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self._G, self._packed, self._seed, self._batch = G, packed, seed, batch
        self._device, self._ranks = device, ranks

    def image_features(
        self,
        metrics: Sequence[Metric],
        extractors: Mapping[str, FeatureExtractor],
        advance: Advance,
    ) -> dict[str, NDArray[np.float32]]:
        """Features by detector, ``[N, F]``; each image is generated once for all detectors.

        Raises:
            MetricError: a pixel or a feature is not finite.
        """
        wanted: dict[str, int] = {}
        for metric in metrics:
            if metric.uses_only_images and metric.detector is not None:
                most = max(wanted.get(metric.detector, 0), metric.num_images)
                wanted[metric.detector] = most
        found = {
            name: np.empty((count, extractors[name].num_features), np.float32)
            for name, count in wanted.items()
            if self._ranks.is_main_process
        }
        latents = self._latents()
        compute = partial(self._chunk_features, latents, wanted, extractors, advance)
        total = max(wanted.values(), default=0)
        for start, parts in self._chunks(total, compute, advance):
            for name, features in parts.items():
                found[name][start : start + len(features)] = features
        return found

    def motion_rows(self, metric: Metric, advance: Advance) -> NDArray[np.float64]:
        """Errors of an equivariance metric, ``[motions, 2]``; see ``motion_errors``.

        Raises:
            MetricError: the generator has no input transform, or a value is not finite.
        """
        latents = self._latents()

        def compute(start: int, count: int) -> NDArray[np.float64]:
            batches = _split(latents.chunk(start // CHUNK, count), _PICTURES_PER_MOTION)
            motions = random_motions(metric.kind, self._seed)
            mine = islice(motions, start // _PICTURES_PER_MOTION, None)
            return motion_errors(self._G, metric.kind, _counted(batches, advance), mine)

        rows = [part for _, part in self._chunks(metric.num_images, compute, advance)]
        return np.concatenate([np.empty((0, 2)), *rows])

    def path_lengths(self, metric: Metric, lpips: Lpips, advance: Advance) -> NDArray[np.float64]:
        """Perceptual path lengths, ``[pairs]``; see ``path_lengths``.

        Raises:
            MetricError: a pixel is not finite.
        """
        latents, far = self._latents(), self._latents(_FAR_ENDS)

        def compute(start: int, count: int) -> NDArray[np.float64]:
            index = start // CHUNK
            begins = _split(latents.chunk(index, count), self._batch)
            ends = _split(far.chunk(index, count), self._batch)
            paths = ((z, z_to, c) for (z, c), (z_to, _) in zip(begins, ends, strict=True))
            parts = []
            for lengths in path_lengths(self._G, lpips, paths):
                parts.append(lengths.numpy())
                advance(len(lengths))
            return np.concatenate(parts)

        rows = [part for _, part in self._chunks(metric.num_images, compute, advance)]
        return np.concatenate([np.empty(0), *rows])

    def pictures(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Single images by number, uint8 ``[H, W, C]``; they are generated again."""
        latents, found = self._latents(), {}
        for index in sorted({number // CHUNK for number in indices}):
            z, c = latents.chunk(index, CHUNK)
            for number in (n for n in indices if n // CHUNK == index):
                place = slice(number % CHUNK, number % CHUNK + 1)
                image = generate_images(self._G, z[place], c[place])[0]
                found[number] = image.permute(1, 2, 0).cpu().numpy()
        return [found[number] for number in indices]

    def _latents(self, offset: int = 0) -> Latents:
        return Latents(self._G, self._packed, self._seed + offset)

    def _chunks(
        self, total: int, compute: Callable[[int, int], T], advance: Advance
    ) -> Iterator[tuple[int, T]]:
        """Start and result of each chunk; ``compute`` gets start and count."""

        def count(index: int) -> int:
            return min(total - index * CHUNK, CHUNK)

        def chunk(index: int) -> T:
            return compute(index * CHUNK, count(index))

        for index, content in self._ranks.in_order(num_chunks(total), chunk):
            yield index * CHUNK, content
            if index % self._ranks.size != self._ranks.rank:
                advance(count(index))  # by another process

    def _chunk_features(
        self,
        latents: Latents,
        wanted: Mapping[str, int],
        extractors: Mapping[str, FeatureExtractor],
        advance: Advance,
        start: int,
        count: int,
    ) -> dict[str, NDArray[np.float32]]:
        batches = _split(latents.chunk(start // CHUNK, count), self._batch)
        pictures = (generate_images(self._G, z, c) for z, c in batches)
        starts = iter(range(start, start + count, self._batch))

        def extract(images: torch.Tensor) -> dict[str, NDArray[np.float32]]:
            place = next(starts)
            return {
                name: finite_features(extractors[name], images)[: most - place]
                for name, most in wanted.items()
                if most > place
            }

        parts: dict[str, list[NDArray[np.float32]]] = {}
        for done, features in enumerate(overlapped(pictures, extract, self._device)):
            for name, found in features.items():
                parts.setdefault(name, []).append(found)
            advance(min(self._batch, count - done * self._batch))
        return {name: np.concatenate(found) for name, found in parts.items()}


def _split(inputs: Batch, batch: int) -> Iterator[Batch]:
    z, c = inputs
    return zip(torch.split(z, batch), torch.split(c, batch), strict=True)


def _counted(batches: Iterator[Batch], advance: Advance) -> Iterator[Batch]:
    for z, c in batches:
        yield z, c
        advance(len(z))


@torch.no_grad()
def path_lengths(
    G: MeasuredGenerator,
    lpips: Lpips,
    ends: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> Iterator[torch.Tensor]:
    """Squared length of the first 1/10000 of each path, divided by 1/10000 squared, ``[N]``.

    The paths are in W, between neighboring points (Karras et al. 2019, Sec. 4.1).

    Args:
        ends: batches of the first ``z``, the last ``z``, and their common ``c``.

    Raises:
        MetricError: a pixel is not finite.
    """
    for z_from, z_to, c in ends:
        begin, end = G.mapping(z_from, c), G.mapping(z_to, c)
        pictures = [
            _shrunk(G.synthesis(ws, noise_mode="const", force_fp32=True))
            for ws in (begin, torch.lerp(begin, end, _EPSILON))
        ]
        if not all(torch.isfinite(img).all() for img in pictures):
            raise MetricError("the network generates values that are not finite")
        yield lpips(*pictures).double().cpu() / _EPSILON**2


def _shrunk(img: torch.Tensor) -> torch.Tensor:
    factor = img.shape[-1] // _LARGEST
    return functional.avg_pool2d(img, factor) if factor > 1 else img


def path_length(lengths: ArrayLike) -> Estimate:
    """Mean of the values from the 1st to the 99th percentile, with its standard error."""
    values = np.asarray(lengths, dtype=np.float64)
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    kept = (values >= low) & (values <= high)
    return mean_estimate(values[kept], kept)
