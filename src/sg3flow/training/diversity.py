"""Diversity of generated images, and the detection of mode collapse.

The diversity of a batch is the mean distance of its pairs of images after a low-pass filter: root
mean square over pixels and channels, in units of [-1, 1]. A collapsed generator makes nearly the
same picture from every latent. Its fine texture may still vary, hence the filter.

At every tick the training compares a batch of fixed latents with as many real images of the same
labels, over all of them and within each class: a generator that draws one image per class is as
diverse over all classes as the reals. It is cheap and coarse: a generator that lost one mode of
many is not noticed. Recall (docs/metrics.md) measures what is missing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow.data.dataset import TrainingSet
from sg3flow.data.packed_form import is_one_hot
from sg3flow.runs.run_folder import Stat

LOW_PASS_SIDE = 16  # pixels
RATIO = "Diversity/ratio"
FAKES = "Diversity/fakes"
# Ratios within classes: the mean over the classes, and the lowest of them.
WITHIN, WORST = "Diversity/within_class", "Diversity/worst_class"
FEATURES, FEATURES_WITHIN = "Diversity/d_features", "Diversity/d_features_within_class"

# A collapse is a ratio below the first, after one at or above the second.
COLLAPSED_BELOW, DIVERSE_FROM = 0.25, 0.5

GRID = (8, 4)  # latents: with classes, one class per row


def low_pass(img: torch.Tensor) -> torch.Tensor:
    """Means over equal squares, 16 x 16 of them: [N, C, H, W] -> [N, C * 16 * 16]."""
    return F.adaptive_avg_pool2d(img.clamp(-1, 1), LOW_PASS_SIDE).flatten(1)


def diversity(points: torch.Tensor) -> float:
    """Mean over all pairs of the root mean square difference of two rows [N, P]; 0 for one row."""
    if points.shape[0] < 2:
        return 0.0
    return float(F.pdist(points).mean()) / math.sqrt(points.shape[1])


class CollapseDetector:
    """Notices that the diversity has fallen, once per fall."""

    def __init__(self, earlier: Iterable[tuple[float, int]] = ()) -> None:
        """``earlier``: ratios and images seen before a resume, the oldest first."""
        self._was_diverse = False
        for ratio, nimg in earlier:
            self.has_collapsed(ratio, nimg)

    def has_collapsed(self, ratio: float, nimg: int) -> bool:
        """Whether the diversity has fallen, with this ratio of fakes to reals.

        The first report does not count: an untrained network is at 0.2 or at 0.8, by its kind.
        """
        if nimg == 0:
            return False
        if ratio >= DIVERSE_FROM:
            self._was_diverse = True
        fell = self._was_diverse and ratio < COLLAPSED_BELOW
        if fell:
            self._was_diverse = False  # until it recovers
        return fell


def class_ratios(
    fakes: torch.Tensor, reals: torch.Tensor, of_fakes: list[int], of_reals: list[int]
) -> dict[int, float]:
    """Diversity of the fakes [N, P] over that of the reals [M, P], within each class.

    A class counts if it has two fakes and two unequal reals.
    """
    found = {}
    for label in sorted(set(of_fakes)):
        ours = fakes[[i for i, c in enumerate(of_fakes) if c == label]]
        real = diversity(reals[[i for i, c in enumerate(of_reals) if c == label]])
        if len(ours) > 1 and real > 0:
            found[label] = diversity(ours) / real
    return found


@torch.no_grad()
def block_features(D: Any, img: torch.Tensor) -> torch.Tensor:
    """D's features before its last block, which compares the images of a pass: [N, C * 4 * 4]."""
    for res in D.resolutions:
        img = D.get_submodule(f"b{res}")(img)
    return img.flatten(1).to("cpu", torch.float32)


@dataclass(frozen=True)
class Sampled:
    """What is measured of the images of fixed latents: low-pass pixels and features of D."""

    points: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True)
