"""Moving average of the generator's weights."""

import torch


def ema_beta(batch: int, nimg: int, half_life_nimg: float, rampup: float | None) -> float:
    """Share of the old average that stays after a step.

    Args:
        batch: images a step.
        nimg: real images seen before this step.
        half_life_nimg: images after which half of the old average is left.
        rampup: the half-life is at most this share of ``nimg``; None: no limit.
    """
    if rampup is not None:
        half_life_nimg = min(half_life_nimg, nimg * rampup)
    return float(0.5 ** (batch / max(half_life_nimg, 1e-8)))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, module: torch.nn.Module, beta: float) -> None:
    """Move the parameters of ``ema`` towards those of ``module``; buffers are copied."""
    for average, current in zip(ema.parameters(), module.parameters(), strict=True):
        average.copy_(current.lerp(average, beta))
    for copy, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        copy.copy_(buffer)
