"""Colour augmentations: one affine map of (r, g, b) a picture."""

import math

import torch

from sg3flow.devices import sent
from sg3flow.training.augment_draws import Draws
from sg3flow.training.augment_strengths import Strengths


def color_matrix(strengths: Strengths, draws: Draws) -> torch.Tensor:
    """The colour map of every picture on (r, g, b, 1): [N, 4, 4], float64 on the CPU."""
    s = strengths
    eye = torch.eye(4, dtype=torch.float64, device="cpu")
    luma = eye.new_tensor([1, 1, 1, 0]) / math.sqrt(3)  # the axis of greys
    luma_part = torch.outer(luma, luma)
    matrix = eye.repeat(draws.num_images, 1, 1)
    if s.brightness > 0:
        amount = torch.where(draws.applied(s.brightness), draws.normal(s.brightness_std), 0.0)
        matrix = _shift(amount) @ matrix
    if s.contrast > 0:
        gain = torch.exp2(torch.where(draws.applied(s.contrast), draws.normal(s.contrast_std), 0.0))
        matrix = (
            torch.diag_embed(torch.stack([gain, gain, gain, torch.ones_like(gain)], -1)) @ matrix
        )
    if s.lumaflip > 0:
        flip = torch.where(draws.applied(s.lumaflip), draws.choice(2), 0.0)
        matrix = (eye - 2 * luma_part * flip[:, None, None]) @ matrix
    if s.hue > 0:
        applied = draws.applied(s.hue)
        angle = draws.uniform(-math.pi * s.hue_max, math.pi * s.hue_max)
        matrix = _luma_rotation(torch.where(applied, angle, 0.0)) @ matrix
    if s.saturation > 0:
        applied = draws.applied(s.saturation)
        gain = torch.exp2(torch.where(applied, draws.normal(s.saturation_std), 0.0))
        # luma_part + (eye - luma_part) * gain, written so that a gain of 1 is the exact identity;
        # the last row and column stay those of the identity.
        chroma_part = torch.diag(eye.new_tensor([1, 1, 1, 0])) - luma_part
        matrix = (eye + chroma_part * (gain[:, None, None] - 1)) @ matrix
    return matrix


def apply_color(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply colour maps [N, 4, 4] to ``images`` [N, C, H, W]; grey ones take the rows' mean."""
    rows = matrix[:, :3]
    if images.shape[1] == 1:
        rows = rows.mean(dim=1, keepdim=True)
        rows = torch.stack([rows[..., :3].sum(dim=-1), rows[..., 3]], dim=-1)  # [N, 1, 2]
    rows = sent(rows.to(images.dtype), images.device)
    flat = images.flatten(2)  # [N, C, H*W]
    return (rows[..., :-1] @ flat + rows[..., -1:]).view_as(images)


def _shift(amount: torch.Tensor) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64, device="cpu").repeat(len(amount), 1, 1)
    matrix[:, :3, 3] = amount[:, None]
    return matrix


def _luma_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Right-handed rotation about the axis of greys (Rodrigues' formula), [N, 4, 4]."""
    n = 1 / math.sqrt(3)
    cross = torch.zeros([4, 4], dtype=torch.float64, device="cpu")
    cross[:3, :3] = cross.new_tensor([[0, -n, n], [n, 0, -n], [-n, n, 0]])
    sin, versed = angle.sin()[:, None, None], (1 - angle.cos())[:, None, None]
    return torch.eye(4, dtype=torch.float64, device="cpu") + sin * cross + versed * (cross @ cross)
