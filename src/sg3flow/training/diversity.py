"""Diversity of generated images, and the detection of mode collapse.

The diversity of a batch is the mean distance of its pairs of images after a low-pass filter: root
mean square over pixels and channels, in units of [-1, 1]. A collapsed generator makes nearly the
same picture from every latent. Its fine texture may still vary, hence the filter.

At every tick the training compares a batch of fixed latents with as many real images of the same
labels. It is cheap and coarse: a generator that lost one mode of many is not noticed, and neither
is one that has never been diverse. Recall (docs/metrics.md) measures what is missing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow.data.dataset import TrainingSet
from sg3flow.runs.run_folder import Stat

LOW_PASS_SIDE = 16  # pixels
RATIO = "Diversity/ratio"
FAKES = "Diversity/fakes"

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


@dataclass(frozen=True)
class DiversityMeter:
    """Measures a generator on latents that stay the same for a whole training.

    Attributes:
        z: latents [N, z_dim]; c: labels [N, c_dim].
        of_reals: diversity of the real images with these labels; 0: they are all equal.
        batch_gpu: images per forward pass.
    """

    z: torch.Tensor
    c: torch.Tensor
    of_reals: float
    batch_gpu: int

    @classmethod
    def of(
        cls, items: TrainingSet, chosen: list[int], z: torch.Tensor, c: torch.Tensor, batch_gpu: int
    ) -> "DiversityMeter":
        """``chosen``: the indices of the real images; one that repeats counts once."""
        images = torch.stack([items[i][0] for i in dict.fromkeys(chosen)])
        reals = low_pass(images.to(torch.float32) / 127.5 - 1)
        return cls(z, c, diversity(reals), batch_gpu)

    @torch.no_grad()
    def measure(self, G: Any, device: torch.device) -> dict[str, Stat]:
        """Diversity of the generated images, and its ratio to that of the reals.

        Empty: the reals are all equal, or the images are not finite.
        """
        batches = zip(
            torch.split(self.z, self.batch_gpu), torch.split(self.c, self.batch_gpu), strict=True
        )
        points = [low_pass(G(z.to(device), c.to(device), noise_mode="const")) for z, c in batches]
        value = diversity(torch.cat(points).to("cpu", torch.float32))
        if not self.of_reals or value != value:
            return {}
        n = self.z.shape[0]
        return {FAKES: Stat(n, value, 0.0), RATIO: Stat(n, value / self.of_reals, 0.0)}


def collapse_words(ratio: float, nimg: int) -> str:
    """The warning about a collapse."""
    return (
        f"the generator may have collapsed at {nimg / 1000:,.0f} kimg: the images of fixed latents "
        f"differ {ratio:.2f} times as much as the real ones (limit {COLLAPSED_BELOW:g}); compare "
        "the last fakes*.png with reals.png; to go back, start a training with a larger "
        "train.gamma from an earlier snapshot (train.resume)"
    )
