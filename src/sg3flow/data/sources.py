"""The raw pictures to pack: which there are, of which split and class, under which licence."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.data.images import picture_suffixes
from sg3flow.data.labels import LabelsFile, read_labels
from sg3flow.data.source_record import read_source
from sg3flow.data.storage import Storage, is_hidden, open_storage
from sg3flow.errors import DataError, nearest

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """One raw picture: its path below the source, its split ("": none), and its label.

    ``label`` is a class number or a vector from the source's ``dataset.json``, else None;
    ``class_name`` is "" where there is none.
    """

    path: str
    split: str
    in_subset: bool
    label: int | list[float] | None
    class_name: str


@dataclass(frozen=True)
class Source:
    """Every picture of a source, sorted by path, and what is known of them together."""

    storage: Storage
    pictures: list[SourcePicture]
    class_names: list[str] | None
    licence: str | None


def open_source(path: Path, subset: str, labels: str) -> Source:
    """List the pictures of a folder or a zip file.

    Args:
        path: the folder or zip file.
        subset: folder below it whose pictures are to be packed; empty: all.
        labels: ``json`` (from the source's dataset.json, if it has one), ``folders`` or ``none``.

    Raises:
        DataError: the source is missing or damaged, holds no pictures (below ``subset``), or its
            labels do not fit its pictures.
    """
    storage = open_storage(path)
    names = _picture_names(storage)
    folder = _subset_folder(subset, names, path)
    chosen = [name for name in names if name.startswith(folder)]
    content = _labels_file(storage) if labels == "json" else LabelsFile(path)
    values = content.array(chosen)
    from_json = {} if values is None else dict(zip(chosen, values.tolist(), strict=True))
    class_names = content.class_names
    pictures = []
    for name in names:
        in_subset = name.startswith(folder)
        label = from_json.get(name)
        class_name = _class_name(name, labels, label, class_names)
        if labels == "folders" and in_subset and not class_name:
            raise DataError(f"{name} lies in no folder of {path} that could be its class")
        pictures.append(SourcePicture(name, split_of(name), in_subset, label, class_name))
    licence = _licence(path) or content.licence
    return Source(storage, pictures, class_names if from_json else None, licence)


def split_of(name: str) -> str:
    """The first folder in a path that is named like a split; "": there is none."""
    folders = PurePosixPath(name).parts[:-1]
    return next((part for part in folders if part in _SPLITS), "")


def _picture_names(storage: Storage) -> list[str]:
    endings = picture_suffixes()
    names = [
        name
        for name in storage.names
        if PurePosixPath(name).suffix.lower() in endings and not is_hidden(name)
    ]
    if not names:
        raise DataError(f"no pictures below {storage.path} (files are known by their endings)")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the name {name!r} below {storage.path} is no UTF-8; rename it"
            ) from None
    return names


def _subset_folder(subset: str, names: list[str], path: Path) -> str:
    """The beginning of the paths that belong to ``subset``."""
    folder = PurePosixPath(subset).as_posix().strip("/")
    if folder in ("", "."):
        return ""
    if not any(name.startswith(folder + "/") for name in names):
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
        raise DataError(f"no pictures below {folder} in {path}{nearest(folder, sorted(folders))}")
    return folder + "/"


def _labels_file(storage: Storage) -> LabelsFile:
    try:
        return read_labels(storage)
    except DataError as error:
        raise DataError(f"{error}; repair it, or pack with --labels none") from None


def _class_name(name: str, labels: str, label: Any, class_names: list[str] | None) -> str:
    if labels == "folders":
        return PurePosixPath(name).parent.name
    if class_names is not None and isinstance(label, int) and label < len(class_names):
        return class_names[label]
    return ""


def _licence(path: Path) -> str | None:
    """The licence in the SOURCE.json that fetching wrote at the top of its folder, at or above."""
    folder = path.resolve()
    # Above too: the source may be one class of what was fetched, and its terms still hold.
    for parent in (folder, *folder.parents) if folder.is_dir() else ():
        content = read_source(parent)
        if content is not None:
            licence = content.get("licence")
            return licence if isinstance(licence, str) else None
    return None
