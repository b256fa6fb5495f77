"""The starter set: animal faces drawn by this project, in AFHQ's layout.

With it, the whole pipeline runs anywhere in minutes, without a download. The arguments determine
every byte: drawing uses only exact arithmetic (see ``shapes.py``), and the PNGs are stored without
compression, whose output differs between zlib versions.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sg3flow.data.packed_form import encode_png
from sg3flow.data.starter.builds import Build
from sg3flow.data.starter.face_features import (
    Face,
    draw_ears,
    draw_eyes,
    draw_muzzle,
    draw_whiskers,
)
from sg3flow.data.starter.kinds import KINDS, Kind
from sg3flow.data.starter.markings import Skin, paint_markings
from sg3flow.data.starter.shapes import (
    Canvas,
    Color,
    Dice,
    Floats,
    Plane,
    capsule,
    cloud,
    dome,
    ellipse,
    fur,
    pixel_plane,
    smooth,
)
from sg3flow.errors import ConfigError
from sg3flow.progress import tracked

CLASSES = ("cat", "dog", "wild")

# Every tenth image of a class belongs to the validation split, for any number of images.
_VAL_EVERY = 10


def draw_starter(dest: Path, *, images: int, resolution: int, seed: int) -> dict[str, Any]:
    """Draw the starter set below ``dest``: ``starter/{train,val}/{cat,dog,wild}/*.png``.

    An image depends only on the seed, its class and its number, so a larger set contains the
    images of a smaller one, in the same split.

    Args:
        images: total number of images, divided equally among the classes.
        resolution: side in pixels.

    Returns:
        Number of images per folder, e.g. ``{"starter/train/cat": 180, ...}``.

    Raises:
        ConfigError: fewer images than classes, or a resolution below 16.
    """
    if images < len(CLASSES) or resolution < 16:
        raise ConfigError(
            f"the starter set needs at least {len(CLASSES)} images of at least 16 px, "
            f"not {images} of {resolution} px"
        )
    plan = [(number % len(CLASSES), number // len(CLASSES)) for number in range(images)]
    counts: dict[str, int] = {}
    for class_index, index in tracked(plan, "drawing the starter set", images):
        folder = _folder(class_index, index)
        (dest / folder).mkdir(parents=True, exist_ok=True)
        pixels = draw_face(CLASSES[class_index], resolution, (seed, class_index, index))
        name = f"starter_{CLASSES[class_index]}_{index:06d}.png"
        (dest / folder / name).write_bytes(encode_png(pixels))
        counts[folder] = counts.get(folder, 0) + 1
    return dict(sorted(counts.items()))


def _folder(class_index: int, index: int) -> str:
    split = "val" if index % _VAL_EVERY == _VAL_EVERY - 1 else "train"
    return f"starter/{split}/{CLASSES[class_index]}"


_BACKGROUNDS: tuple[tuple[Color, Color], ...] = (
    ((0.36, 0.46, 0.26), (0.20, 0.28, 0.14)),  # leaves
    ((0.60, 0.66, 0.42), (0.38, 0.42, 0.22)),  # meadow
    ((0.78, 0.72, 0.63), (0.56, 0.46, 0.36)),  # a warm room
    ((0.85, 0.85, 0.86), (0.68, 0.68, 0.71)),  # a gray wall
    ((0.12, 0.12, 0.13), (0.05, 0.05, 0.06)),  # a dark studio
    ((0.66, 0.78, 0.88), (0.80, 0.84, 0.80)),  # sky
    ((0.90, 0.92, 0.95), (0.76, 0.81, 0.88)),  # snow
    ((0.62, 0.42, 0.22), (0.36, 0.24, 0.14)),  # autumn
    ((0.44, 0.34, 0.28), (0.24, 0.18, 0.16)),  # wood
    ((0.34, 0.44, 0.54), (0.18, 0.24, 0.32)),  # dusk
    ((0.82, 0.70, 0.68), (0.62, 0.48, 0.50)),  # a rosy blanket
    ((0.80, 0.70, 0.50), (0.60, 0.50, 0.33)),  # dry grass
)


def draw_face(class_name: str, resolution: int, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Draw one animal; equal arguments give equal pixels on every machine.

    Args:
        class_name: cat, dog or wild.
        resolution: side in pixels; below 128, the image is drawn at twice the size and averaged.

    Returns:
        uint8 RGB, [resolution, resolution, 3].
    """
    dice = Dice(*seed)
    oversampling = 2 if resolution < 128 else 1
    canvas = Canvas(pixel_plane(resolution * oversampling))
    face = _choose(dice, dice.pick(KINDS[class_name]), canvas)
    _draw_background(dice, canvas)
    _draw_body(face)
    draw_ears(face, behind=True)
    _draw_head(face)
    draw_ears(face, behind=False)
    draw_muzzle(face)
    draw_eyes(face)
    draw_whiskers(face)
    _light_up(dice, canvas)
    return _to_bytes(canvas.rgb, oversampling)


def _choose(dice: Dice, kind: Kind, canvas: Canvas) -> Face:
    """Choose the pose, build and colors of one animal at random."""
    size = dice.between(1.08, 1.34)
    shift = dice.between(-0.07, 0.07), dice.between(0.04, 0.16)
    tilt = dice.between(-0.13, 0.13) + dice.between(-0.10, 0.10)
    turn = dice.between(-0.6, 0.6) + dice.between(-0.4, 0.4)
    plane = canvas.plane.moved(*shift).turned(tilt).scaled(size)
    # The far half of a turned face looks narrower: x grows faster there.
    x = plane.x * (1 + 0.10 * turn * np.clip(plane.x, -1, 1))
    plane = Plane(x, plane.y, plane.pixel)
    coat = dice.pick(kind.coats)
    light = dice.between(-0.55, 0.55), dice.between(-0.75, -0.35)
    return Face(
        canvas=canvas,
        dice=dice,
        plane=plane,
        build=_vary(dice, kind.build),
        coat=coat,
        base=dice.tint(coat.base),
        light=dice.tint(coat.light, 0.025),
        dark=dice.tint(coat.dark, 0.03),
        iris=dice.tint(dice.pick(coat.eyes or kind.eyes), 0.06),
        turn=turn,
        sun=(light[0], light[1], math.sqrt(1 - min(light[0] ** 2 + light[1] ** 2, 0.8))),
        hair=fur(dice, plane, (0.0, 0.12), 0.11),
        down=fur(dice, plane, (0.0, 0.12), 0.05),
        uneven=cloud(dice, plane, 8),
    )


def _vary(dice: Dice, build: Build) -> Build:
    def pair(values: tuple[float, float], spread: float) -> tuple[float, float]:
        return dice.near(values[0], spread), dice.near(values[1], spread)

    return replace(
        build,
        head=pair(build.head, 0.07),
        jaw=pair(build.jaw, 0.09),
        ear_at=(dice.near(build.ear_at[0], 0.08), dice.near(build.ear_at[1], 0.08)),
        ear_size=pair(build.ear_size, 0.16),
        ear_lean=build.ear_lean + dice.between(-0.12, 0.12),
        eye_at=(dice.near(build.eye_at[0], 0.07), build.eye_at[1] + dice.between(-0.025, 0.025)),
        eye_size=(dice.near(build.eye_size[0], 0.10), dice.near(build.eye_size[1], 0.20)),
        muzzle_size=pair(build.muzzle_size, 0.10),
        nose_size=pair(build.nose_size, 0.10),
        tongue=1.0 if dice.chance(build.tongue) else 0.0,
    )


def _draw_background(dice: Dice, canvas: Canvas) -> None:
    """Two blurred colors, clouds of light and shadow, and a few discs out of focus."""
    upper, lower = dice.pick(_BACKGROUNDS)
    upper, lower = dice.tint(upper, 0.08), dice.tint(lower, 0.08)
    plane = canvas.plane
    horizon = dice.between(-0.5, 0.5)
    canvas.paint(np.ones_like(plane.x), upper)
    uneven = cloud(dice, plane, 3.0)
    canvas.paint(smooth(horizon - 0.7, horizon + 0.7, plane.y + uneven * 0.6), lower)
    canvas.shade(1 + 0.16 * cloud(dice, plane, 2.2) + 0.08 * cloud(dice, plane, 5.0))
    for _ in range(int(dice.between(0, 7))):
        at = dice.between(-1, 1), dice.between(-1, 0.6)
        size = dice.between(0.08, 0.30)
        glow = dice.tint(dice.pick((upper, lower)), 0.2)
        disc = smooth(0.10, -0.10, ellipse(plane, at, (size, size)))
        canvas.paint(disc * dice.between(0.25, 0.6), glow)


def _draw_body(face: Face) -> None:
    """Mane, neck and chest below the head."""
    canvas, plane = face.canvas, face.plane.moved(-face.turn * 0.05)
    if face.build.mane:
        _draw_mane(face)
    width = face.dice.between(0.72, 1.0)
    body = ellipse(plane, (0, 1.25), (width, 0.95)) + face.hair * 0.04
    cover = canvas.fill(body, 0.03)
    canvas.paint(cover, face.dark if face.build.mane else face.base)
    if "bib" in face.coat.marks:
        bib = ellipse(plane, (0, 1.15), (0.44, 0.75)) + face.hair * 0.10
        canvas.paint(smooth(0.16, -0.16, bib) * cover, face.light)
    shade = 0.62 + 0.11 * face.hair + 0.25 * dome(plane, (0, 1.25), (width, 0.95), face.sun)
    # The head casts its shadow on the chest.
    shade = shade * (1 - 0.35 * smooth(0.25, -0.2, ellipse(plane, (0, 0.45), (0.55, 0.5))))
    canvas.shade(1 + cover * (shade - 1))


def _draw_mane(face: Face) -> None:
    canvas, plane, dice = face.canvas, face.plane, face.dice
    size = dice.between(0.98, 1.15)
    outline = ellipse(plane, (0, 0.10), (size * 0.94, size * 1.05))
    outline = outline + face.hair * 0.04 + cloud(dice, plane, 7) * 0.09
    cover = canvas.fill(outline, 0.03)
    canvas.paint(cover, face.dark)
    locks = cloud(dice, plane, 9) * 0.5 + face.hair
    inner = smooth(0.35, -0.05, ellipse(plane, (0, 0.08), (0.62, 0.66)) + locks * 0.06)
    tawny = tuple((a + b) / 2 for a, b in zip(face.dark, face.base, strict=True))
    canvas.paint(inner * cover, (tawny[0], tawny[1], tawny[2]))
    canvas.shade(1 + cover * (0.24 * locks - 0.04))


def _head_distance(face: Face) -> Floats:
    """The outline of skull, jaw and cheeks."""
    build, plane = face.build, face.plane
    width, height = build.head
    outline = ellipse(plane, (0, -0.02), (width, height))
    jaw = ellipse(plane, (0, build.jaw[1]), (build.jaw[0], 0.40))
    outline = np.minimum(outline, jaw)
    if build.fluff:
        for side in (1, -1):
            tuft = plane.mirrored(side)
            reach = width + build.fluff
            cheek = capsule(tuft, (0.2, 0.12), (reach, 0.30 + build.fluff), (0.30, 0.02), 0.02)
            outline = np.minimum(outline, cheek)
    return outline


def _draw_head(face: Face) -> None:
    canvas, plane, build = face.canvas, face.plane, face.build
    shaggy = 0.010 + 0.07 * build.fluff
    distance = _head_distance(face) + face.hair * shaggy
    cover = canvas.fill(distance, 0.03)
    shadow = smooth(0.20, 0.0, distance) * smooth(0.35, 0.75, plane.y)
    canvas.shade(1 - 0.45 * shadow)
    canvas.paint(cover, face.base)
    inner = plane.moved(face.turn * 0.05)
    skin = Skin(canvas, face.dice, inner, build, face.base, face.light, face.dark, cover, face.hair)
    paint_markings(skin, face.coat)
    _shade_head(face, inner, distance, cover)


def _shade_head(face: Face, inner: Plane, distance: Floats, cover: Floats) -> None:
    """Light from one side, darker towards the rim and in the eye sockets, lighter on the brow."""
    build = face.build
    width, height = build.head
    lit = dome(inner, (0, 0.06), (width * 1.12, height * 1.25), face.sun)
    shade = 0.66 + 0.42 * lit + 0.085 * face.hair + 0.05 * face.down + 0.05 * face.uneven
    shade = shade - 0.16 * smooth(-0.22, 0.02, distance)
    x, y = build.eye_at
    for side in (1, -1):
        socket = ellipse(inner.mirrored(side), (x * 0.9, y - 0.01), (0.25, 0.19))
        shade = shade - 0.12 * smooth(0.10, -0.14, socket)
    bridge = capsule(inner, (0, y - 0.25), (0, build.nose_at), (0.09, 0.11))
    shade = shade + 0.09 * smooth(0.08, -0.10, bridge) * (0.5 + build.snout)
    face.canvas.shade(1 + cover * (shade - 1))


def _light_up(dice: Dice, canvas: Canvas) -> None:
    """Apply overall exposure, the color of the light and a slight vignette."""
    x, y = canvas.plane.x, canvas.plane.y
    warm = dice.between(-0.04, 0.05)
    exposure = dice.between(0.94, 1.10)
    vignette = np.float32(1) - (x * x + y * y) * np.float32(0.09)
    canvas.shade(vignette * np.float32(exposure))
    canvas.rgb *= np.asarray([1 + warm, 1, 1 - warm], dtype=np.float32)


def _to_bytes(rgb: Floats, oversampling: int) -> npt.NDArray[np.uint8]:
    if oversampling == 2:
        rgb = (rgb[::2, ::2] + rgb[1::2, ::2] + rgb[::2, 1::2] + rgb[1::2, 1::2]) * np.float32(0.25)
    pixels: npt.NDArray[np.uint8] = np.floor(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels
