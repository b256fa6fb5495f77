"""The tables that validation checks: manifest, decoded packed set, classes, source folders."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sg3flow.config import ValidateConfig
from sg3flow.data.archive import content_digest, image_names
from sg3flow.data.manifest import read_manifest, read_notes
from sg3flow.data.perceptual_hash import add_near
from sg3flow.data.readers.labels import MAX_CLASSES, is_vector, read_labels
from sg3flow.data.readers.storage import Storage, open_storage
from sg3flow.data.worker_pool import inspect_entry, ordered_map, workers_for
from sg3flow.errors import ConfigError, DataError
from sg3flow.progress import tracked

_MAX_EMPTY_CLASSES = 1000  # rows for classes without images and names


@dataclass(frozen=True)
class Tables:
    """Everything that the checks need to know about a packed set.

    Every table has the column ``row``, its row number. Values that do not apply are missing.

    Attributes:
        storage: the packed set.
        digest: digest of its content; None: some of it cannot be read.
        manifest: the manifest, with ``found`` (for packed images: the entry is in the set) and
            ``enlarged`` (for enlarged images: how).
        packed: one row per entry: ``entry``, its ``path`` in the manifest, ``problem`` (why it
            cannot be decoded), ``size`` as text, mode, measures, ``expected_sha256`` (of its
            pixels, from the manifest), ``label``, ``label_kind`` (class, vector of N or other),
            ``expected_label``, ``class_name``, ``equal_here`` (an equal image in the set),
            ``equal_elsewhere`` (an equal image in a split that was not packed), and the columns of
            ``add_near``.
        classes: one row per class: ``class_name``, ``pictures`` (number of images); empty for
            unlabeled sets. Far more classes than images are cut.
        folders: one row per folder whose images are counted: ``folder``, ``expected``, ``found``.
        num_classes: number of class names, or without names, one more than the greatest class.
        is_labeled: whether the set has labels.
        license: license of the images; None: the set has none.
        notes: the notes of the manifest, see ``write_manifest``.
    """

    storage: Storage
    digest: str | None
    manifest: pd.DataFrame
    packed: pd.DataFrame
    classes: pd.DataFrame
    folders: pd.DataFrame
    num_classes: int
    is_labeled: bool
    license: str | None
    notes: Mapping[str, Any]


def read_tables(manifest: Path, packed: Path, config: ValidateConfig, workers: int = 0) -> Tables:
    """Decode every entry of a packed set and join it with the manifest.

    Raises:
        ConfigError: ``source_counts`` is not of the form FOLDER=NUMBER.
        DataError: a file is missing or of the wrong kind, or the labels file is damaged.
    """
    counts = parse_counts(config.source_counts)
    rows = read_manifest(manifest)
    storage = open_storage(packed)
    content = read_labels(storage)
    entries = _decoded(storage, workers)
    _add_manifest(entries, rows)
    _add_labels(entries, content.labels or {})
    _add_equals(entries, rows)
    if config.near_duplicates != "off":
        add_near(entries, rows, config.near_distance, config.min_contrast)
    rows["enlarged"] = _enlarged(rows, entries)
    rows["found"] = [
        entry in set_of if is_packed else None
        for set_of in [frozenset(entries["entry"])]
        for entry, is_packed in zip(rows["entry"], rows["packed"], strict=True)
    ]
    for frame in (rows, entries):
        frame.insert(0, "row", range(len(frame)))
    names = content.class_names or []
    classes = _classes(entries, names)
    entries["class_name"] = _names_of(entries["label"], classes)
    return Tables(
        storage,
        _digest(storage),
        rows,
        entries,
        classes,
        _folders(rows, counts),
        len(names) or max(_class_counts(entries), default=-1) + 1,
        content.labels is not None,
        content.license,
        read_notes(manifest),
    )


_ENTRY_COLUMNS = {
    "entry": "str",
    "problem": "object",
    "mode": "object",
    "width": "Int64",
    "height": "Int64",
    "mean": "float64",
    "contrast": "float64",
    "sharpness": "float64",
    "bars": "float64",
    "one_colour": "float64",
    "pixel_sha256": "object",
}


def _decoded(storage: Storage, workers: int) -> pd.DataFrame:
    names = image_names(storage)
    inspected = ordered_map(inspect_entry, storage, names, workers_for(len(names), workers))
    with closing(inspected):
        rows = list(tracked(inspected, "validating", len(names)))
    frame = pd.DataFrame(rows, columns=list(_ENTRY_COLUMNS))
    frame = frame.astype(_ENTRY_COLUMNS)
    sizes = zip(frame["width"], frame["height"], frame["problem"], strict=True)
    words = [None if isinstance(p, str) else f"{w}x{h}" for w, h, p in sizes]
    frame["size"] = pd.Series(words, index=frame.index, dtype="object")
    return frame


def _add_manifest(entries: pd.DataFrame, rows: pd.DataFrame) -> None:
    known = {row["entry"]: row for row in rows.to_dict("records") if row["packed"]}
    for column, source in (
        ("path", "path"),
        ("split", "split"),
        ("raw_sha256", "pixel_sha256"),
        ("expected_sha256", "packed_sha256"),
    ):
        values = [known[name][source] if name in known else None for name in entries["entry"]]
        entries[column] = pd.Series(values, index=entries.index, dtype="object")
    labels = [known[name]["label"] if name in known else None for name in entries["entry"]]
    entries["expected_label"] = pd.array(labels, dtype="Int64")


def _add_labels(entries: pd.DataFrame, labels: dict[str, Any]) -> None:
    found = [labels.get(name) for name in entries["entry"]]
    kinds = [_kind(label) for label in found]
    numbers = [label if kind == "class" else None for label, kind in zip(found, kinds, strict=True)]
    entries["label_kind"] = pd.Series(kinds, index=entries.index, dtype="object")
    entries["label"] = pd.array(numbers, dtype="Int64")


def _kind(label: Any) -> str | None:
    if label is None:
        return None
    if type(label) is int and abs(label) < MAX_CLASSES:
        return "class"
    return f"vector of {len(label)}" if is_vector(label) else "other"


def _add_equals(entries: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Find duplicates within the set, and between it and splits that were not packed."""
    groups: dict[str, list[str]] = {}
    names = [path or entry for path, entry in zip(entries["path"], entries["entry"], strict=True)]
    for name, digest in zip(names, entries["pixel_sha256"], strict=True):
        if isinstance(digest, str):
            groups.setdefault(digest, []).append(name)
    outside: dict[str, list[tuple[str, str]]] = {}
    for row in rows[~rows["in_subset"]].to_dict("records"):
        if isinstance(row["pixel_sha256"], str):
            outside.setdefault(row["pixel_sha256"], []).append((row["split"], row["path"]))
    here, there = [], []
    for own, entry in zip(names, entries.to_dict("records"), strict=True):
        group = groups.get(entry["pixel_sha256"], [])
        here.append(next((name for name in group if name != own), None))
        elsewhere = outside.get(entry["raw_sha256"], [])
        there.append(next((p for split, p in elsewhere if split != entry["split"]), None))
    entries["equal_here"] = pd.Series(here, index=entries.index, dtype="object")
    entries["equal_elsewhere"] = pd.Series(there, index=entries.index, dtype="object")


