"""Compares what an exported file computes with its network, before the file gets its name."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sg3flow.errors import CheckpointError
from sg3flow.export.plain_generator import PlainGenerator, random_inputs
from sg3flow.networks.layers import to_uint8
from sg3flow.networks.stylegan3 import placed
from sg3flow.precision import computing

Images = npt.NDArray[np.float32]  # [N, C, R, R]
Inputs = Mapping[str, Any]  # NumPy float32 by name

TOLERANCE = 1e-3  # of the largest value
_BATCHES = ([0], [1, 2])  # seeds; of two sizes, as the batch is free
_ONE_FROM = 256  # pixels: from here on only the first, as an image takes seconds of a CPU


def check_file(
    run: Callable[[Inputs], Images], G: nn.Module, plain: PlainGenerator, program: str
) -> str:
    """Draw a few seeds with random labels, psi and motions by both; returns a sentence.

    Args:
        run: computes the images of the file.
        program: what computes them, for messages.

    Raises:
        CheckpointError: they differ, or the network generates values that are not finite.
    """
    largest, levels = 0.0, 0
    resolution: Any = G.img_resolution
    batches = _BATCHES if resolution < _ONE_FROM else _BATCHES[:1]
    for seeds in batches:
        inputs = random_inputs(plain, seeds)
        expected = network_images(G, inputs)
        if not np.isfinite(expected).all():
            raise CheckpointError("the network generates values that are not finite; not exported")
        error, level = difference(run(inputs), expected)
        largest, levels = max(largest, error), max(levels, level)
    if not (largest <= TOLERANCE and levels <= 1):
        raise CheckpointError(
            f"with {program} the exported file differs from the network by {largest:.2g} of the "
            f"largest value and {levels} gray levels (allowed: {TOLERANCE} and 1); not exported"
        )
    count, unit = sum(map(len, batches)), "level" if levels == 1 else "levels"
    return (
        f"checked with {program} (images: {count}): at most {largest:.1e} of the largest value and "
        f"{levels} gray {unit} from the network"
    )


def network_images(G: Any, inputs: Inputs) -> Images:
    """The images [N, C, R, R] of the network itself, in float32, with constant noise."""
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    transform = given.get("transform")
    placing = nullcontext() if transform is None else placed(G, transform)
    with torch.no_grad(), computing(), placing:
        ws = G.mapping(given.get("z"), given.get("label"), truncation_psi=float(given["psi"]))
        images: Images = G.synthesis(ws, noise_mode="const", force_fp32=True).numpy()
    return images


def difference(found: Images, expected: Images) -> tuple[float, int]:
    """The largest difference as a part of the largest value, and in gray levels of 8 bits."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf"), 255
    error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-20))
    levels = (to_uint8(torch.from_numpy(images)).int() for images in (found, expected))
    return error, int((next(levels) - next(levels)).abs().max())
