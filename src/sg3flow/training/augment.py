"""Adaptive discriminator augmentation (Karras et al. 2020, appendix B).

Every transform is applied to every picture on its own with probability ``p * multiplier``, to real
and generated pictures alike, so that the discriminator never sees one without it and the generator
does not learn it.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from sg3flow.errors import ConfigError
from sg3flow.training.augment_color import apply_color, color_matrix
from sg3flow.training.augment_corruption import apply_filter, apply_noise, cut_out, filter_bank
from sg3flow.training.augment_draws import Draws
from sg3flow.training.augment_geometry import apply_geometry, geometry_matrix, wavelet_lowpass
from sg3flow.training.augment_strengths import AUGMENT_PRESETS, Strengths

__all__ = ["AUGMENT_PRESETS", "AugmentPipe"]


class AugmentPipe(nn.Module):
    """``pipe(images)`` augments a batch; ``pipe.p`` is the strength that ADA adjusts.

    Random values come from torch's global generators. Those that choose the transforms are drawn on
    the CPU, where ``p`` always stays: the same seed gives the same transforms on every device, and
    no step has to wait for a device to learn how much to pad. The draws depend on the multipliers
    and the batch only, never on ``p``; what leaves a whole batch as it is is not computed.

    Args:
        multipliers: the fields of ``Strengths``.

    Raises:
        ConfigError: a negative number, or one that is none.
        TypeError: a name that is no field of ``Strengths``.
    """

    p: torch.Tensor
    Hz_geom: torch.Tensor
    Hz_fbank: torch.Tensor

    def __init__(self, **multipliers: Any) -> None:
        super().__init__()
        if "imgfilter_bands" in multipliers:
            multipliers["imgfilter_bands"] = tuple(multipliers["imgfilter_bands"])
        self.strengths = Strengths(**multipliers)
        self.register_buffer("p", torch.ones([], device="cpu"))
        self.register_buffer("Hz_geom", wavelet_lowpass())
        self.register_buffer("Hz_fbank", filter_bank())

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Plain values with which ``AugmentPipe(**init_kwargs)`` makes this pipe again."""
        return asdict(self.strengths) | {"imgfilter_bands": list(self.strengths.imgfilter_bands)}

    def forward(self, images: torch.Tensor, percentile: float | None = None) -> torch.Tensor:
        """Augment ``images`` [N, C, H, W]; twice differentiable with respect to them.

        Args:
            images: float32, 1 or 3 channels, in [-1, 1].
            percentile: fix every random value at this quantile and apply every transform whose
                multiplier is not 0 (see ``Draws``); None: random.
        """
        num_images, num_channels, height, width = images.shape
        if num_channels not in (1, 3):
            raise ConfigError(f"augmentation needs pictures of 1 or 3 channels, not {num_channels}")
        draws = Draws(num_images, float(self.p), percentile)
        matrix = geometry_matrix(self.strengths, draws, height, width)
        if not _is_identity(matrix):
            images = apply_geometry(images, matrix, self.Hz_geom)
        matrix = color_matrix(self.strengths, draws)
        if not _is_identity(matrix):
            images = apply_color(images, matrix)
        images = apply_filter(images, self.strengths, draws, self.Hz_fbank)
        images = apply_noise(images, self.strengths, draws)
        return cut_out(images, self.strengths, draws)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "AugmentPipe":
        p = self.p
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.p = p
        return self


def _is_identity(matrix: torch.Tensor) -> bool:
    """Whether every matrix [N, n, n] on the CPU is the identity."""
    return torch.equal(matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand_as(matrix))
