"""Running statistics of what happens in training steps, kept on the device between reports."""

import math

import torch

from sg3flow import processes
from sg3flow.reporting import Stat


class Collector:
    """Counts, sums and sums of squares by name since the last report.

    Adding costs no synchronisation with the device; reading does, and reads over all processes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nimg = 0  # of the step under way
        self._moments: dict[str, torch.Tensor] = {}  # name -> float64 [3]
        self._first_bad: dict[str, torch.Tensor] = {}  # name -> float64 [], inf without one

    def add(self, name: str, values: torch.Tensor, bad: torch.Tensor | None = None) -> None:
        """Add every element of ``values``.

        Args:
            bad: whether something is wrong with them, bool []; None: whether one is not finite.
        """
        # MPS has no float64; CUDA and CPU do, and these numbers cost nothing.
        flat = values.detach().flatten().to(torch.float64)
        moments = torch.stack([torch.ones_like(flat).sum(), flat.sum(), flat.square().sum()])
        known = self._moments.get(name)
        self._moments[name] = moments if known is None else known + moments
        bad = ~torch.isfinite(moments[1]) if bad is None else bad
        # Filled, not chosen from two numbers: those would be copied to the device, and waited for.
        never = torch.full([], math.inf, dtype=torch.float64, device=values.device)
        now = never.masked_fill(bad, float(self.nimg))
        earlier = self._first_bad.get(name)
        self._first_bad[name] = now if earlier is None else torch.minimum(earlier, now)

    def read(self) -> dict[str, Stat]:
        """All statistics by name, without resetting them."""
        if not self._moments:
            return {}
        names = sorted(self._moments)
        moments = processes.total(torch.stack([self._moments[name] for name in names]))
        return {name: _stat(row) for name, row in zip(names, moments.tolist(), strict=True)}

    def first_bad(self) -> dict[str, int]:
        """For each name that something was wrong with, the images seen before that step."""
        if not self._first_bad:
            return {}
        names = sorted(self._first_bad)
        first = processes.smallest(torch.stack([self._first_bad[name] for name in names]))
        found = zip(names, first.tolist(), strict=True)
        return {name: int(nimg) for name, nimg in found if nimg < math.inf}

    def clear(self) -> None:
        """Start afresh."""
        self._moments.clear()
        self._first_bad.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs to report the same numbers: name -> [4], over all processes."""
        return {
            name: torch.cat(
                [processes.total(moments), processes.smallest(self._first_bad[name])[None]]
            ).cpu()
            for name, moments in sorted(self._moments.items())
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from ``state()`` of another run."""
        for name, saved in state.items():
            moments = saved[:3].to(self.device)
            # The saved sums are those of all processes: one of them takes them over.
            self._moments[name] = moments if processes.is_first() else torch.zeros_like(moments)
            self._first_bad[name] = saved[3].to(self.device)


def _stat(moments: list[float]) -> Stat:
    num, total, squares = moments
    mean = total / num
    variance = squares / num - mean * mean
    return Stat(int(num), mean, math.sqrt(max(variance, 0.0)) if variance == variance else variance)
