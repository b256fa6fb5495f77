"""The networks of StyleGAN3 and StyleGAN2, with the parameter names of the public checkpoints."""

from sg3flow.networks.discriminator import Discriminator
from sg3flow.networks.stylegan2 import StyleGAN2Generator
from sg3flow.networks.stylegan3 import StyleGAN3Generator

__all__ = ["Discriminator", "StyleGAN2Generator", "StyleGAN3Generator"]
