"""Photos to project: decoded as ``pack`` does, then cropped and scaled to a network's images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage

from sg3flow.data.image_decoding import (
    UnusableImageError,
    decode_image,
    parse_color,
    to_rgb_or_gray,
)
from sg3flow.data.image_transform import (
    ExcludedImageError,
    check_transform,
    fit,
    parse_resolution,
)
from sg3flow.errors import ConfigError, DataError
from sg3flow.rendering.images import Image

_WIDE = "center-crop-wide"


@dataclass(frozen=True)
class TargetForm:
    """The images that a network makes, and how photos become like them.

    Attributes:
        resolution: side in pixels.
        channels: 3: RGB; 1: gray.
        transform: crop, as in ``pack``: none, center-crop or center-crop-wide.
        size: width and height as ``fit`` takes them.
        background: color behind transparent parts.
    """

    resolution: int
    channels: int
    transform: str
    size: tuple[int, int]
    background: tuple[int, int, int]

    @classmethod
    def of(
        cls,
        resolution: int,
        channels: int,
        transform: str = "center-crop",
        size: str = "",
        background: str = "white",
    ) -> "TargetForm":
        """The form of a network with these settings.

        Args:
            size: WIDTHxHEIGHT, for center-crop-wide; empty: that of the network.

        Raises:
            ConfigError: the settings do not fit together, or do not fit the network.
        """
        given = parse_resolution(size)
        if transform == _WIDE and given is None:
            raise ConfigError(
                f"transform {_WIDE} needs --resolution WIDTHxHEIGHT, as the set was packed with"
            )
        width, height = given or (resolution, resolution)
        check_transform(transform, (width, height))
        if width != resolution:
            raise ConfigError(
                f"the network makes images of {resolution} pixels; --resolution must be as wide, "
                f"not {width}x{height}"
            )
        color = parse_color(background)
        return cls(resolution, channels, transform, (width, height), color)


def fitted(image: PillowImage.Image, form: TargetForm, what: str = "the target") -> Image:
    """An image in any mode as the network would make it, uint8 [R, R, 1 or 3].

    Args:
        what: the image, for messages.

    Raises:
        DataError: it cannot be converted, or is too small for the crop.
    """
    try:
        upright = to_rgb_or_gray(image, form.background).image
        found = fit(upright, form.transform, form.size)
    except (UnusableImageError, ExcludedImageError) as error:
        raise DataError(f"{what} cannot be used: {error}") from None
    pixels = np.asarray(found.convert("L" if form.channels == 1 else "RGB"))
    return pixels.reshape(form.resolution, form.resolution, form.channels)


def read_target(path: Path, form: TargetForm) -> tuple[Image, bytes]:
    """A photo as the network would make it, and the content of its file.

    Raises:
        DataError: there is no such file, or it is no image that can be used.
    """
    what = f"the target {path}"
    if path.is_dir():
        raise DataError(f"{what} is a folder; name photos, such as {path}/*.jpg")
    try:
        content = path.read_bytes()
        image = decode_image(content).image
    except OSError as error:
        raise DataError(f"cannot read {what}: {error.strerror or error}") from None
    except UnusableImageError as error:
        raise DataError(f"{what} cannot be used: {error}") from None
    return fitted(image, form, what), content


def as_tensor(image: Image) -> torch.Tensor:
    """An image uint8 [R, R, C] as float32 [1, C, R, R] in [-1, 1]; ``to_uint8`` gives it back."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels[None].float() / 127.5 - 1


def target_names(paths: list[Path]) -> list[str]:
    """A folder name per target: its file name without suffix.

    Where two are equal, also but for case, the later ones get a number: ``cat``, ``cat-2``.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = path.stem.strip(". ") or "target"  # a folder must not be called . or ..
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names
