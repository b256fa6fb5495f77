"""The same seeds, drawn by each run's snapshot, as small pictures for a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from sg3flow.compare.facts import Facts
from sg3flow.devices import pick_device
from sg3flow.errors import Sg3flowError
from sg3flow.rendering.images import Image, Look
from sg3flow.rendering.outputs import labels, load_model, pictures
from sg3flow.rendering.seeds import check_seed

_LARGEST = 224  # pixels of a side on the page; larger pictures are brought down to it
_AS_PNG = 96  # up to this side every pixel counts, and a PNG is small


@dataclass(frozen=True)
class Drawn:
    """What one run draws.

    Attributes:
        pictures: data URIs, one a seed; empty: none could be drawn.
        captions: one a picture.
        side: pixels of a side as the network draws it.
        reason: why there are none; empty: there are.
    """

    pictures: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    side: int = 0
    reason: str = ""


def draw_all(
    runs: Sequence[Facts], seeds: Sequence[int], psi: float, class_index: int | None, device: str
) -> list[Drawn]:
    """The pictures of every run; one whose snapshot fails says why and stops nothing.

    Args:
        psi: truncation strength.
        class_index: for networks that know classes; None: their classes in turn.

    Raises:
        ConfigError: a seed, psi or device that no network could take.
    """
    look = Look(psi=psi)
    pick_device(device)
    for seed in seeds:
        check_seed(seed)
    return [_draw(run, seeds, look, class_index, device) for run in runs]


def _draw(
    run: Facts, seeds: Sequence[int], look: Look, class_index: int | None, device: str
) -> Drawn:
    if run.snapshot is None:
        return Drawn(reason="no snapshot was found")
    try:
        model = load_model(run.snapshot.source, device)
        one = class_index if model.G.c_dim else None
        drawn = pictures(model, seeds, one, look, f"drawing {run.name}")
        uris = tuple(map(_data_uri, drawn))
        return Drawn(uris, tuple(labels(model, seeds, one)), model.G.img_resolution)
    except (Sg3flowError, OSError) as error:
        return Drawn(reason=" ".join(str(error).split()))


def _data_uri(image: Image) -> str:
    pixels = image[:, :, 0] if image.shape[2] == 1 else image  # [H, W] or [H, W, 3]
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    if picture.width <= _AS_PNG:
        picture.save(stream, "PNG", optimize=True)
        return _uri("png", stream)
    picture.thumbnail((_LARGEST, _LARGEST), PillowImage.Resampling.LANCZOS)
    picture.save(stream, "JPEG", quality=85)
    return _uri("jpeg", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
