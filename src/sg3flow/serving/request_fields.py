"""The fields of a request with types and ranges, for people.

The signature of a registered model has types only for ``params``. MLflow 3.17 converts the value of
a typed column before the model sees it, so that true, "7" and 1.5 would become seeds.
"""

from sg3flow.rendering.seeds import MAX_SEED
from sg3flow.serving.request_schema import (
    COLUMNS,
    DEFAULT_QUALITY,
    FORMATS,
    MAX_DEGREES,
    MAX_PSI,
    MAX_SHIFT,
    PARAMS,
)

_FIELDS = {
    "seed": ("long", f"0 to {MAX_SEED}; gives the same image as in public StyleGAN tools"),
    "z": ("array of double", "a latent, instead of a seed"),
    "w": ("array of double", "one w for all layers or one per layer, instead of a seed"),
    "psi": ("double", f"truncation, {-MAX_PSI:g} to {MAX_PSI:g}; default {PARAMS['psi']:g}, off"),
    "class": ("long", "number of the class, for a model with classes"),
    "label": ("array of double", "instead of a class, or for a model trained with vectors"),
    "translate_x": ("double", f"image widths, {-MAX_SHIFT:g} to {MAX_SHIFT:g}"),
    "translate_y": ("double", f"image heights, {-MAX_SHIFT:g} to {MAX_SHIFT:g}"),
    "rotate": ("double", f"degrees, {-MAX_DEGREES:g} to {MAX_DEGREES:g}"),
    "format": ("string", f"one of {', '.join(FORMATS)}; default {PARAMS['format']}"),
    "quality": ("long", f"1 to 100, for jpeg and webp; default {DEFAULT_QUALITY}"),
    "size": ("long", "side in pixels, at most that of the network"),
    "edits": ("object of double", "strengths of directions by name, for a model that has some"),
}


def request_rows() -> list[tuple[str, str, str]]:
    """Name, type and meaning of each field, in the order of the columns."""
    return [(name, *_FIELDS[name]) for name in COLUMNS]
