"""A whole generator as plain ops with named inputs: what the exporters trace."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sg3flow.errors import CheckpointError
from sg3flow.export.plain_layers import PlainMapping
from sg3flow.export.plain_stylegan2 import PlainStyleGAN2
from sg3flow.export.plain_stylegan3 import PlainStyleGAN3
from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator

OUTPUT = "image"


class PlainGenerator(nn.Module):
    """z, label, psi, transform -> image, in float32, of the same weights as a generator.

    - ``z`` [N, z_dim]: the latent; ``label`` [N, c_dim]: only of a conditional network.
    - ``psi`` []: truncation psi of all layers; 1 is off.
    - ``transform`` [3, 3]: as `motion_matrix` makes it, the inverse of the motion of the image;
      only of StyleGAN3.
    - ``image`` [N, C, R, R]: nominally in [-1, 1].

    Attributes:
        inputs: the names of the inputs, in their order.
    """

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        if not isinstance(G, StyleGAN2Generator | StyleGAN3Generator):
            raise CheckpointError(f"a {type(G).__name__} cannot be exported as plain ops")
        has_transform = isinstance(G, StyleGAN3Generator)
        self.mapping = PlainMapping(G.mapping)
        self.synthesis = (PlainStyleGAN3 if has_transform else PlainStyleGAN2)(G.synthesis)
        given = {"z": G.z_dim, "label": G.c_dim, "psi": True, "transform": has_transform}
        self.inputs = tuple(name for name, is_input in given.items() if is_input)
        self.eval().requires_grad_(False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.inputs, inputs, strict=True))
        w = self.mapping(named.get("z"), named.get("label"), named["psi"])
        if "transform" not in named:
            image: torch.Tensor = self.synthesis(w)
            return image
        image = self.synthesis(w, named["transform"])
        return image

    def shapes(self, batch: int | str) -> dict[str, list[int | str]]:
        """The shape of each input."""
        known: Mapping[str, list[int | str]] = {
            "z": [batch, self.mapping.z_dim],
            "label": [batch, self.mapping.c_dim],
            "psi": [],
            "transform": [3, 3],
        }
        return {name: known[name] for name in self.inputs}


def random_inputs(plain: PlainGenerator, seeds: list[int]) -> dict[str, Any]:
    """Inputs that use all that the network has: latents of seeds, labels, psi and a motion.

    Returns:
        NumPy float32 by name.
    """
    random = np.random.RandomState(seeds[0])
    shapes: Any = plain.shapes(len(seeds))
    angle, shift = random.uniform(-3, 3), random.uniform(-0.3, 0.3, 2)
    c, s = np.cos(angle), np.sin(angle)
    found: dict[str, Any] = {"psi": random.uniform(0.3, 1)}
    found["transform"] = np.linalg.inv([[c, s, shift[0]], [-s, c, shift[1]], [0, 0, 1]])
    if "z" in shapes:
        width = shapes["z"][1]
        found["z"] = np.stack([np.random.RandomState(seed).randn(width) for seed in seeds])
    if "label" in shapes:
        width = shapes["label"][1]
        found["label"] = np.eye(width)[random.randint(width, size=len(seeds))]
    return {name: np.asarray(found[name], np.float32) for name in plain.inputs}
