"""Images that look the same: a perceptual hash, and the pairs within a small distance.

The hash is that of a discrete cosine transform (pHash, Zauner 2010, Sec. 3.2.1), with 256 bits in
place of 64: aligned faces share their coarse structure. It is computed in whole numbers below 2^53,
which float64 holds exactly in whatever order they are added, so that it is the same on every
machine.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
from PIL import Image

_SIDE = 64  # of the image that is transformed
_KEPT = 16  # lowest frequencies, each way
_SCALE = 1 << 12  # of the cosines
HASH_BITS = _KEPT * _KEPT


def perceptual_hash(grey: Image.Image) -> str:
    """64 hexadecimal digits; images that look alike differ in few of the 256 bits.

    Args:
        gray: an image of mode L.
    """
    box = Image.Resampling.BOX
    small = np.asarray(grey.resize((_SIDE, _SIDE), box, reducing_gap=1.0), np.float64)
    basis = _cosines()
    frequencies = basis @ small @ basis.T  # [_KEPT, _KEPT]
    frequencies[0, 0] = 0  # brightness is no part of the look
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

    Of many equal ones, the first stands for all: it is paired with each of them, and it alone with
    others. Two hashes that differ in d bits are equal in at least one of d + 1 pieces, so only
    those with a common piece are compared.
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
    """The numbers of rows that are equal, group by group, of at least two; sorted in a group."""
    keys = np.ascontiguousarray(piece).view(f"V{piece.shape[1]}").ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    for end, count in zip(ends, counts, strict=True):
        if count > 1:
            yield order[end - count : end]


def _close(table: np.ndarray, group: np.ndarray, distance: int) -> Iterator[tuple[int, int, int]]:
    for place, first in enumerate(group[:-1]):
        others = group[place + 1 :]
        bits = np.bitwise_count(table[others] ^ table[first]).sum(axis=1)
        for other in np.flatnonzero(bits <= distance):
            yield int(first), int(others[other]), int(bits[other])


_Partners = dict[int, tuple[int, str]]  # by the place of an entry: bits that differ, the partner


def add_near(entries: pd.DataFrame, rows: pd.DataFrame, distance: int, min_contrast: float) -> None:
    """Add to the table of entries its nearest look-alikes, of equal images none.

    Columns: ``near_here`` (an earlier one in the set) and ``near_elsewhere`` (one in another
    split that was not packed), each with ``_bits`` in which the hashes differ; missing: there is
    none.

    Args:
        entries: with ``path``, the path in the manifest.
        rows: the manifest.
        min_contrast: images with less are blank: they all look the same, and are told elsewhere.
    """
    places = {path: place for place, path in enumerate(entries["path"]) if isinstance(path, str)}
    known = [
        row
        for row in rows.to_dict("records")
        if isinstance(row["look"], str)
        and row["contrast"] >= min_contrast
        and (row["path"] in places or not row["in_subset"])
    ]
    near_here: _Partners = {}
    near_elsewhere: _Partners = {}
    for first, second, bits in near_pairs([row["look"] for row in known], distance):
        one, other = known[first], known[second]
        if one["pixel_sha256"] == other["pixel_sha256"]:
            continue
        if one["path"] in places and other["path"] in places:
            later, earlier = sorted((one, other), key=lambda row: -places[row["path"]])
            _keep_nearest(near_here, places[later["path"]], bits, earlier["path"])
        elif one["split"] != other["split"]:
            for row, partner in ((one, other), (other, one)):
                if row["path"] in places:
                    _keep_nearest(near_elsewhere, places[row["path"]], bits, partner["path"])
    for column, partners in (("near_here", near_here), ("near_elsewhere", near_elsewhere)):
        _add_column(entries, column, {place: name for place, (_, name) in partners.items()})
        _add_column(entries, f"{column}_bits", {p: bits for p, (bits, _) in partners.items()})


def _keep_nearest(partners: _Partners, place: int, bits: int, name: str) -> None:
    partners[place] = min(partners.get(place, (bits, name)), (bits, name))


def _add_column(
    entries: pd.DataFrame, column: str, values: dict[int, str] | dict[int, int]
) -> None:
    listed = [values.get(place) for place in range(len(entries))]
    entries[column] = pd.Series(listed, index=entries.index, dtype="object")
