"""Snapshots of sg3flow: the networks at one point of training, as tensors and primitives.

A snapshot is a ``torch.save``d dict that loads with ``weights_only=True``:
``format``, ``G``, ``D``, ``G_ema`` (each ``{class_name, init_kwargs, state_dict}``), ``augment_p``,
``training_set``, ``progress``. Equal values give equal bytes, independent of process, path and
history, so the SHA-256 of a file shows whether two runs agree.

The zip archive of ``torch.save`` is read by the restricted unpickler. ``torch.load`` with
``weights_only=True`` runs no foreign code either, but a small file can make it use much memory and
time. Here memory is bounded by the size of the file.
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from sg3flow.checkpoints.network_entries import (
    check_role,
    checked_entry,
    interned,
    network_entry,
    primitive_dict,
    to_primitives,
)
from sg3flow.checkpoints.public_values import PUBLIC_GLOBALS, STORAGES
from sg3flow.checkpoints.restricted_unpickler import (
    AllowList,
    GlobalName,
    RestrictedUnpickler,
    describe,
)
from sg3flow.errors import CheckpointError
from sg3flow.files import atomic_write

FORMAT = "sg3flow-snapshot-1"
# Limit of the pickle in an archive; tensors are stored beside it.
MAX_PICKLE_BYTES = 16 << 20

_NETWORKS = ("G", "D", "G_ema")
_END_MAGIC, _END_BYTES = b"PK\x05\x06", 22  # the last record of an archive without a comment
_GLOBALS = (
    GlobalName("collections", "OrderedDict"),
    GlobalName("torch._utils", "_rebuild_tensor_v2"),
    GlobalName("torch._utils", "_rebuild_parameter"),
)
# Arguments that another network of a snapshot shares with its G.
_SIZES = ("img_resolution", "img_channels", "c_dim")
_SHARED = {"G_ema": ("class_name", *_SIZES, "z_dim", "w_dim"), "D": _SIZES}
_ADA_NIMG = 100_000  # the images in which the fastest ADA moves p by 1: with `resume`
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
    """Write a snapshot atomically and return its SHA-256.

    Args:
        path: the file; an existing one is replaced.
        G, D, G_ema: networks of ``sg3flow.networks``; stored in float32.
        augment_p: current strength of the augmentation.
        training_set: primitives; at least name, resolution, channels, label_dim, num_images,
            digest and mirror.
        progress: primitives; ``nimg`` at least.

    Raises:
        CheckpointError: a value that is not a primitive.
        OSError: writing failed; ``path`` is unchanged.
    """
    content = {
        interned("format"): interned(FORMAT),
        interned("G"): network_entry(G),
        interned("D"): network_entry(D),
        interned("G_ema"): network_entry(G_ema),
        interned("augment_p"): float(augment_p),
        interned("training_set"): to_primitives(training_set, "training_set"),
        interned("progress"): to_primitives(progress, "progress"),
    }
    with atomic_write(Path(path)) as stream:
        hashing = _HashingStream(stream)
        # A stream, not a path: torch.save would store the file name in the archive.
        torch.save(content, hashing)  # type: ignore[arg-type]
    return hashing.sha256.hexdigest()


def is_snapshot_file(path: Path) -> bool:
    """Whether a file begins like a snapshot: its format is the first text in the archive."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(4096)
    return head.startswith(b"PK") and FORMAT.encode() in head


def read_snapshot(path: Path) -> dict[str, Any]:
    """Read and check a snapshot; nothing in the file is executed.

    Returns:
        the dict of ``save_snapshot`` with copied primitives and float32 tensors on the CPU.

    Raises:
        CheckpointError: not a snapshot, damaged, another format, or tensors that do not fit.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise CheckpointError(
            f"{path} is not a snapshot of sg3flow: expected {FORMAT}, found {describe(found)}"
        )
    if set(content) != _KEYS:
        wrong = ", ".join(sorted(map(describe, set(content) ^ _KEYS)))[:200]
        raise CheckpointError(f"{path}: missing or unknown keys in the snapshot: {wrong}")
    augment_p = content["augment_p"]
    if not isinstance(augment_p, float) or not augment_p >= 0:
        raise CheckpointError(f"{path}: augment_p must be a number >= 0, not {describe(augment_p)}")
    progress = primitive_dict(content["progress"], f"{path}: progress")
    _check_progress(progress, augment_p, path)
    entries = {name: checked_entry(content[name], f"{path}: {name}") for name in _NETWORKS}
    check_together(entries, path)
    return {
        "format": FORMAT,
        **entries,
        "augment_p": augment_p,
        "training_set": primitive_dict(content["training_set"], f"{path}: training_set"),
        "progress": progress,
    }


def _check_progress(progress: dict[str, Any], augment_p: float, path: Path) -> None:
    nimg = progress.get("nimg", 0)
    if type(nimg) is not int or nimg < 0:
        raise CheckpointError(
            f"{path}: progress.nimg must be a whole number >= 0, not {describe(nimg)}"
        )
    # ADA has no upper limit, but it needs _ADA_NIMG images or more to raise p by 1.
    if augment_p > 1 + nimg / _ADA_NIMG:
        raise CheckpointError(
            f"{path} contradicts itself: augment_p is {augment_p:g} after {nimg} images, and a "
            f"training raises it by at most 1 per {_ADA_NIMG} images; use another snapshot"
        )


def check_together(entries: dict[str, dict[str, Any]], path: Path) -> None:
    """Check that the networks of a file are of one training.

    Args:
        entries: by name, the first is G or G_ema; the others are compared with it.

    Raises:
        CheckpointError: they are not.
    """
    for name, entry in entries.items():
        check_role(name, entry["class_name"], str(path))
    first = next(iter(entries))
    for name, keys in _SHARED.items():
        if name not in entries:
            continue
        ours, theirs = ({key: _argument(entries[n], key) for key in keys} for n in (first, name))
        differing = [key for key in keys if ours[key] != theirs[key]]
        if differing:
            key = differing[0]
            raise CheckpointError(
                f"{path} contradicts itself: {key} of {first} is {describe(ours[key])} and of "
                f"{name} {describe(theirs[key])}; use another snapshot"
            )


def _argument(entry: dict[str, Any], key: str) -> Any:
    return entry["class_name"] if key == "class_name" else entry["init_kwargs"].get(key)


def _load(path: Path) -> Any:
    try:
        return read_archive(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


class _HashingStream:
    """Forwards bytes to a stream and hashes them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.stream.write(content)

    def flush(self) -> None:
        self.stream.flush()


