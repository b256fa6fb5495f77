"""The manifest of a packed set: a Parquet file with one row per image of the source."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sg3flow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "sg3flow-manifest-1"
REJECTS = ("unreadable", "not square", "too small")  # kinds that count against max_rejects
_GROUP_ROWS = 16_384


@dataclass(slots=True)
class ManifestRow:
    """One image of the source.

    path: relative to the source, with "/" between folders.
    split: train, val, validation or test, from the path; "": none.
    label, class_name: its class in the packed set; None and "": none.
    in_subset: whether it is in the part of the source to pack.
    packed, entry: whether it is in the packed set, and its name there.
    left_out: why it is not in the packed set; "": it is.
    kind: the kind of that reason: outside the subset, unreadable, duplicate, not square, too small,
        beyond max_images.
    same_as: for a duplicate that was left out, the path of the image that it duplicates.
    problem: why it cannot be used at all; "": it can.
    bytes, file_sha256: length and digest of its file.
    pixel_sha256, width, height, mode, mean, contrast: of the raw image; see ``Measures`` in
        ``image_transform.py``.
    look: the perceptual hash of the raw image.
    changes: rules that converted it to RGB or gray, separated by ", "; see
        ``image_decoding.py``.
    packed_sha256: digest of the RGB pixels of its entry in the packed set.
    """

    path: str
    split: str
    label: int | None
    class_name: str
    in_subset: bool
    packed: bool = False
    entry: str = ""
    left_out: str = ""
    kind: str = ""
    same_as: str = ""
    problem: str = ""
    bytes: int = 0
    file_sha256: str | None = None
    pixel_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    mean: float | None = None
    contrast: float | None = None
    look: str | None = None
    changes: str = ""
    packed_sha256: str | None = None


def counted_changes(changes: Iterable[str]) -> dict[str, int]:
    """Number of images per conversion rule, from their ``changes``."""
    counts = Counter(rule for text in changes for rule in text.split(", ") if rule)
    return dict(sorted(counts.items()))


def _schema(notes: Mapping[str, Any] | None = None) -> Any:
    import pyarrow as pa

    kinds: dict[Any, Any] = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
    }
    kinds |= {kind | None: arrow for kind, arrow in kinds.items()}
    fields = [(name, kinds[kind]) for name, kind in ManifestRow.__annotations__.items()]
    noted = {"notes": json.dumps(notes, sort_keys=True)} if notes else {}
    return pa.schema(fields, metadata={"format": FORMAT} | noted)


def write_manifest(
    stream: BinaryIO, rows: Iterable[ManifestRow], notes: Mapping[str, Any] | None = None
) -> None:
    """Write the rows as Parquet, sorted by path; equal rows and notes give equal bytes.

    Args:
        notes: what concerns the whole source: ``ignored`` (see ``ignored_record``), ``warnings``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = iter(sorted(rows, key=lambda row: row.path))
    schema = _schema(notes)
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        # In groups: as dictionaries, the rows take many times their memory.
        while group := [asdict(row) for row in islice(ordered, _GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of a manifest; empty: it has none, as those of earlier releases."""
    import pyarrow.parquet as pq

    check_is_manifest(path)
    with suppress(KeyError, ValueError):
        notes = json.loads(pq.read_schema(path).metadata[b"notes"])
        if isinstance(notes, dict):
            return notes
    return {}


def read_manifest(path: Path) -> "pd.DataFrame":
    """Read a manifest: one column per field of ``ManifestRow``.

    Columns of whole numbers that may be missing have pandas' nullable type.

    Raises:
        DataError: it is missing or not a manifest written by this project.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    check_is_manifest(path)
    table = pq.read_table(path)
    missing = [name for name in ManifestRow.__annotations__ if name not in table.column_names]
    if missing:
        raise DataError(f"manifest {path} has no column {missing[0]}; pack the set again")
    nullable = {"label": "Int64", "width": "Int64", "height": "Int64"}
    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True).astype(nullable)
    return frame


def check_is_manifest(path: Path) -> None:
    """Check that ``path`` holds a manifest.

    Raises:
        DataError: it is missing or something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise DataError(f"there is no manifest {path}; the pack stage writes it")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a manifest ({error}); pass what the pack stage wrote"
        ) from None
    if metadata.get(b"format") != FORMAT.encode():
        raise DataError(f"{path} is not a manifest written by this project (format {FORMAT})")


def is_manifest(path: Path) -> bool:
    """Whether ``path`` holds a manifest."""
    try:
        check_is_manifest(path)
    except DataError:
        return False
    return True
