"""Style mixing: some layers of one w, the other layers of another (Karras et al. 2019, Sec. 3.1).

Layers are named by number, as text: ``4-7,9``. Layer 0 of StyleGAN3 is the Fourier input; low
numbers decide pose and shape, high ones color and detail. Without torch.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError, cut

ALL, NONE = "all", "none"

_PART = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")
_MOST_TEXT = 10_000


def parse_layers(text: str, num_ws: int) -> tuple[int, ...]:
    """The layers of a text, ascending and each once: ``4-7,9`` is 4, 5, 6, 7, 9.

    Args:
        text: numbers and ranges, ``all`` or ``none``.
        num_ws: number of layers; they are 0 to ``num_ws - 1``.

    Raises:
        ConfigError: not such a text, a descending range, or a layer that the network does not have.
    """
    word = text.strip().lower()
    if word in (ALL, NONE):
        return tuple(range(num_ws)) if word == ALL else ()
    if len(text) > _MOST_TEXT:
        raise ConfigError(f"layers must be numbers and ranges, not a text of {len(text)} letters")
    layers: set[int] = set()
    for part in text.split(","):
        first, last = _bounds(part, text)
        if last >= num_ws:
            raise ConfigError(
                f"layers must be from 0 to {num_ws - 1}, the layers of this network, not "
                f"'{cut(text)}'"
            )
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def layers_text(layers: Iterable[int]) -> str:
    """Layers as the shortest text that ``parse_layers`` reads; ``none`` if there are none."""
    ranges: list[list[int]] = []
    for layer in sorted(set(layers)):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) or NONE


def mix_styles(
    rows: npt.NDArray[np.float32], columns: npt.NDArray[np.float32], layers: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Every row with the styles of every column, ``[R, C, num_ws, w_dim]``.

    Args:
        rows: the base, ``[R, num_ws, w_dim]``.
        columns: what gives the styles, ``[C, num_ws, w_dim]``.
        layers: the layers whose w come from the column; all others come from the row.
    """
    mixed = np.repeat(rows[:, None], len(columns), axis=1)  # [R, C, num_ws, w_dim]
    chosen = list(layers)
    mixed[:, :, chosen] = columns[None, :, chosen]
    return mixed


def _bounds(part: str, text: str) -> tuple[int, int]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(
            f"layers must be numbers and ranges such as 4-7,9, all or none, not '{cut(text)}'"
        )
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if last < first:
        raise ConfigError(f"the range of layers {first}-{last} is descending; write {last}-{first}")
    return first, last
