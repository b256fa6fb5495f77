"""Pictures that look the same without being equal: within the packed set, and across splits."""

import pandas as pd

from sg3flow.data.looks import near_pairs

_Partners = dict[int, tuple[int, str]]  # by the place of an entry: bits that differ, the partner


def add_near(entries: pd.DataFrame, rows: pd.DataFrame, distance: int, min_contrast: float) -> None:
    """Add to the table of entries its nearest look-alikes, of equal pictures none.

    Columns: ``near_here`` (an earlier one in the set) and ``near_elsewhere`` (one in another
    split that was not packed), each with ``_bits`` in which the hashes differ; missing: there is
    none.

    Args:
        entries: with ``path``, the path in the manifest.
        rows: the manifest.
        min_contrast: pictures with less are blank: they all look the same, and are told elsewhere.
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
