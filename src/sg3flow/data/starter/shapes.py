"""Soft shapes, noise and fur on a square of pixels, from which the animal faces are drawn.

This uses only additions, products, quotients, square roots and comparisons, one array operation at
a time. IEEE 754 defines their results to the last bit, so an image is the same on every machine.
Sines, powers and sums over an axis are avoided: their last bits differ between machines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Color = tuple[float, float, float]
Point = tuple[float, float]
T = TypeVar("T")


class Dice:
    """Random choices for one image, all made from uniform doubles of one generator."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(list(seed)))

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._rng.random())

    def near(self, value: float, spread: float) -> float:
        """``value`` times a factor in [1 - spread, 1 + spread), more often near 1."""
        return value * (1 + spread * (self.between(-0.5, 0.5) + self.between(-0.5, 0.5)))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.between(0, 1) < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.between(0, len(items)))]

    def tint(self, color: Color, spread: float = 0.05) -> Color:
        """A color near ``color``: with another brightness and a slightly different hue."""
        light = self.between(-spread, spread)
        red, green, blue = (
            min(max(c + light + self.between(-spread, spread) / 4, 0.02), 0.98) for c in color
        )
        return red, green, blue

    def field(self, height: int, width: int) -> Floats:
        """White noise in [-1, 1), [height, width]."""
        return (self._rng.random((height, width)) * 2 - 1).astype(np.float32)


@dataclass(frozen=True)
class Plane:
    """Coordinates of every pixel, [S, S] each: x to the right, y down; and the side of a pixel."""

    x: Floats
    y: Floats
    pixel: float

    def moved(self, dx: float, dy: float = 0.0) -> "Plane":
        """The plane on which a shape drawn at (0, 0) appears at (dx, dy)."""
        return Plane(self.x - dx, self.y - dy, self.pixel)

    def mirrored(self, side: int) -> "Plane":
        """The plane itself for side 1, mirrored left to right for side -1."""
        return self if side > 0 else Plane(-self.x, self.y, self.pixel)

    def turned(self, angle: float) -> "Plane":
        """The plane on which a shape appears turned clockwise by ``angle`` radians about (0, 0)."""
        # Rounded: the last bit of a sine differs between C libraries.
        cos, sin = round(math.cos(angle), 9), round(math.sin(angle), 9)
        return Plane(self.x * cos + self.y * sin, self.y * cos - self.x * sin, self.pixel)

    def scaled(self, factor: float) -> "Plane":
        """The plane on which a shape appears ``factor`` times as large."""
        return Plane(self.x / factor, self.y / factor, self.pixel / factor)


def pixel_plane(size: int) -> Plane:
    """The frame [-1, 1] x [-1, 1] at the centers of ``size`` x ``size`` pixels."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return Plane(x, y, 2.0 / size)


def smooth(low: float, high: float, values: Floats) -> Floats:
    """0 below ``low``, 1 above ``high`` (or the reverse), a smooth step between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ellipse(plane: Plane, center: Point, radii: Point) -> Floats:
    """Distance to an ellipse to first order, negative inside, [S, S]."""
    u, v = (plane.x - center[0]) / radii[0], (plane.y - center[1]) / radii[1]
    r = np.sqrt(u * u + v * v)
    u, v = u / radii[0], v / radii[1]
    return r * (r - 1) / (np.sqrt(u * u + v * v) + 1e-6)


def dome(plane: Plane, center: Point, radii: Point, light: tuple[float, float, float]) -> Floats:
    """Lambert shading of an ellipsoid seen from the front: 1 where it faces the light, [S, S]."""
    u, v = (plane.x - center[0]) / radii[0], (plane.y - center[1]) / radii[1]
    z = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    length = np.sqrt(u * u + v * v + z * z) + 1e-6
    return (u * light[0] + v * light[1] + z * light[2]) / length