class DiversityMeter:
    """Measures a generator on latents that stay the same for a whole training.

    Attributes:
        z: latents [N, z_dim]; c: labels [N, c_dim].
        images: real images with these labels, each once, uint8 [M, C, H, W].
        batch_gpu: images per forward pass.
        of_fakes, of_reals: class of each latent and each real image; empty: there are no classes.
    """

    z: torch.Tensor
    c: torch.Tensor
    images: torch.Tensor
    batch_gpu: int
    of_fakes: list[int] = field(default_factory=list)
    of_reals: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls, items: TrainingSet, chosen: list[int], z: torch.Tensor, c: torch.Tensor, batch_gpu: int
    ) -> "DiversityMeter":
        """``chosen``: the indices of the real images; one that repeats counts once."""
        once = list(dict.fromkeys(chosen))
        images = torch.stack([items[i][0] for i in once])
        classes = [items.label(i) for i in chosen]
        if items.label_dim == 0 or not all(is_one_hot(tuple(each.tolist())) for each in classes):
            return cls(z, c, images, batch_gpu)
        of_reals = [int(items.label(i).argmax()) for i in once]
        return cls(z, c, images, batch_gpu, [int(each.argmax()) for each in classes], of_reals)

    @cached_property
    def reals(self) -> torch.Tensor:
        """The real images in low-pass pixels [M, P]."""
        return low_pass(as_float(self.images))

    @cached_property
    def diversity_of_reals(self) -> float:
        """0: they are all equal."""
        return diversity(self.reals)

    @torch.no_grad()
    def sample(self, G: Any, device: torch.device, D: Any = None) -> Sampled:
        """Generate the images of the latents; ``D``: None: no features."""
        points, features = [], []
        for z, c in zip(
            torch.split(self.z, self.batch_gpu), torch.split(self.c, self.batch_gpu), strict=True
        ):
            img = G(z.to(device), c.to(device), noise_mode="const")
            points.append(low_pass(img).to("cpu", torch.float32))
            if D is not None:
                features.append(block_features(D, img))
        return Sampled(torch.cat(points), torch.cat(features) if features else None)

    def compare(self, found: Sampled) -> dict[str, Stat]:
        """Diversity in low-pass pixels and its ratio to that of the reals, and within classes.

        Empty: the reals are all equal, or the images are not finite.
        """
        value = diversity(found.points)
        if not self.diversity_of_reals or not math.isfinite(value):
            return {}
        n = self.z.shape[0]
        ratio = Stat(n, value / self.diversity_of_reals, 0.0)
        stats = {FAKES: Stat(n, value, 0.0), RATIO: ratio}
        within = self.within_classes(found.points)
        if within:
            stats[WITHIN] = Stat(n, sum(within.values()) / len(within), 0.0)
            stats[WORST] = Stat(n, min(within.values()), 0.0)
        return stats

    def within_classes(self, points: torch.Tensor) -> dict[int, float]:
        """The ratio of each class in low-pass pixels; empty: there are no classes."""
        return class_ratios(points, self.reals, self.of_fakes, self.of_reals)

    def compare_features(self, found: Sampled, D: Any, device: torch.device) -> dict[str, Stat]:
        """The same ratios in features of D, whose features of the reals are those of now."""
        if found.features is None or not found.features.isfinite().all():
            return {}
        passes = torch.split(self.images, self.batch_gpu)
        reals = torch.cat([block_features(D, as_float(each.to(device))) for each in passes])
        n, whole = self.z.shape[0], diversity(reals)
        stats = {FEATURES: Stat(n, diversity(found.features) / whole, 0.0)} if whole > 0 else {}
        within = class_ratios(found.features, reals, self.of_fakes, self.of_reals)
        if within:
            stats[FEATURES_WITHIN] = Stat(n, sum(within.values()) / len(within), 0.0)
        return stats


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def collapse_words(ratio: float, nimg: int) -> str:
    """The warning about a collapse."""
    return (
        f"the generator may have collapsed at {nimg / 1000:,.0f} kimg: the images of fixed latents "
        f"differ {ratio:.2f} times as much as the real ones (limit {COLLAPSED_BELOW:g}); compare "
        "the last fakes*.png with reals.png; to go back, start a training with a larger "
        "train.gamma from an earlier snapshot (train.resume)"
    )
