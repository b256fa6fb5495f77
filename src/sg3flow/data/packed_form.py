"""The packed set as the public StyleGAN2/3 tools read it: names, digest, writers, PNGs, labels.

It is a zip file of stored entries or a folder: ``00000/img00000000.png`` and so on, PNGs without
compression (they decode fastest), and ``dataset.json`` with the labels.
"""

import hashlib
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sg3flow.data.readers.labels import LABELS_NAME, read_labels
from sg3flow.data.readers.storage import open_storage
from sg3flow.errors import DataError
from sg3flow.files import atomic_folder, atomic_write

_IMAGE_NAME = re.compile(r"\d{5}/img\d{8}\.png")


def entry_name(index: int) -> str:
    """Name of the image with this number: the first five of eight digits are its folder."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img{digits}.png"


class ImageForm(NamedTuple):
    """Size and mode that all images of a packed set share."""

    width: int
    height: int
    mode: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {'color' if self.mode == 'RGB' else 'gray'}"

    def remedy(self, other: "ImageForm") -> str:
        """The option that gives images of two forms the same one."""
        if self.mode != other.mode:
            return "pass --mode rgb or --mode grey"
        size = f"{self.width}x{self.height}"
        return f"pass --resolution {size} (with --transform center-crop to keep the aspect ratio)"


def check_side(path: str, form: ImageForm) -> None:
    """Check that the image ``path`` is a square whose side is a power of two.

    Raises:
        DataError: it is not; the message gives the resolution to pass.
    """
    width, height, _ = form
    if width == height and not width & (width - 1):
        return
    side = 1 << (min(width, height).bit_length() - 1)
    crop = "" if width == height else " (with --transform center-crop to keep the aspect ratio)"
    raise DataError(
        f"{path} is {width}x{height}; packed images must be square, with a power of two as their "
        f"side: pass --resolution {side}x{side}{crop}"
    )


class ContentDigest:
    """SHA-256 over the names and contents of files; a zip and a folder of equal files agree.

    Each name and each content is preceded by its length (8 bytes, little endian), so that no two
    different sets hash the same bytes. Files must be added in the order of their names.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._last = ""

    def add(self, name: str, content: bytes) -> None:
        assert name > self._last, (self._last, name)
        self._last = name
        for part in (name.encode("utf-8", "surrogateescape"), content):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class PackedWriter(Protocol):
    """Writes the entries of a packed set, which must come in the order of their names."""

    digest: ContentDigest

    def add(self, name: str, content: bytes) -> None:
        """Append one entry."""


class _ZipWriter:
    def __init__(self, stream: BinaryIO) -> None:
        self.digest = ContentDigest()
        self.archive = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)

    def add(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name)  # dated 1980-01-01: equal content gives equal bytes
        info.create_system = 3  # Unix, on every system
        info.external_attr = 0o644 << 16
        self.archive.writestr(info, content)
        self.digest.add(name, content)


