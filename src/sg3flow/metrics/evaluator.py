"""Measures generators in memory against one packed set.

The references are prepared once; every generator after that costs its own pictures only. What is
handed in leaves as it came: weights, buffers, modes, gradients, and torch's random numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch

from sg3flow.data.archive import PackedSet
from sg3flow.errors import MetricError
from sg3flow.metrics.equivariance import eqr, eqt, require_movable
from sg3flow.metrics.features import FeatureExtractor, load_extractor
from sg3flow.metrics.float32 import exact_float32
from sg3flow.metrics.frechet import FeatureStats, RunningStats, frechet_distance
from sg3flow.metrics.generation import Generator, draw_pictures, latent_batches
from sg3flow.metrics.names import Metric, parse_metrics
from sg3flow.metrics.reference import reference_stats
from sg3flow.metrics.results import MetricResult

# Pictures that share one random motion. Fixed: the batch must not decide what is measured.
_PICTURES_PER_MOTION = 4


def _ignore(steps: int) -> None:
    """Progress that nobody watches."""


class Evaluator:
    """Metrics of any number of generators over one packed set.

    Args:
        packed: the training set.
        names: of the metrics.
        seed: of everything drawn; the same seed gives the same numbers.
        batch: pictures at a time; changes speed and memory only.
        device: where features are computed; generators stay where they are.

    Raises:
        MetricError: an unknown metric.
    """

    def __init__(
        self,
        packed: PackedSet,
        names: Sequence[str],
        *,
        seed: int,
        batch: int,
        device: torch.device,
    ) -> None:
        self.packed, self.seed, self.batch, self.device = packed, seed, batch, device
        self.metrics = parse_metrics(tuple(names))
        self._references: dict[str, tuple[FeatureExtractor, FeatureStats]] = {}

    @property
    def images_per_network(self) -> int:
        """Pictures drawn for one network, with a moved pair counted once."""
        shared = max((m.num_images for m in self.metrics if m.is_frechet), default=0)
        return shared + sum(m.num_images for m in self.metrics if not m.is_frechet)

    def prepare(self) -> None:
        """Load the detectors and their view of the packed set; a second call does nothing.

        Raises:
            MetricError: weights of a detector that cannot be had; before anything is computed.
            DataError: a picture cannot be read.
        """
        wanted = dict.fromkeys(metric.kind for metric in self.metrics if metric.is_frechet)
        missing = [kind for kind in wanted if kind not in self._references]
        with exact_float32():
            extractors = {kind: load_extractor(kind, self.device) for kind in missing}
            for kind, extractor in extractors.items():
                stats = reference_stats(self.packed, extractor, self.batch)
                self._references[kind] = (extractor, stats)

    def measure(
        self,
        G: torch.nn.Module | Generator,
        name: str,
        kimg: int | None,
        network_sha256: str,
        advance: Callable[[int], None] = _ignore,
    ) -> list[MetricResult]:
        """Every metric of one generator, in the order of the names.

        It is judged in eval mode and without gradients. Its tensors, the modes of its modules and
        torch's random numbers are afterwards what they were; training goes on as if nothing had
        happened, to the bit.

        Args:
            G: the network, G_ema as a rule, on the device that shall draw.
            name: of its snapshot, for the results and for errors.
            kimg: thousands of real images it has seen; None: unknown.
            network_sha256: digest of the file that it is, or will be, kept in.
            advance: told of pictures done, ``images_per_network`` in all.

        Raises:
            MetricError: it does not fit the data or draws values that are not finite.
        """
        self.prepare()
        network = cast(Generator, G)
        self._require_fit(network, name)
        with exact_float32(), _judged(G):
            try:
                values = self._frechet_values(network, advance)
                values |= self._equivariance_values(network, advance)
            except MetricError as error:
                raise MetricError(f"{name}: {error}") from error
        return [self._result(m, values[m.name], name, kimg, network_sha256) for m in self.metrics]

    def _require_fit(self, G: Generator, name: str) -> None:
        form = (G.img_resolution, G.img_channels)
        wanted = (self.packed.resolution, self.packed.channels)
        if form != wanted:
            raise MetricError(
                f"{name} draws {form[0]}x{form[0]}x{form[1]}, {self.packed.path} holds "
                f"{wanted[0]}x{wanted[0]}x{wanted[1]}; give the set that it was trained on"
            )
        if any(not metric.is_frechet for metric in self.metrics):
            require_movable(G)

    def _frechet_values(self, G: Generator, advance: Callable[[int], None]) -> dict[str, float]:
        """All Frechet distances in one pass; those over fewer pictures stop listening earlier."""
        metrics = [metric for metric in self.metrics if metric.is_frechet]
        if not metrics:
            return {}
        running = {m.name: RunningStats(self._references[m.kind][0].num_features) for m in metrics}
        total = max(metric.num_images for metric in metrics)
        for z, c in latent_batches(G, self.packed, total, self.batch, self.seed):
            images = draw_pictures(G, z, c)
            listening = [m for m in metrics if running[m.name].count < m.num_images]
            kinds = dict.fromkeys(metric.kind for metric in listening)
            features = {kind: self._features(kind, images) for kind in kinds}
            for metric in listening:
                stats = running[metric.name]
                stats.add(features[metric.kind][: metric.num_images - stats.count].numpy())
            advance(len(images))
        return {m.name: _distance(running[m.name], self._references[m.kind][1]) for m in metrics}

    def _features(self, kind: str, images: torch.Tensor) -> torch.Tensor:
        extractor = self._references[kind][0]
        features = extractor(images).cpu()
        if not torch.isfinite(features).all():
            raise MetricError(f"{extractor.name} gives features that are not finite")
        return features

    def _equivariance_values(
        self, G: Generator, advance: Callable[[int], None]
    ) -> dict[str, float]:
        values = {}
        for metric in self.metrics:
            if metric.is_frechet:
                continue
            batches = latent_batches(
                G, self.packed, metric.num_images, _PICTURES_PER_MOTION, self.seed
            )
            inputs = _counted(batches, advance)
            if metric.kind == "eqr":
                values[metric.name] = eqr(G, inputs, seed=self.seed)
            else:
                fractional = metric.kind == "eqt_frac"
                values[metric.name] = eqt(G, inputs, fractional=fractional, seed=self.seed)
        return values

    def _result(
        self, metric: Metric, value: float, name: str, kimg: int | None, network_sha256: str
    ) -> MetricResult:
        extractor, stats = self._references.get(metric.kind, (None, None))
        return MetricResult(
            snapshot=name,
            kimg=kimg,
            metric=metric.name,
            value=value,
            num_generated=metric.num_images,
            num_reference=stats.count if stats else None,
            detector=extractor.name if extractor else None,
            detector_sha256=extractor.digest if extractor else None,
            reference_sha256=self.packed.digest if stats else None,
            network_sha256=network_sha256,
            resize=extractor.resize if extractor else None,
            seed=self.seed,
            higher_is_better=metric.higher_is_better,
            torch=torch.__version__,
        )


@contextmanager
def _judged(G: Any) -> Iterator[None]:
    """Put a network into eval mode for the block, and each module back into its own."""
    modes = [(module, module.training) for module in G.modules()]
    try:
        G.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _distance(running: RunningStats, reference: FeatureStats) -> float:
    generated = running.result()
    return frechet_distance(reference.mean, reference.cov, generated.mean, generated.cov)


def _counted(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]], advance: Callable[[int], None]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for z, c in batches:
        yield z, c
        advance(len(z))
