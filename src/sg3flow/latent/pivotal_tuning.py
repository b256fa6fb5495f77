"""Pivotal tuning: a copy of a generator that draws a target at a given w (Roich et al. 2021).

``tune`` yields after every step and does no I/O, as ``projection.project``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

from sg3flow.config import ProjectConfig
from sg3flow.latent.image_distances import Distance, Features, psnr
from sg3flow.latent.projection import require_finite
from sg3flow.precision import computing
from sg3flow.rendering.conditions import Condition, TrainingLabels, label_tensor
from sg3flow.rendering.images import RenderedGenerator, network_device

_LOCAL_RADIUS = 30.0  # alpha of the paper, a distance in w


@dataclass(frozen=True)
class TuningSettings:
    """How to tune.

    Attributes:
        steps: of Adam; the paper has 350.
        lr: learning rate; the paper has 3e-4.
        locality: weight of the term that keeps the images of other w as they were; 0: off.
        seed: of the z of those other w.
    """

    steps: int = 350
    lr: float = 3e-4
    locality: float = 0.1
    seed: int = 0

    @classmethod
    def of(cls, config: ProjectConfig) -> "TuningSettings":
        """Those of the command."""
        return cls(config.pti_steps, config.pti_lr, config.pti_locality, config.seed)


@dataclass(frozen=True)
class TuningStep:
    """What a step has done.

    Attributes:
        step: number of the step, from 1.
        loss: what was minimized, before the step.
        psnr: of that image to the target, in dB.
        img: that image, float32 [1, C, R, R], nominally in [-1, 1].
    """

    step: int
    loss: float
    psnr: float
    img: torch.Tensor


def tune(
    G: RenderedGenerator,
    tuned: RenderedGenerator,
    w: torch.Tensor,
    target: torch.Tensor,
    distance: Distance,
    settings: TuningSettings,
    conditions: list[Condition],
) -> Iterator[TuningStep]:
    """Change the synthesis network of ``tuned`` until it draws the target at w.

    The loss is the distance to the target plus the mean squared error (Eq. 3 of the paper), and for
    locality the same two between the images of both networks at a w near the pivot (Eq. 5 and 6).
    When the iterator is closed or ends, ``tuned`` no longer asks for gradients.

    Args:
        G: the network as it was; it is not changed.
        tuned: a copy of it, which is changed.
        w: the pivot, [1, num_ws, w_dim].
        target: float32 [1, C, R, R] in [-1, 1].
        conditions: classes or labels of the other w, in turn; ``[None]``: unconditional.

    Raises:
        DivergedError: the loss is no longer finite.
    """
    device = network_device(G)
    synthesis: Any = tuned.synthesis
    weights = list(synthesis.parameters())
    w, target = w.to(device), target.to(device)
    random = np.random.RandomState(settings.seed)
    with torch.no_grad(), computing():
        features = distance.features(target)
    optimizer = torch.optim.Adam(weights, lr=settings.lr)
    try:
        for each in weights:
            each.requires_grad_()
        for step, condition in enumerate(islice(cycle(conditions), settings.steps)):
            with torch.enable_grad(), computing():
                img = synthesis(w, noise_mode="const", force_fp32=True)
                loss = _loss(distance, img, target, features)
                if settings.locality:
                    near = _near(G, w, random, condition)
                    loss = loss + settings.locality * _change(G, synthesis, near, distance)
                value = require_finite(loss, "pivotal tuning", step)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            yield TuningStep(step + 1, value, psnr(img, target), img.detach())
    finally:
        for each in weights:
            each.requires_grad_(False)
            each.grad = None


def _loss(
    distance: Distance, img: torch.Tensor, target: torch.Tensor, features: Features
) -> torch.Tensor:
    """Distance and mean squared error of an image to a target with these features, []."""
    return distance.between(distance.features(img), features) + (img - target).square().mean()


def _change(
    G: RenderedGenerator, synthesis: Any, near: torch.Tensor, distance: Distance
) -> torch.Tensor:
    """How much the tuning has changed the image of another w, []."""
    with torch.no_grad():
        before = G.synthesis(near, noise_mode="const", force_fp32=True)
        features = distance.features(before)
    after = synthesis(near, noise_mode="const", force_fp32=True)
    return _loss(distance, after, before, features)


def _near(
    G: RenderedGenerator, pivot: torch.Tensor, random: np.random.RandomState, condition: Condition
) -> torch.Tensor:
    """A w from the pivot towards that of a random z, [1, num_ws, w_dim] (Eq. 4)."""
    z = torch.from_numpy(random.standard_normal((1, G.z_dim))).to(pivot.device, torch.float32)
    c = label_tensor(condition, TrainingLabels(G.c_dim)).to(pivot.device)
    with torch.no_grad():
        return towards(pivot, G.mapping(z, c), _LOCAL_RADIUS)


def towards(pivot: torch.Tensor, other: torch.Tensor, radius: float) -> torch.Tensor:
    """The point at a distance from ``pivot`` towards ``other``, per layer.

    Unlike in the paper it never lies beyond ``other``, as the radius is that of one network.
    """
    away = other - pivot
    length = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
    moved: torch.Tensor = pivot + away * (radius / length.clamp_min(1e-12)).clamp_max(1)
    return moved
