"""Projection: the w whose image is nearest to a target (Karras et al. 2020, App. D).

``project`` yields after every step, so that a command, a tracking server and a live view consume
the same iterator. Nothing is read or written here. Equal arguments give equal numbers on a CPU.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sg3flow.config import PROJECTION_SPACES, ProjectConfig
from sg3flow.errors import ConfigError, DivergedError
from sg3flow.latent.image_distances import Distance, psnr
from sg3flow.latent.noise_maps import noise_maps, noise_regularization, renormalize
from sg3flow.precision import computing
from sg3flow.rendering.conditions import Condition, TrainingLabels, label_tensor
from sg3flow.rendering.images import RenderedGenerator, network_device

NUM_SAMPLES = 10_000  # of w, for its mean and scale
_CHUNK = 1000
_RAMP_UP, _RAMP_DOWN = 0.05, 0.25  # parts of the steps
_NOISE_PART, _NOISE_SCALE = 0.75, 0.05


@dataclass(frozen=True)
class ProjectionSettings:
    """How to project.

    Attributes:
        space: ``w``, one vector for all layers; or ``w+``, one per layer, which comes nearer to the
            target and is worse to edit.
        steps: of Adam.
        lr: the greatest learning rate.
        noise_reg: weight of the regularization of StyleGAN2's noise maps; 0: they are not
            optimized. Without effect on StyleGAN3.
        seed: of the samples of w and of the noise that is added to it.
    """

    space: str = "w"
    steps: int = 1000
    lr: float = 0.1
    noise_reg: float = 1e5
    seed: int = 0

    @classmethod
    def of(cls, config: ProjectConfig) -> "ProjectionSettings":
        """Those of the command."""
        return cls(config.space, config.steps, config.lr, config.noise_reg, config.seed)

    def __post_init__(self) -> None:
        if self.space not in PROJECTION_SPACES:
            known = " or ".join(PROJECTION_SPACES)
            raise ConfigError(f"space must be {known}, not '{self.space[:60]}'")


@dataclass(frozen=True)
class ProjectionStep:
    """What a step has done.

    Attributes:
        step: number of the step, from 1.
        loss: what was minimized, at the w before the step with the noise of the step.
        psnr: of that image to the target, in dB.
        w: after the step, float32 [1, num_ws, w_dim].
        img: the image of the loss, float32 [1, C, R, R], nominally in [-1, 1].
    """

    step: int
    loss: float
    psnr: float
    w: torch.Tensor
    img: torch.Tensor


def project(
    G: RenderedGenerator,
    target: torch.Tensor,
    distance: Distance,
    settings: ProjectionSettings,
    conditions: list[Condition],
) -> Iterator[ProjectionStep]:
    """Move w from its mean towards the target; yields after every step, last the result.

    1. Mean and scale of w from 10,000 samples.
    2. Each step adds noise to w that fades to 0 over the first three quarters of the steps, draws
       the image, and lets Adam lower its distance to the target.
    3. The noise maps of a StyleGAN2 network are optimized, too: they take what no w can draw. They
       start as the network's own, not as fresh noise as in the paper, because the result is drawn
       with those; and their regularization is added to the loss.

    The network is not changed.

    Args:
        target: float32 [1, C, R, R] in [-1, 1].
        conditions: classes or labels whose w are sampled, in turn; ``[None]``: unconditional.

    Raises:
        ConfigError: a condition does not fit the network.
        DivergedError: the loss is no longer finite.
    """
    device = network_device(G)
    random = np.random.RandomState(settings.seed)
    mean, scale = w_statistics(G, random, conditions)
    num_vectors = 1 if settings.space == "w" else G.num_ws
    w = mean.repeat(1, num_vectors, 1).requires_grad_()  # [1, 1 or num_ws, w_dim]
    synthesis, noises = _optimized_noise(G, settings.noise_reg)
    optimizer = torch.optim.Adam([w, *noises])
    target = target.to(device)
    with computing():
        features = [each.detach() for each in distance.features(target)]
    for step in range(settings.steps):
        t = (step + 0.5) / settings.steps
        noise = torch.from_numpy(random.standard_normal(w.shape)).to(device, torch.float32)
        optimizer.param_groups[0]["lr"] = settings.lr * learning_rate_factor(t)
        with torch.enable_grad(), computing():
            moved = w + noise * (scale * noise_factor(t))
            ws = moved.expand(-1, G.num_ws, -1)
            img = synthesis(ws, noise_mode="const", force_fp32=True)
            loss = distance.between(distance.features(img), features)
            for each in noises:
                loss = loss + settings.noise_reg * noise_regularization(each)
            value = require_finite(loss, "projection", step)
            gradients = torch.autograd.grad(loss, [w, *noises])
        for variable, gradient in zip([w, *noises], gradients, strict=True):
            variable.grad = gradient
        optimizer.step()
        for each in noises:
            renormalize(each)
        found = w.detach().expand(-1, G.num_ws, -1).clone()
        yield ProjectionStep(step + 1, value, psnr(img, target), found, img.detach())


def w_statistics(
    G: RenderedGenerator,
    random: np.random.RandomState,
    conditions: list[Condition],
    count: int = NUM_SAMPLES,
) -> tuple[torch.Tensor, float]:
    """Mean of w, [1, 1, w_dim], and its scale: the root of the mean squared distance from it.

    Args:
        conditions: classes or labels of the samples, in turn.
        count: number of samples.
    """
    device, labels = network_device(G), TrainingLabels(G.c_dim)
    c = torch.cat([label_tensor(each, labels) for each in conditions])
    found = []
    for start in range(0, count, _CHUNK):
        places = torch.arange(start, min(start + _CHUNK, count))
        z = torch.from_numpy(random.standard_normal((len(places), G.z_dim)))
        with torch.no_grad(), computing():
            ws = G.mapping(z.to(device, torch.float32), c[places % len(c)].to(device))
        found.append(ws[:, 0].double().cpu())
    samples = torch.cat(found)
    mean = samples.mean(dim=0, keepdim=True)
    scale = (samples - mean).square().sum(dim=1).mean().sqrt().item()
    return mean[None].float().to(device), scale


def learning_rate_factor(t: float) -> float:
    """The learning rate at the fraction ``t`` of the steps, over the greatest one.

    It grows linearly in the first 5 % and falls along a cosine in the last 25 %.
    """
    down = min(1.0, (1 - t) / _RAMP_DOWN)
    return min(1.0, t / _RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


def noise_factor(t: float) -> float:
    """Standard deviation of the noise on w at the fraction ``t``, over the scale of w."""
    return float(_NOISE_SCALE * max(0.0, 1 - t / _NOISE_PART) ** 2)


def require_finite(loss: torch.Tensor, what: str, step: int) -> float:
    """The value of a loss.

    Raises:
        DivergedError: it is not finite.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise DivergedError(f"the loss of the {what} is {value} at step {step + 1}; lower --lr")
    return value


def _optimized_noise(G: RenderedGenerator, noise_reg: float) -> tuple[Any, list[torch.Tensor]]:
    """What draws, and the noise maps to optimize: those of a copy, so that G stays as it is."""
    if noise_reg == 0 or not noise_maps(G.synthesis):
        return G.synthesis, []
    synthesis = copy.deepcopy(G.synthesis)
    noises = noise_maps(synthesis)
    for each in noises:
        each.requires_grad_()
    return synthesis, noises
