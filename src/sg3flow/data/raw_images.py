"""The raw images of a source: their list, splits and labels, and the SOURCE.json of fetching."""

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.config import PackConfig
from sg3flow.data.readers.labels import LabelsFile, csv_labels
from sg3flow.data.readers.listing import Listing, count_suffixes, open_listing
from sg3flow.data.readers.storage import Storage, is_hidden
from sg3flow.errors import DataError, nearest

SOURCE_NAME = "SOURCE.json"
FORMAT = "sg3flow-source-1"
# A set with a thousand class folders would bury the run's other metrics.
_MAX_FOLDER_METRICS = 50
_MOST_IGNORED = 1000  # names in a record; all are counted


def source_metrics(source: dict[str, Any]) -> dict[str, float]:
    """Metrics of a SOURCE.json for tracking: bytes, total images, and images per folder."""
    counts: dict[str, int] = source["counts"]
    metrics: dict[str, float] = {"num_images": sum(counts.values()), "bytes": source["bytes"]}
    if "ignored" in source:
        metrics["num_ignored"] = sum(source["ignored"]["counts"].values())
    if len(counts) <= _MAX_FOLDER_METRICS:
        for folder, number in counts.items():
            if folder != ".":
                metrics["num_images/" + re.sub(r"[^\w.\-/ ]", "_", folder)] = number
    return metrics


def read_source(folder: Path) -> dict[str, Any] | None:
    """The content of the SOURCE.json that fetching wrote to a folder; None: there is none."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / SOURCE_NAME).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content
    return None


def inherited_terms(work: Path, origin: str) -> dict[str, str | None]:
    """License and citation from the SOURCE.json of the source, which its copy keeps.

    Raises:
        DataError: the source has a SOURCE.json of another kind, which fetching would overwrite.
    """
    content = read_source(work)
    if content is None and (work / SOURCE_NAME).exists():
        raise DataError(f"{origin} contains a {SOURCE_NAME} of another kind; rename it there first")
    content = content or {}
    return {key: content.get(key) for key in ("licence", "citation")}


def regular_files(folder: Path) -> list[str]:
    """Relative paths of the files in a folder, sorted, without hidden ones.

    Raises:
        DataError: the folder contains a link, a special file or a name that is not UTF-8.
    """
    names = [path.relative_to(folder).as_posix() for path in _walk(folder)]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {name!r} in {folder} is not UTF-8; rename it") from None
    return sorted(names)


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _walk(Path(entry.path))
            elif stat.S_ISREG(mode):
                yield Path(entry.path)
            else:
                raise DataError(
                    f"{entry.path} is a link or a special file; replace it by a regular file"
                )


def folder_digest(folder: Path, files: list[str]) -> tuple[int, str]:
    """Total bytes, and the SHA-256 over the sorted names and contents, each with its length."""
    total, digest = 0, hashlib.sha256()
    for name in files:
        size = (folder / name).stat().st_size
        total += size
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded + size.to_bytes(8, "big"))
        with (folder / name).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return total, digest.hexdigest()


def count_images(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Number of images per folder ("." is ``folder`` itself), and the record of ignored files.

    Raises:
        DataError: there are no images.
    """
    listing = open_listing(folder)
    counts = Counter(PurePosixPath(name).parent.as_posix() for name in listing.names)
    return dict(sorted(counts.items())), ignored_record(listing.ignored)


def ignored_record(names: list[str]) -> dict[str, Any]:
    """What SOURCE.json and the manifest record about ignored files; empty: there are none."""
    if not names:
        return {}
    files = [shown_name(name) for name in names[:_MOST_IGNORED]]
    return {"counts": count_suffixes(names), "files": files}


