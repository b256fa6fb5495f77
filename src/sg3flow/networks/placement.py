"""Moving what a StyleGAN3 generator draws, through the transform of its input."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sg3flow.errors import ConfigError


def motion_matrix(shift: tuple[float, float], angle: float) -> torch.Tensor:
    """The transform, float64 [3, 3], that shows the picture turned and then shifted.

    The input is sampled at transformed places: the matrix is the inverse of the motion.

    Args:
        shift: of the picture in image widths, (x, y).
        angle: of the picture in radians.
    """
    c, s = math.cos(angle), math.sin(angle)
    motion = [[c, s, shift[0]], [-s, c, shift[1]], [0.0, 0.0, 1.0]]
    inverse: torch.Tensor = torch.linalg.inv(torch.tensor(motion, dtype=torch.float64))
    return inverse


def input_transform(G: Any) -> torch.Tensor | None:
    """The buffer [3, 3] that moves a StyleGAN3 generator's input; None for other networks."""
    transform = getattr(getattr(G.synthesis, "input", None), "transform", None)
    return transform if isinstance(transform, torch.Tensor) else None


@contextmanager
def placed(G: Any, matrix: torch.Tensor) -> Iterator[None]:
    """Give a generator's input the transform [3, 3] for the block, and then its own back.

    The transform is state of the network: two threads must not be in such blocks of one network.

    Raises:
        ConfigError: the network has no such input.
    """
    transform = input_transform(G)
    if transform is None:
        raise ConfigError("this network cannot translate or rotate: only StyleGAN3 can")
    own = transform.clone()
    try:
        transform.copy_(matrix)
        yield
    finally:
        transform.copy_(own)
