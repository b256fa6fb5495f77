"""Pixels of the entries of a packed set.

PNGs without compression leave the decoder only row filters to undo, and ours have none. libspng
(package pyspng) reads them at least twice as fast as Pillow, with the same pixels (docs/data.md has
the figures); where it is not installed, or for any other image, Pillow decodes.
"""

import importlib
import io
import mmap
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sg3flow.data.packed_form import ContentDigest
from sg3flow.data.readers.labels import LABELS_NAME, read_labels
from sg3flow.data.readers.storage import Storage, is_hidden, open_storage
from sg3flow.errors import DataError
from sg3flow.resources import free_memory

# Signature, then the first chunk: its length and name, width, height, bit depth, color type.
_PNG_START = struct.Struct(">8s4x4sIIBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_PLAIN_TYPES = {0: "L", 2: "RGB"}


def decode_pixels(content: bytes) -> tuple[str, np.ndarray]:
    """The mode of an image file, in Pillow's words, and its pixels.

    Raises:
        Exception: whatever Pillow raises over a damaged file.
    """
    plain = _plain_png(content)
    fast = _fast_decoder()
    if plain is not None and fast is not None and _is_whole(content):
        mode, shape = plain
        with suppress(Exception):  # damaged, or more than it seems: Pillow says what it is
            pixels = np.asarray(fast(content))
            if pixels.size == np.prod(shape) and pixels.dtype == np.uint8:
                return mode, pixels.reshape(shape)
    with Image.open(io.BytesIO(content)) as image:
        return image.mode, np.array(image)


def _plain_png(content: bytes) -> tuple[str, tuple[int, int, int]] | None:
    """Mode and shape of a PNG with 8 bits a channel, gray or RGB; None: it is something else."""
    if len(content) < _PNG_START.size:
        return None
    signature, chunk, width, height, depth, kind = _PNG_START.unpack_from(content)
    if signature != _PNG_SIGNATURE or chunk != b"IHDR" or depth != 8 or kind not in _PLAIN_TYPES:
        return None
    return _PLAIN_TYPES[kind], (height, width, 1 if kind == 0 else 3)


def _is_whole(content: bytes) -> bool:
    """Whether every chunk has its CRC-32, up to the last: libspng takes what is there for all."""
    view, place = memoryview(content), len(_PNG_SIGNATURE)
    while len(content) - place >= _CHUNK.size + 4:
        length, kind = _CHUNK.unpack_from(content, place)
        end = place + _CHUNK.size + length
        if zlib.crc32(view[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


@cache
def _fast_decoder() -> Callable[[bytes], np.ndarray] | None:
    try:
        load: Callable[[bytes], np.ndarray] = importlib.import_module("pyspng").load
    except ImportError:
        return None
    return load


class MemoryCache:
    """Room for ``count`` images of one shape (uint8), shared with processes forked later."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._shape, self._image_bytes = shape, int(np.prod(shape))
        self._flags = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        self._pixels = np.frombuffer(mmap.mmap(-1, count * self._image_bytes), np.uint8)
        self._fence = threading.Lock()

    def get(self, index: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A copy of an image, from memory or from ``decode``."""
        start = index * self._image_bytes
        place = self._pixels[start : start + self._image_bytes]
        if self._flags[index]:
            self._order()
            return place.reshape(self._shape).copy()
        pixels = decode()
        place[:] = pixels.ravel()
        self._order()
        self._flags[index] = 1
        return pixels

    def _order(self) -> None:
        """Keep the flag and the pixels in order on processors that reorder memory accesses.

        The lock is this process's own and never waited for; taking it is the barrier.
        """
        with self._fence:
            pass


_CHANNELS = {"RGB": 3, "L": 1}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class PackedSet:
    """A packed set, opened for reading: a zip file or a folder.

    Attributes:
        path: where it is.
        name: its file name without the ending.
        num_images: images in it, in the order of their names.
        resolution: side of every image in pixels, a power of two.
        channels: 3 (RGB) or 1 (gray).
        label_dim: length of a label vector; 0: no labels. At least as many as there are classes
            with an image: there may be names of others.
        class_names: one name a class, if the set carries them.
        license, citation: terms of the images and the work to name, if the set carries them.

    Raises:
        DataError: it is missing or damaged, holds no image, or its labels do not fit its
            images; also from ``image`` for an entry that is damaged or unlike the first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem if self.path.suffix.lower() == ".zip" else self.path.name
        self._storage = open_storage(self.path)
        self._names = image_names(self._storage)
        if not self._names:
            raise DataError(f"{self.path} holds no images; pack some with stages/pack.py")
        self.num_images = len(self._names)
        self._cache: MemoryCache | None = None
        self.resolution, self.channels = self._form_of_first()
        content = read_labels(self._storage)
        self._labels = content.array(self._names)
        self.label_dim = content.label_dim(self._labels)
        self.class_names = content.class_names
        self.license, self.citation = content.license, content.citation

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: the same for a zip and a folder that hold the same entries."""
        return content_digest(self._storage)

    def keep_in_memory(self, share: float = 0.5) -> bool:
        """Keep every decoded image in memory from now on, if the whole set fits.

        Processes forked after this share the memory; where they are spawned, or the set is pickled,
        they read from the disk as before.

        Args:
            share: of the free memory that may be used.

        Returns:
            Whether it fits.
        """
        needed = self.num_images * (self.resolution**2 * self.channels + 1)
        if self._cache is None and needed <= share * free_memory():
            shape = (self.resolution, self.resolution, self.channels)
            self._cache = MemoryCache(self.num_images, shape)
        return self._cache is not None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 [resolution, resolution, channels]."""
        if self._cache is None:
            return self._decoded(index)
        return self._cache.get(index, lambda: self._decoded(index))

    def _decoded(self, index: int) -> np.ndarray:
        name = self._names[index]
        pixels = decode_entry(self._storage, name)
        form = (self.resolution, self.resolution, self.channels)
        if pixels.shape != form:
            raise DataError(
                f"entry {name} of {self.path} is {_form(pixels)}, but {self._names[0]} is "
                f"{self.resolution}x{self.resolution}x{self.channels}; pack the set again"
            )
        return pixels

    def label(self, index: int) -> np.ndarray:
        """One label, float32 [label_dim]; a class number becomes one-hot."""
        if self._labels is None:
            return np.zeros(0, np.float32)
        if self._labels.ndim == 2:
            return np.array(self._labels[index])
        onehot = np.zeros(self.label_dim, np.float32)
        onehot[self._labels[index]] = 1
        return onehot

    def _form_of_first(self) -> tuple[int, int]:
        pixels = decode_entry(self._storage, self._names[0])
        height, width, channels = pixels.shape
        if height != width or height & (height - 1):
            raise DataError(
                f"entry {self._names[0]} of {self.path} is {_form(pixels)}; images must be "
                "square with a power of two as their side: pack with --resolution, say 256x256"
            )
        return height, channels


def image_names(storage: Storage) -> list[str]:
    """The names of the images in a packed set, sorted."""
    return [n for n in storage.names if n.lower().endswith(_SUFFIXES) and not is_hidden(n)]


def content_digest(storage: Storage) -> str:
    """SHA-256 over the images and the labels file; other files beside them do not count."""
    digest = ContentDigest()
    for name in sorted({*image_names(storage), *({LABELS_NAME} & {*storage.names})}):
        digest.add(name, storage.read(name))
    return digest.hexdigest()


def decode_entry(storage: Storage, name: str) -> np.ndarray:
    """The pixels of one entry, uint8 [H, W, C].

    Raises:
        DataError: the entry is damaged, is no image, or is neither RGB nor gray.
    """
    content = storage.read(name)
    try:
        mode, pixels = decode_pixels(content)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise DataError(f"entry {name} of {storage.path} cannot be decoded ({error})") from None
    if mode not in _CHANNELS:
        raise DataError(f"entry {name} of {storage.path} has mode {mode}, not RGB or L")
    return pixels.reshape(*pixels.shape[:2], _CHANNELS[mode])


def _form(pixels: np.ndarray) -> str:
    height, width, channels = pixels.shape
    return f"{width}x{height}x{channels}"