class _FolderWriter:
    def __init__(self, folder: Path) -> None:
        self.digest = ContentDigest()
        self.folder = folder

    def add(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self.digest.add(name, content)


@contextmanager
def packed_writer(dest: Path) -> Iterator[PackedWriter]:
    """Write a packed set that replaces ``dest`` once the block ends without an error.

    ``dest`` becomes a zip file if its name ends in ``.zip``, else a folder.
    """
    if dest.suffix.lower() == ".zip":
        with atomic_write(dest) as stream:
            zip_writer = _ZipWriter(stream)
            with zip_writer.archive:
                yield zip_writer
    else:
        with atomic_folder(dest) as folder:
            yield _FolderWriter(folder)


def labels_json(labels: list[Any] | None, extra: dict[str, Any]) -> bytes:
    """The content of ``dataset.json``; public tools ignore the extra keys."""
    content = {"labels": labels} | {key: value for key, value in extra.items() if value is not None}
    return json.dumps(content, ensure_ascii=False).encode()


def refuse_overlap(source: Path, dest: Path, manifest: Path) -> None:
    """Check that writing ``dest`` and ``manifest`` leaves the source and each other alone.

    Raises:
        DataError: one would overwrite the other or the source.
    """
    inner, outer = source.resolve(), dest.resolve()
    if outer == inner or outer in inner.parents:
        raise DataError(f"{dest} would overwrite its own source {source}; pass another --dest")
    if dest.suffix.lower() != ".zip" and inner in outer.parents:
        raise DataError(f"{dest} is inside its source {source}; pass a --dest outside it")
    if outer in manifest.resolve().parents:
        raise DataError(f"{manifest} is inside {dest}; pass a --manifest outside it")


def is_packed_set(path: Path) -> bool:
    """Whether ``path`` is a packed set, a zip file or a folder as its name asks, or empty."""
    if path.is_dir() == (path.suffix.lower() == ".zip"):
        return False
    try:
        names = open_storage(path).names
    except DataError:
        return False
    if path.is_dir() and not names:
        return True
    return LABELS_NAME in names and all(
        name == LABELS_NAME or _IMAGE_NAME.fullmatch(name) for name in names
    )


_BLOCK_BYTES = 0xFFFF  # the longest stored block of deflate
_COLOR_TYPES = {1: 0, 3: 2}  # by channels: gray, RGB


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode a PNG without filters and compression.

    Written here, not by an image library: the packed bytes must not depend on its version, nor on
    that of zlib.

    Args:
        pixels: uint8 [H, W] or [H, W, 1] (gray), or [H, W, 3] (RGB).
    """
    height, width = pixels.shape[:2]
    kind = _COLOR_TYPES[pixels.size // (height * width)]
    # Each row starts with its filter type; 0 is none.
    rows = np.zeros((height, 1 + pixels.size // height), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = (
        *_chunk(b"IHDR", [header]),
        *_chunk(b"IDAT", list(_stored(rows.reshape(-1).data))),
        *_chunk(b"IEND", []),
    )
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks))


def _chunk(kind: bytes, pieces: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    check = zlib.crc32(kind)
    for piece in pieces:
        check = zlib.crc32(piece, check)
    yield struct.pack(">I", sum(map(len, pieces))) + kind
    yield from pieces
    yield struct.pack(">I", check)


def _stored(content: memoryview) -> Iterator[bytes | memoryview]:
    """A zlib stream (RFC 1950) of stored deflate blocks (RFC 1951, Sec. 3.2.4), in pieces."""
    yield b"\x78\x01"
    for start in range(0, len(content), _BLOCK_BYTES):
        block = content[start : start + _BLOCK_BYTES]
        is_last = start + _BLOCK_BYTES >= len(content)
        yield struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack(">I", zlib.adler32(content))


# The kinds of labels: classes are numbers or one-hot vectors, all other vectors are continuous.
CLASSES, VECTORS = "classes", "vectors"
_MAX_SAMPLES = 64
_MAX_SAMPLED_NUMBERS = 1 << 16


def label_kind(labels: Iterable[Any]) -> str:
    """``CLASSES`` or ``VECTORS``; sets do not record it, their labels show it."""
    return CLASSES if all(type(each) is int or is_one_hot(each) for each in labels) else VECTORS


def is_one_hot(label: Any) -> bool:
    """Whether a vector is a 1 among zeros."""
    values = np.asarray(label)
    return bool(np.count_nonzero(values) == 1 and values.sum() == 1)


def label_vectors(path: Path) -> list[list[float]]:
    """Labels of a packed set with continuous ones, spread evenly over its images, without repeats.

    They stand for its labels in sample images: few enough for a snapshot. Empty: the labels are
    classes, or there are none.

    Raises:
        DataError: the set or its labels file is damaged.
    """
    labels = list((read_labels(open_storage(path)).labels or {}).values())
    if not labels or label_kind(labels) == CLASSES:
        return []
    count = min(max(_MAX_SAMPLED_NUMBERS // len(labels[0]), 1), _MAX_SAMPLES, len(labels))
    chosen = [tuple(labels[i * len(labels) // count]) for i in range(count)]
    return [list(map(float, label)) for label in dict.fromkeys(chosen)]


def label_kind_of(path: Path) -> str:
    """The kind of the labels of a packed set; empty: it has none.

    Raises:
        DataError: the set or its labels file is damaged.
    """
    labels = read_labels(open_storage(path)).labels
    return label_kind(labels.values()) if labels else ""
