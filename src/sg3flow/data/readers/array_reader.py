"""Read data sets that store images as records: CIFAR-10, MNIST and LMDB (LSUN).

Nothing in them is executed: the unpickler for CIFAR-10 builds only arrays and primitives.
"""

import importlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sg3flow.data.readers.labels import LabelsFile
from sg3flow.data.readers.storage import check_entry_size, check_has_rows
from sg3flow.data.readers.tar_reader import report_damage, unpacked
from sg3flow.errors import DataError
from sg3flow.files import PositionFile, Scratch

CIFAR_NAME = "cifar-10-python.tar.gz"
_CIFAR_FOLDER = "cifar-10-batches-py"
_CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))  # the training half, as published
_CIFAR_BYTES = 3 * 32 * 32
_MNIST_MARK, _MNIST_SIDE, _MNIST_HEADER, _MNIST_LABELS_HEADER = 0x803, 28, 16, 8
_MNIST_BYTES = _MNIST_SIDE * _MNIST_SIDE
_MNIST_PAD = 2  # pixels at every border: 32 is a power of two


class RecordStorage:
    """Records of one length in a file; ``as_image`` turns a record into an image file."""

    def __init__(
        self,
        path: Path,
        scratch: Scratch,
        names: list[str],
        header: int,
        length: int,
        as_image: Callable[[bytes], bytes],
    ) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self.names = names
        check_has_rows(names, path)
        self._offsets = {name: header + i * length for i, name in enumerate(names)}
        self._length, self._as_image = length, as_image
        self._scratch = scratch  # keeps the temporary file alive
        self._file = PositionFile(scratch.path)

    def read(self, name: str) -> bytes:
        return self._as_image(self._file.read(self._length, self._offsets[name]))

    def size(self, name: str) -> int:
        return self._length


@dataclass(frozen=True)
class Records:
    """Images in the order of their names, and their labels."""

    storage: RecordStorage
    labels: LabelsFile


def is_mnist(path: PurePath) -> bool:
    """Whether a file has the name of an MNIST image file."""
    return path.name.lower().endswith(("-images-idx3-ubyte.gz", "-images-idx3-ubyte"))


def read_mnist(path: Path) -> Records:
    """Read an MNIST image file, padded to 32 px, and the labels file beside it, if any.

    Raises:
        DataError: a file is damaged, or the two files do not match.
    """
    with report_damage(path):
        scratch = _uncompressed(path)
        with scratch.path.open("rb") as stream:
            header = stream.read(_MNIST_HEADER)
        if len(header) < _MNIST_HEADER or struct.unpack(">I", header[:4])[0] != _MNIST_MARK:
            raise DataError(f"{path} is not an image file of MNIST (IDX with three dimensions)")
        count, height, width = struct.unpack(">3I", header[4:])
        if (height, width) != (_MNIST_SIDE, _MNIST_SIDE):
            raise DataError(f"{path} holds images of {width}x{height}; MNIST's are 28x28")
        if scratch.path.stat().st_size != _MNIST_HEADER + count * _MNIST_BYTES:
            raise DataError(f"{path} is cut off: it should hold {count:,} images; fetch it again")
    names = [f"{row:08d}" for row in range(count)]
    labels = _mnist_labels(path, count)
    by_name = dict(zip(names, labels, strict=True)) if labels is not None else None
    storage = RecordStorage(path, scratch, names, _MNIST_HEADER, _MNIST_BYTES, _mnist_image)
    return Records(storage, LabelsFile(path, by_name))


def _uncompressed(path: Path) -> Scratch:
    if path.suffix.lower() == ".gz":
        return unpacked(path)
    scratch = Scratch()
    scratch.path.write_bytes(path.read_bytes())
    return scratch


def _mnist_labels(path: Path, count: int) -> list[int] | None:
    beside = path.with_name(path.name.replace("-images-idx3-", "-labels-idx1-"))
    if beside == path or not beside.exists():
        return None
    with report_damage(beside):
        scratch = _uncompressed(beside)
        labels = list(scratch.path.read_bytes()[_MNIST_LABELS_HEADER:])
    if len(labels) != count:
        raise DataError(
            f"{beside} holds {len(labels):,} labels for {count:,} images of {path}; "
            "fetch both again"
        )
    return labels


