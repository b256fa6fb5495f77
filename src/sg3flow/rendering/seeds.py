"""Which images to render: seeds as text and as latents, and how to render each; without torch."""

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError

MAX_SEED = 2**32 - 1
MAX_SEEDS = 100_000

_PART = re.compile(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?")
NOISE_MODES = ("const", "random", "none")


def parse_seeds(text: str) -> list[int]:
    """Seeds in the order given: ``0,3-7,2`` is 0, 3, 4, 5, 6, 7, 2.

    Raises:
        ConfigError: not such a list, a seed above 2^32 - 1, a descending range, or more than
            100,000 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, last = _bounds(part, text)
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ConfigError(
                f"seeds '{text[:60]}' give more than {MAX_SEEDS} images; use fewer seeds"
            )
        seeds.extend(range(first, last + 1))
    return seeds


def seed_latent(seed: int, z_dim: int) -> npt.NDArray[np.float64]:
    """The latent z of a seed, [1, z_dim], equal to that of the public StyleGAN tools.

    NumPy's legacy generator is frozen: its output does not change between versions.
    """
    check_seed(seed)
    return np.random.RandomState(seed).randn(1, z_dim)


def check_seed(seed: int) -> None:
    """Refuse a seed outside the range of the random number generator.

    Raises:
        ConfigError: the seed is below 0 or above 2^32 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"a seed must be a whole number from 0 to {MAX_SEED}, not {seed}")


def _bounds(part: str, text: str) -> tuple[int, int]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(
            f"seeds must be whole numbers and ranges such as 0,3-7,2, not '{text[:60]}'"
        )
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    check_seed(first)
    check_seed(last)
    if last < first:
        raise ConfigError(f"the range of seeds {first}-{last} is descending; write {last}-{first}")
    return first, last


@dataclass(frozen=True)
class RenderOptions:
    """How to render the image of a seed.

    Args:
        psi: truncation psi; 1 is off, 0 gives the average image.
        noise_mode: per-pixel noise of StyleGAN2: const, random or none; StyleGAN3 has none.
        translate: shift in image widths, (x, y); StyleGAN3 only.
        rotate: angle in degrees; StyleGAN3 only.
        truncation_cutoff: number of layers, from the first, that psi applies to; None: all.
        edit: offset of w, float32 [num_ws, w_dim], added after truncation; None: no edit. See
            ``edits.resolve_edits``.
    """

    psi: float = 1.0
    noise_mode: str = "const"
    translate: tuple[float, float] = (0.0, 0.0)
    rotate: float = 0.0
    truncation_cutoff: int | None = None
    edit: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.noise_mode not in NOISE_MODES:
            known = ", ".join(NOISE_MODES)
            raise ConfigError(f"noise mode must be one of {known}, not '{self.noise_mode}'")
        for name, value in {"psi": self.psi, "rotate": self.rotate}.items():
            if not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, not {value}")
        if not all(map(math.isfinite, self.translate)):
            raise ConfigError(f"translate must be two finite numbers, not {self.translate}")
        if self.edit is not None and (self.edit.ndim != 2 or not np.isfinite(self.edit).all()):
            raise ConfigError("edit must be finite numbers, [num_ws, w_dim]")

    @property
    def is_still(self) -> bool:
        """Whether the image is neither translated nor rotated."""
        return tuple(self.translate) == (0, 0) and self.rotate == 0
