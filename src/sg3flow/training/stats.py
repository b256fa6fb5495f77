"""Running statistics of what happens in training steps, kept on the device between reports."""

import math

import torch

from sg3flow.reporting import Stat


class Collector:
    """Counts, sums and sums of squares by name since the last report.

    Adding costs no synchronisation with the device; reading does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._moments: dict[str, torch.Tensor] = {}  # name -> float64 [3]

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add every element of ``values``."""
        # MPS has no float64; CUDA and CPU do, and these three numbers cost nothing.
        flat = values.detach().flatten().to(torch.float64)
        moments = torch.stack([torch.ones_like(flat).sum(), flat.sum(), flat.square().sum()])
        known = self._moments.get(name)
        self._moments[name] = moments if known is None else known + moments

    def read(self) -> dict[str, Stat]:
        """All statistics by name, without resetting them."""
        return {name: _stat(m.tolist()) for name, m in sorted(self._moments.items())}

    def clear(self) -> None:
        """Start afresh."""
        self._moments.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs to report the same numbers."""
        return {name: moments.cpu() for name, moments in self._moments.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from ``state()`` of another run."""
        self._moments = {name: m.to(self.device) for name, m in state.items()}


def _stat(moments: list[float]) -> Stat:
    num, total, squares = moments
    mean = total / num
    variance = squares / num - mean * mean
    return Stat(int(num), mean, math.sqrt(max(variance, 0.0)) if variance == variance else variance)
