"""How exactly a generator's pictures follow a motion of its input (Karras et al. 2021, appendix E).

The values are peak signal-to-noise ratios in dB over all images, pixels and channels of a
measurement; the logarithm is taken once, at the end. Run it with TF32 off: its rounding alone
would cap the ratio near the published figures.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, ratio_estimate
from sg3flow.metrics.generation import Generator
from sg3flow.metrics.motions import frac_shift, int_shift, pseudo, rot
from sg3flow.networks.placement import input_transform, motion_matrix, placed

_MAX_SHIFT = 1 / 8  # of the width and height
_PEAK_TO_PEAK = 2.0
_MIN_SQUARED_ERROR = 2.0**-46  # the square of float32's rounding: at most 144.5 dB are told apart

Inputs = Iterable[tuple[torch.Tensor, torch.Tensor]]
Array = NDArray[np.float64]


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
    kind = "eqt_frac" if fractional else "eqt_int"
    return equivariance(motion_errors(G, kind, inputs, random_motions(kind, seed))).value


def eqr(G: Generator, inputs: Inputs, *, seed: int) -> float:
    """Rotation equivariance EQ-R in dB, over angles of the whole circle; arguments as for ``eqt``.

    Raises:
        MetricError: the generator cannot move its input, or draws values that are not finite.
    """
    return equivariance(motion_errors(G, "eqr", inputs, random_motions("eqr", seed))).value


def random_motions(kind: str, seed: int) -> Iterator[tuple[float, ...]]:
    """Shifts ``(x, y)`` in image widths for ``eqt_int`` and ``eqt_frac``, angles for ``eqr``."""
    random = np.random.RandomState(seed)
    while True:
        if kind == "eqr":
            yield (float(random.uniform(-math.pi, math.pi)),)
        else:
            yield tuple(random.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2).tolist())


@torch.no_grad()
def motion_errors(
    G: Generator, kind: str, inputs: Inputs, motions: Iterator[tuple[float, ...]]
) -> Array:
    """Squared differences between pictures moved by their input and pictures moved ideally.

    Args:
        G: a StyleGAN3 generator.
        kind: ``eqt_int``, ``eqt_frac`` or ``eqr``.
        inputs: batches of ``z`` and ``c`` on its device, each moved by the next motion.
        motions: as ``random_motions``.

    Returns:
        For each batch, the sum over its valid samples and their number, ``[batches, 2]``.

    Raises:
        MetricError: the generator cannot move its input, or draws values that are not finite.
    """
    require_movable(G)
    compare = _COMPARISONS[kind]
    errors = []
    for (z, c), motion in zip(inputs, motions, strict=False):  # the motions have no end
        ws = G.mapping(z, c)

        def draw(matrix: torch.Tensor, ws: torch.Tensor = ws) -> torch.Tensor:
            with placed(G, matrix):
                return G.synthesis(ws, noise_mode="const", force_fp32=True)

        errors.append(compare(draw(torch.eye(3)), draw, *motion))
    found = np.array(errors, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(found).all():
        raise MetricError("the network draws pictures with values that are not finite")
    return found


def equivariance(errors: Array) -> Estimate:
    """Ratio in dB from the errors ``[batches, 2]`` of all motions.

    Raises:
        MetricError: no sample is valid.
    """
    if errors[:, 1].sum() == 0:
        raise MetricError("no pixel stays in view under any of the motions; draw more images")
    mean = ratio_estimate(errors[:, 0], errors[:, 1])
    error = mean.standard_error
    if error is not None:
        error *= 10 / math.log(10) / max(mean.value, _MIN_SQUARED_ERROR)
    return Estimate(psnr(float(errors[:, 0].sum()), float(errors[:, 1].sum())), error)


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


Draw = Callable[[torch.Tensor], torch.Tensor]


def _shifted_whole(still: torch.Tensor, draw: Draw, tx: float, ty: float) -> tuple[float, float]:
    height, width = still.shape[-2:]
    tx, ty = round(tx * width) / width, round(ty * height) / height
    return _squared_error(draw(motion_matrix((tx, ty), 0)), *int_shift(still, tx, ty))


def _shifted_fraction(still: torch.Tensor, draw: Draw, tx: float, ty: float) -> tuple[float, float]:
    return _squared_error(draw(motion_matrix((tx, ty), 0)), *frac_shift(still, tx, ty))


def _turned(still: torch.Tensor, draw: Draw, angle: float) -> tuple[float, float]:
    ideal, ideal_mask = rot(still, angle)
    filtered, filtered_mask = pseudo(draw(motion_matrix((0, 0), angle)), angle)
    return _squared_error(filtered, ideal, ideal_mask * filtered_mask)


def _squared_error(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    squares = (a - b).double().square() * mask
    return float(squares.sum()), float(mask.double().sum())


_COMPARISONS: dict[str, Callable[..., tuple[float, float]]] = {
    "eqt_int": _shifted_whole,
    "eqt_frac": _shifted_fraction,
    "eqr": _turned,
}
