"""The random values of one batch of augmentations, drawn on the CPU."""

import torch

from sg3flow import processes


class Draws:
    """Values for a batch: one a picture, shape [N], float64 on the CPU.

    A percentile q in place of chance fixes each value, for tests and for looking at a transform: a
    uniform one at its q-quantile, a normal one at ``erfinv(2q - 1)`` (without the sqrt 2), and
    applies every transform whose multiplier is not 0.

    Args:
        num_images: N.
        p: strength of the augmentation; above 1 counts as 1.
        percentile: q in [0, 1], or None for chance.
    """

    def __init__(self, num_images: int, p: float, percentile: float | None) -> None:
        self.num_images = num_images
        self.p = p
        self.percentile = percentile

    def applied(self, multiplier: float) -> torch.Tensor:
        """Whether a transform with this multiplier is applied: bool [N]."""
        return self.applied_with(min(self.p * multiplier, 1.0), multiplier)

    def applied_with(self, probability: float, multiplier: float) -> torch.Tensor:
        """As ``applied``, with a probability that is not simply ``p * multiplier``."""
        if self.percentile is not None:
            return torch.full([self.num_images], multiplier > 0, device="cpu")
        return self._uniform() < probability

    def uniform(self, low: float = 0, high: float = 1) -> torch.Tensor:
        """U(low, high)."""
        return low + (high - low) * self._uniform()

    def choice(self, count: int) -> torch.Tensor:
        """A whole number from 0 to count - 1, as a float."""
        return (self._uniform() * count).floor().clamp(max=count - 1)

    def normal(self, std: float) -> torch.Tensor:
        """N(0, std^2)."""
        if self.percentile is None:
            return processes.randn([self.num_images]).double() * std
        return torch.erfinv(self._uniform() * 2 - 1) * std

    def half_normal(self, std: float) -> torch.Tensor:
        """|N(0, std^2)|."""
        if self.percentile is None:
            return self.normal(std).abs()
        return torch.erfinv(self._uniform()) * std

    def _uniform(self) -> torch.Tensor:
        if self.percentile is None:
            return processes.rand([self.num_images]).double()
        return torch.full([self.num_images], self.percentile, dtype=torch.float64, device="cpu")
