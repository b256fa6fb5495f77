"""The form of the network that comes with this package: G_ema and D in one safetensors file.

Weights of two or more dimensions are stored in float16, which halves the file; all else (biases,
averages, frequencies, filters) is stored in float32. Reading gives float32 throughout. Rounding
changes a weight by at most 0.05 percent, or 3e-8 if that is more.

A file of this form has no G of its own: a training that starts from it starts G from G_ema.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sg3flow.checkpoints.network_entries import checked_entry, primitive_dict
from sg3flow.checkpoints.snapshots import check_together, read_snapshot
from sg3flow.errors import CheckpointError
from sg3flow.files import write_bytes

FORMAT = "sg3flow-bundled-1"
SUFFIX = ".safetensors"

_ROLES = ("G_ema", "D")
_KEY = "sg3flow"  # of the description in the metadata; one key, as their order is not fixed
_LENGTH_BYTES = 8  # of the header's length, little-endian, at the start of the file


def write_bundled(snapshot: Path, dest: Path) -> dict[str, Any]:
    """Write G_ema and D of a snapshot to ``dest``; equal snapshots give equal bytes.

    Returns:
        The content of the snapshot, see ``read_snapshot``.

    Raises:
        CheckpointError: not a snapshot, or a weight is too large for float16.
        OSError: writing failed.
    """
    content = read_snapshot(snapshot)
    networks = {role: content[role] for role in _ROLES}
    description = {
        "format": FORMAT,
        "networks": {
            role: {key: entry[key] for key in ("class_name", "init_kwargs")}
            for role, entry in networks.items()
        },
        "training_set": content["training_set"],
        "progress": content["progress"],
    }
    tensors = {
        f"{role}.{name}": _stored(tensor, f"{snapshot}: {role}.{name}")
        for role, entry in networks.items()
        for name, tensor in entry["state_dict"].items()
    }
    write_bytes(dest, save(tensors, {_KEY: json.dumps(description, sort_keys=True)}))
    return content


def read_bundled(path: Path) -> dict[str, Any]:
    """Read and check such a file; nothing in it is executed.

    Returns:
        ``G_ema`` and ``D`` as ``{class_name, init_kwargs, state_dict}`` with float32 tensors,
        ``training_set`` and ``progress``.

    Raises:
        CheckpointError: not such a file, damaged, or tensors that do not fit.
    """
    try:
        content = path.read_bytes()
        tensors, description = load(content), _description(content)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} cannot be read as safetensors: {reason}") from None
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} does not describe networks of sg3flow (format {FORMAT}); give a registered "
            "model as its folder or as models:/NAME/VERSION"
        )
    described = description.get("networks")
    if not isinstance(described, Mapping) or set(described) != set(_ROLES):
        raise CheckpointError(f"{path} must describe the networks {' and '.join(_ROLES)}")
    states: dict[str, dict[str, torch.Tensor]] = {role: {} for role in _ROLES}
    for name, tensor in tensors.items():
        role, _, rest = name.partition(".")
        if role not in states:
            raise CheckpointError(f"{path} has a tensor of no network: {name[:100]}")
        states[role][rest] = tensor
    entries = {
        role: checked_entry(_entry(described[role], states[role]), f"{path}: {role}")
        for role in _ROLES
    }
    check_together(entries, path)
    return {
        **entries,
        "training_set": primitive_dict(description.get("training_set"), f"{path}: training_set"),
        "progress": primitive_dict(description.get("progress"), f"{path}: progress"),
    }


def _entry(described: Any, state: dict[str, torch.Tensor]) -> Any:
    return {**described, "state_dict": state} if isinstance(described, Mapping) else described


def _description(content: bytes) -> dict[str, Any]:
    """The description in the header of a file that ``load`` has accepted."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    text = (header.get("__metadata__") or {}).get(_KEY, "{}")
    description = json.loads(text)
    return description if isinstance(description, dict) else {}


def _stored(tensor: torch.Tensor, where: str) -> torch.Tensor:
    if tensor.ndim < 2 or not _is_weight(where):
        return tensor.contiguous()
    half = tensor.half().contiguous()
    if not half.isfinite().all():
        raise CheckpointError(f"{where} has values that float16 cannot hold; use another snapshot")
    return half


def _is_weight(name: str) -> bool:
    return name.endswith((".weight", ".const"))
