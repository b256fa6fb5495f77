"""sg3flow: from a folder of images to a StyleGAN3 model in the MLflow registry.

The public names below load on first use; ``import sg3flow`` imports neither torch nor MLflow nor
NumPy. ``docs/python.md`` shows how to use them.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg3flow.addresses import RESOLVERS
from sg3flow.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MetricError,
    Sg3flowError,
    TrackingError,
)

if TYPE_CHECKING:
    from sg3flow import metrics
    from sg3flow.checkpoints import load_networks, save_snapshot
    from sg3flow.latent.project_call import project
    from sg3flow.metrics import frechet_distance
    from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
    from sg3flow.networks.augment import AugmentPipe
    from sg3flow.ops import bias_act, filtered_lrelu, setup_filter, upfirdn2d
    from sg3flow.rendering.loaded_generator import LoadedGenerator, load

__version__ = "0.2.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "load": "rendering.loaded_generator",
    "LoadedGenerator": "rendering.loaded_generator",
    "project": "latent.project_call",
    "StyleGAN2Generator": "networks",
    "StyleGAN3Generator": "networks",
    "Discriminator": "networks",
    "AugmentPipe": "networks.augment",
    "bias_act": "ops",
    "filtered_lrelu": "ops",
    "setup_filter": "ops",
    "upfirdn2d": "ops",
    "load_networks": "checkpoints",
    "save_snapshot": "checkpoints",
    "frechet_distance": "metrics",
}
_PACKAGES = ("metrics",)

__all__ = [
    "AugmentPipe",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Discriminator",
    "LoadedGenerator",
    "MetricError",
    "Sg3flowError",
    "StyleGAN2Generator",
    "StyleGAN3Generator",
    "TrackingError",
    "__version__",
    "bias_act",
    "filtered_lrelu",
    "frechet_distance",
    "load",
    "load_networks",
    "metrics",
    "project",
    "save_snapshot",
    "setup_filter",
    "upfirdn2d",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"sg3flow.{_PUBLIC[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"sg3flow.{name}")
    raise AttributeError(f"module 'sg3flow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


def _from_mlflow(uri: str) -> Path:
    path: Path = importlib.import_module("sg3flow.tracking.mlflow_store").local_artifact(uri)
    return path


# The checkpoints layer is below the tracking layer and may not import it: register it here.
RESOLVERS.update(models=_from_mlflow, runs=_from_mlflow)
