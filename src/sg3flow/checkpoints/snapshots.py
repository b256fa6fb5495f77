"""Our snapshots: the networks of one moment of training, as tensors and plain values.

A snapshot is a ``torch.save``d dict that loads with ``weights_only=True``:
``format``, ``G``, ``D``, ``G_ema`` (each ``{class_name, init_kwargs, state_dict}``), ``augment_p``,
``training_set``, ``progress``. The same values give the same bytes, whatever the process, the path
or the history, so that the SHA-256 of a file tells whether two runs agree.
"""

import hashlib
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from sg3flow.checkpoints.entries import checked_entry, network_entry
from sg3flow.checkpoints.plain import plain, plain_dict, shown, text
from sg3flow.errors import CheckpointError
from sg3flow.files import replaced_file

FORMAT = "sg3flow-snapshot-1"

_NETWORKS = ("G", "D", "G_ema")
_KEYS = {"format", *_NETWORKS, "augment_p", "training_set", "progress"}
_MAX_PICKLE_BYTES = 16 << 20
_PICKLE_START = b"\x80\x02"  # torch.save writes protocol 2
_REFUSAL = re.compile(
    r"(?:WeightsUnpickler error: |Trying to load )(.*?)(?: Please use |$)", re.MULTILINE
)


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
        with path.open("rb") as stream:
            _check_archive(path, stream)
            stream.seek(0)
            # A stream, not the path: by its name torch.load may take the file for another format.
            return torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    # What a damaged or hostile file makes of torch's own reader.
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        reason = _first_line(error)
        raise CheckpointError(f"{path} cannot be read as a snapshot: {reason}") from None


def _check_archive(path: Path, content: BinaryIO) -> None:
    """Refuse a damaged file, and one that would take more memory than its own size."""
    try:
        with zipfile.ZipFile(content) as archive:
            entries = archive.infolist()
            _check_entries(entries, path)
            damaged = archive.testzip()  # torch itself compares no checksums
            with archive.open(_pickle_entry(entries, path)) as stream:
                start = stream.read(len(_PICKLE_START))
    except (zipfile.BadZipFile, struct.error, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is cut off or no snapshot: {_first_line(error)}") from None
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged[:100]} is wrong")
    if start != _PICKLE_START:
        raise CheckpointError(f"{path} is no snapshot: torch.save did not write its data.pkl")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    # torch.save compresses nothing; a compressed entry could grow a thousandfold when read.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is no snapshot: it holds compressed entries")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} is no snapshot: its entries claim more bytes than it has")


def _pickle_entry(entries: list[zipfile.ZipInfo], path: Path) -> zipfile.ZipInfo:
    found = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(found) != 1 or found[0].file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path} is no snapshot: it holds no (or no sane) data.pkl")
    return found[0]


def _first_line(error: Exception) -> str:
    """What went wrong, without torch's advice to read the file unsafely."""
    refusal = _REFUSAL.search(str(error))
    if refusal is not None:
        return f"refused: {refusal[1][:200]}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


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
