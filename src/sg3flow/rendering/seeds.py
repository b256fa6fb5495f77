"""Seeds: how people write them, and the latent each one stands for."""

import re

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError

MAX_SEED = 2**32 - 1
MAX_SEEDS = 100_000

_PART = re.compile(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?")


def parse_seeds(text: str) -> list[int]:
    """Seeds in the order given: ``0,3-7,2`` is 0, 3, 4, 5, 6, 7, 2.

    Raises:
        ConfigError: not such a list, a seed above 2^32 - 1, a range that runs backwards, or more
            than 100,000 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, last = _bounds(part, text)
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ConfigError(
                f"seeds '{text[:60]}' name more than {MAX_SEEDS} pictures; name fewer"
            )
        seeds.extend(range(first, last + 1))
    return seeds


def seed_latent(seed: int, z_dim: int) -> npt.NDArray[np.float64]:
    """The latent z of a seed, [1, z_dim], the same as every public StyleGAN tool draws.

    NumPy's legacy generator is frozen: its stream does not change between versions.
    """
    check_seed(seed)
    return np.random.RandomState(seed).randn(1, z_dim)


def check_seed(seed: int) -> None:
    """Refuse a seed the random number generator cannot take.

    Raises:
        ConfigError: the seed is below 0 or above 2^32 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"a seed must be a whole number from 0 to {MAX_SEED}, not {seed}")


def _bounds(part: str, text: str) -> tuple[int, int]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(f"seeds must be whole numbers and ranges like 0,3-7,2, not '{text[:60]}'")
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    check_seed(first)
    check_seed(last)
    if last < first:
        raise ConfigError(f"the range of seeds {first}-{last} runs backwards; write {last}-{first}")
    return first, last
