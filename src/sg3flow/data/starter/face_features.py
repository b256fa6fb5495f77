"""Ears, eyes, muzzle and whiskers of the starter animals."""

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
    almond,
    capsule,
    dome,
    ellipse,
    polygon,
    smooth,
)

_EARS_IN_FRONT = ("floppy", "folded")


@dataclass(frozen=True)
class Face:
    """One animal as chosen at random, and the canvas it is painted on."""

    canvas: Canvas
    dice: Dice
    plane: Plane  # upright: tilt, size and turn are already applied
    build: Build
    coat: Coat
    base: Color
    light: Color
    dark: Color
    iris: Color
    turn: float  # -1 to 1: to its right or to its left
    sun: tuple[float, float, float]
    hair: Floats  # long strands, about [-1, 1], [S, S]
    down: Floats  # short strands
    uneven: Floats  # broad patches of lighter and darker fur

    def at_depth(self, depth: float) -> Plane:
        """The plane for a part that stands out by ``depth``: it moves more as the head turns."""
        return self.plane.moved(self.turn * depth)


def draw_ears(face: Face, behind: bool) -> None:
    """Draw both ears if their kind grows behind the head, or if it hangs in front of it."""
    if (face.build.ear in _EARS_IN_FRONT) == behind:
        return
    perk = face.dice.between(-0.10, 0.10)
    for side in (1, -1):
        x, y = face.build.ear_at
        lean = face.build.ear_lean + side * perk + face.dice.between(-0.05, 0.05)
        plane = face.at_depth(-0.05).mirrored(side).moved(x, y).turned(lean)
        _EARS[face.build.ear](face, plane)


def _ear_color(face: Face) -> Color:
    return face.dark if "points" in face.coat.marks else face.coat.ear or face.base


def _triangle_ear(face: Face, plane: Plane, tip: float) -> None:
    """A standing ear: outer triangle, inner shell, hair from its inner edge."""
    width, length = face.build.ear_size
    corners = [(-width, 0.16), (-width * 0.55, -length * 0.5), (-0.01, -length + tip)]
    corners += [(0.01, -length + tip), (width * 0.66, -length * 0.42), (width, 0.24)]
    distance = polygon(plane, corners, tip) + face.hair * 0.008
    cover = face.canvas.fill(distance, 0.01)
    face.canvas.paint(cover, _ear_color(face))
    shell = [(-width * 0.52, 0.05), (-0.0, -length * 0.74), (width * 0.60, 0.10)]
    inside = polygon(plane, shell, 0.02) + face.hair * 0.02
    face.canvas.paint(smooth(0.035, -0.055, inside) * cover, face.coat.inner_ear)
    tuft = capsule(plane, (-width * 0.45, 0.10), (-width * 0.10, -length * 0.45), (0.12, 0.03))
    face.canvas.paint(smooth(0.05, -0.08, tuft + face.hair * 0.07) * cover * 0.75, face.light)
    depth = smooth(-length * 0.9, 0.15, plane.y)
    rim = smooth(-0.07, 0.0, distance)
    shade = 1.0 - 0.26 * depth + 0.12 * face.hair - 0.10 * rim
    face.canvas.shade(1 + cover * (shade - 1))


def _pointed_ear(face: Face, plane: Plane) -> None:
    _triangle_ear(face, plane, 0.025)


def _upright_ear(face: Face, plane: Plane) -> None:
    _triangle_ear(face, plane, 0.05)


def _round_ear(face: Face, plane: Plane) -> None:
    width, length = face.build.ear_size
    at = (0.0, -length * 0.5)
    distance = ellipse(plane, at, (width, length)) + face.hair * 0.010
    cover = face.canvas.fill(distance, 0.01)
    face.canvas.paint(cover, _ear_color(face))
    inside = ellipse(plane, (0.0, -length * 0.42), (width * 0.68, length * 0.70))
    face.canvas.paint(smooth(0.05, -0.06, inside + face.hair * 0.03) * cover, face.coat.inner_ear)
    deep = smooth(0.10, -0.12, ellipse(plane, (0.0, -length * 0.2), (width * 0.5, length * 0.5)))
    shade = 0.96 - 0.38 * deep + 0.12 * face.hair
    face.canvas.shade(1 + cover * (shade - 1))


def _floppy_ear(face: Face, plane: Plane) -> None:
    """A hanging ear: from the side of the skull outwards, then down."""
    width, length = face.build.ear_size
    upper = capsule(plane, (-0.12, -0.02), (0.06, length * 0.45), (width * 0.62, width), -0.07)
    lower = capsule(plane, (0.06, length * 0.40), (0.02, length * 0.80), (width, width * 0.72))
    distance = np.minimum(upper, lower) + face.hair * 0.014
    _flap(face, plane, distance, (0.04, length * 0.45), (width * 1.4, length * 0.75))


def _folded_ear(face: Face, plane: Plane) -> None:
    """A small ear that folds over and points down."""
    width, length = face.build.ear_size
    corners = [(-width * 1.1, -0.06), (width * 0.5, -0.10), (width * 0.35, length * 0.85)]
    distance = polygon(plane, corners, 0.06) + face.hair * 0.012
    _flap(face, plane, distance, (0.0, length * 0.3), (width * 1.4, length))


