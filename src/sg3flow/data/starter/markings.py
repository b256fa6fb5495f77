"""The markings of the starter animals: where a coat shows its light and dark colors.

Each takes the upright plane of the face and paints onto the canvas below the eyes and the nose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sg3flow.data.starter.builds import Build
from sg3flow.data.starter.kinds import Coat
from sg3flow.data.starter.shapes import (
    Canvas,
    Color,
    Dice,
    Floats,
    Plane,
    capsule,
    cloud,
    ellipse,
    ripple,
    smooth,
    spots,
)


@dataclass(frozen=True)
class Skin:
    """What a marking is painted with: the face, its coat, and a grain that frays the edges."""

    canvas: Canvas
    dice: Dice
    plane: Plane  # of the face, shifted as the head turns
    build: Build
    base: Color
    light: Color
    dark: Color
    cover: Floats  # 1 where the head is, [S, S]
    grain: Floats  # fur, about [-1, 1], [S, S]

    def mark(self, distance: Floats, soft: float, color: Color, strength: float = 1.0) -> None:
        """Paint the inside of a shape, its edge soft and frayed along the fur."""
        amount = smooth(soft, -soft, distance + self.grain * 0.035)
        self.canvas.paint(amount * self.cover * strength, color)


def paint_markings(skin: Skin, coat: Coat) -> None:
    """Paint every marking of ``coat`` that belongs on the head, in the coat's order."""
    for name in coat.marks:
        if name in _MARKINGS:
            _MARKINGS[name](skin)


def _muzzle(skin: Skin) -> None:
    width, height = skin.build.muzzle_size
    at = (0.0, skin.build.muzzle_at + 0.07)
    skin.mark(ellipse(skin.plane, at, (width * 1.75, height * 1.6)), 0.07, skin.light, 0.95)


def _blaze(skin: Skin) -> None:
    width = skin.dice.between(0.05, 0.13)
    top = skin.dice.between(-0.75, -0.35)
    lean = skin.dice.between(-0.06, 0.06)
    low = skin.build.muzzle_at
    distance = capsule(skin.plane, (lean, top), (0.0, low), (width * 0.5, width * 2.1))
    skin.mark(distance, 0.04, skin.light)


def _cheeks(skin: Skin) -> None:
    spread, height = skin.dice.near(0.42, 0.12), skin.dice.near(0.34, 0.1)
    for side in (1, -1):
        plane = skin.plane.mirrored(side).moved(spread, height + 0.06).turned(-0.5)
        skin.mark(ellipse(plane, (0, 0), (0.36, 0.27)), 0.07, skin.light, 0.95)


def _brows(skin: Skin) -> None:
    x, y = skin.build.eye_at
    for side in (1, -1):
        plane = skin.plane.mirrored(side).moved(x * 0.86, y - 0.19).turned(-0.35)
        skin.mark(ellipse(plane, (0, 0), (0.12, 0.065)), 0.05, skin.light, 0.9)


def _cap(skin: Skin) -> None:
    reach = skin.dice.between(-0.36, -0.22)
    wings = skin.plane.y + np.abs(skin.plane.x) * 0.35
    tip = smooth(0.22, 0.02, np.abs(skin.plane.x)) * 0.20
    skin.mark(wings - tip - reach, 0.14, skin.dark, 0.85)


def _mask(skin: Skin) -> None:
    width, height = skin.build.muzzle_size
    at = (0.0, skin.build.muzzle_at)
    skin.mark(ellipse(skin.plane, at, (width * 1.55, height * 1.75)), 0.10, skin.dark, 0.95)
    x, y = skin.build.eye_at
    for side in (1, -1):
        around = ellipse(skin.plane.mirrored(side), (x, y + 0.02), (0.22, 0.18))
        skin.mark(around, 0.10, skin.dark, skin.dice.between(0.3, 0.7))


def _points(skin: Skin) -> None:
    low = skin.dice.near(0.24, 0.15)
    skin.mark(ellipse(skin.plane, (0, low), (0.36, 0.44)), 0.26, skin.dark, 0.9)


