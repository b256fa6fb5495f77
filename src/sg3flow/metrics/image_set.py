"""A set of images in a folder or archive, for metrics between two sets."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sg3flow.data.image_decoding import (
    FileKind,
    UnusableImageError,
    decode_image,
    file_kind,
    to_rgb_or_gray,
)
from sg3flow.data.packed_form import ContentDigest
from sg3flow.data.readers.array_reader import LmdbStorage
from sg3flow.data.readers.labels import LABELS_NAME
from sg3flow.data.readers.listing import count_suffixes, ignored_words, open_listing
from sg3flow.data.readers.parquet_reader import ParquetStorage
from sg3flow.errors import DataError

_CONVERSION = "as pack, 1"  # the rules of ``image_decoding.py``; a change of theirs counts up


class ImageSet:
    """The images of a folder, zip or tar file, sorted by name, as packing lists and converts them.

    Attributes:
        path, name: path and name of the folder or file.
        num_images: number of images.
        ignored: number of files that are no images, by suffix.

    Raises:
        DataError: the path does not exist, has no images or cannot be read completely.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        listing = open_listing(self.path)
        if isinstance(listing.storage, ParquetStorage | LmdbStorage):
            raise DataError(f"{self.path} holds no image files; pack it, and give the packed set")
        for name, reason in listing.storage.problems.items():
            raise DataError(f"{self.path / name}: {reason}")
        self._storage, self._names = listing.storage, listing.names
        self.num_images = len(self._names)
        self.ignored = count_suffixes(listing.ignored)

    @cached_property
    def _content(self) -> tuple[str, Counter[FileKind]]:
        """The digest of the content and the kinds of its images, in one pass over the files."""
        digest, kinds = ContentDigest(), Counter[FileKind]()
        for name in sorted({*self._names, *({LABELS_NAME} & {*self._storage.names})}):
            content = self._storage.read(name)
            digest.add(name, content)
            if name != LABELS_NAME:
                kinds[file_kind(content)] += 1
        return digest.hexdigest(), kinds

    @property
    def digest(self) -> str:
        """SHA-256 of the content, computed as for packed sets: a zip file equals its folder."""
        return self._content[0]

    @property
    def num_lossy(self) -> int:
        """Number of images whose compression changes pixels, such as JPEG."""
        return sum(count for kind, count in self._content[1].items() if kind.is_lossy)

    @property
    def conversion(self) -> str:
        """Rules that convert some of the images; empty: all are 8-bit RGB or gray already."""
        return "" if all(kind.is_ready for kind in self._content[1]) else _CONVERSION

    def description(self) -> dict[str, Any]:
        """What a report records about the set."""
        return {"num_images": self.num_images, "lossy": self.num_lossy, "ignored": self.ignored}

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 ``[H, W, 1 or 3]``, converted as packing does.

        Raises:
            DataError: it cannot be decoded; the message names it.
        """
        name = self._names[index]
        try:
            decoded = decode_image(self._storage.read(name))
            pixels = np.array(to_rgb_or_gray(decoded.image).image)
        except UnusableImageError as error:
            raise DataError(f"{name} of {self.path}: {error}") from None
        return pixels.reshape(*pixels.shape[:2], -1)


def set_warnings(sides: Mapping[str, ImageSet]) -> list[str]:
    """What to know about two sets before a difference in their files counts as one of content."""
    a, b = sides.values()
    found = []
    if a.num_lossy * b.num_images != b.num_lossy * a.num_images:
        counts = " and ".join(
            f"{side.num_lossy:,} of {side.num_images:,} images of --{name}"
            for name, side in sides.items()
        )
        found.append(
            f"{counts} have lossy compression (such as JPEG); its traces count as a difference"
        )
    ignored = {name: side.ignored for name, side in sides.items() if side.ignored}
    return found + [f"--{name}: {ignored_words(counts)}" for name, counts in ignored.items()]