def _flap(
    face: Face,
    plane: Plane,
    distance: Floats,
    center: tuple[float, float],
    radii: tuple[float, float],
) -> None:
    cover = face.canvas.fill(distance, 0.03)
    face.canvas.shade(1 - 0.34 * smooth(0.10, -0.02, distance))
    face.canvas.paint(cover, _mixed(_ear_color(face), (0.1, 0.05, 0.02), 0.12))
    lit = dome(plane, center, radii, face.sun)
    shade = 0.62 + 0.36 * lit + 0.14 * face.hair - 0.12 * smooth(-0.05, 0.0, distance)
    face.canvas.shade(1 + cover * (shade - 1))


_EARS = {
    "pointed": _pointed_ear,
    "upright": _upright_ear,
    "round": _round_ear,
    "floppy": _floppy_ear,
    "folded": _folded_ear,
}


def draw_eyes(face: Face) -> None:
    """Draw both eyes: dark lids, iris, pupil, the lid's shadow and the light's reflection."""
    dice = face.dice
    gaze = dice.between(-0.02, 0.02), dice.between(-0.012, 0.012)
    pupil = dice.between(0.18, 0.62) if face.build.pupil == "slit" else dice.between(0.42, 0.62)
    for side in (1, -1):
        _draw_eye(face, side, gaze, pupil)


def _draw_eye(face: Face, side: int, gaze: tuple[float, float], pupil: float) -> None:
    canvas, build = face.canvas, face.build
    half_width, half_height = build.eye_size
    x, y = build.eye_at
    plane = face.at_depth(0.055).moved(side * x, y)
    lids = plane.mirrored(side).turned(-build.eye_slant)
    eye = almond(lids, half_width, half_height)
    canvas.paint(smooth(0.045, -0.005, eye) * 0.85, _mixed((0.07, 0.05, 0.05), face.dark, 0.15))
    ball = canvas.fill(eye)
    canvas.paint(
        ball, (0.62, 0.57, 0.52) if build.pupil == "round" else _mixed(face.iris, (0, 0, 0), 0.4)
    )
    look = plane.moved(*gaze)
    radius = half_height * (1.22 if build.pupil == "slit" else 1.25)
    iris = ellipse(look, (0, 0), (radius, radius))
    canvas.paint(canvas.fill(iris) * ball, _mixed(face.iris, (0, 0, 0), 0.45))
    canvas.paint(smooth(-0.005, -radius * 0.5, iris) * ball, face.iris)
    wide = radius * pupil
    tall = radius * (0.82 if build.pupil == "slit" else pupil)
    canvas.paint(canvas.fill(ellipse(look, (0, 0), (wide, tall)), 0.01) * ball, (0.03, 0.03, 0.04))
    canvas.shade(1 - 0.6 * ball * smooth(half_height * 0.1, -half_height, lids.y))
    _draw_glints(face, plane, half_height, ball)


def _draw_glints(face: Face, plane: Plane, radius: float, ball: Floats) -> None:
    at = face.sun[0] * radius * 0.6, face.sun[1] * radius * 0.6
    big = ellipse(plane, at, (radius * 0.22, radius * 0.22))
    face.canvas.paint(face.canvas.fill(big, 0.01) * ball * 0.95, (1.0, 1.0, 1.0))
    low = ellipse(plane, (-at[0], -at[1]), (radius * 0.34, radius * 0.22))
    face.canvas.paint(smooth(0.04, -0.03, low) * ball * 0.22, (0.9, 0.95, 1.0))