def _tabby(skin: Skin) -> None:
    x, y = skin.plane.x, skin.plane.y
    wobble = cloud(skin.dice, skin.plane, 6) * 0.12
    side = np.abs(x)
    fan = ripple((x / (0.55 - 0.75 * (y + 0.3))) * skin.dice.near(3.6, 0.1) + wobble + 0.5)
    brow = smooth(0.46, 0.34, side) * smooth(-0.14, -0.30, y)
    lines = ripple((y - side * 0.35) * skin.dice.near(5.0, 0.1) + wobble * 1.6)
    cheek = smooth(0.38, 0.50, side) * smooth(-0.26, -0.14, y) * smooth(0.66, 0.5, y)
    strength = skin.dice.between(0.55, 0.9)
    for stripe, region in ((fan, brow), (lines, cheek)):
        amount = smooth(0.42, 0.78, stripe + skin.grain * 0.12) * region
        skin.canvas.paint(amount * skin.cover * strength, skin.dark)


def _tiger(skin: Skin) -> None:
    x, y = skin.plane.x, skin.plane.y
    side = np.abs(x)
    wobble = cloud(skin.dice, skin.plane, 5) * 0.30
    arch = ripple((y + side * side * 0.9) * skin.dice.near(5.2, 0.08) + wobble)
    brow = smooth(0.40, 0.28, side) * smooth(-0.26, -0.36, y)
    lines = ripple((y - side * 0.55) * skin.dice.near(3.9, 0.08) + wobble)
    cheek = smooth(0.34, 0.52, side + cloud(skin.dice, skin.plane, 7) * 0.08)
    for stripe, region in ((arch, brow), (lines, cheek)):
        amount = smooth(0.46, 0.66, stripe + skin.grain * 0.10) * region
        skin.canvas.paint(amount * skin.cover, skin.dark)


def _patches(skin: Skin) -> None:
    noise = cloud(skin.dice, skin.plane.moved(skin.dice.between(0, 8)), 2.6)
    skin.mark(skin.dice.between(-0.05, 0.12) - noise, 0.05, skin.dark)


def _scattered(skin: Skin, cells: float, radius: float, jitter: float) -> None:
    distance = spots(skin.dice, skin.plane, cells, jitter)
    x, y = skin.build.eye_at
    clear = ellipse(skin.plane, (0, skin.build.muzzle_at - 0.04), (0.27, 0.30))
    amount = smooth(radius + 0.07, radius - 0.07, distance + skin.grain * 0.05)
    amount = amount * smooth(-0.02, 0.12, clear)
    for side in (1, -1):
        eye = ellipse(skin.plane.mirrored(side), (x, y), (0.17, 0.13))
        amount = amount * smooth(0.0, 0.04, eye)
    skin.canvas.paint(amount * skin.cover * 0.92, skin.dark)


def _dots(skin: Skin) -> None:
    _scattered(skin, skin.dice.between(6, 8), 0.27, 0.34)


def _freckles(skin: Skin) -> None:
    _scattered(skin, skin.dice.between(14, 17), 0.24, 0.28)


def _rosettes(skin: Skin) -> None:
    _scattered(skin, skin.dice.between(11, 14), 0.31, 0.32)


def _tears(skin: Skin) -> None:
    x, y = skin.build.eye_at
    width, _ = skin.build.muzzle_size
    for side in (1, -1):
        start, end = (x - 0.11, y + 0.03), (width * 0.95, skin.build.muzzle_at + 0.02)
        line = capsule(skin.plane.mirrored(side), start, end, (0.028, 0.022), -0.04)
        skin.mark(line, 0.02, skin.dark, 0.95)


def _wrinkles(skin: Skin) -> None:
    shadow = (skin.base[0] * 0.55, skin.base[1] * 0.52, skin.base[2] * 0.5)
    for height in (-0.48, -0.36, -0.25):
        y = skin.dice.near(height, 0.08)
        line = capsule(skin.plane, (-0.24, y), (0.24, y), (0.01, 0.01), 0.05)
        skin.mark(line, 0.05, shadow, 0.55)


_MARKINGS: dict[str, Callable[[Skin], None]] = {
    "muzzle": _muzzle,
    "blaze": _blaze,
    "cheeks": _cheeks,
    "brows": _brows,
    "cap": _cap,
    "mask": _mask,
    "points": _points,
    "tabby": _tabby,
    "tiger": _tiger,
    "patches": _patches,
    "dots": _dots,
    "freckles": _freckles,
    "rosettes": _rosettes,
    "tears": _tears,
    "wrinkles": _wrinkles,
}
