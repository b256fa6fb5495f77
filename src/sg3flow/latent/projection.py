"""Projection: the w whose image is nearest to a target (Karras et al. 2020, App. D).

``project`` yields after every step, so that a command, a tracking server and a live view consume
the same iterator. Nothing is read or written here. Equal arguments give equal numbers on a CPU.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sg3flow.config import PROJECTION_SPACES, ProjectConfig
from sg3flow.errors import ConfigError, DivergedError
from sg3flow.latent.image_distances import Distance, psnr
from sg3flow.latent.noise_maps import noise_maps, noise_regularization, renormalize
from sg3flow.latent.refinement import refine
from sg3flow.latent.w_space import WSpace, sample_w_space
from sg3flow.precision import computing
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.images import RenderedGenerator, network_device

_RAMP_UP, _RAMP_DOWN = 0.05, 0.25  # parts of the steps
_NOISE_PART, _NOISE_SCALE = 0.75, 0.05
_REFINED_PART = 1 / 2  # of the steps


@dataclass(frozen=True)
class ProjectionSettings:
    """How to project.

    Attributes:
        space: ``w``, one vector for all layers; or ``w+``, one per layer, which comes nearer to the
            target and is worse to edit.
        steps: evaluations of the image and its gradient: steps of Adam, at last of L-BFGS.
        lr: the greatest learning rate of Adam, in standard deviations of w.
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
        loss: what was minimized: of Adam, at the w before the step with the noise of the step; of
            L-BFGS, the least so far.
        psnr: of that image to the target, in dB.
        w: after the step, float32 [1, num_ws, w_dim]; of L-BFGS, that of the least loss.
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

    1. The distribution of w, from 10,000 samples. What is optimized are its whitened coordinates
       (`w_space.py`), not w itself as in the paper: with the same number of steps the image comes
       nearer.
    2. Each step of Adam adds noise to w that fades to 0 over the first three quarters, draws the
       image, and lowers its distance to the target.
    3. L-BFGS makes the second half of the steps, unless noise maps are optimized.
    4. The noise maps of a StyleGAN2 network are optimized, too: they take what no w can draw. They
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
    random = np.random.RandomState(settings.seed)
    space = sample_w_space(G, random, conditions)
    objective = _Objective(G, target, distance, settings, space)
    refined = 0 if objective.noises else int(settings.steps * _REFINED_PART)
    coarse = settings.steps - refined
    yield from _coarse_steps(objective, settings.lr, coarse, random)
    for i, found in enumerate(refine(objective.u, lambda: _at_rest(objective, coarse), refined)):
        yield replace(found, step=coarse + i + 1, w=found.w.clone())


def _coarse_steps(
    objective: "_Objective", lr: float, count: int, random: np.random.RandomState
) -> Iterator[ProjectionStep]:
    """Steps of Adam with fading noise on w."""
    variables = [objective.u, *objective.noises]
    optimizer = torch.optim.Adam(variables)
    for step in range(count):
        t = (step + 0.5) / count
        noise = torch.from_numpy(random.standard_normal(objective.u.shape)).to(objective.u)
        optimizer.param_groups[0]["lr"] = lr * learning_rate_factor(t)
        evaluation = objective.at(noise * noise_factor(t), step)
        for variable, gradient in zip(variables, evaluation.gradients, strict=True):
            variable.grad = gradient
        optimizer.step()
        for each in objective.noises:
            renormalize(each)
        yield objective.result(evaluation, step)


def _at_rest(
    objective: "_Objective", step: int
) -> tuple[torch.Tensor, torch.Tensor, ProjectionStep]:
    evaluation = objective.at(0.0, step)
    return evaluation.loss, evaluation.gradients[0], objective.result(evaluation, step)


@dataclass(frozen=True)
class _Evaluation:
    loss: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    img: torch.Tensor


class _Objective:
    """What is minimized, as a function of the whitened coordinates u and of noise maps.

    Attributes:
        u: float32 [1, 1 or num_ws, w_dim].
        noises: the noise maps that are optimized.
    """

    def __init__(
        self,
        G: RenderedGenerator,
        target: torch.Tensor,
        distance: Distance,
        settings: ProjectionSettings,
        space: WSpace,
    ) -> None:
        self._num_ws, self._space = G.num_ws, space
        self._target, self._distance = target.to(network_device(G)), distance
        self._noise_reg = settings.noise_reg
        self._synthesis, self.noises = _optimized_noise(G, settings.noise_reg)
        num_vectors = 1 if settings.space == "w" else G.num_ws
        self.u = space.mean.new_zeros(1, num_vectors, G.w_dim).requires_grad_()
        with computing():
            self._features = [each.detach() for each in distance.features(self._target)]

    def at(self, noise: torch.Tensor | float, step: int) -> _Evaluation:
        """The loss at ``u + noise``, and its gradients with respect to u and the noise maps."""
        with torch.enable_grad(), computing():
            ws = self._space.at(self.u + noise).expand(-1, self._num_ws, -1)
            img = self._synthesis(ws, noise_mode="const", force_fp32=True)
            loss = self._distance.between(self._distance.features(img), self._features)
            for each in self.noises:
                loss = loss + self._noise_reg * noise_regularization(each)
            require_finite(loss, "projection", step)
            gradients = torch.autograd.grad(loss, [self.u, *self.noises])
        return _Evaluation(loss.detach(), gradients, img.detach())

    def result(self, evaluation: _Evaluation, step: int) -> ProjectionStep:
        """A step from 0, after which w is that of the present u."""
        w = self._space.at(self.u.detach()).expand(-1, self._num_ws, -1).clone()
        img = evaluation.img
        return ProjectionStep(step + 1, evaluation.loss.item(), psnr(img, self._target), w, img)


def learning_rate_factor(t: float) -> float:
    """The learning rate at the fraction ``t`` of the steps, over the greatest one.

    It grows linearly in the first 5 % and falls along a cosine in the last 25 %.
    """
    down = min(1.0, (1 - t) / _RAMP_DOWN)
    return min(1.0, t / _RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


def noise_factor(t: float) -> float:
    """Standard deviation of the noise on whitened coordinates at the fraction ``t``."""
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
