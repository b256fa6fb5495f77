"""Read packed sets: images, labels and digest; decoded images may be cached in memory.

The PNGs of a packed set have neither compression nor row filters. libspng (package pyspng) decodes
them at least twice as fast as Pillow, to the same pixels (docs/data.md has the figures); Pillow
decodes all other images, and these if libspng is not installed.
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

# Signature, then the first chunk: length, name, width, height, bit depth, color type.
_PNG_START = struct.Struct(">8s4x4sIIBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_COLOR_TYPES = {0: "L", 2: "RGB"}


def decode_pixels(content: bytes) -> tuple[str, np.ndarray]:
    """Decode an image file; returns its Pillow mode and its pixels.

    Raises:
        Exception: any that Pillow raises for a damaged file.
    """
    form = _form_of_png(content)
    fast = _fast_decoder()
    if form is not None and fast is not None and _is_whole(content):
        mode, shape = form
        with suppress(Exception):  # damaged or unusual: Pillow reports what it is
            pixels = np.asarray(fast(content))
            if pixels.size == np.prod(shape) and pixels.dtype == np.uint8:
                return mode, pixels.reshape(shape)
    with Image.open(io.BytesIO(content)) as image:
        return image.mode, np.array(image)


def _form_of_png(content: bytes) -> tuple[str, tuple[int, int, int]] | None:
    """Mode and shape of an 8-bit gray or RGB PNG; None: it is something else."""
    if len(content) < _PNG_START.size:
        return None
    signature, chunk, width, height, depth, kind = _PNG_START.unpack_from(content)
    if signature != _PNG_SIGNATURE or chunk != b"IHDR" or depth != 8 or kind not in _COLOR_TYPES:
        return None
    return _COLOR_TYPES[kind], (height, width, 1 if kind == 0 else 3)


def _is_whole(content: bytes) -> bool:
    """Whether all chunks are present with correct CRC-32s; libspng accepts truncated files."""
    view, offset = memoryview(content), len(_PNG_SIGNATURE)
    while len(content) - offset >= _CHUNK.size + 4:
        length, kind = _CHUNK.unpack_from(content, offset)
        end = offset + _CHUNK.size + length
        if zlib.crc32(view[offset + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        offset = end + 4
    return False


@cache
def _fast_decoder() -> Callable[[bytes], np.ndarray] | None:
    try:
        load: Callable[[bytes], np.ndarray] = importlib.import_module("pyspng").load
    except ImportError:
        return None
    return load


class MemoryCache:
    """A cache for ``count`` uint8 images of one shape, shared with processes forked later."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._shape, self._image_bytes = shape, int(np.prod(shape))
        self._flags = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        self._pixels = np.frombuffer(mmap.mmap(-1, count * self._image_bytes), np.uint8)
        self._lock = threading.Lock()

    def get(self, index: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A copy of an image, from the cache or else from ``decode``."""
        start = index * self._image_bytes
        cached = self._pixels[start : start + self._image_bytes]
        if self._flags[index]:
            self._order()
            return cached.reshape(self._shape).copy()
        pixels = decode()
        cached[:] = pixels.ravel()
        self._order()
        self._flags[index] = 1
        return pixels

    def _order(self) -> None:
        """Keep the flag and the pixels in order on processors that reorder memory accesses.

        The lock is private to this process and never contended; taking it is the barrier.
        """
        with self._lock:
            pass


_CHANNELS = {"RGB": 3, "L": 1}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class PackedSet:
    """A packed set, opened for reading: a zip file or a folder.

    Attributes:
        path: path of the set.
        name: its file name without the suffix.
        num_images: number of images; their order is that of their names.
        resolution: side of every image in pixels, a power of two.
        channels: 3 (RGB) or 1 (gray).
        label_dim: length of a label vector; 0: no labels. May exceed the number of classes with
            images, because classes without images may have names.
        class_names: one name per class; None: the set has none.
        license, citation: license of the images and the work to cite; None: the set has none.

    Raises:
        DataError: the set is missing or damaged, contains no images, or its labels do not match its
            images. ``image`` raises it for an entry that is damaged or unlike the first one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem if self.path.suffix.lower() == ".zip" else self.path.name
        self._storage = open_storage(self.path)
        self._names = image_names(self._storage)
        if not self._names:
            raise DataError(f"{self.path} contains no images; run the pack stage first")
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
        """SHA-256 of the content, equal for a zip and a folder with the same entries."""
        return content_digest(self._storage)

    def keep_in_memory(self, share: float = 0.5) -> bool:
        """Cache decoded images in memory from now on, if the whole set fits.

        Processes forked later share the cache; spawned processes, and those that get the set
        pickled, read from disk.

        Args:
            share: fraction of the free memory that may be used.

        Returns:
            Whether the set fits.
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
                "square, with a power of two as their side: pack with --resolution, e.g. 256x256"
            )
        return height, channels


def image_names(storage: Storage) -> list[str]:
    """The names of the images in a packed set, sorted."""
    return [n for n in storage.names if n.lower().endswith(_SUFFIXES) and not is_hidden(n)]


def content_digest(storage: Storage) -> str:
    """SHA-256 over the images and the labels file; other files are ignored."""
    digest = ContentDigest()
    for name in sorted({*image_names(storage), *({LABELS_NAME} & {*storage.names})}):
        digest.add(name, storage.read(name))
    return digest.hexdigest()


def decode_entry(storage: Storage, name: str) -> np.ndarray:
    """The pixels of one entry, uint8 [H, W, C].

    Raises:
        DataError: the entry is damaged, not an image, or neither RGB nor gray.
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