def _enlarged(rows: pd.DataFrame, entries: pd.DataFrame) -> "pd.Series[Any]":
    sides = entries["width"].dropna()
    side = int(sides.mode().iloc[0]) if len(sides) else 0
    bars = dict(zip(entries["entry"], entries["bars"], strict=True))

    def is_enlarged(row: Mapping[Hashable, Any]) -> bool:
        # center-crop-wide enlarges nothing: it puts bars above and below a low image.
        if row["width"] >= side and bars.get(row["entry"], 0) > 0:
            return False
        return bool(min(row["width"], row["height"]) < side)

    words = [
        f"enlarged from {row['width']}x{row['height']} to {side} px"
        if row["packed"] and is_enlarged(row)
        else None
        for row in rows.to_dict("records")
    ]
    return pd.Series(words, index=rows.index, dtype="object")


def parse_counts(texts: Sequence[str]) -> dict[str, int]:
    """Parse ``FOLDER=NUMBER`` texts; returns the numbers by folder.

    Raises:
        ConfigError: a text is malformed, or names a folder again.
    """
    counts: dict[str, int] = {}
    for text in texts:
        folder, equals, number = text.rpartition("=")
        if not equals or re.fullmatch("[0-9]{1,12}", number.strip()) is None:
            raise ConfigError(f"source_counts must be FOLDER=NUMBER, not '{text[:60]}'")
        name = folder.strip().strip("/")
        if name in counts:
            raise ConfigError(
                f"source_counts names '{name[:60]}' twice ({counts[name]} and {number.strip()})"
            )
        counts[name] = int(number)
    return counts


def _folders(rows: pd.DataFrame, counts: Mapping[str, int]) -> pd.DataFrame:
    usable = [row["path"] for row in rows.to_dict("records") if not row["problem"]]
    found = [sum(path.startswith(f"{folder}/") for path in usable) for folder in counts]
    table = {"folder": list(counts), "expected": list(counts.values()), "found": found}
    return pd.DataFrame({"row": range(len(counts)), **table})


def _names_of(labels: "pd.Series[Any]", classes: pd.DataFrame) -> "pd.Series[Any]":
    names = classes["class_name"].tolist()
    found = [
        names[label] if not pd.isna(label) and 0 <= label < len(names) else None for label in labels
    ]
    return pd.Series(found, index=labels.index, dtype="object")


def _class_counts(entries: pd.DataFrame) -> Counter[int]:
    return Counter(int(label) for label in entries["label"].dropna())


def _classes(entries: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    counts = _class_counts(entries)
    number = max(len(names), max(counts, default=-1) + 1)
    # One stray label must not create a hundred thousand rows; the first ones show the gap.
    number = min(number, len(names) + max(len(entries), _MAX_EMPTY_CLASSES))
    labels = [names[i] if i < len(names) else str(i) for i in range(number)]
    images = [counts.get(i, 0) for i in range(number)]
    return pd.DataFrame({"row": range(number), "class_name": labels, "pictures": images})


def _digest(storage: Storage) -> str | None:
    try:
        return content_digest(storage)
    except DataError:
        return None
