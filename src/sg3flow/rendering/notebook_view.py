"""What a notebook shows of a loaded generator: a table of facts and a row of samples."""

import base64
import html
from collections.abc import Iterator, Mapping

from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import Model, png_bytes
from sg3flow.rendering.seeds import RenderOptions

_SEEDS = range(8)
_MAX_SIDE = 96


def html_view(model: Model, facts: Mapping[str, str]) -> str:
    """HTML without scripts or addresses; the samples are seeds 0 to 7 as inline PNGs.

    Raises:
        CheckpointError: the network generates values that are not finite.
    """
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table><div>{''.join(_samples(model))}</div>"


def _samples(model: Model) -> Iterator[str]:
    side = min(model.G.img_resolution, _MAX_SIDE)
    for seed, condition in zip(_SEEDS, model.conditions(_SEEDS, None), strict=True):
        image = resized(model.picture(seed, RenderOptions(), condition), side)
        content = base64.b64encode(png_bytes(image)).decode()
        caption = html.escape(model.caption(seed, condition), quote=True)
        yield f'<img src="data:image/png;base64,{content}" title="{caption}" alt="{caption}"> '
