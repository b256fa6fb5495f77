"""Metrics of the snapshots of a run, of any one network, and between two sets of images.

Longer than most files: the three share their helpers. A set of images is a folder or an archive,
read as packing reads it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.checkpoints.loading import WEIGHTS_NAME, local_copy
from sg3flow.data.archive import PackedSet
from sg3flow.data.image_decoding import (
    FileKind,
    UnusableImageError,
    decode_image,
    file_kind,
    to_rgb_or_gray,
)
from sg3flow.data.packed_form import ContentDigest
from sg3flow.data.readers.array_reader import LmdbStorage
from sg3flow.data.readers.labels import LABELS_NAME
from sg3flow.data.readers.listing import count_suffixes, ignored_words, open_listing
from sg3flow.data.readers.parquet_reader import ParquetStorage
from sg3flow.distributed import ALONE, Ranks
from sg3flow.errors import DataError, MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.image_metrics import (
    MetricInputs,
    MetricOutcome,
    check_held_out,
    compute_metric,
    load_extractor,
    prepare_reference,
    wants_only_stats,
)
from sg3flow.metrics.names import Metric, parse_metrics, parse_set_metrics
from sg3flow.metrics.neighborhoods import draw_closest_pairs
from sg3flow.metrics.reference_set import EVERYTHING, ComparedSet, Reference, progress_of
from sg3flow.metrics.report import MetricResult, Subject, build_results
from sg3flow.precision import computing
from sg3flow.runs.run_folder import list_snapshots, snapshot_kimg

_CONVERSION = "as pack, 1"  # the rules of ``image_decoding.py``; a change of theirs counts up


def evaluate_snapshots(
    run_dir: Path,
    packed: PackedSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    mirror: bool | None = None,
    snapshots: str = "all",
    increment: Callable[[list[MetricResult]], None] | None = None,
    on_pairs: Callable[[str, str, Image.Image], None] | None = None,
    ranks: Ranks = ALONE,
    held_out: ComparedSet | None = None,
) -> list[MetricResult]:
    """Measure the snapshots of a training run, from the oldest to the newest.

    Args:
        run_dir: folder with ``network-snapshot-<kimg>.pkl`` files.
        packed, names, seed, batch, device, ranks, held_out: see ``Evaluator``.
        mirror: whether older names compare with flips, too; None: if the training was mirrored.
        snapshots: ``all`` or ``last``.
        increment: called with the results of each snapshot when they are complete.
        on_pairs: called with the names of snapshot and metric and the sheet of closest pairs.

    Raises:
        MetricError: no snapshots, or see ``Evaluator.prepare`` and ``Evaluator.measure``.
        CheckpointError: a snapshot cannot be read.
        DataError: an image cannot be read.
    """
    paths = find_snapshots(run_dir)
    chosen = paths[-1:] if snapshots == "last" else paths
    flips = _flips(names, mirror, chosen[0], chosen[0].name)
    evaluator = Evaluator(
        packed,
        names,
        seed=seed,
        batch=batch,
        device=device,
        ranks=ranks,
        mirror=flips,
        held_out=held_out,
    )
    evaluator.prepare()
    results: list[MetricResult] = []
    total = len(chosen) * evaluator.images_per_network
    with progress_of(ranks, f"evaluating {len(chosen)} snapshots", total) as advance:
        for path in chosen:
            found = _measure(evaluator, path, path.name, mirror, advance, on_pairs)
            results += found
            if increment is not None:
                increment(found)
    return results


def evaluate_network(
    source: str,
    packed: PackedSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    mirror: bool | None = None,
    on_pairs: Callable[[str, str, Image.Image], None] | None = None,
    ranks: Ranks = ALONE,
    held_out: ComparedSet | None = None,
) -> list[MetricResult]:
    """Measure one network from a path, URL, ``models:/…`` or ``runs:/…``.

    Arguments and errors: see ``evaluate_snapshots``.
    """
    path, name = local_copy(source), shown_url(source)
    flips = _flips(names, mirror, path, name)
    evaluator = Evaluator(
        packed,
        names,
        seed=seed,
        batch=batch,
        device=device,
        ranks=ranks,
        mirror=flips,
        held_out=held_out,
    )
    evaluator.prepare()
    with progress_of(ranks, f"evaluating {name}", evaluator.images_per_network) as advance:
        return _measure(evaluator, path, name, mirror, advance, on_pairs)


def find_snapshots(run_dir: Path) -> list[Path]:
    """The complete snapshots of a run, oldest first; partial files have other names.

    Raises:
        MetricError: there are none.
    """
    if not run_dir.is_dir():
        raise MetricError(f"there is no training run at {run_dir}; train one with stages/train.py")
    paths = list_snapshots(run_dir)
    if not paths:
        raise MetricError(
            f"{run_dir} has no network-snapshot-*.pkl; train until the first snapshot (--snap)"
        )
    return paths


def _flips(names: Sequence[str], mirror: bool | None, path: Path, name: str) -> bool:
    """Whether older names compare with flips: as told, or else as the network was trained."""
    if mirror is not None or not any(metric.is_older for metric in parse_metrics(names)):
        return bool(mirror)
    return _was_mirrored(load_networks(path), name)


def _was_mirrored(networks: Networks, name: str) -> bool:
    """Whether a network was trained with ``mirror``; public pickles call it xflip."""
    described = networks.training_set or {}
    known = [described[key] for key in ("mirror", "xflip") if key in described]
    if not known or not isinstance(known[0], bool):
        raise MetricError(
            f"{name} does not say whether its training was mirrored; give --mirror or --no-mirror"
        )
    return known[0]


def _measure(
    evaluator: Evaluator,
    path: Path,
    name: str,
    mirror: bool | None,
    advance: Callable[[int], None],
    on_pairs: Callable[[str, str, Image.Image], None] | None,
) -> list[MetricResult]:
    networks = load_networks(path)
    if networks.G_ema is None:
        raise MetricError(f"{name} has no G_ema, the network to measure")
    if evaluator.has_older and mirror is None and _was_mirrored(networks, name) != evaluator.mirror:
        raise MetricError(
            f"{name} was trained {_with(not evaluator.mirror)} mirror, an earlier snapshot "
            f"{_with(evaluator.mirror)}; give --mirror or --no-mirror"
        )
    network = networks.G_ema.to(evaluator.device)
    keep = partial(on_pairs, name) if on_pairs is not None else None
    return evaluator.measure(
        network, name, snapshot_kimg(path.name), _network_digest(path), advance, on_pairs=keep
    )


def _with(flag: bool) -> str:
    return "with" if flag else "without"


def _network_digest(path: Path) -> str:
    """Digest of a file; of a registered model's folder, of its weights."""
    if path.is_dir():
        weights = path / "artifacts" / WEIGHTS_NAME
        path = weights if weights.is_file() else next(path.glob("*.pkl"))
    return sha256_file(path)


