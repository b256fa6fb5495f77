"""The raw pictures to pack: which there are, of which split and class, under which terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.config import PackConfig
from sg3flow.data.csv_labels import csv_labels
from sg3flow.data.labels import LabelsFile
from sg3flow.data.listing import Listing, open_listing
from sg3flow.data.source_record import read_source
from sg3flow.data.storage import Storage, is_hidden
from sg3flow.errors import DataError, nearest

_SPLITS = ("train", "val", "validation", "test")


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """One raw picture: its path below the source, its split ("": none), and its label.

    ``label`` is a class number or a vector from the source's own labels, else None;
    ``class_name`` is "" where there is none.
    """

    path: str
    split: str
    in_subset: bool
    label: int | list[float] | None
    class_name: str


@dataclass(frozen=True)
class Source:
    """Every picture of a source, sorted by path, and what is known of them together.

    ``unlisted`` names what below the source could not be looked into, and why.
    """

    storage: Storage
    folder: str
    pictures: list[SourcePicture]
    class_names: list[str] | None
    licence: str | None
    citation: str | None
    unlisted: dict[str, str] = field(default_factory=dict)


def open_source(path: Path, config: PackConfig) -> Source:
    """List the pictures of a source.

    Args:
        path: any form that ``open_listing`` knows.
        config: its ``subset`` is a folder whose pictures are to be packed (empty: all); its
            ``labels`` say where they come from.

    Raises:
        DataError: the source is missing or damaged, holds no pictures (below ``subset``), or its
            labels do not fit its pictures.
    """
    listing = open_listing(path)
    names = listing.names
    folder = _subset_folder(config.subset, names, path)
    chosen = [name for name in names if name.startswith(folder)]
    content = _labels(listing, config)
    values = content.array(chosen)
    own = {} if values is None else dict(zip(chosen, values.tolist(), strict=True))
    pictures = [_picture(name, folder, config, own.get(name), content) for name in names]
    if config.labels == "folders":
        _require_folders(pictures, path)
    terms = _terms(path)
    return Source(
        listing.storage,
        folder,
        pictures,
        content.class_names if own else None,
        terms.get("licence") or content.licence,
        terms.get("citation") or content.citation,
        {name: why for name, why in listing.storage.problems.items() if not is_hidden(name)},
    )


def split_of(name: str) -> str:
    """The first folder in a path that is named like a split; "": there is none."""
    folders = PurePosixPath(name).parts[:-1]
    return next((part for part in folders if part in _SPLITS), "")


def shown_name(name: str) -> str:
    """A path as text: bytes in it that are no UTF-8 (old archives, other systems) as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _labels(listing: Listing, config: PackConfig) -> LabelsFile:
    if config.labels == "csv":
        return csv_labels(listing.storage, config.labels_csv, listing.names)
    if config.labels != "json":
        return LabelsFile(listing.storage.path)
    try:
        return listing.own_labels(config.label_column)
    except DataError as error:
        raise DataError(f"{error}; repair it, or pack with --labels none") from None


def _subset_folder(subset: str, names: list[str], path: Path) -> str:
    """The beginning of the paths that belong to ``subset``."""
    folder = PurePosixPath(subset).as_posix().strip("/")
    if folder in ("", "."):
        return ""
    if not any(name.startswith(folder + "/") for name in names):
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
        raise DataError(f"no pictures below {folder} in {path}{nearest(folder, sorted(folders))}")
    return folder + "/"


def _picture(
    name: str, folder: str, config: PackConfig, label: Any, content: LabelsFile
) -> SourcePicture:
    class_name, names = "", content.class_names
    if config.labels == "folders":
        class_name = shown_name(PurePosixPath(name).parent.name)
    elif names is not None and isinstance(label, int) and label < len(names):
        class_name = names[label]
    return SourcePicture(name, split_of(name), name.startswith(folder), label, class_name)


def _require_folders(pictures: list[SourcePicture], path: Path) -> None:
    for picture in pictures:
        if picture.in_subset and not picture.class_name:
            raise DataError(f"{picture.path} lies in no folder of {path} that could be its class")


def _terms(path: Path) -> Mapping[str, str | None]:
    """Licence and citation of the SOURCE.json that fetching wrote, at or above the source."""
    place = path.resolve()
    # Above too: the source may be one class of what was fetched, and its terms still hold.
    for parent in (place, *place.parents) if place.is_dir() else place.parents:
        content = read_source(parent)
        if content is not None:
            told = {key: content.get(key) for key in ("licence", "citation")}
            return {key: value for key, value in told.items() if isinstance(value, str)}
    return {}
