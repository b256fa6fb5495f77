"""A packaged generator: weights (safetensors) and a description (JSON), written and read.

A registered model holds both in its folder ``artifacts``. No pickle is involved: neither file can
carry code.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from sg3flow.checkpoints.network_entries import build_network, network_entry
from sg3flow.errors import CheckpointError
from sg3flow.files import write_bytes, write_json

FORMAT = "sg3flow-generator-1"
WEIGHTS_NAME, DESCRIPTION_NAME = "generator.safetensors", "generator.json"


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
        training_set: what it was trained on, as the snapshot tells, its license included.
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


def load_packaged(weights: Path, description: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The generator of a package, in evaluation mode on the CPU, and its description.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not belong together.
    """
    content = _read_description(description)
    try:
        data = weights.read_bytes()
        state = load(data)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(_unusable(weights, error)) from None
    if content.get("weights_sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(f"{weights} is not the file that {description.name} describes")
    entry = {key: content.get(key) for key in ("class_name", "init_kwargs")}
    return build_network(entry | {"state_dict": state}, str(weights)), content


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(_unusable(path, error)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe a generator (format {FORMAT})")
    if not isinstance(content.get("training_set"), dict):
        raise CheckpointError(f"{path} does not say what the generator was trained on")
    return content


def _unusable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"{path.parent} holds no usable generator: {path.name}: {reason}"
