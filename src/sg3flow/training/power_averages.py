"""Power-function averages of G during a training, for post-hoc EMA.

(Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", Sec. 3.)
The average of exponent gamma after step t weights step i by i^gamma, up to a constant:

    average(t) = beta(t) average(t - 1) + (1 - beta(t)) G(t),  beta(t) = (1 - 1/t)^(gamma + 1).

Its width is given as sigma_rel, the standard deviation of the weights relative to t. From the
averages of two widths at several times ``latent/posthoc_ema.py`` makes that of any other width.

Training does not read these averages: they change no number. They are computed in float64, as
late steps change them by less than float32 resolves. The files beside the snapshots hold them in
float16, or float32 where float16 cannot, and the buffers of G.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from sg3flow.errors import ConfigError, cut
from sg3flow.files import write_bytes

FORMAT = "sg3flow-power-averages-1"
BUFFERS = "buffers"
STATE_KEY = "power_averages"
LEAST_WIDTH, MOST_WIDTH = 0.01, 0.28  # of sigma_rel; at gamma 0 it is 0.289


def exponent(sigma_rel: float) -> float:
    """gamma of a width: the positive root of sigma_rel^2 (gamma+2)^2 (gamma+3) = gamma+1.

    0.05 gives 16.97 and 0.10 gives 6.94.
    """
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def step_weight(gamma: float, step: float) -> float:
    """1 - beta: the weight of G after ``step`` steps in the average; 1 in the first step."""
    if step <= 1:
        return 1.0
    return -math.expm1((gamma + 1) * math.log1p(-1 / step))


def parse_widths(texts: Sequence[str], where: str = "train.phema") -> tuple[float, ...]:
    """The widths of a setting, sorted.

    Args:
        where: name of the setting or option, for the message.

    Raises:
        ConfigError: one is not a number from 0.01 to 0.28, or is given twice.
    """
    widths = sorted(_parse_width(text, where) for text in texts)
    if len(set(map(width_name, widths))) < len(widths):
        raise ConfigError(f"{where} names a width twice: {', '.join(map(width_name, widths))}")
    return tuple(widths)


def _parse_width(text: str, where: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise ConfigError(
            f"{where} must be numbers from {LEAST_WIDTH} to {MOST_WIDTH}, such as 0.05, not "
            f"'{cut(text)}'"
        )
    return width


def width_name(width: float) -> str:
    """A width in names of tensors: ``0.050``."""
    return f"{width:.3f}"


@dataclass(frozen=True)
class _Average:
    gamma: float
    tensors: list[torch.Tensor]  # float64, in the order of G's parameters


class PowerAverages:
    """The averages of a training's G; without widths it costs nothing.

    Args:
        widths: sigma_rel of each.
        G: the network, at ``nimg`` images.
        batch: images per step.
        saved: ``state()`` of an earlier process; a width that it lacks starts from G as it is now,
            as if G had been that from the first step.
    """

    def __init__(
        self,
        widths: Sequence[float],
        G: nn.Module,
        batch: int,
        saved: Mapping[str, Sequence[torch.Tensor]] | None = None,
    ) -> None:
        self.batch = batch
        self._averages: dict[str, _Average] = {}
        for width in widths:
            name = width_name(width)
            tensors = [parameter.detach().double() for parameter in G.parameters()]
            if saved and name in saved:
                torch._foreach_copy_(tensors, list(saved[name]))
            self._averages[name] = _Average(exponent(width), tensors)

    @property
    def names(self) -> list[str]:
        """The names of the widths."""
        return list(self._averages)

    @torch.no_grad()
    def update(self, G: nn.Module, nimg: int) -> None:
        """Take in G after the step that reached ``nimg`` images."""
        if not self._averages:
            return
        current = [parameter.detach().double() for parameter in G.parameters()]
        for average in self._averages.values():
            weight = step_weight(average.gamma, nimg / self.batch)
            torch._foreach_lerp_(average.tensors, current, weight)

    def state(self) -> dict[str, Any]:
        """What a saved state of the training has of them; empty without widths."""
        if not self._averages:
            return {}
        return {STATE_KEY: {name: each.tensors for name, each in self._averages.items()}}

    def save(self, path: Path, G: nn.Module, nimg: int) -> None:
        """Write the averages after ``nimg`` images; equal ones give equal bytes.

        Raises:
            OSError: writing failed.
        """
        names = [name for name, _ in G.named_parameters()]
        tensors = {
            f"{width}/{name}": compact(tensor)
            for width, average in self._averages.items()
            for name, tensor in zip(names, average.tensors, strict=True)
        }
        for name, buffer in G.named_buffers():
            tensors[f"{BUFFERS}/{name}"] = buffer.detach().to("cpu", torch.float32).contiguous()
        facts = {"format": FORMAT, "nimg": nimg, "batch": self.batch, "widths": self.names}
        write_bytes(path, save(tensors, {"sg3flow": json.dumps(facts, sort_keys=True)}))


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """float16 on the CPU, or float32 if a value is too large for that."""
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    return half if half.isfinite().all() else tensor.detach().to("cpu", torch.float32).contiguous()
