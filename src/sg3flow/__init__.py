"""sg3flow: from a folder of images to a StyleGAN3 model in the MLflow registry.

The public names below load on first use; ``import sg3flow`` imports neither torch nor MLflow.
"""

import importlib
from pathlib import Path
from typing import Any

from sg3flow.addresses import RESOLVERS

__version__ = "0.2.0"

# Public name -> the module that defines it.
_PUBLIC = {
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

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"sg3flow.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'sg3flow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)


def _from_mlflow(uri: str) -> Path:
    path: Path = importlib.import_module("sg3flow.tracking.mlflow_store").local_artifact(uri)
    return path


# The checkpoints layer is below the tracking layer and may not import it: register it here.
RESOLVERS.update(models=_from_mlflow, runs=_from_mlflow)
