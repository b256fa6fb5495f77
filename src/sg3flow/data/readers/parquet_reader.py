"""Read images from Parquet files, as the Hugging Face hub distributes them.

An image is a struct ``{bytes, path}`` or a binary value; another column may hold its label. Row
groups are read in batches of a few rows, which bounds the memory for row groups of any size. Names
sort in the order of the rows, so reading in the order of names reads every file once.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.data.readers.labels import LabelsFile, text_classes
from sg3flow.data.readers.storage import check_entry_size, check_has_rows, is_hidden
from sg3flow.errors import DataError, nearest

_ROWS = 16  # per read
_BUFFER_BYTES = 1 << 20
_SPLIT_FILE = re.compile(r"(train|val|validation|test)-(\d.*)")


@dataclass(frozen=True, slots=True)
class _RowLocation:
    file: Path
    group: int
    row: int  # within its group


class ParquetStorage:
    """The images in one or many Parquet files.

    Args:
        path: a Parquet file, or a folder that contains some.

    Raises:
        DataError: a file is damaged, has no column of images, or takes the names of another one;
            or there are no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self.files = parquet_files(path)
        self.column = _image_column(self.files[0])
        self._locations: dict[str, _RowLocation] = {}
        _check_folders(path, self.files)
        for file in self.files:
            _check_column(_schema(file), file, self.column, self.files[0])
            self._locations |= dict(_named_rows(path, file, self.column))
        self.names = sorted(self._locations)
        check_has_rows(self.names, path)
        self._stream: tuple[Path, int, int, Iterator[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None}  # a position in a file, valid in this process only

    def read(self, name: str) -> bytes:
        location = self._locations[name]
        content = self._content(location)
        if content is None:
            raise DataError(f"row {name} of {self.path} holds no bytes, only a path")
        check_entry_size(f"row {name} of {self.path}", len(content))
        return content

    def size(self, name: str) -> int:
        return 0  # unknown without reading

    def rows(self) -> Iterator[tuple[str, Path, int]]:
        """Every name with its file and row number, in the order of the files."""
        number = {file: 0 for file in self.files}
        for name, location in self._locations.items():
            yield name, location.file, number[location.file]
            number[location.file] += 1

    def _content(self, location: _RowLocation) -> bytes | None:
        with _report_damage(location.file):
            file, group, row, values = self._stream or (Path(), -1, 0, iter(()))
            if (file, group) != (location.file, location.group) or row > location.row:
                row, values = 0, _values(location, self.column)
            for _ in range(location.row - row):
                next(values)
            value = next(values)
        self._stream = (location.file, location.group, location.row + 1, values)
        content: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return content


def parquet_files(path: Path) -> list[Path]:
    """``path`` itself if it is a file, else the Parquet files below it, sorted."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*.parquet") if file.is_file())
    return sorted(file for file in files if not is_hidden(file.relative_to(path).as_posix()))


def parquet_labels(storage: ParquetStorage, column: str) -> LabelsFile:
    """Read a column of labels.

    Labels are class numbers, with the names that the file gives them, vectors, or texts with the
    same meaning as in a CSV file: numbers, or names, which become classes in alphabetical order.

    Args:
        column: its name; empty: ``label`` or ``labels``, if present.

    Raises:
        DataError: there is no such column, or it has names and numbers.
    """
    columns = _schema(storage.files[0]).names
    if column and column not in columns:
        raise DataError(f"{storage.path} has no column {column}{nearest(column, columns)}")
    column = column or next((name for name in ("label", "labels") if name in columns), "")
    if not column:
        return LabelsFile(storage.path)
    for file in storage.files:
        _check_column(_schema(file), file, column, storage.files[0])
    by_file = {file: _column(file, column) for file in storage.files}
    labels = {name: by_file[file][row] for name, file, row in storage.rows()}
    if any(isinstance(label, str) for label in labels.values()):
        return text_classes(storage.path, labels, lambda name: f"row {name}")
    return LabelsFile(storage.path, labels, _class_names(storage.files[0], column))


def _values(location: _RowLocation, column: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # With a buffer and without prefetching, a row group need not fit into memory.
    file = pq.ParquetFile(location.file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    batches = file.iter_batches(_ROWS, row_groups=[location.group], columns=[column])
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _named_rows(root: Path, file: Path, column: str) -> Iterator[tuple[str, _RowLocation]]:
    """A name for every row, from its file, its row number and the original file name."""
    import pyarrow.parquet as pq

    with _report_damage(file):
        reader = pq.ParquetFile(file)
        folder, number = _folder(root, file), 0
        for group in range(reader.num_row_groups):
            paths = _original_names(reader, group, column)
            for row in range(reader.metadata.row_group(group).num_rows):
                yield f"{folder}{number:08d}{paths[row]}", _RowLocation(file, group, row)
                number += 1


def _original_names(reader: Any, group: int, column: str) -> list[str]:
    import pyarrow as pa

    kind = reader.schema_arrow.field(column).type
    count = reader.metadata.row_group(group).num_rows
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [""] * count
    table = reader.read_row_group(group, columns=[f"{column}.path"])
    values = (value and value["path"] for value in table.column(0).to_pylist())
    texts = (value if isinstance(value, str) else "" for value in values)
    return [f"-{PurePosixPath(text).name}" if text else "" for text in texts]


def _folder(root: Path, file: Path) -> str:
    """``train/00000-of-00002/`` for ``train-00000-of-00002.parquet``; empty for a single file."""
    if root == file:
        return ""
    inner = file.relative_to(root).with_suffix("")
    match = _SPLIT_FILE.fullmatch(inner.name)
    return (inner.parent / match[1] / match[2] if match else inner).as_posix() + "/"


def _check_folders(root: Path, files: list[Path]) -> None:
    """Check that the rows of every file get names of their own.

    Raises:
        DataError: two files give their rows the same folder.
    """
    by_folder: dict[str, Path] = {}
    for file in files:
        other = by_folder.setdefault(_folder(root, file), file)
        if other != file:
            raise DataError(
                f"{other} and {file} both name their rows {_folder(root, file)}NUMBER; rename one"
            )


def _image_column(file: Path) -> str:
    schema = _schema(file)
    for is_image in (_is_struct_of_bytes, _is_bytes):
        for field in schema:
            if is_image(field.type):
                return str(field.name)
    raise DataError(
        f"{file} has no column of images (binary, or a struct with 'bytes'); its columns are "
        f"{', '.join(schema.names)[:200] or 'none'}"
    )


def _check_column(schema: Any, file: Path, column: str, first: Path) -> None:
    """Check that a file has the column that the first file has.

    Raises:
        DataError: it does not, or its column is of another kind.
    """
    if column not in schema.names:
        raise DataError(
            f"{file} has no column {column}, unlike {first}; its columns are "
            f"{', '.join(schema.names)[:200]}; remove the file, or pack the two separately"
        )
    if schema.names.count(column) > 1:
        numbers = [str(i) for i, name in enumerate(schema.names, 1) if name == column]
        raise DataError(f"{file} has several columns {column} ({', '.join(numbers)}); rename them")
    found, wanted = schema.field(column).type, _schema(first).field(column).type
    if _kind(found) != _kind(wanted):
        raise DataError(
            f"column {column} of {file} has the type {str(found)[:60]}, that of {first} "
            f"{str(wanted)[:60]}; convert one of them, or pack the two separately"
        )


def _kind(kind: Any) -> str:
    """The kind of a column's type; numbers of all widths are one kind."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return "images" if _is_struct_of_bytes(kind) or _is_bytes(kind) else "numbers"


def _is_struct_of_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return _is_bytes(kind.field("bytes").type)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types  # views are in frames of polars
    return any(
        is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view)
    )


def _schema(file: Path) -> Any:
    import pyarrow.parquet as pq

    with _report_damage(file):
        return pq.read_schema(file)


def _column(file: Path, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with _report_damage(file):
        values = pq.read_table(file, columns=[column]).column(0).to_pylist()
        return [_json_number(value) for value in values]


def _json_number(value: Any) -> Any:
    """A decimal, as DuckDB writes them, as an int or float, also in a list; others as they are."""
    if isinstance(value, list):
        return [_json_number(each) for each in value]
    if not isinstance(value, Decimal):
        return value
    return int(value) if value.as_tuple().exponent == 0 else float(value)


def _class_names(file: Path, column: str) -> list[str] | None:
    """The class names that the Hugging Face library stores in the file, if any."""
    try:
        metadata = json.loads((_schema(file).metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else None


@contextmanager
def _report_damage(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise DataError(f"{file} cannot be read as Parquet ({error}); fetch it again") from None