def _mnist_image(record: bytes) -> bytes:
    pixels = np.frombuffer(record, np.uint8).reshape(_MNIST_SIDE, _MNIST_SIDE)
    padded = np.pad(pixels, _MNIST_PAD)
    return b"P5 %d %d 255\n" % padded.shape[::-1] + padded.tobytes()  # PGM


def read_cifar10(path: Path) -> Records:
    """Read CIFAR-10's training images with their labels and class names.

    Like the public packing tool, this leaves out the test batch.

    Raises:
        DataError: the file is damaged or not CIFAR-10.
    """
    scratch = Scratch()
    names: list[str] = []
    labels: list[int] = []
    with report_damage(path), tarfile.open(path) as archive, scratch.path.open("wb") as writer:
        for batch in _CIFAR_BATCHES:
            content = _member(archive, batch, path)
            pixels, numbers = _checked_batch(path, batch, content)
            writer.write(np.ascontiguousarray(pixels).tobytes())
            names += [f"{batch}/{row:05d}" for row in range(len(numbers))]
            labels += numbers
        class_names = _member(archive, "batches.meta", path).get("label_names")
    storage = RecordStorage(path, scratch, names, 0, _CIFAR_BYTES, _cifar_image)
    is_named = isinstance(class_names, list) and all(isinstance(n, str) for n in class_names)
    by_name = dict(zip(names, labels, strict=True))
    return Records(storage, LabelsFile(path, by_name, class_names if is_named else None))


def _cifar_image(record: bytes) -> bytes:
    pixels = np.frombuffer(record, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
    return b"P6 32 32 255\n" + pixels.tobytes()  # PPM


def _checked_batch(path: Path, batch: str, content: dict[str, Any]) -> tuple[np.ndarray, list[int]]:
    pixels, numbers = content.get("data"), content.get("labels")
    if (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape[1:] == (_CIFAR_BYTES,)
        and isinstance(numbers, list)
        and len(numbers) == len(pixels)
        and all(isinstance(number, int) for number in numbers)
    ):
        return pixels, numbers
    raise DataError(f"{batch} of {path} does not hold CIFAR-10's images; fetch it again")


def _member(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    try:
        member = archive.getmember(f"{_CIFAR_FOLDER}/{name}")
        check_entry_size(f"{name} of {path}", member.size)
        stream = archive.extractfile(member)
    except KeyError:
        stream = None
    if stream is None:
        raise DataError(
            f"{path} has no {_CIFAR_FOLDER}/{name}, so it is not the Python version of CIFAR-10"
        )
    try:
        content = _ArrayUnpickler(io.BytesIO(stream.read()), encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # damaged pickles raise any exception
        raise DataError(f"{name} of {path} is damaged ({error}); fetch it again") from None
    return content if isinstance(content, dict) else {}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and primitives; any other name in a pickle is refused and never called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return _new_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise DataError(f"a pickle refers to {module}.{name}; only arrays are read")


def _new_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an LMDB database."""
    return (path / "data.mdb").is_file()


class LmdbStorage:
    """The values of an LMDB database by key; every process opens the database itself.

    Raises:
        DataError: the package ``lmdb`` is missing, or the database is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self._environment: tuple[int, Any] | None = None
        with self._begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
        self._keys = {key.decode("utf-8", "backslashreplace"): key for key in keys}
        self.names = sorted(self._keys)
        check_has_rows(self.names, path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_environment": None}

    def read(self, name: str) -> bytes:
        lmdb = _package()
        try:
            with self._begin(buffers=True) as transaction:
                value = transaction.get(self._keys[name])
                check_entry_size(f"entry {name} of {self.path}", len(value or b""))
                return bytes(value or b"")
        except lmdb.Error as error:
            raise DataError(f"entry {name} of {self.path} cannot be read ({error})") from None

    def size(self, name: str) -> int:
        return 0  # unknown without reading

    def _begin(self, buffers: bool = False) -> Any:
        lmdb = _package()
        # An environment must not be used in a forked process.
        if self._environment is None or self._environment[0] != os.getpid():
            try:
                opened = lmdb.open(
                    str(self.path), readonly=True, lock=False, readahead=False, max_readers=1
                )
            except lmdb.Error as error:
                raise DataError(f"{self.path} is no whole LMDB database ({error})") from None
            self._environment = (os.getpid(), opened)
        return self._environment[1].begin(buffers=buffers)


def _package() -> Any:
    try:
        return importlib.import_module("lmdb")
    except ImportError:
        raise DataError("LSUN folders need the package lmdb: pip install 'sg3flow[lsun]'") from None
