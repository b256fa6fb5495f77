"""Reads the zip archives of ``torch.save`` as data, with the machine that reads public pickles.

``torch.load(weights_only=True)`` runs no foreign code either, but a file of a hundred bytes can
make it fill the memory (``bytearray(10**10)``) or hash a nested key for ever, and it hands archives
of TorchScript to another reader. Here nothing grows beyond the size of the file.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sg3flow.checkpoints.pickle_machine import Name, Vocabulary, read_pickle
from sg3flow.checkpoints.plain import shown
from sg3flow.checkpoints.public_values import PUBLIC_NAMES, STORAGES
from sg3flow.errors import CheckpointError

_MAX_PICKLE_BYTES = 16 << 20
_END_MAGIC, _END_BYTES = b"PK\x05\x06", 22  # the last record of an archive without a comment
_CALLS = (
    Name("collections", "OrderedDict"),
    Name("torch._utils", "_rebuild_tensor_v2"),
    Name("torch._utils", "_rebuild_parameter"),
)


def read_saved(path: Path) -> Any:
    """The value that ``torch.save`` wrote: plain values, and tensors on the CPU.

    Raises:
        CheckpointError: the archive is damaged, is none of ``torch.save``, or names what is not
            allowed; the message tells the name.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            _check_end(stream, path)
            _check_entries(archive.infolist(), path)
            return _SavedArchive(archive, path).value()
    # What a damaged archive makes of zipfile; it compares the checksums while it reads.
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} is damaged, cut off or no snapshot: {reason}") from None


def _check_end(stream: BinaryIO, path: Path) -> None:
    # torch.save writes no comment; what follows the end of a zip may be read as another file.
    stream.seek(-_END_BYTES, io.SEEK_END)
    if not stream.read().startswith(_END_MAGIC):
        raise CheckpointError(f"{path} is no snapshot: bytes follow the end of its archive")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    # torch.save compresses nothing; a compressed entry could grow a thousandfold when read.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is no snapshot: it holds compressed entries")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} is no snapshot: its entries claim more bytes than it has")
    code = [e.filename for e in entries if "/code/" in e.filename or "constants.pkl" in e.filename]
    if code:
        raise CheckpointError(
            f"{path} is no snapshot: refused: an archive of TorchScript, which holds code "
            f"({code[0][:100]})"
        )


class _SavedArchive:
    """An open archive: ``NAME/data.pkl``, ``NAME/byteorder`` and ``NAME/data/<key>``."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.storages: dict[str, torch.Tensor] = {}
        found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(found) != 1 or found[0].file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path} is no snapshot: it holds no (or no sane) data.pkl")
        self.root = found[0].filename.removesuffix("data.pkl")

    def value(self) -> Any:
        names = Vocabulary(
            {name: PUBLIC_NAMES.calls[name] for name in _CALLS},
            frozenset(Name("torch", name) for name in STORAGES),
            self.storage,
        )
        stream = io.BytesIO(self.archive.read(f"{self.root}data.pkl"))
        try:
            self.check_byteorder()
            value = read_pickle(stream, names)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} cannot be read as a snapshot: {error}") from None
        if stream.read(1):
            raise CheckpointError(f"{self.path} is no snapshot: bytes follow its pickle")
        return value

    def storage(self, described: Any) -> torch.Tensor:
        """The numbers that a persistent id names, as a 1-D tensor: each key has one."""
        parts = described if isinstance(described, tuple) and len(described) == 5 else (None,) * 5
        tag, kind, key, _location, count = parts
        if tag != "storage" or not isinstance(kind, Name) or not isinstance(key, str):
            raise CheckpointError("refused: it refers to an object that is no storage of torch")
        dtype = STORAGES[kind.name]
        if key not in self.storages:
            content = self.archive.read(f"{self.root}data/{key}")
            if type(count) is not int or len(content) != count * dtype.itemsize:
                raise CheckpointError(f"the storage {shown(key)} is not as long as it says")
            self.storages[key] = _numbers(content, dtype)
        if self.storages[key].dtype != dtype:
            raise CheckpointError(f"refused: the storage {shown(key)} with two types of numbers")
        return self.storages[key]

    def check_byteorder(self) -> None:
        name = f"{self.root}byteorder"
        if name in self.archive.namelist() and self.archive.read(name) != b"little":
            raise CheckpointError("the tensors were saved by a big-endian machine")


def _numbers(content: bytes, dtype: torch.dtype) -> torch.Tensor:
    if not content:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype)