def _mixed(a: Color, b: Color, share: float) -> Color:
    """``a`` with this share of ``b``."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def draw_muzzle(face: Face) -> None:
    """Draw mouth, whisker pads, chin and nose."""
    build = face.build
    plane = face.at_depth(0.06 + 0.06 * build.snout)
    width, height = build.muzzle_size
    low = build.muzzle_at + height * 0.92
    if build.tongue:
        _draw_open_mouth(face, plane, low)
    else:
        chin = ellipse(plane, (0, low), (width * 0.72, height * 0.55)) + face.down * 0.012
        _swell(face, plane, chin, (0, low - 0.05), (width * 0.9, height * 0.8), 0.75)
    for side in (1, -1):
        at = (side * width * 0.62, build.muzzle_at)
        pad = ellipse(plane, at, (width * 0.80, height * 0.92)) + face.down * 0.012
        _swell(face, plane, pad, (at[0], at[1] - 0.02), (width, height * 1.15), 1.0)
    _draw_mouth(face, plane)
    _draw_nose(face, plane)


def _swell(
    face: Face,
    plane: Plane,
    distance: Floats,
    center: tuple[float, float],
    radii: tuple[float, float],
    strength: float,
) -> None:
    """Make a part of the face stand out by light and shadow alone; its markings stay."""
    snout = face.build.snout
    below = smooth(0.10, -0.02, distance) * smooth(center[1] - 0.05, center[1] + 0.2, plane.y)
    face.canvas.shade(1 - 0.22 * snout * below)
    inside = smooth(0.03, -0.05, distance) * strength
    lit = dome(plane, center, radii, face.sun)
    face.canvas.shade(1 + inside * ((0.30 + 0.25 * snout) * (lit - 0.52) + 0.07 * face.down + 0.10))


def _draw_open_mouth(face: Face, plane: Plane, low: float) -> None:
    canvas = face.canvas
    width, height = face.build.muzzle_size
    drop = face.dice.between(0.6, 1.0) * height
    jaw = ellipse(plane, (0, low + drop * 0.35), (width * 0.86, drop + 0.05)) + face.down * 0.012
    canvas.paint(canvas.fill(jaw, 0.03), _mixed(face.light, face.base, 0.4))
    mouth = ellipse(plane, (0, low + drop * 0.1), (width * 0.72, drop))
    canvas.paint(canvas.fill(mouth, 0.02), (0.16, 0.06, 0.06))
    tongue = capsule(plane, (0, low), (0.0, low + drop * 0.78), (width * 0.40, width * 0.36))
    canvas.paint(canvas.fill(tongue, 0.015), (0.86, 0.46, 0.48))
    groove = capsule(plane, (0, low), (0.0, low + drop * 0.7), (0.012, 0.006))
    canvas.paint(canvas.fill(groove, 0.03) * 0.4, (0.60, 0.24, 0.28))


def _draw_mouth(face: Face, plane: Plane) -> None:
    canvas, build = face.canvas, face.build
    width, height = build.muzzle_size
    ink, low = _mixed((0.12, 0.07, 0.06), face.base, 0.12), build.muzzle_at + height * 0.42
    thick = 0.013 if build.nose == "small" else 0.017
    line = capsule(plane, (0, build.nose_at), (0, low), (thick, thick))
    for side in (1, -1):
        lip = capsule(
            plane.mirrored(side),
            (0, low),
            (width * 1.12, low + height * 0.20),
            (thick, thick * 0.6),
            height * 0.30,
        )
        line = np.minimum(line, lip)
    canvas.paint(canvas.fill(line, 0.012) * 0.85, ink)


def _draw_nose(face: Face, plane: Plane) -> None:
    canvas, build = face.canvas, face.build
    w, h = build.nose_size
    plane = plane.moved(0, build.nose_at)
    if build.nose == "ball":
        shape = [
            (-w * 0.72, -h * 0.42),
            (w * 0.72, -h * 0.42),
            (w * 0.22, h * 0.55),
            (-w * 0.22, h * 0.55),
        ]
        distance = polygon(plane, shape, h * 0.46)
    else:
        shape = [
            (-w * 0.85, -h * 0.6),
            (w * 0.85, -h * 0.6),
            (w * 0.1, h * 0.75),
            (-w * 0.1, h * 0.75),
        ]
        distance = polygon(plane, shape, h * 0.26)
    color = face.dice.tint(face.coat.nose, 0.03)
    canvas.paint(smooth(0.05, -0.01, distance) * 0.35, _mixed(color, (0, 0, 0), 0.6))
    cover = canvas.fill(distance, 0.008)
    canvas.paint(cover, color)
    canvas.shade(1 + cover * (0.22 * smooth(h, -h, plane.y) - 0.10))
    for side in (1, -1):
        hole = capsule(
            plane.mirrored(side), (w * 0.36, h * 0.10), (w * 0.66, -h * 0.02), (h * 0.20, h * 0.11)
        )
        canvas.paint(canvas.fill(hole, 0.01) * cover * 0.8, _mixed(color, (0, 0, 0), 0.75))
    shine = ellipse(plane, (face.sun[0] * w * 0.5, -h * 0.46), (w * 0.42, h * 0.17))
    canvas.paint(smooth(0.03, -0.02, shine) * cover * 0.5, (0.95, 0.93, 0.93))


def draw_whiskers(face: Face) -> None:
    """Draw whiskers that fan out from the pads, and the dots they grow from."""
    if not face.build.whiskers:
        return
    canvas, build, dice = face.canvas, face.build, face.dice
    width, height = build.muzzle_size
    plane = face.at_depth(0.08)
    for side in (1, -1):
        half = plane.mirrored(side)
        for row in range(4):
            root = (width * dice.between(0.7, 1.1), build.muzzle_at + height * (row - 1.5) * 0.28)
            reach = dice.between(0.42, 0.66)
            rise = (row - 1.3) * 0.13 + dice.between(-0.05, 0.05)
            tip = (root[0] + reach, root[1] + rise)
            line = capsule(half, root, tip, (0.0075, 0.001), dice.between(-0.07, -0.01))
            canvas.paint(canvas.fill(line) * build.whiskers, (0.97, 0.96, 0.94))
            dot = ellipse(half, root, (0.014, 0.014))
            canvas.paint(canvas.fill(dot, 0.012) * 0.55, (0.16, 0.11, 0.09))
