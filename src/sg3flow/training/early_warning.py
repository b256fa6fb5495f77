"""Early warnings of a training: lost diversity, an overfitted discriminator, copied images.

They are measured in the main process, at ticks and snapshots, without a detector. They use no
random numbers of the training and change no network: all numbers of the training stay the same.
docs/watching.md explains the statistics and their limits.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import cut
from sg3flow.runs.run_folder import Stat
from sg3flow.training.assembly import Parts
from sg3flow.training.diversity import (
    COLLAPSED_BELOW,
    DIVERSE_FROM,
    LOW_PASS_SIDE,
    RATIO,
    WORST,
    CollapseDetector,
    DiversityMeter,
    as_float,
    collapse_words,
    low_pass,
)
from sg3flow.training.notification import Notifier

SEEN_ABOVE, MEAN_SIGN_TRAIN, MEAN_SIGN_HELD_OUT = (
    "Overfit/seen_above_held_out",
    "Overfit/signs/train",
    "Overfit/signs/held_out",
)
NEAREST, COPIES = "Memorization/nearest", "Memorization/copies"

# With equal distributions and 64 images a side, the mean sign has a standard deviation of 0.10.
# At 0.5, D prefers the seen image in three of four pairs.
OVERFIT_FROM, NOT_OVERFIT_BELOW = 0.5, 0.25
D_IMAGES = 64

# A copy is nearer to a training image than a quarter of what lies between two real images.
COPY_BELOW = 0.25
COPIES_FROM, NO_COPIES_BELOW = 0.25, 0.1
MOST_REALS, REFERENCE_REALS = 1024, 64
BY_CHANCE = 2  # near images that say nothing; of a large set each stands for many

PATIENCE = 3  # reports in a row: single ones vary, and classes are learned before their images


@dataclass
class Alarm:
    """Raised once, after ``patience`` bad reports in a row, and again only after a good one.

    The first report of a training (0 images) does not count.
    """

    patience: int = PATIENCE
    _bad: int = 0
    _is_raised: bool = False

    def update(self, is_bad: bool, is_good: bool, nimg: int) -> bool:
        """Whether to tell the user now."""
        if nimg == 0:
            return False
        self._bad = self._bad + 1 if is_bad else 0
        if is_good:
            self._is_raised = False
        if self._bad < self.patience or self._is_raised:
            return False
        self._is_raised = True
        return True


def seen_above(seen: torch.Tensor, unseen: torch.Tensor) -> float:
    """Mean sign of the differences of all pairs of logits, [N] and [M].

    0: D does not tell them apart; 1: each seen image scores above each unseen one. As it compares,
    it holds for relativistic losses too, where the sign of one logit means nothing.
    """
    return float((seen[:, None] - unseen[None, :]).sign().mean())


def _draw(count: int, wanted: int, seed: int) -> list[int]:
    """Up to ``wanted`` different indices below ``count``, drawn with a generator of their own."""
    return [int(i) for i in np.random.RandomState(seed).permutation(count)[:wanted]]


def _pass_size(D: Any, batch_gpu: int) -> int:
    """Images per pass of D: those that its last block compares with one another."""
    return int(D.b4.mbstd_group_size or batch_gpu)


@dataclass(frozen=True)
class OverfitProbe:
    """Compares D on training images with D on real images that it has not seen."""

    seen: TrainingSet
    unseen: TrainingSet
    seed: int
    batch_gpu: int

    @torch.no_grad()
    def measure(self, D: Any, device: torch.device) -> dict[str, Stat]:
        """The mean signs, of pairs and of logits; empty: a logit is not finite."""
        seen = self._logits(D, self.seen, device)
        unseen = self._logits(D, self.unseen, device)
        if not (seen.isfinite().all() and unseen.isfinite().all()):
            return {}
        return {
            SEEN_ABOVE: Stat(len(seen), seen_above(seen, unseen), 0.0),
            MEAN_SIGN_TRAIN: Stat(len(seen), float(seen.sign().mean()), 0.0),
            MEAN_SIGN_HELD_OUT: Stat(len(unseen), float(unseen.sign().mean()), 0.0),
        }

    def _logits(self, D: Any, items: TrainingSet, device: torch.device) -> torch.Tensor:
        size = _pass_size(D, self.batch_gpu)
        chosen = _draw(len(items), D_IMAGES, self.seed)
        whole = -(-len(chosen) // size) * size  # a pass must be full: the first ones repeat
        filled = [chosen[i % len(chosen)] for i in range(whole)]
        logits = []
        for start in range(0, whole, size):
            some = [items[i] for i in filled[start : start + size]]
            img = as_float(torch.stack([image for image, _ in some]).to(device))
            c = torch.stack([label for _, label in some]).to(device)
            logits.append(D(img, c).flatten().to("cpu", torch.float32))
        return torch.cat(logits)[: len(chosen)]


@dataclass(frozen=True)
class MemorizationProbe:
    """Distances of generated images to the nearest training images, in low-pass pixels.

    They are relative to the median distance of real images to their nearest training images: of
    held-out ones, or else of training images to the others. At most ``MOST_REALS`` are searched.
    """

    items: TrainingSet
    held_out: TrainingSet | None
    seed: int

    @cached_property
    def _chosen(self) -> list[int]:
        return _draw(self.items.packed.num_images, MOST_REALS, self.seed)

    @cached_property
    def _reals(self) -> torch.Tensor:
        return _points(self.items, self._chosen)

    @cached_property
    def _searched(self) -> torch.Tensor:
        """The training images, with their mirror images if the training has those."""
        return (
            torch.cat([self._reals, _mirrored(self._reals)]) if self.items.mirror else self._reals
        )

    @cached_property
    def between_reals(self) -> float:
        """The median distance of a real image to the nearest other one; 0: it is unknown."""
        if self.held_out is not None:
            n = self.held_out.packed.num_images
            others = _points(self.held_out, _draw(n, REFERENCE_REALS, self.seed))
            return float(_distances(others, self._searched).min(1).values.median())
        if len(self._reals) < 2:
            return 0.0
        queries = self._reals[:REFERENCE_REALS]
        distances = _distances(queries, self._searched)
        for copy in range(0, len(self._searched), len(self._reals)):  # itself, and its mirror image
            distances[range(len(queries)), range(copy, copy + len(queries))] = torch.inf
        return float(distances.min(1).values.median())

    @property
    def searched_share(self) -> float:
        """The part of the training images that is searched."""
        return len(self._chosen) / self.items.packed.num_images

    def measure(self, points: torch.Tensor) -> dict[str, Stat]:
        """``points``: generated images [N, P]; empty: they are not finite, or all reals equal.

        ``COPIES`` is an estimate for all training images: the share of copies among the generated
        images, over the share of training images that is searched; at most 1.
        """
        if not points.isfinite().all() or not self.between_reals:
            return {}
        nearest = _distances(points, self._searched).min(1).values / self.between_reals
        copied = int((nearest < COPY_BELOW).sum())
        share = copied / len(points) / self.searched_share if copied > BY_CHANCE else 0.0
        return {
            NEAREST: Stat(len(points), float(nearest.median()), 0.0),
            COPIES: Stat(len(points), min(share, 1.0), 0.0),
        }


def _points(items: TrainingSet, chosen: Iterable[int]) -> torch.Tensor:
    """Low-pass pixels of images, decoded one at a time: [N, P]."""
    return torch.cat([low_pass(as_float(items[i][0][None])) for i in chosen])


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N, P], [M, P] -> [N, M]; by differences: products round a copy's distance away from 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _mirrored(points: torch.Tensor) -> torch.Tensor:
    """The points of the mirror images."""
    side = LOW_PASS_SIDE
    return points.view(len(points), -1, side, side).flip(3).flatten(1)


@dataclass
class EarlyWarning:
    """Measures all of it and tells the user, once until it recovers.

    Attributes:
        overfit: None: there are no held-out images.
    """

    meter: DiversityMeter
    memorization: MemorizationProbe
    overfit: OverfitProbe | None
    notifier: Notifier
    class_names: list[str] | None = None
    collapse: CollapseDetector = field(default_factory=CollapseDetector)
    within: Alarm = field(default_factory=Alarm)
    overfitted: Alarm = field(default_factory=Alarm)
    copying: Alarm = field(default_factory=lambda: Alarm(1))
    _was_diverse_within: bool = False

    def resume(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Take the reports before a resume, the oldest first, without telling them again."""
        for row in earlier:
            means = {k: v["mean"] for k, v in row.items() if isinstance(v, dict) and "mean" in v}
            self._alarms(means, row["nimg"])

    def measure(self, parts: Parts, nimg: int, at_snapshot: bool) -> dict[str, Stat]:
        """The statistics of a report; warns of what is new."""
        sampled = self.meter.sample(parts.G_ema, parts.device, parts.D)
        stats = self.meter.compare(sampled)
        stats |= self.meter.compare_features(sampled, parts.D, parts.device)
        if self.overfit is not None:
            stats |= self.overfit.measure(parts.D, parts.device)
        if at_snapshot and nimg:
            stats |= self.memorization.measure(sampled.points)
        means = {name: stat.mean for name, stat in stats.items()}
        for event in self._alarms(means, nimg):
            self._tell(event, means, nimg, sampled.points)
        return stats

    def _alarms(self, means: Mapping[str, float], nimg: int) -> list[str]:
        raised = []
        if RATIO in means and self.collapse.has_collapsed(means[RATIO], nimg):
            raised.append("collapse")
        if WORST in means and self._is_class_collapse(means[WORST], means[RATIO], nimg):
            raised.append("class-collapse")
        if (seen := means.get(SEEN_ABOVE)) is not None and self.overfitted.update(
            seen >= OVERFIT_FROM, seen < NOT_OVERFIT_BELOW, nimg
        ):
            raised.append("overfit")
        if (copies := means.get(COPIES)) is not None and self.copying.update(
            copies >= COPIES_FROM, copies < NO_COPIES_BELOW, nimg
        ):
            raised.append("memorization")
        return raised

    def _is_class_collapse(self, worst: float, ratio: float, nimg: int) -> bool:
        """Images are alike within a class, and were not before or are not over all classes.

        An untrained network is neither: its images are alike over all classes too.
        """
        if nimg and worst >= DIVERSE_FROM:
            self._was_diverse_within = True
        is_diverse_over_all = ratio >= max(COLLAPSED_BELOW, 2 * worst)
        is_bad = worst < COLLAPSED_BELOW and (is_diverse_over_all or self._was_diverse_within)
        return self.within.update(is_bad, worst >= DIVERSE_FROM, nimg)

    def _tell(
        self, event: str, means: Mapping[str, float], nimg: int, points: torch.Tensor
    ) -> None:
        if event == "collapse":
            words = collapse_words(means[RATIO], nimg)
        elif event == "class-collapse":
            event, words = "collapse", self._class_words(points, nimg)
        elif event == "overfit":
            words = overfit_words(means[SEEN_ABOVE], nimg)
        else:
            words = memorization_words(means[COPIES], nimg)
        print(f"warning: {words}", file=sys.stderr, flush=True)
        self.notifier.send(event, words)

    def _class_words(self, points: torch.Tensor, nimg: int) -> str:
        ratios = self.meter.within_classes(points)
        alike = sorted((r, label) for label, r in ratios.items() if r < COLLAPSED_BELOW)
        named = self.class_names or []
        names = [cut(named[i], 40) if i < len(named) else str(i) for _, i in alike]
        return class_collapse_words(names, len(ratios), alike[0][0], nimg)