_SPLITS = ("train", "val", "validation", "test")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One raw image: its path in the source, its split ("": none) and its label.

    ``label`` is a class number or vector from the source's own labels, None without them;
    ``class_name`` is "" if there is none.
    """

    path: str
    split: str
    in_subset: bool
    label: int | list[float] | None
    class_name: str


@dataclass(frozen=True)
class Source:
    """All images of a source, sorted by path, with their class names, license and citation.

    ``unlisted`` holds the folders and links that could not be read, with the reason; ``ignored``
    the files that are no images.
    """

    storage: Storage
    folder: str
    images: list[SourceImage]
    class_names: list[str] | None
    license: str | None
    citation: str | None
    unlisted: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def open_source(path: Path, config: PackConfig) -> Source:
    """List the images of a source.

    Args:
        path: any source that ``open_listing`` reads.
        config: ``subset`` is the folder to pack (empty: all); ``labels`` says where the labels
            come from.

    Raises:
        DataError: the source is missing or damaged, has no images (below ``subset``), or its
            labels do not match its images.
    """
    listing = open_listing(path)
    names = listing.names
    folder = _subset_folder(config.subset, names, path)
    chosen = [name for name in names if name.startswith(folder)]
    content = _labels(listing, config)
    values = content.array(chosen)
    own = {} if values is None else dict(zip(chosen, values.tolist(), strict=True))
    images = [_image(name, folder, config, own.get(name), content) for name in names]
    if config.labels == "folders":
        _require_folders(images, path)
    terms = _terms(path)
    return Source(
        listing.storage,
        folder,
        images,
        content.class_names if own else None,
        terms.get("licence") or content.license,
        terms.get("citation") or content.citation,
        {name: why for name, why in listing.storage.problems.items() if not is_hidden(name)},
        [name for name in listing.ignored if name != PurePosixPath(config.labels_csv).as_posix()],
    )


def classes_without_images(labels: Iterable[Any], class_names: list[str] | None) -> list[str]:
    """Names, or else numbers, of the classes that no image has; empty if labels are no classes."""
    found = {label for label in labels if isinstance(label, int)}
    count = len(class_names or ()) or max(found, default=-1) + 1
    return [class_names[i] if class_names else str(i) for i in range(count) if i not in found]


def split_of(name: str) -> str:
    """The first folder in a path with the name of a split; "": there is none."""
    folders = PurePosixPath(name).parts[:-1]
    return next((part for part in folders if part in _SPLITS), "")


def shown_name(name: str) -> str:
    """A path as text, with bytes that are not UTF-8 (from old archives) as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _labels(listing: Listing, config: PackConfig) -> LabelsFile:
    if config.labels == "csv":
        return csv_labels(listing.storage, config.labels_csv, listing.names)
    if config.labels != "json":
        return LabelsFile(listing.storage.path)
    try:
        return listing.own_labels(config.label_column)
    except DataError as error:
        raise DataError(f"{error}; repair it, or pass --labels none") from None


def _subset_folder(subset: str, names: list[str], path: Path) -> str:
    """The prefix of the paths that belong to ``subset``."""
    folder = PurePosixPath(subset).as_posix().strip("/")
    if folder in ("", "."):
        return ""
    if not any(name.startswith(folder + "/") for name in names):
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
        raise DataError(
            f"no images below {folder[:200]} in {path}{nearest(folder, sorted(folders))}"
        )
    return folder + "/"


def _image(
    name: str, folder: str, config: PackConfig, label: Any, content: LabelsFile
) -> SourceImage:
    class_name, names = "", content.class_names
    if config.labels == "folders":
        class_name = shown_name(PurePosixPath(name).parent.name)
    elif names is not None and isinstance(label, int) and label < len(names):
        class_name = names[label]
    return SourceImage(name, split_of(name), name.startswith(folder), label, class_name)


def _require_folders(images: list[SourceImage], path: Path) -> None:
    for image in images:
        if image.in_subset and not image.class_name:
            raise DataError(
                f"{image.path} is in no folder of {path}, so it has no class; move it into one"
            )


def _terms(path: Path) -> Mapping[str, str | None]:
    """License and citation from the SOURCE.json that fetching wrote, in or above the source."""
    source = path.resolve()
    # Above too: the source may be one class folder of a fetched set, under the same terms.
    for parent in (source, *source.parents) if source.is_dir() else source.parents:
        content = read_source(parent)
        if content is not None:
            terms = {key: content.get(key) for key in ("licence", "citation")}
            return {key: value for key, value in terms.items() if isinstance(value, str)}
    return {}
