"""Near-duplicate images: a perceptual hash, and the pairs with similar hashes.

The hash is based on a discrete cosine transform (pHash, Zauner 2010, Sec. 3.2.1), with 256 bits
instead of 64 because aligned faces share their coarse structure. It uses whole numbers below 2^53,
which float64 represents exactly in any order of summation, so it is the same on every machine.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

_SIDE = 64  # of the image before the transform
_KEPT = 16  # lowest frequencies in each direction
_SCALE = 1 << 12  # factor of the cosines
HASH_BITS = _KEPT * _KEPT


def perceptual_hash(gray: Image.Image) -> str:
    """Hash a gray image (mode L) to 64 hexadecimal digits.

    Images that look alike differ in few of the 256 bits.
    """
    box = Image.Resampling.BOX
    small = np.asarray(gray.resize((_SIDE, _SIDE), box, reducing_gap=1.0), np.float64)
    basis = _cosines()
    frequencies = basis @ small @ basis.T  # [_KEPT, _KEPT]
    frequencies[0, 0] = 0  # ignore the brightness
    middle = np.partition(frequencies, HASH_BITS // 2, axis=None)[HASH_BITS // 2]
    bits = frequencies >= middle
    return np.packbits(bits).tobytes().hex()


@cache
def _cosines() -> np.ndarray:
    """The first rows of the DCT-II, scaled to whole numbers; float64 [_KEPT, _SIDE]."""
    angles = np.outer(np.arange(_KEPT), 2 * np.arange(_SIDE) + 1) * (np.pi / (2 * _SIDE))
    rows: np.ndarray = np.round(np.cos(angles) * _SCALE)
    return rows


def near_pairs(hashes: list[str], distance: int) -> Iterator[tuple[int, int, int]]:
    """Pairs of hashes that differ in at most ``distance`` bits: (first, second, bits).

    The first of several equal hashes represents them: it is paired with each of them, and only it
    with other hashes. Hashes that differ in d bits agree in at least one of d + 1 pieces, so only
    hashes with an equal piece are compared.
    """
    firsts: dict[str, int] = {}
    for number, each in enumerate(hashes):
        if firsts.setdefault(each, number) != number:
            yield firsts[each], number, 0
    numbers = list(firsts.values())
    for first, second, bits in _near_distinct(list(firsts), distance):
        yield numbers[first], numbers[second], bits


def _near_distinct(hashes: list[str], distance: int) -> Iterator[tuple[int, int, int]]:
    if len(hashes) < 2:
        return
    table = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    seen: set[tuple[int, int]] = set()
    for piece in np.array_split(np.unpackbits(table, axis=1), distance + 1, axis=1):
        for group in _equal_rows(np.packbits(piece, axis=1)):
            for first, second, bits in _close(table, group, distance):
                if (first, second) not in seen:
                    seen.add((first, second))
                    yield first, second, bits


def _equal_rows(piece: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of two or more equal rows, as sorted row numbers."""
    keys = np.ascontiguousarray(piece).view(f"V{piece.shape[1]}").ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    for end, count in zip(ends, counts, strict=True):
        if count > 1:
            yield order[end - count : end]


def _close(table: np.ndarray, group: np.ndarray, distance: int) -> Iterator[tuple[int, int, int]]:
    for number, first in enumerate(group[:-1]):
        others = group[number + 1 :]
        bits = np.bitwise_count(table[others] ^ table[first]).sum(axis=1)
        for other in np.flatnonzero(bits <= distance):
            yield int(first), int(others[other]), int(bits[other])


_Partners = dict[int, tuple[int, str]]  # by row of the entry: differing bits, path of the partner


def add_near(
    entries: "pd.DataFrame", rows: "pd.DataFrame", distance: int, min_contrast: float
) -> None:
    """Add the nearest near-duplicate of each entry; images with equal pixels do not count.

    Adds the columns ``near_here`` (an earlier image of the set) and ``near_elsewhere`` (an image of
    another split that was not packed), and for each ``_bits``, by how many the hashes differ.
    Missing values: there is none.

    Args:
        entries: the table of entries, with ``path``, the path in the manifest.
        rows: the manifest.
        min_contrast: images with less contrast are skipped: blank images all look alike, and
            another check reports them.
    """
    positions = {
        path: position for position, path in enumerate(entries["path"]) if isinstance(path, str)
    }
    known = [
        row
        for row in rows.to_dict("records")
        if isinstance(row["look"], str)
        and row["contrast"] >= min_contrast
        and (row["path"] in positions or not row["in_subset"])
    ]
    near_here: _Partners = {}
    near_elsewhere: _Partners = {}
    for first, second, bits in near_pairs([row["look"] for row in known], distance):
        one, other = known[first], known[second]
        if one["pixel_sha256"] == other["pixel_sha256"]:
            continue
        if one["path"] in positions and other["path"] in positions:
            later, earlier = sorted((one, other), key=lambda row: -positions[row["path"]])
            _keep_nearest(near_here, positions[later["path"]], bits, earlier["path"])
        elif one["split"] != other["split"]:
            for row, partner in ((one, other), (other, one)):
                if row["path"] in positions:
                    _keep_nearest(near_elsewhere, positions[row["path"]], bits, partner["path"])
    for column, partners in (("near_here", near_here), ("near_elsewhere", near_elsewhere)):
        _add_column(entries, column, {position: name for position, (_, name) in partners.items()})
        _add_column(entries, f"{column}_bits", {p: bits for p, (bits, _) in partners.items()})


def _keep_nearest(partners: _Partners, position: int, bits: int, name: str) -> None:
    partners[position] = min(partners.get(position, (bits, name)), (bits, name))


def _add_column(
    entries: "pd.DataFrame", column: str, values: dict[int, str] | dict[int, int]
) -> None:
    import pandas as pd  # slow to import, and the processes that hash do without

    listed = [values.get(position) for position in range(len(entries))]
    entries[column] = pd.Series(listed, index=entries.index, dtype="object")
