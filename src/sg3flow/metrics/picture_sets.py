"""Two sets of pictures compared: folders or zip files, of any size and mode."""

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sg3flow.data.archive import content_digest, picture_names
from sg3flow.data.storage import open_storage
from sg3flow.errors import DataError
from sg3flow.metrics.closest_pairs import draw_closest_pairs
from sg3flow.metrics.features import FeatureExtractor, load_extractor
from sg3flow.metrics.float32 import exact_float32
from sg3flow.metrics.judging import EVERYTHING, Evidence, Verdict, judge, prepare_reference
from sg3flow.metrics.names import Metric, parse_set_metrics
from sg3flow.metrics.reference import Reference
from sg3flow.metrics.results import MetricResult, Subject, build_results


class PictureSet:
    """The pictures below a folder or in a zip file, in the order of their names.

    Attributes:
        path, name: of the folder or file.
        num_images: pictures in it.

    Raises:
        DataError: there is nothing at the path, or no picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self._storage = open_storage(self.path)
        self._names = picture_names(self._storage)
        self.num_images = len(self._names)
        if not self._names:
            raise DataError(f"{self.path} holds no pictures (PNG, JPEG, BMP or WebP)")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, as of a packed set: equal for a zip and a folder."""
        return content_digest(self._storage)

    def image(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 ``[H, W, 1 or 3]``; other modes than grey become RGB.

        Raises:
            DataError: it cannot be decoded; names it.
        """
        name = self._names[index]
        try:
            with Image.open(io.BytesIO(self._storage.read(name))) as picture:
                pixels = np.array(picture if picture.mode == "L" else picture.convert("RGB"))
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a damaged file makes Pillow's plugins raise anything
            raise DataError(f"{name} of {self.path} cannot be decoded ({error})") from None
        return pixels.reshape(*pixels.shape[:2], -1)


def compare_sets(
    judged: PictureSet,
    reference: PictureSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    on_picture: Callable[[str, Image.Image], None] | None = None,
) -> list[MetricResult]:
    """Metrics of one set of pictures against another, over all of both.

    Features of either set are kept by its content, as those of a training set are.

    Args:
        judged: takes the place of the generated pictures.
        reference: takes that of the training set.
        names: ``fid``, ``kid``, ``pr3``, ``swd``…; see ``parse_set_metrics``.
        seed: of what is drawn; the same seed gives the same numbers.
        batch: pictures at a time; changes speed and memory only.
        device: where to compute.
        on_picture: given a metric's name and its closest pairs.

    Raises:
        MetricError: an unknown metric, weights that cannot be had, or pictures that do not suit.
        DataError: a picture cannot be read.
    """
    metrics = parse_set_metrics(names, judged.num_images)
    subject = Subject(str(judged.path), None, judged.digest)
    results: list[MetricResult] = []
    with exact_float32():
        extractors = _load(metrics, judged, device)
        sides = {
            name: [Reference(side, extractor, batch, device) for side in (judged, reference)]
            for name, extractor in extractors.items()
        }
        for metric in metrics:
            assert metric.detector is not None
            ours, theirs = sides[metric.detector]
            verdict = _judge(metric, ours, theirs, seed, device)
            if verdict.pairs and on_picture is not None:
                upper = [judged.image(pair.generated) for pair in verdict.pairs]
                lower = [reference.image(pair.training) for pair in verdict.pairs]
                on_picture(metric.name, draw_closest_pairs(upper, lower))
            against = theirs if metric.has_reference else None
            results += build_results(
                metric, verdict.estimates, subject, ours.extractor, against, seed
            )
    return results


def _load(
    metrics: Sequence[Metric], judged: PictureSet, device: torch.device
) -> dict[str, FeatureExtractor]:
    wanted = dict.fromkeys(metric.detector for metric in metrics if metric.detector is not None)
    side = judged.image(0).shape[0]
    return {name: load_extractor(name, device, side) for name in wanted}


def _judge(
    metric: Metric, ours: Reference, theirs: Reference, seed: int, device: torch.device
) -> Verdict:
    ours.prepare_features(EVERYTHING)
    if metric.has_reference:
        prepare_reference(metric, theirs)
    generated = ours.features(EVERYTHING).numpy()
    reference = theirs if metric.has_reference else None
    return judge(metric, Evidence(generated, reference, ours.extractor, seed, device))
