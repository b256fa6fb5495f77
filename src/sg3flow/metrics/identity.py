"""Whether two results may be compared at all."""

from collections.abc import Mapping
from typing import Any

# What a value means: values over other pictures or of another detector are other quantities.
_MEANING = {"reference_sha256": "the reference set", "detector_sha256": "the detector"}
# What it was measured under.
_CONDITIONS = {
    "num_generated": "the number of generated images",
    "num_reference": "the number of reference images",
    "resize": "the resizing",
    "seed": "the seed",
}


def differing_meaning(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, what makes two results of one metric different quantities; empty: nothing.

    Args:
        a, b: rows of ``reports/metrics.json``; a name that is missing counts as null.
    """
    return [words for key, words in _MEANING.items() if a.get(key) != b.get(key)]


def differing_conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, everything that keeps two results from being compared."""
    return differing_meaning(a, b) + [
        words for key, words in _CONDITIONS.items() if a.get(key) != b.get(key)
    ]
