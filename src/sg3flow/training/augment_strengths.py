"""How often and how strongly each augmentation acts."""

from dataclasses import dataclass, fields

from sg3flow.errors import ConfigError


@dataclass(frozen=True)
class Strengths:
    """How often, relative to ``p``, and how strongly each transform acts; a multiplier of 0: never.

    ``*_max`` and ``*_std`` are the range or deviation of what is drawn: shifts in picture widths,
    scales and gains in powers of two, rotation and hue in half turns, brightness in the pictures'
    own units (-1..1), ``cutout_size`` in picture widths.
    """

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    xint_max: float = 0.125
    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1
    imgfilter: float = 0
    imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1)
    imgfilter_std: float = 1
    noise: float = 0
    cutout: float = 0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        if len(self.imgfilter_bands) != 4:
            raise ConfigError(
                f"imgfilter_bands must be 4 numbers, not {self.imgfilter_bands!r:.80}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or not 0 <= number < float("inf"):
                    raise ConfigError(f"{field.name} must be a number >= 0, not {number!r:.60}")


_BLITS = ("xflip", "rotate90", "xint")
_GENERAL_MAPS = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")

AUGMENT_PRESETS: dict[str, dict[str, float]] = {
    "bgc": dict.fromkeys((*_BLITS, *_GENERAL_MAPS, *_COLOR), 1),
}