def class_collapse_words(names: list[str], measured: int, ratio: float, nimg: int) -> str:
    """The warning about images that are alike within classes."""
    return (
        f"the generator may draw one image per class at {nimg / 1000:,.0f} kimg, in "
        f"{len(names)} of {measured} measured classes ({', '.join(names[:5])}): the images of a "
        f"class differ {ratio:.2f} times as much as the real ones of that class (limit "
        f"{COLLAPSED_BELOW:g}); compare the rows of the last fakes*.png with reals.png; start "
        "again with train.class_batches, a larger train.gamma or train.loss relativistic"
    )


def overfit_words(value: float, nimg: int) -> str:
    """The warning about an overfitted discriminator."""
    return (
        f"the discriminator overfits at {nimg / 1000:,.0f} kimg: it scores training images above "
        f"held-out ones in {50 + 50 * value:.0f} % of pairs (50 % is none, limit "
        f"{50 + 50 * OVERFIT_FROM:.0f} %); use the best snapshot so far, or start again with more "
        "images, train.mirror, train.aug ada or a larger train.gamma"
    )


def memorization_words(share: float, nimg: int) -> str:
    """The warning about copied training images."""
    return (
        f"the generator may copy training images at {nimg / 1000:,.0f} kimg: about "
        f"{100 * share:.0f} % of the sample images lie {1 / COPY_BELOW:.0f} times nearer to one "
        f"than real images do (limit {100 * COPIES_FROM:.0f} %); measure mem1k_full; use an "
        "earlier snapshot, or start again with more images, train.mirror or train.aug ada"
    )
