"""What kind of source a path is: its images by name, and the labels that come with them."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sg3flow.data.image_decoding import image_endings
from sg3flow.data.readers.array_reader import (
    CIFAR_NAME,
    LmdbStorage,
    is_lmdb,
    is_mnist,
    read_cifar10,
    read_mnist,
)
from sg3flow.data.readers.labels import LabelsFile, read_labels
from sg3flow.data.readers.parquet_reader import ParquetStorage, parquet_files, parquet_labels
from sg3flow.data.readers.storage import FolderStorage, Storage, ZipStorage, check_exists, is_hidden
from sg3flow.data.readers.tar_reader import TarStorage, is_tar
from sg3flow.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by name.

    ``labels`` are those of a form that brings them along (CIFAR-10, MNIST); None: they stand in a
    ``dataset.json``, in columns, or nowhere.
    """

    storage: Storage
    names: list[str]
    labels: LabelsFile | None = None

    def own_labels(self, column: str) -> LabelsFile:
        """The labels that the source itself brings.

        Args:
            column: of Parquet files; empty: ``label`` or ``labels``.

        Raises:
            DataError: they are damaged, or there is no such column.
        """
        if self.labels is not None:
            return self.labels
        if isinstance(self.storage, ParquetStorage):
            return parquet_labels(self.storage, column)
        return read_labels(self.storage)


def open_listing(path: Path) -> Listing:
    """List a folder of images, a zip or tar file of them, or one of the forms of public sets:
    ``cifar-10-python.tar.gz``, MNIST's ``*-images-idx3-ubyte.gz``, Parquet files, an LMDB folder.

    A folder without images that holds one of these forms (as fetching leaves it) is that form.

    Raises:
        DataError: the source is missing, damaged, or holds no images.
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
    inner = _form_within(path, storage.names)
    if inner is not None:
        return open_listing(inner)
    return _parquet(path) if parquet_files(path) else _of_files(storage)


def _form_within(path: Path, names: list[str]) -> Path | None:
    """The one file or folder below ``path`` that is a source of another form; None: none."""
    found = [path / name for name in names if is_form(PurePosixPath(name))]
    if len(found) > 1:
        listed = ", ".join(file.relative_to(path).as_posix() for file in found[:4])
        raise DataError(f"{path} holds several sources ({listed}); give the one to pack")
    if not found:
        return None
    return found[0].parent if found[0].name == "data.mdb" else found[0]


def is_form(name: PurePosixPath) -> bool:
    """Whether a file is a whole source by itself (Parquet aside, which may be many files)."""
    return name.name in (CIFAR_NAME, "data.mdb") or (is_mnist(name) and "train" in name.name)


def _parquet(path: Path) -> Listing:
    storage = ParquetStorage(path)
    return Listing(storage, storage.names)


def _of_files(storage: Storage) -> Listing:
    names = _images(storage)
    if not names:
        raise DataError(f"no images below {storage.path} (files are known by their endings)")
    return Listing(storage, names)


def _images(storage: Storage) -> list[str]:
    endings = image_endings()
    return [
        name
        for name in storage.names
        if PurePosixPath(name).suffix.lower() in endings and not is_hidden(name)
    ]
