"""A generator as two files that anything can read: weights (safetensors) and a description (JSON).

No pickle is involved: neither file can carry code. ``checkpoints/packaged.py`` reads them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from sg3flow.checkpoints.network_entries import network_entry
from sg3flow.checkpoints.packaged import DESCRIPTION_NAME, FORMAT, WEIGHTS_NAME
from sg3flow.files import write_bytes, write_json


@dataclass(frozen=True)
class Package:
    """A packaged generator: its two files, and the SHA-256 of the weights."""

    weights: Path
    description: Path
    weights_sha256: str


def package_generator(
    network: nn.Module,
    folder: Path,
    *,
    training_set: dict[str, Any],
    metrics: dict[str, Any],
    snapshot_sha256: str,
) -> Package:
    """Write a generator's weights and description into ``folder``.

    Args:
        network: a generator of ``sg3flow.networks``.
        training_set: what it was trained on, as the snapshot tells, its licence included.
        metrics: what was measured on it, by metric name.
        snapshot_sha256: digest of the snapshot it comes from.

    Raises:
        CheckpointError: a value that is not a primitive.
        OSError: the disk.
    """
    entry = network_entry(network)
    # A scalar buffer has no layout to share: safetensors refuses tensors that do.
    weights = save({name: tensor.contiguous() for name, tensor in entry["state_dict"].items()})
    digest = hashlib.sha256(weights).hexdigest()
    description = {
        "format": FORMAT,
        "class_name": entry["class_name"],
        "init_kwargs": entry["init_kwargs"],
        "training_set": training_set,
        "metrics": metrics,
        "snapshot_sha256": snapshot_sha256,
        "weights_sha256": digest,
    }
    write_bytes(folder / WEIGHTS_NAME, weights)
    write_json(folder / DESCRIPTION_NAME, description)
    return Package(folder / WEIGHTS_NAME, folder / DESCRIPTION_NAME, digest)
