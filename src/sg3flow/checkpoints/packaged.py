"""Reading a packaged generator: weights (safetensors) and a description (JSON) beside them.

``serving/package.py`` writes them; a model of the registry holds both in its folder ``artifacts``.
Neither file can carry code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from sg3flow.checkpoints.network_entries import build_network
from sg3flow.errors import CheckpointError

FORMAT = "sg3flow-generator-1"
WEIGHTS_NAME, DESCRIPTION_NAME = "generator.safetensors", "generator.json"


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
