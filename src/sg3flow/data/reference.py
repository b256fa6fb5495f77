"""The profile of a packed set: what its pictures are like, to hold a later set against."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sg3flow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

PROFILED = ("mean", "contrast", "sharpness")
# Of 255; sharpness has no upper end and is told apart by factors.
_EDGES: dict[str, list[float]] = {
    "mean": [8 * i for i in range(33)],
    "contrast": [4 * i for i in range(33)],
    "sharpness": [0.0, *(round(2 ** (i / 3), 3) for i in range(1, 28))],
}


def profile_of(entries: "pd.DataFrame", classes: "pd.DataFrame") -> dict[str, Any]:
    """Share of the pictures in each bin of brightness, contrast and sharpness, and in each class.

    Args:
        entries: the table of entries, with a column for each of ``PROFILED``.
        classes: the table of classes; empty for an unlabelled set.
    """
    counts = dict(zip(classes["class_name"], classes["pictures"], strict=True))
    total = max(sum(counts.values()), 1)
    return {
        "num_images": len(entries),
        **{name: _histogram(entries[name].dropna(), _EDGES[name]) for name in PROFILED},
        "classes": {str(name): round(count / total, 6) for name, count in counts.items()},
    }


def _histogram(values: "pd.Series[float]", edges: list[float]) -> dict[str, Any]:
    shares = binned_shares(values.to_numpy(), edges)
    return {"edges": edges, "shares": [round(float(share), 6) for share in shares]}


def binned_shares(values: np.ndarray, edges: list[float]) -> np.ndarray:
    """Share of the values in each bin; what lies beyond the edges counts to the outer bins."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
    counts, _ = np.histogram(inside, edges)
    shares: np.ndarray = counts / max(len(values), 1)
    return shares


def read_reference(path: str) -> dict[str, Any] | None:
    """The profile in the ``validation.json`` of an earlier set; None for the empty path.

    Raises:
        DataError: there is no such file, or it holds no profile.
    """
    if not path:
        return None
    try:
        profile = json.loads(Path(path).read_text(encoding="utf-8"))["profile"]
        for name in PROFILED:
            edges, shares = profile[name]["edges"], profile[name]["shares"]
            if len(edges) != len(shares) + 1 or sorted(edges) != edges or not shares:
                raise ValueError(name)
            np.asarray([*edges, *shares], np.float64)
        return {**profile, "classes": {str(k): float(v) for k, v in profile["classes"].items()}}
    except OSError as error:
        raise DataError(f"the reference {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"the reference {path} holds no profile; give the validation.json of an earlier set"
        ) from None
