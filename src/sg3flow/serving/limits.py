"""How much a request may ask for and how much is computed at once, from the environment.

- ``SG3FLOW_SERVE_MAX_PICTURES``: pictures a request; 64.
- ``SG3FLOW_SERVE_MAX_SIDE``: side of a picture in pixels, what a larger network draws is scaled
  down; 0: any; 0.
- ``SG3FLOW_SERVE_MAX_PIXEL_MIB``: MiB of all pixels of a request, before compression; 64.
- ``SG3FLOW_SERVE_MAX_BODY_MIB``: MiB of a request's body; 16.
- ``SG3FLOW_SERVE_TOGETHER``: pictures computed side by side, on a share of the cores each; 1.
"""

import os
from dataclasses import dataclass

from sg3flow.errors import ConfigError

_MIB = 1 << 20
# Name -> default, least, most.
_SETTINGS = {
    "SG3FLOW_SERVE_MAX_PICTURES": (64, 1, 4096),
    "SG3FLOW_SERVE_MAX_SIDE": (0, 0, 16384),
    "SG3FLOW_SERVE_MAX_PIXEL_MIB": (64, 1, 4096),
    "SG3FLOW_SERVE_MAX_BODY_MIB": (16, 1, 1024),
    "SG3FLOW_SERVE_TOGETHER": (1, 1, 64),
}


@dataclass(frozen=True)
class Limits:
    """Pictures a request, side in pixels (0: any), bytes of pixels and of a body; at once."""

    max_pictures: int = 64
    max_side: int = 0
    max_pixel_bytes: int = 64 * _MIB
    max_body_bytes: int = 16 * _MIB
    together: int = 1

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits that hold for this process.

        Raises:
            ConfigError: a variable that is no number in its range.
        """
        pictures, side, pixels, body, together = (_read(name) for name in _SETTINGS)
        return cls(pictures, side, pixels * _MIB, body * _MIB, together)

    def side_of(self, resolution: int) -> int:
        """The largest side a picture of a network of ``resolution`` pixels may have here."""
        return min(resolution, self.max_side) if self.max_side else resolution


def _read(name: str) -> int:
    default, low, high = _SETTINGS[name]
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and low <= int(text) <= high):
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not '{text[:40]}'")
    return int(text)
