"""Recognize the kind of a source, and list its images and labels."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sg3flow.data.image_decoding import READERS, image_endings
from sg3flow.data.readers.array_reader import (
    CIFAR_NAME,
    LmdbStorage,
    is_lmdb,
    is_mnist,
    read_cifar10,
    read_mnist,
)
from sg3flow.data.readers.labels import LABELS_NAME, LabelsFile, read_labels
from sg3flow.data.readers.parquet_reader import ParquetStorage, parquet_files, parquet_labels
from sg3flow.data.readers.storage import FolderStorage, Storage, ZipStorage, check_exists, is_hidden
from sg3flow.data.readers.tar_reader import TarStorage, is_tar
from sg3flow.errors import DataError

_RECORDS = frozenset({LABELS_NAME, "SOURCE.json"})  # of labels, and of fetching
_MOST_SUFFIXES = 12  # in a message
_SUFFIX = re.compile(r"\.(?=.*[a-z])\w{1,10}", re.ASCII)  # not the end of "part 1.2 of 3"


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by name.

    ``labels`` are those of a format that contains them (CIFAR-10, MNIST); None: they are in a
    ``dataset.json``, in a Parquet column, or there are none. ``ignored`` holds the other files of a
    folder or archive, except hidden ones and records.
    """

    storage: Storage
    names: list[str]
    labels: LabelsFile | None = None
    ignored: list[str] = field(default_factory=list)

    def own_labels(self, column: str) -> LabelsFile:
        """The labels that the source itself contains.

        Args:
            column: label column of Parquet files; empty: ``label`` or ``labels``.

        Raises:
            DataError: the labels are damaged, or there is no such column.
        """
        if self.labels is not None:
            return self.labels
        if isinstance(self.storage, ParquetStorage):
            return parquet_labels(self.storage, column)
        return read_labels(self.storage)


def open_listing(path: Path) -> Listing:
    """List the images of a source.

    A source is a folder, zip or tar file of images, or a public data set in its own format:
    ``cifar-10-python.tar.gz``, MNIST's ``*-images-idx3-ubyte.gz``, Parquet files or an LMDB folder.
    A folder that contains no images but one of these, as fetching leaves it, counts as that one.

    Raises:
        DataError: the source is missing or damaged, or contains no images.
    """
    check_exists(path)
    if path.is_dir():
        return _folder(path)
    if path.name == CIFAR_NAME:
        records = read_cifar10(path)
        return Listing(records.storage, records.storage.names, records.labels)
    if is_mnist(path):
        records = read_mnist(path)
        return Listing(records.storage, records.storage.names, records.labels)
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return _of_files(TarStorage(path) if is_tar(path) else ZipStorage(path))


def _folder(path: Path) -> Listing:
    if is_lmdb(path):
        lmdb = LmdbStorage(path)
        return Listing(lmdb, lmdb.names)
    storage = FolderStorage(path)
    if _images(storage):
        return _of_files(storage)
    inner = _source_within(path, storage.names)
    if inner is not None:
        return open_listing(inner)
    return _parquet(path, storage.names) if parquet_files(path) else _of_files(storage)


def _source_within(path: Path, names: list[str]) -> Path | None:
    """The only file or folder below ``path`` that is a source by itself; None: none."""
    found = [path / name for name in names if is_single_file_source(PurePosixPath(name))]
    if len(found) > 1:
        listed = ", ".join(file.relative_to(path).as_posix() for file in found[:4])
        raise DataError(f"{path} holds several sources ({listed}); pass the one to pack")
    if not found:
        return None
    return found[0].parent if found[0].name == "data.mdb" else found[0]


def is_single_file_source(name: PurePosixPath) -> bool:
    """Whether a file is a source by itself; not Parquet, which may be several files."""
    return name.name in (CIFAR_NAME, "data.mdb") or (is_mnist(name) and "train" in name.name)


def _parquet(path: Path, beside: Iterable[str] = ()) -> Listing:
    storage = ParquetStorage(path)
    others = _others(name for name in beside if not name.endswith(".parquet"))
    return Listing(storage, storage.names, ignored=others)


def _of_files(storage: Storage) -> Listing:
    names = _images(storage)
    known = frozenset(names)
    ignored = _others(name for name in storage.names if name not in known)
    if not names:
        found = f"; {ignored_words(count_suffixes(ignored))}" if ignored else ""
        raise DataError(
            f"no images below {storage.path}; image files are recognized by their suffix{found}"
        )
    return Listing(storage, names, ignored=ignored)


def _others(names: Iterable[str]) -> list[str]:
    """The files that nobody reads, of those that are no images."""
    return [name for name in names if name not in _RECORDS and not is_hidden(name)]


def count_suffixes(names: Iterable[str]) -> dict[str, int]:
    """Number of files by suffix in lower case; what hardly is a suffix counts as ``other``."""
    suffixes = (PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    counts = Counter(s if _SUFFIX.fullmatch(s) or s == "no suffix" else "other" for s in suffixes)
    return dict(sorted(counts.items()))


def ignored_words(counts: Mapping[str, int]) -> str:
    """A phrase about the files that are no images, by suffix, and what would read them."""
    total = sum(counts.values())
    shown = [
        f"{count:,} {suffix}" + (f" (to read them: {READERS[suffix]})" if suffix in READERS else "")
        for suffix, count in sorted(counts.items(), key=lambda item: -item[1])[:_MOST_SUFFIXES]
    ]
    files = (
        "1 file that is no known picture"
        if total == 1
        else f"{total:,} files that are no known pictures"
    )
    return f"ignored {files}: {', '.join(shown)}" + ", …" * (len(counts) > _MOST_SUFFIXES)


def _images(storage: Storage) -> list[str]:
    endings = image_endings()
    return [
        name
        for name in storage.names
        if PurePosixPath(name).suffix.lower() in endings and not is_hidden(name)
    ]