class ImageSet:
    """The images of a folder, zip or tar file, sorted by name, as packing lists and converts them.

    Attributes:
        path, name: path and name of the folder or file.
        num_images: number of images.
        ignored: number of files that are no images, by suffix.

    Raises:
        DataError: the path does not exist, has no images or cannot be read completely.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        listing = open_listing(self.path)
        if isinstance(listing.storage, ParquetStorage | LmdbStorage):
            raise DataError(f"{self.path} holds no image files; pack it, and give the packed set")
        for name, reason in listing.storage.problems.items():
            raise DataError(f"{self.path / name}: {reason}")
        self._storage, self._names = listing.storage, listing.names
        self.num_images = len(self._names)
        self.ignored = count_suffixes(listing.ignored)

    @cached_property
    def _content(self) -> tuple[str, Counter[FileKind]]:
        """The digest of the content and the kinds of its images, in one pass over the files."""
        digest, kinds = ContentDigest(), Counter[FileKind]()
        for name in sorted({*self._names, *({LABELS_NAME} & {*self._storage.names})}):
            content = self._storage.read(name)
            digest.add(name, content)
            if name != LABELS_NAME:
                kinds[file_kind(content)] += 1
        return digest.hexdigest(), kinds

    @property
    def digest(self) -> str:
        """SHA-256 of the content, computed as for packed sets: a zip file equals its folder."""
        return self._content[0]

    @property
    def num_lossy(self) -> int:
        """Number of images whose compression changes pixels, such as JPEG."""
        return sum(count for kind, count in self._content[1].items() if kind.is_lossy)

    @property
    def conversion(self) -> str:
        """Rules that convert some of the images; empty: all are 8-bit RGB or gray already."""
        return "" if all(kind.is_ready for kind in self._content[1]) else _CONVERSION

    def description(self) -> dict[str, Any]:
        """What a report records about the set."""
        return {"num_images": self.num_images, "lossy": self.num_lossy, "ignored": self.ignored}

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 ``[H, W, 1 or 3]``, converted as packing does.

        Raises:
            DataError: it cannot be decoded; the message names it.
        """
        name = self._names[index]
        try:
            decoded = decode_image(self._storage.read(name))
            pixels = np.array(to_rgb_or_gray(decoded.image).image)
        except UnusableImageError as error:
            raise DataError(f"{name} of {self.path}: {error}") from None
        return pixels.reshape(*pixels.shape[:2], -1)


