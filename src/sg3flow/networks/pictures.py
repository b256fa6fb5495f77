"""From what a generator draws to pixels."""

import torch


def to_uint8(img: torch.Tensor) -> torch.Tensor:
    """float [N, C, H, W] in [-1, 1] to uint8, clamped and then truncated as the public tools do.

    What is not finite has no pixel: check it before.
    """
    return (img.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
