"""Measures generators in memory against one packed set.

The references are prepared once; after that, each generator costs only its own images. A measured
network does not change: weights, buffers, modes and gradients stay, and so does the state of
torch's random number generators.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sg3flow.data.archive import PackedSet
from sg3flow.distributed import ALONE, Ranks
from sg3flow.errors import MetricError
from sg3flow.metrics.equivariance import equivariance, require_movable
from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.feature_collector import Advance, FeatureCollector, path_length
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.features.vgg import Lpips
from sg3flow.metrics.generation import MeasuredGenerator
from sg3flow.metrics.image_metrics import (
    MetricInputs,
    check_held_out,
    compute_metric,
    load_extractor,
    prepare_reference,
    wants_only_stats,
)
from sg3flow.metrics.names import Metric, parse_metrics
from sg3flow.metrics.neighborhoods import draw_closest_pairs
from sg3flow.metrics.reference_set import EVERYTHING, ComparedSet, Reference
from sg3flow.metrics.report import Detector, MetricResult, Subject, build_results
from sg3flow.precision import computing

OnPairs = Callable[[str, Image.Image], None]


def _ignore(steps: int) -> None:
    """The default for ``advance``."""


class Evaluator:
    """Metrics of any number of generators over one packed set.

    Args:
        packed: the training set.
        names: names of the metrics.
        seed: seed of all random numbers; the same seed gives the same values.
        batch: images per batch; affects speed and memory only.
        device: where features are computed; generators stay where they are.
        ranks: processes that share the work; each makes the same calls with the same arguments and
            gets the same values as a single process would.
        mirror: whether older names (``fid50k``) compare with flipped images, too.
        held_out: images that the training has not seen, for ``fld``; None: every second image of
            ``packed`` counts as held out.

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
        ranks: Ranks = ALONE,
        mirror: bool = False,
        held_out: ComparedSet | None = None,
    ) -> None:
        self.packed, self.seed, self.batch, self.device = packed, seed, batch, device
        self.metrics, self.ranks, self.mirror = parse_metrics(names), ranks, mirror
        self._held_out = held_out
        self._extractors: dict[str, FeatureExtractor] = {}
        self._references: dict[tuple[str, bool], Reference] = {}  # by detector and flips
        self._held_out_references: dict[str, Reference] = {}  # by detector
        self._lpips: Lpips | None = None

    @property
    def has_older(self) -> bool:
        """Whether a metric has an older name, so that ``mirror`` counts."""
        return any(metric.is_older for metric in self.metrics)

    @property
    def images_per_network(self) -> int:
        """Images to generate per network; a pair counts once."""
        shared = max((m.num_images for m in self.metrics if m.uses_only_images), default=0)
        return shared + sum(m.num_images for m in self.metrics if not m.uses_only_images)

    def prepare(self) -> None:
        """Load the detectors and compute the references; a second call does nothing.

        Raises:
            MetricError: weights of a detector are not available, or the held-out images are those
                of the set; raised before any computation.
            DataError: an image cannot be read.
        """
        if self._held_out is not None:
            check_held_out(self.metrics, self.packed, self._held_out)
        with computing():
            self._load_detectors()
            # Statistics come last: they can reuse the features of other metrics.
            for metric in sorted(self.metrics, key=wants_only_stats):
                if metric.has_reference:
                    prepare_reference(metric, self._reference(metric))
                if (held_out := self._held_out_reference(metric)) is not None:
                    held_out.prepare_features(EVERYTHING)

    def measure(
        self,
        G: torch.nn.Module | MeasuredGenerator,
        name: str,
        kimg: int | None,
        network_sha256: str,
        advance: Advance = _ignore,
        on_pairs: OnPairs | None = None,
    ) -> list[MetricResult]:
        """All metrics of one generator, in the order of the names.

        The network runs in eval mode and without gradients. Its tensors, the modes of its modules
        and torch's random states are restored; training continues bit for bit as without it.

        Args:
            G: the network, usually G_ema, on the device that generates.
            name: name of its snapshot, for results and errors.
            kimg: thousands of real images it has seen; None: unknown.
            network_sha256: digest of its file.
            advance: called with the number of images done, ``images_per_network`` in total.
            on_pairs: called on the main process with the closest pairs of each metric that finds
                them.

        Raises:
            MetricError: the network does not fit the data or generates values that are not finite.
        """
        self.prepare()
        network = cast(MeasuredGenerator, G)
        self._require_fit(network, name)
        collector = FeatureCollector(
            network, self.packed, self.seed, self.batch, self.device, self.ranks
        )
        with computing(), _eval_mode(G):
            try:
                found = self._estimates(collector, on_pairs, advance)
            except MetricError as error:
                raise MetricError(f"{name}: {error}") from error
        subject = Subject(name, kimg, network_sha256)
        return [
            result
            for metric, estimates in zip(self.metrics, found, strict=True)
            for result in self._results(metric, estimates, subject)
        ]

    def _load_detectors(self) -> None:
        for metric in self.metrics:
            detector = metric.detector
            if detector == "lpips":
                self._lpips = self._lpips or Lpips.load(self.device)
            elif detector is not None and detector not in self._extractors:
                extractor = load_extractor(detector, self.device, self.packed.resolution)
                self._extractors[detector] = extractor

    def _reference(self, metric: Metric) -> Reference:
        assert metric.detector is not None
        key = metric.detector, metric.is_older and self.mirror
        if key not in self._references:
            extractor = self._extractors[metric.detector]
            self._references[key] = Reference(
                self.packed, extractor, self.batch, self.device, self.ranks, flips=key[1]
            )
        return self._references[key]

    def _held_out_reference(self, metric: Metric) -> Reference | None:
        if self._held_out is None or not metric.uses_held_out:
            return None
        assert metric.detector is not None
        if metric.detector not in self._held_out_references:
            extractor = self._extractors[metric.detector]
            self._held_out_references[metric.detector] = Reference(
                self._held_out,
                extractor,
                self.batch,
                self.device,
                self.ranks,
                conversion=self._held_out.conversion,
            )
        return self._held_out_references[metric.detector]

    def _require_fit(self, G: MeasuredGenerator, name: str) -> None:
        form = (G.img_resolution, G.img_channels)
        wanted = (self.packed.resolution, self.packed.channels)
        if form != wanted:
            raise MetricError(
                f"{name} generates {form[0]}x{form[0]}x{form[1]}, {self.packed.path} has "
                f"{wanted[0]}x{wanted[0]}x{wanted[1]}; use the set that it was trained on"
            )
        if any(metric.is_equivariance for metric in self.metrics):
            require_movable(G)

    def _estimates(
        self, collector: FeatureCollector, on_pairs: OnPairs | None, advance: Advance
    ) -> list[list[Estimate]]:
        """The estimates of each metric; every process takes part and gets all of them."""
        features = collector.image_features(self.metrics, self._extractors, advance)
        found: list[list[Estimate]] = []
        for metric in self.metrics:
            if metric.uses_only_images:
                found.append(self._image_metric(metric, features, collector, on_pairs))
            elif metric.is_equivariance:
                rows = collector.motion_rows(metric, advance)
                found.append([equivariance(rows)] if self.ranks.is_main_process else [])
            else:
                assert self._lpips is not None
                lengths = collector.path_lengths(metric, self._lpips, advance)
                found.append([path_length(lengths)] if self.ranks.is_main_process else [])
        return self.ranks.broadcast(lambda: found)

    def _image_metric(
        self,
        metric: Metric,
        features: dict[str, NDArray[np.float32]],
        collector: FeatureCollector,
        on_pairs: OnPairs | None,
    ) -> list[Estimate]:
        if not self.ranks.is_main_process:
            return []
        assert metric.detector is not None
        generated = features[metric.detector][: metric.num_images]
        reference, extractor = self._reference(metric), self._extractors[metric.detector]
        held_out = self._held_out_reference(metric)
        outcome = compute_metric(
            metric,
            MetricInputs(generated, reference, extractor, self.seed, self.device, held_out),
        )
        if outcome.pairs and on_pairs is not None:
            drawn = collector.pictures([pair.generated for pair in outcome.pairs])
            training = [self.packed.image(pair.training) for pair in outcome.pairs]
            on_pairs(metric.name, draw_closest_pairs(drawn, training))
        return outcome.estimates

    def _results(
        self, metric: Metric, estimates: list[Estimate], subject: Subject
    ) -> list[MetricResult]:
        detector: Detector | None = self._extractors.get(metric.detector or "")
        if metric.detector == "lpips":
            detector = self._lpips
        reference = self._reference(metric) if metric.has_reference else None
        held_out = self._held_out_reference(metric)
        return build_results(metric, estimates, subject, detector, reference, self.seed, held_out)


@contextmanager
def _eval_mode(G: Any) -> Iterator[None]:
    """Switch a network to eval mode for the block, then restore the mode of each module."""
    modes = [(module, module.training) for module in G.modules()]
    try:
        G.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
