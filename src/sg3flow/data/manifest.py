"""The manifest of a packed set: a Parquet file with a row for every picture of the source."""

from collections import Counter
from collections.abc import Iterable
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
    """One picture of the source.

    path: below the source, with "/" between folders.
    split: train, val or test, from the path; "": none.
    label, class_name: its class in the packed set; None and "": none.
    in_subset: whether it lies in the part of the source that was to be packed.
    packed, entry: whether and under which name it stands in the packed set.
    left_out: why it does not stand there; "": it does.
    kind: the kind of that reason: outside the subset, unreadable, duplicate, not square, too small,
        beyond max_images.
    same_as: for a duplicate that was left out, the path of the picture it repeats.
    problem: why it cannot be used at all; "": it can.
    bytes, file_sha256: length and digest of its file.
    pixel_sha256, width, height, mode, mean, contrast, look: see ``images.Measures``; of the raw
        picture.
    changes: rules by which it became plain RGB or gray, with ", " between; see
        ``plain_pictures.py``.
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
    """How many pictures became plain by which rule, from their ``changes``."""
    counts = Counter(rule for text in changes for rule in text.split(", ") if rule)
    return dict(sorted(counts.items()))


def _schema() -> Any:
    import pyarrow as pa

    kinds: dict[Any, Any] = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
    }
    kinds |= {kind | None: arrow for kind, arrow in kinds.items()}
    fields = [(name, kinds[kind]) for name, kind in ManifestRow.__annotations__.items()]
    return pa.schema(fields, metadata={"format": FORMAT})


def write_manifest(stream: BinaryIO, rows: Iterable[ManifestRow]) -> None:
    """Write the rows, sorted by path, as Parquet; equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = iter(sorted(rows, key=lambda row: row.path))
    with pq.ParquetWriter(stream, _schema(), compression="zstd") as writer:
        # In pieces: as dictionaries, the rows take many times their memory.
        while piece := [asdict(row) for row in islice(ordered, _GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(piece, schema=_schema()))


def read_manifest(path: Path) -> "pd.DataFrame":
    """The rows of a manifest, one column for each member of ``ManifestRow``; whole numbers that
    may be missing have pandas' nullable type.

    Raises:
        DataError: it is missing or not a manifest of this project.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    check_is_manifest(path)
    table = pq.read_table(path)
    missing = [name for name in ManifestRow.__annotations__ if name not in table.column_names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]}; pack the set again")
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
        raise DataError(f"there is no manifest {path}; stages/pack.py writes it")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a manifest ({error})") from None
    if metadata.get(b"format") != FORMAT.encode():
        raise DataError(f"{path} is not a manifest of this project (format {FORMAT})")


def is_manifest(path: Path) -> bool:
    """Whether ``path`` holds a manifest."""
    try:
        check_is_manifest(path)
    except DataError:
        return False
    return True
