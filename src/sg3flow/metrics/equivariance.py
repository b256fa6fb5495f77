"""How exactly a generator's pictures follow a motion of its input (Karras et al. 2021, appendix E).

The values are peak signal-to-noise ratios in dB over all images, pixels and channels of a
measurement; the logarithm is taken once, at the end. Run it with TF32 off: its rounding alone
would cap the ratio near the published figures.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.generation import Generator
from sg3flow.metrics.motions import frac_shift, int_shift, pseudo, rot
from sg3flow.networks.placement import input_transform, motion_matrix, placed

_MAX_SHIFT = 1 / 8  # of the width and height
_PEAK_TO_PEAK = 2.0
_MIN_SQUARED_ERROR = 2.0**-46  # the square of float32's rounding: at most 144.5 dB are told apart

Inputs = Iterable[tuple[torch.Tensor, torch.Tensor]]
# Squared differences summed over the valid pixels, and the number of those.
_Error = tuple[float, float]


def eqt(G: Generator, inputs: Inputs, *, fractional: bool, seed: int) -> float:
    """Translation equivariance in dB: EQ-T, or EQ-T_frac with shifts between the pixels.

    Args:
        G: a StyleGAN3 generator.
        inputs: batches of ``z`` and ``c`` on its device; each batch is moved by one random shift,
            uniform up to 1/8 of the image on either axis.
        fractional: whether shifts keep their fraction of a pixel.
        seed: of the shifts.

    Raises:
        MetricError: the generator cannot move its input, or draws values that are not finite.
    """
    random = np.random.RandomState(seed)

    def measure(still: torch.Tensor, draw: Callable[[torch.Tensor], torch.Tensor]) -> _Error:
        height, width = still.shape[-2:]
        tx, ty = random.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2).tolist()
        if not fractional:
            tx, ty = round(tx * width) / width, round(ty * height) / height
        moved = draw(motion_matrix((tx, ty), 0))
        ideal, mask = (frac_shift if fractional else int_shift)(still, tx, ty)
        return _squared_error(moved, ideal, mask)

    return _measure_all(G, inputs, measure)


def eqr(G: Generator, inputs: Inputs, *, seed: int) -> float:
    """Rotation equivariance EQ-R in dB, over angles of the whole circle; arguments as for ``eqt``.

    Raises:
        MetricError: the generator cannot move its input, or draws values that are not finite.
    """
    random = np.random.RandomState(seed)

    def measure(still: torch.Tensor, draw: Callable[[torch.Tensor], torch.Tensor]) -> _Error:
        angle = float(random.uniform(-math.pi, math.pi))
        turned = draw(motion_matrix((0, 0), angle))
        ideal, ideal_mask = rot(still, angle)
        filtered, filtered_mask = pseudo(turned, angle)
        return _squared_error(filtered, ideal, ideal_mask * filtered_mask)

    return _measure_all(G, inputs, measure)


def psnr(squared_error: float, count: float) -> float:
    """Ratio in dB for images in [-1, 1], from summed squared differences over ``count`` samples."""
    mean = max(squared_error / count, _MIN_SQUARED_ERROR)
    return 10 * math.log10(_PEAK_TO_PEAK**2 / mean)


def require_movable(G: Generator) -> None:
    """Make sure that the generator's input can be moved.

    Raises:
        MetricError: it cannot, as that of any StyleGAN2.
    """
    if input_transform(G) is None:
        raise MetricError(
            f"{type(G).__name__} has no input transform, so equivariance cannot be measured; "
            "leave eqt… and eqr… out of the metrics of a StyleGAN2 network"
        )


@torch.no_grad()
def _measure_all(
    G: Generator,
    inputs: Inputs,
    measure: Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], _Error],
) -> float:
    require_movable(G)
    total, count = 0.0, 0.0
    for z, c in inputs:
        ws = G.mapping(z, c)

        def draw(motion: torch.Tensor, ws: torch.Tensor = ws) -> torch.Tensor:
            with placed(G, motion):
                return G.synthesis(ws, noise_mode="const", force_fp32=True)

        error, samples = measure(draw(torch.eye(3)), draw)
        total, count = total + error, count + samples
    if not math.isfinite(total):
        raise MetricError("the network draws pictures with values that are not finite")
    if count == 0:
        raise MetricError("no pixel stays in view under any of the motions; draw more images")
    return psnr(total, count)


def _squared_error(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> _Error:
    squares = (a - b).double().square() * mask
    return float(squares.sum()), float(mask.double().sum())
