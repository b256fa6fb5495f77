"""The shapes of the starter animals: skull, ears, eyes and muzzle.

Lengths are in the frame [-1, 1] x [-1, 1] of an upright face that fills the image: x to the
right, y down, the eyes a little above the middle.
"""

from dataclasses import dataclass, replace

from sg3flow.data.starter.shapes import Point


@dataclass(frozen=True)
class Build:
    """The shape of one kind of face."""

    head: Point  # half width and half height of the skull
    jaw: Point  # half width of the lower face, and how far down its middle lies
    fluff: float  # how far the cheeks stand out
    ear: str  # pointed, upright, round, floppy or folded
    ear_at: Point  # where the (right) ear grows
    ear_size: Point  # half width at the root, length
    ear_lean: float  # radians, outwards
    eye_at: Point
    eye_size: Point  # half width, half height
    eye_slant: float  # radians, outer corner upwards
    pupil: str  # slit or round
    muzzle_at: float
    muzzle_size: Point
    snout: float  # how far the muzzle stands out: shading and parallax
    nose: str  # small, broad or ball
    nose_at: float
    nose_size: Point
    whiskers: float = 0.0  # their opacity
    mane: bool = False
    tongue: float = 0.0  # how often the mouth is open


CAT = Build(
    head=(0.70, 0.64),
    jaw=(0.56, 0.34),
    fluff=0.05,
    ear="pointed",
    ear_at=(0.44, -0.36),
    ear_size=(0.27, 0.56),
    ear_lean=0.34,
    eye_at=(0.31, -0.08),
    eye_size=(0.165, 0.122),
    eye_slant=0.20,
    pupil="slit",
    muzzle_at=0.37,
    muzzle_size=(0.165, 0.13),
    snout=0.35,
    nose="small",
    nose_at=0.24,
    nose_size=(0.085, 0.062),
    whiskers=0.75,
)
DOG = Build(
    head=(0.60, 0.62),
    jaw=(0.44, 0.42),
    fluff=0.0,
    ear="floppy",
    ear_at=(0.55, -0.36),
    ear_size=(0.17, 0.82),
    ear_lean=-0.05,
    eye_at=(0.25, -0.12),
    eye_size=(0.11, 0.085),
    eye_slant=0.0,
    pupil="round",
    muzzle_at=0.42,
    muzzle_size=(0.245, 0.20),
    snout=1.0,
    nose="ball",
    nose_at=0.26,
    nose_size=(0.165, 0.115),
    tongue=0.35,
)
SPITZ = Build(
    head=(0.62, 0.60),
    jaw=(0.42, 0.40),
    fluff=0.07,
    ear="upright",
    ear_at=(0.38, -0.40),
    ear_size=(0.205, 0.56),
    ear_lean=0.20,
    eye_at=(0.26, -0.10),
    eye_size=(0.115, 0.085),
    eye_slant=0.20,
    pupil="round",
    muzzle_at=0.39,
    muzzle_size=(0.19, 0.17),
    snout=0.9,
    nose="ball",
    nose_at=0.27,
    nose_size=(0.13, 0.09),
    tongue=0.25,
)
PUG = Build(
    head=(0.68, 0.64),
    jaw=(0.56, 0.40),
    fluff=0.0,
    ear="folded",
    ear_at=(0.54, -0.38),
    ear_size=(0.17, 0.30),
    ear_lean=0.40,
    eye_at=(0.32, -0.08),
    eye_size=(0.135, 0.115),
    eye_slant=-0.06,
    pupil="round",
    muzzle_at=0.36,
    muzzle_size=(0.24, 0.19),
    snout=0.45,
    nose="ball",
    nose_at=0.16,
    nose_size=(0.12, 0.075),
    tongue=0.15,
)
FOX = Build(
    head=(0.62, 0.54),
    jaw=(0.32, 0.38),
    fluff=0.16,
    ear="upright",
    ear_at=(0.40, -0.34),
    ear_size=(0.26, 0.66),
    ear_lean=0.30,
    eye_at=(0.27, -0.06),
    eye_size=(0.115, 0.075),
    eye_slant=0.36,
    pupil="slit",
    muzzle_at=0.42,
    muzzle_size=(0.135, 0.13),
    snout=0.8,
    nose="ball",
    nose_at=0.37,
    nose_size=(0.085, 0.062),
    whiskers=0.3,
)
WOLF = Build(
    head=(0.66, 0.60),
    jaw=(0.42, 0.40),
    fluff=0.16,
    ear="upright",
    ear_at=(0.42, -0.42),
    ear_size=(0.19, 0.44),
    ear_lean=0.30,
    eye_at=(0.25, -0.10),
    eye_size=(0.105, 0.068),
    eye_slant=0.38,
    pupil="round",
    muzzle_at=0.40,
    muzzle_size=(0.18, 0.17),
    snout=0.9,
    nose="ball",
    nose_at=0.30,
    nose_size=(0.125, 0.09),
)
BIG_CAT = Build(
    head=(0.70, 0.66),
    jaw=(0.52, 0.42),
    fluff=0.05,
    ear="round",
    ear_at=(0.50, -0.44),
    ear_size=(0.20, 0.22),
    ear_lean=0.55,
    eye_at=(0.29, -0.12),
    eye_size=(0.125, 0.082),
    eye_slant=0.24,
    pupil="round",
    muzzle_at=0.42,
    muzzle_size=(0.23, 0.185),
    snout=0.55,
    nose="broad",
    nose_at=0.24,
    nose_size=(0.155, 0.10),
    whiskers=0.7,
)
LION = replace(
    BIG_CAT,
    head=(0.60, 0.66),
    jaw=(0.46, 0.44),
    fluff=0.0,
    ear_size=(0.17, 0.18),
    eye_at=(0.26, -0.14),
    eye_size=(0.11, 0.072),
    snout=0.6,
    whiskers=0.5,
    mane=True,
)
CHEETAH = Build(
    head=(0.58, 0.60),
    jaw=(0.44, 0.38),
    fluff=0.03,
    ear="round",
    ear_at=(0.44, -0.42),
    ear_size=(0.17, 0.18),
    ear_lean=0.7,
    eye_at=(0.27, -0.10),
    eye_size=(0.13, 0.092),
    eye_slant=0.22,
    pupil="round",
    muzzle_at=0.37,
    muzzle_size=(0.18, 0.14),
    snout=0.5,
    nose="broad",
    nose_at=0.23,
    nose_size=(0.115, 0.08),
    whiskers=0.5,
)