def capsule(plane: Plane, start: Point, end: Point, radii: Point, bend: float = 0.0) -> Floats:
    """Distance to a stroke of radius radii[0] to radii[1]; ``bend`` bows it sideways."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.sqrt(dx * dx + dy * dy)
    dx, dy = dx / length, dy / length
    x, y = plane.x - start[0], plane.y - start[1]
    along, across = x * dx + y * dy, y * dx - x * dy
    t = np.clip(along / length, 0, 1)
    across = across - (4 * bend) * (t * (1 - t))
    beyond = along - t * length
    return np.sqrt(across * across + beyond * beyond) - (radii[0] + (radii[1] - radii[0]) * t)


def polygon(plane: Plane, corners: Sequence[Point], rounding: float = 0.0) -> Floats:
    """Distance to a polygon whose corners are rounded outwards, negative inside, [S, S]."""
    nearest = np.full_like(plane.x, 1e9)
    inside = np.zeros(plane.x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = plane.x - ax, plane.y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        px, py = wx - t * ex, wy - t * ey
        nearest = np.minimum(nearest, px * px + py * py)
        if ey != 0:
            inside ^= ((plane.y >= ay) != (plane.y >= by)) & (wx < wy * (ex / ey))
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest) - rounding


def almond(plane: Plane, half_width: float, half_height: float) -> Floats:
    """Distance to the meeting of two discs, the outline of an eye, at (0, 0)."""
    radius = (half_width * half_width + half_height * half_height) / (2 * half_height)
    x, y = plane.x * plane.x, np.abs(plane.y) + (radius - half_height)
    return np.sqrt(x + y * y) - radius


def ripple(phase: Floats) -> Floats:
    """A triangle wave of period 1: 0 at whole numbers, 1 halfway between, [S, S]."""
    return 1 - np.abs(2 * (phase - np.floor(phase)) - 1)


def cloud(dice: Dice, plane: Plane, cells: float) -> Floats:
    """Smooth noise in about [-1, 1] with ``cells`` knots over a length of 2, [S, S]."""
    knots = 32
    table = dice.field(knots, knots)
    u, v = (plane.x + 2) * (cells / 2), (plane.y + 2) * (cells / 2)
    left, top = np.floor(u), np.floor(v)
    fu, fv = smooth(0, 1, u - left), smooth(0, 1, v - top)
    i, j = left.astype(np.int32) % knots, top.astype(np.int32) % knots
    i1, j1 = (i + 1) % knots, (j + 1) % knots
    upper = table[j, i] * (1 - fu) + table[j, i1] * fu
    lower = table[j1, i] * (1 - fu) + table[j1, i1] * fu
    return upper * (1 - fv) + lower * fv


def spots(dice: Dice, plane: Plane, cells: float, jitter: float) -> Floats:
    """Distance from the nearest of many scattered dots, in cells, [S, S]."""
    knots = 32
    shift_x, shift_y = dice.field(knots, knots) * jitter, dice.field(knots, knots) * jitter
    u, v = (plane.x + 2) * (cells / 2), (plane.y + 2) * (cells / 2)
    left, top = np.floor(u), np.floor(v)
    nearest = np.full_like(u, 1e9)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            i, j = left + step_x, top + step_y
            at = j.astype(np.int32) % knots, i.astype(np.int32) % knots
            dx, dy = u - (i + 0.5 + shift_x[at]), v - (j + 0.5 + shift_y[at])
            nearest = np.minimum(nearest, dx * dx + dy * dy)
    return np.sqrt(nearest)


def fur(dice: Dice, plane: Plane, root: Point, strand: float) -> Floats:
    """Strands of hair that run away from ``root``: noise in about [-1, 1], [S, S].

    Args:
        strand: length of a strand in units of the plane.
    """
    size = plane.x.shape[0]
    grain = dice.field(size + 1, size + 1)
    grain = grain[1:, 1:] + grain[1:, :-1] + grain[:-1, 1:] + grain[:-1, :-1]
    x, y = plane.x - root[0], plane.y - root[1]
    pixels = strand / plane.pixel
    far = np.sqrt(x * x + y * y) + 0.05
    x, y = x / far * pixels, y / far * pixels
    steps = min(max(int(pixels), 3), 24)
    column, row = np.meshgrid(*[np.arange(size, dtype=np.float32) + 0.5] * 2)
    total = np.zeros_like(grain)
    for step in range(steps):
        t = step / (steps - 1) - 0.5
        i, j = (
            np.floor(axis + t * v).astype(np.int32) % size for axis, v in ((column, x), (row, y))
        )
        total += grain[j, i]
    return total * (0.75 / math.sqrt(steps))


class Canvas:
    """An RGB image in [0, 1] that shapes are painted on, [S, S, 3]."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.rgb = np.zeros((*plane.x.shape, 3), dtype=np.float32)

    def paint(self, cover: Floats, color: Color | Floats) -> None:
        """Lay a color (one, or [S, S, 3]) over the image where ``cover`` [S, S] is above 0."""
        ink = np.asarray(color, dtype=np.float32)
        self.rgb += (ink - self.rgb) * cover[..., None]

    def shade(self, factor: Floats) -> None:
        """Multiply the image by ``factor`` [S, S]."""
        self.rgb *= factor[..., None]

    def fill(self, distance: Floats, soft: float = 0.0) -> Floats:
        """How much of each pixel lies inside a shape; ``soft`` widens the edge, [S, S]."""
        return np.clip(0.5 - distance / (self.plane.pixel * 1.2 + soft), 0, 1)
