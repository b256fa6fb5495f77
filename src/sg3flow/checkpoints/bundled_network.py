"""G_ema, and D if there is one, in one safetensors file with a description in its header.

The network that comes with this package has this form, and ``sg3flow export`` writes it. An export
has all tensors in float32. In the file of this package weights of two or more dimensions are stored
in float16, which halves it; all else (biases, averages, frequencies, filters) is stored in float32.
Reading gives float32 throughout. Rounding changes a weight by at most 0.05 percent, or 3e-8 if that
is more.

A file of this form has no G of its own: a training that starts from it starts G from G_ema.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from sg3flow.checkpoints.network_entries import (
    checked_entry,
    network_entry,
    primitive_dict,
    to_primitives,
)
from sg3flow.checkpoints.snapshots import check_together, read_snapshot
from sg3flow.errors import CheckpointError
from sg3flow.files import write_bytes

FORMAT = "sg3flow-bundled-1"
SUFFIX = ".safetensors"

_ROLES = ("G_ema", "D")
_DESCRIBED = ({"G_ema"}, {"G_ema", "D"})
_KEY = "sg3flow"  # of the description in the metadata; one key, as their order is not fixed
_MOST_HEADER_BYTES = 1 << 24
_LENGTH_BYTES = 8  # of the header's length, little-endian, at the start of the file


def write_bundled(snapshot: Path, dest: Path) -> dict[str, Any]:
    """Write G_ema and D of a snapshot to ``dest`` in half precision.

    Returns:
        The content of the snapshot, see ``read_snapshot``.

    Raises:
        CheckpointError: not a snapshot, or a weight is too large for float16.
        OSError: writing failed.
    """
    content = read_snapshot(snapshot)
    entries = {role: content[role] for role in _ROLES}
    described = content["training_set"], content["progress"]
    write_bytes(dest, _content(entries, *described, half_of=snapshot))
    return content


def bundled_bytes(
    *,
    G_ema: nn.Module,
    D: nn.Module | None = None,
    training_set: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> bytes:
    """A file with exactly G_ema, and D if it is given; equal networks give equal bytes.

    Args:
        training_set, progress: as in a snapshot; None: not known.

    Raises:
        CheckpointError: a value is not a primitive.
    """
    networks = {"G_ema": G_ema, "D": D}
    entries = {role: network_entry(net) for role, net in networks.items() if net is not None}
    described = to_primitives(training_set or {}, "training_set")
    return _content(entries, described, to_primitives(progress or {}, "progress"))


def is_bundled(path: Path) -> bool:
    """Whether a file begins like one of this form."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = stream.read(min(length, _MOST_HEADER_BYTES))
    return header.startswith(b"{") and FORMAT.encode() in header


def _content(
    entries: Mapping[str, dict[str, Any]],
    training_set: dict[str, Any],
    progress: dict[str, Any],
    half_of: Path | None = None,
) -> bytes:
    """The file of entries of networks.

    Args:
        half_of: the file whose weights are to be rounded to float16; None: they are stored exactly.
    """
    description = {
        "format": FORMAT,
        "networks": {
            role: {key: entry[key] for key in ("class_name", "init_kwargs")}
            for role, entry in entries.items()
        },
        "training_set": training_set,
        "progress": progress,
    }
    tensors = {
        f"{role}.{name}": tensor if half_of is None else _half(tensor, f"{half_of}: {role}.{name}")
        for role, entry in entries.items()
        for name, tensor in entry["state_dict"].items()
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content: bytes = save(contiguous, {_KEY: json.dumps(description, sort_keys=True)})
    return content


def read_bundled(path: Path) -> dict[str, Any]:
    """Read and check such a file; nothing in it is executed.

    Returns:
        ``G_ema`` and ``D`` as ``{class_name, init_kwargs, state_dict}`` with float32 tensors, D may
        be None; ``training_set`` and ``progress``.

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
    if not isinstance(described, Mapping) or set(described) not in _DESCRIBED:
        raise CheckpointError(f"{path} must describe G_ema, and no other network but D")
    states: dict[str, dict[str, torch.Tensor]] = {role: {} for role in described}
    for name, tensor in tensors.items():
        role, _, rest = name.partition(".")
        if role not in states:
            raise CheckpointError(f"{path} has a tensor of no network: {name[:100]}")
        states[role][rest] = tensor
    entries = {
        role: checked_entry(_entry(described[role], states[role]), f"{path}: {role}")
        for role in _ROLES
        if role in described
    }
    check_together(entries, path)
    return {
        "D": None,
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


def _half(tensor: torch.Tensor, where: str) -> torch.Tensor:
    if tensor.ndim < 2 or not _is_weight(where):
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise CheckpointError(f"{where} has values that float16 cannot hold; use another snapshot")
    return half


def _is_weight(name: str) -> bool:
    return name.endswith((".weight", ".const"))