def compare_sets(
    images: ComparedSet,
    reference: ComparedSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    on_pairs: Callable[[str, Image.Image], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    held_out: ComparedSet | None = None,
) -> list[MetricResult]:
    """Metrics between two sets of images, over all images of both.

    Features of both sets are cached by content, like those of a training set.

    Args:
        images: takes the role of the generated images.
        reference: takes the role of the training set.
        names: ``fid``, ``kid``, ``pr3``, ``swd``…; see ``parse_set_metrics``.
        seed: seed of random subsets and directions; the same seed gives the same values.
        batch: images per batch; affects speed and memory only.
        device: where to compute.
        on_pairs: called with the name of a metric and its sheet of closest pairs.
        on_warning: called with each sentence about what makes the values unreliable.
        held_out: images for ``fld`` that the reference has not; None: every second image of
            the reference counts as held out.

    Raises:
        MetricError: an unknown metric, weights that are not available, or unsuitable images.
        DataError: an image cannot be read.
    """
    metrics = parse_set_metrics(names, images.num_images)
    for side in (images, reference):
        if side.num_images < 2:
            raise MetricError(
                f"{side.path} has one image; metrics between two sets need at least two of each, "
                "and thousands for values that mean something"
            )
    if held_out is not None:
        check_held_out(metrics, reference, held_out)
    subject = Subject(str(images.path), None, images.digest)
    results: list[MetricResult] = []
    with computing():
        extractors = _load(metrics, images, device)
        sets = [images, reference] if held_out is None else [images, reference, held_out]
        sides = {
            name: [
                Reference(side, extractor, batch, device, conversion=side.conversion)
                for side in sets
            ]
            for name, extractor in extractors.items()
        }
        for metric in metrics:
            assert metric.detector is not None
            ours, theirs, *unseen = sides[metric.detector]
            unseen_side = unseen[0] if unseen and metric.uses_held_out else None
            outcome = _compute(metric, ours, theirs, unseen_side, seed, device)
            if on_warning is not None and (words := _singular(metric, ours, theirs)):
                on_warning(words)
            if outcome.pairs and on_pairs is not None:
                upper = [images.image(pair.generated) for pair in outcome.pairs]
                lower = [reference.image(pair.training) for pair in outcome.pairs]
                on_pairs(metric.name, draw_closest_pairs(upper, lower))
            against = theirs if metric.has_reference else None
            results += build_results(
                metric, outcome.estimates, subject, ours.extractor, against, seed, unseen_side
            )
    return results


def _singular(metric: Metric, ours: Reference, theirs: Reference) -> str:
    """Why the covariances of a Frechet distance are singular; empty: they need not be."""
    counts = ours.pictures.num_images, theirs.pictures.num_images
    features = ours.extractor.num_features
    if not wants_only_stats(metric) or min(counts) > features:
        return ""
    return (
        f"{metric.name}: {counts[0]:,} and {counts[1]:,} images for {features:,} features; with no "
        "more images than features the distance depends on their number: compare it only with "
        "values of the same counts"
    )


def _load(
    metrics: Sequence[Metric], images: ComparedSet, device: torch.device
) -> dict[str, FeatureExtractor]:
    wanted = dict.fromkeys(metric.detector for metric in metrics if metric.detector is not None)
    side = images.image(0).shape[0]
    return {name: load_extractor(name, device, side) for name in wanted}


def _compute(
    metric: Metric,
    ours: Reference,
    theirs: Reference,
    held_out: Reference | None,
    seed: int,
    device: torch.device,
) -> MetricOutcome:
    ours.prepare_features(EVERYTHING)
    if metric.has_reference:
        prepare_reference(metric, theirs)
    if held_out is not None:
        held_out.prepare_features(EVERYTHING)
    generated = ours.features(EVERYTHING).numpy()
    reference = theirs if metric.has_reference else None
    return compute_metric(
        metric, MetricInputs(generated, reference, ours.extractor, seed, device, held_out)
    )


def set_warnings(sides: Mapping[str, ComparedSet]) -> list[str]:
    """What to know about two sets before a difference in their files counts as one of content.

    Args:
        sides: the two sets, by the name of the option or argument that gives them.
    """
    a, b = sides.values()
    found = []
    if a.num_lossy * b.num_images != b.num_lossy * a.num_images:
        counts = " and ".join(
            f"{side.num_lossy:,} of {side.num_images:,} images of {name}"
            for name, side in sides.items()
        )
        found.append(
            f"{counts} have lossy compression (such as JPEG); its traces count as a difference"
        )
    ignored = {name: side.ignored for name, side in sides.items() if side.ignored}
    return found + [f"{name}: {ignored_words(counts)}" for name, counts in ignored.items()]
