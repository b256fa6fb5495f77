"""Measures generators in memory against one packed set.

The references are prepared once; every generator after that costs its own pictures only. What is
handed in leaves as it came: weights, buffers, modes, gradients, and torch's random numbers.
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
from sg3flow.metrics.compute import (
    MetricInputs,
    compute_metric,
    load_extractor,
    prepare_reference,
    wants_only_stats,
)
from sg3flow.metrics.equivariance import equivariance, require_movable
from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.feature_collector import Advance, FeatureCollector
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.generation import Generator, exact_float32
from sg3flow.metrics.names import Metric, parse_metrics
from sg3flow.metrics.neighborhoods import draw_closest_pairs
from sg3flow.metrics.path_length import Lpips, path_length
from sg3flow.metrics.reference_set import Reference
from sg3flow.metrics.report import Detector, MetricResult, Subject, build_results

OnPicture = Callable[[str, Image.Image], None]


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
        ranks: processes that share the work, each with the same arguments and calls; the numbers
            are those of one process, and all processes get them.

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
    ) -> None:
        self.packed, self.seed, self.batch, self.device = packed, seed, batch, device
        self.metrics, self.ranks = parse_metrics(names), ranks
        self._extractors: dict[str, FeatureExtractor] = {}
        self._references: dict[str, Reference] = {}
        self._lpips: Lpips | None = None

    @property
    def images_per_network(self) -> int:
        """Pictures drawn for one network, with a pair counted once."""
        shared = max((m.num_images for m in self.metrics if m.judges_pictures), default=0)
        return shared + sum(m.num_images for m in self.metrics if not m.judges_pictures)

    def prepare(self) -> None:
        """Load the detectors and their view of the packed set; a second call does nothing.

        Raises:
            MetricError: weights of a detector that cannot be had; before anything is computed.
            DataError: a picture cannot be read.
        """
        with exact_float32():
            self._load_detectors()
            # Statistics come last: they may come from features that others want anyway.
            for metric in sorted(self.metrics, key=wants_only_stats):
                if metric.has_reference:
                    prepare_reference(metric, self._reference(metric))

    def measure(
        self,
        G: torch.nn.Module | Generator,
        name: str,
        kimg: int | None,
        network_sha256: str,
        advance: Advance = _ignore,
        on_picture: OnPicture | None = None,
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
            on_picture: given the closest pairs of each metric that looks for them, on the first
                process.

        Raises:
            MetricError: it does not fit the data or draws values that are not finite.
        """
        self.prepare()
        network = cast(Generator, G)
        self._require_fit(network, name)
        studio = FeatureCollector(
            network, self.packed, self.seed, self.batch, self.device, self.ranks
        )
        with exact_float32(), _judged(G):
            try:
                found = self._estimates(studio, on_picture, advance)
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
                self._references[detector] = Reference(
                    self.packed, extractor, self.batch, self.device, self.ranks
                )

    def _reference(self, metric: Metric) -> Reference:
        assert metric.detector is not None
        return self._references[metric.detector]

    def _require_fit(self, G: Generator, name: str) -> None:
        form = (G.img_resolution, G.img_channels)
        wanted = (self.packed.resolution, self.packed.channels)
        if form != wanted:
            raise MetricError(
                f"{name} draws {form[0]}x{form[0]}x{form[1]}, {self.packed.path} holds "
                f"{wanted[0]}x{wanted[0]}x{wanted[1]}; give the set that it was trained on"
            )
        if any(metric.moves_input for metric in self.metrics):
            require_movable(G)

    def _estimates(
        self, studio: FeatureCollector, on_picture: OnPicture | None, advance: Advance
    ) -> list[list[Estimate]]:
        """Of each metric, its numbers; on the first process, the others help and get no rows."""
        features = studio.picture_features(self.metrics, self._extractors, advance)
        found: list[list[Estimate]] = []
        for metric in self.metrics:
            if metric.judges_pictures:
                found.append(self._judged_pictures(metric, features, studio, on_picture))
            elif metric.moves_input:
                rows = studio.motion_rows(metric, advance)
                found.append([equivariance(rows)] if self.ranks.is_main_process else [])
            else:
                assert self._lpips is not None
                lengths = studio.path_lengths(metric, self._lpips, advance)
                found.append([path_length(lengths)] if self.ranks.is_main_process else [])
        return self.ranks.broadcast(lambda: found)

    def _judged_pictures(
        self,
        metric: Metric,
        features: dict[str, NDArray[np.float32]],
        studio: FeatureCollector,
        on_picture: OnPicture | None,
    ) -> list[Estimate]:
        if not self.ranks.is_main_process:
            return []
        assert metric.detector is not None
        generated = features[metric.detector][: metric.num_images]
        reference, extractor = self._reference(metric), self._extractors[metric.detector]
        verdict = compute_metric(
            metric, MetricInputs(generated, reference, extractor, self.seed, self.device)
        )
        if verdict.pairs and on_picture is not None:
            drawn = studio.pictures([pair.generated for pair in verdict.pairs])
            training = [self.packed.image(pair.training) for pair in verdict.pairs]
            on_picture(metric.name, draw_closest_pairs(drawn, training))
        return verdict.estimates

    def _results(
        self, metric: Metric, estimates: list[Estimate], subject: Subject
    ) -> list[MetricResult]:
        detector: Detector | None = self._extractors.get(metric.detector or "")
        if metric.detector == "lpips":
            detector = self._lpips
        reference = self._reference(metric) if metric.has_reference else None
        return build_results(metric, estimates, subject, detector, reference, self.seed)


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
