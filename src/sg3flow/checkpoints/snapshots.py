"""Our snapshots: the networks of one moment of training, as tensors and plain values.

A snapshot is a ``torch.save``d dict that loads with ``weights_only=True``:
``format``, ``G``, ``D``, ``G_ema`` (each ``{class_name, init_kwargs, state_dict}``), ``augment_p``,
``training_set``, ``progress``. The same values give the same bytes, whatever the process, the path
or the history, so that the SHA-256 of a file tells whether two runs agree.
"""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from sg3flow.checkpoints.entries import checked_entry, network_entry
from sg3flow.checkpoints.plain import plain, plain_dict, shown, text
from sg3flow.checkpoints.saved_archive import read_saved
from sg3flow.errors import CheckpointError
from sg3flow.files import replaced_file

FORMAT = "sg3flow-snapshot-1"

_NETWORKS = ("G", "D", "G_ema")
_KEYS = {"format", *_NETWORKS, "augment_p", "training_set", "progress"}


def save_snapshot(
    path: Path,
    *,
    G: nn.Module,
    D: nn.Module,
    G_ema: nn.Module,
    augment_p: float,
    training_set: dict[str, Any],
    progress: dict[str, Any],
) -> str:
    """Write a snapshot in one step and return the SHA-256 of its bytes.

    Args:
        path: the file; one that stands there is replaced.
        G, D, G_ema: networks of ``sg3flow.networks``; they are stored in float32.
        augment_p: current strength of the augmentation.
        training_set: plain values; at least name, resolution, channels, label_dim, num_images,
            digest and mirror.
        progress: plain values; ``nimg`` at least.

    Raises:
        CheckpointError: a value that is not plain.
        OSError: the disk; ``path`` is then as it was.
    """
    content = {
        text("format"): text(FORMAT),
        text("G"): network_entry(G),
        text("D"): network_entry(D),
        text("G_ema"): network_entry(G_ema),
        text("augment_p"): float(augment_p),
        text("training_set"): plain(training_set, "training_set"),
        text("progress"): plain(progress, "progress"),
    }
    with replaced_file(Path(path)) as stream:
        hashing = _HashingStream(stream)
        # A stream, not a path: torch.save would put the file's name into the archive.
        torch.save(content, hashing)  # type: ignore[arg-type]
    return hashing.sha256.hexdigest()


def read_snapshot(path: Path) -> dict[str, Any]:
    """Read and check a snapshot; nothing in the file is executed.

    Returns:
        the dict of ``save_snapshot``, its plain values copied, its tensors float32 on the CPU.

    Raises:
        CheckpointError: no snapshot, a damaged one, another format, or tensors that do not fit.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise CheckpointError(
            f"{path} is no snapshot of ours: expected {FORMAT}, found {shown(found)}"
        )
    if set(content) != _KEYS:
        wrong = ", ".join(sorted(map(shown, set(content) ^ _KEYS)))[:200]
        raise CheckpointError(f"{path}: missing or unknown keys in the snapshot: {wrong}")
    augment_p = content["augment_p"]
    if not isinstance(augment_p, float) or not augment_p >= 0:
        raise CheckpointError(f"{path}: augment_p must be a number >= 0, not {shown(augment_p)}")
    return {
        "format": FORMAT,
        **{name: checked_entry(content[name], f"{path}: {name}") for name in _NETWORKS},
        "augment_p": augment_p,
        "training_set": plain_dict(content["training_set"], f"{path}: training_set"),
        "progress": plain_dict(content["progress"], f"{path}: progress"),
    }


def _load(path: Path) -> Any:
    try:
        return read_saved(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


class _HashingStream:
    """Passes bytes on to a stream and hashes them on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.stream.write(content)

    def flush(self) -> None:
        self.stream.flush()