def read_archive(path: Path) -> Any:
    """The value written by ``torch.save``: primitives, and tensors on the CPU.

    Raises:
        CheckpointError: the archive is damaged, was not written by ``torch.save``, or uses a
            global that is not allowed; the message names it.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            _check_end(stream, path)
            _check_entries(archive.infolist(), path)
            return _SavedArchive(archive, path).value()
    # Errors of zipfile for damaged archives; it verifies checksums while reading.
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} is damaged, cut off or not a snapshot: {reason}") from None


def _check_end(stream: BinaryIO, path: Path) -> None:
    # torch.save writes no comment; bytes after the end of a zip could be another file.
    stream.seek(-_END_BYTES, io.SEEK_END)
    if not stream.read().startswith(_END_MAGIC):
        raise CheckpointError(f"{path} is not a snapshot: bytes follow the end of its archive")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    # torch.save compresses nothing; a compressed entry could grow a thousandfold when read.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is not a snapshot: it has compressed entries")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} is not a snapshot: its entries claim more bytes than it has")
    code = [e.filename for e in entries if "/code/" in e.filename or "constants.pkl" in e.filename]
    if code:
        raise CheckpointError(
            f"{path} is not a snapshot: refused: an archive of TorchScript, which contains code "
            f"({code[0][:100]})"
        )


class _SavedArchive:
    """An open archive: ``NAME/data.pkl``, ``NAME/byteorder`` and ``NAME/data/<key>``."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.storages: dict[str, torch.Tensor] = {}
        found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(found) != 1 or found[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path} is not a snapshot: "
                f"it must hold one data.pkl of at most {MAX_PICKLE_BYTES} bytes"
            )
        self.root = found[0].filename.removesuffix("data.pkl")

    def value(self) -> Any:
        allowed = AllowList(
            {name: PUBLIC_GLOBALS.functions[name] for name in _GLOBALS},
            frozenset(GlobalName("torch", name) for name in STORAGES),
            self.storage,
        )
        stream = io.BytesIO(self.archive.read(f"{self.root}data.pkl"))
        try:
            self.check_byteorder()
            value = RestrictedUnpickler(stream, allowed).load()
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} cannot be read as a snapshot: {error}") from None
        if stream.read(1):
            raise CheckpointError(f"{self.path} is not a snapshot: bytes follow its pickle")
        return value

    def storage(self, described: Any) -> torch.Tensor:
        """The storage of a persistent ID as a 1-D tensor; each key has one storage."""
        parts = described if isinstance(described, tuple) and len(described) == 5 else (None,) * 5
        tag, kind, key, _location, count = parts
        if tag != "storage" or not isinstance(kind, GlobalName) or not isinstance(key, str):
            raise CheckpointError("refused: it refers to an object that is not a storage of torch")
        dtype = STORAGES[kind.name]
        if key not in self.storages:
            content = self.archive.read(f"{self.root}data/{key}")
            if type(count) is not int or len(content) != count * dtype.itemsize:
                raise CheckpointError(
                    f"the storage {describe(key)} does not have its declared length"
                )
            self.storages[key] = _numbers(content, dtype)
        if self.storages[key].dtype != dtype:
            raise CheckpointError(f"refused: the storage {describe(key)} with two types of numbers")
        return self.storages[key]

    def check_byteorder(self) -> None:
        name = f"{self.root}byteorder"
        if name in self.archive.namelist() and self.archive.read(name) != b"little":
            raise CheckpointError("the tensors were saved by a big-endian machine")


def _numbers(content: bytes, dtype: torch.dtype) -> torch.Tensor:
    if not content:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype)
