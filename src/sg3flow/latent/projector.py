"""A network with all that projecting photos onto it takes; command, Python API and pages use it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sg3flow.config import ProjectConfig
from sg3flow.latent.image_distances import Distance, open_distance
from sg3flow.latent.pivotal_tuning import TuningSettings, TuningStep, tune
from sg3flow.latent.projection import ProjectionSettings, ProjectionStep, project
from sg3flow.latent.targets import TargetForm, as_tensor
from sg3flow.rendering.conditions import Condition, TrainingLabels
from sg3flow.rendering.images import Image, Model, RenderedGenerator, network_device


@dataclass(frozen=True)
class Projector:
    """What the projections of several photos share.

    Attributes:
        form: how photos become images of the network.
        conditions: whose w are sampled, in turn.
    """

    model: Model
    config: ProjectConfig
    form: TargetForm
    distance: Distance
    conditions: list[Condition]

    @classmethod
    def open(cls, model: Model, config: ProjectConfig, condition: Condition) -> "Projector":
        """Check the settings against a network, and load the weights of the loss.

        Args:
            condition: whose w are sampled; None: those of all classes or known labels.

        Raises:
            ConfigError: the settings do not fit together, or do not fit the network.
            MetricError: the weights are not available.
        """
        G = model.G
        form = TargetForm.of(
            G.img_resolution, G.img_channels, config.transform, config.resolution, config.background
        )
        distance = open_distance(config.loss, network_device(G), G.img_resolution)
        return cls(model, config, form, distance, sampled_conditions(model.labels, condition))

    def projection(self, target: Image) -> Iterator[ProjectionStep]:
        """The steps of a projection; the last has the result."""
        settings = ProjectionSettings.of(self.config)
        return project(self.model.G, as_tensor(target), self.distance, settings, self.conditions)

    def tuning(
        self, w: torch.Tensor, target: Image
    ) -> tuple[RenderedGenerator, Iterator[TuningStep]]:
        """A copy of the network, and the steps that tune it to draw the target at w."""
        tuned = copy.deepcopy(self.model.G)
        settings, img = TuningSettings.of(self.config), as_tensor(target)
        steps = tune(self.model.G, tuned, w, img, self.distance, settings, self.conditions)
        return tuned, steps


def sampled_conditions(labels: TrainingLabels, condition: Condition) -> list[Condition]:
    """The conditions whose w are sampled: the given one, or all classes or known labels."""
    if condition is not None:
        return [condition]
    return labels.in_turn(len(labels.samples) or labels.dim or 1)
