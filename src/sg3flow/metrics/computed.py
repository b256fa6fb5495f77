"""``sg3flow.metrics.compute``: one metric of images or of a network, from Python.

It gives the values of ``sg3flow evaluate images`` and ``sg3flow evaluate network``.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sg3flow.checkpoints.loading import is_network
from sg3flow.config import DEVICES, MOST_BATCH, MOST_SEED
from sg3flow.data.archive import PackedSet
from sg3flow.data.image_decoding import UnusableImageError, to_rgb_or_gray
from sg3flow.device import open_device
from sg3flow.errors import ConfigError, DataError, MetricError, cut, described
from sg3flow.metrics.evaluation import (
    ImageSet,
    compare_sets,
    evaluate_network,
    set_warnings,
)
from sg3flow.metrics.evaluation_run import set_of_network
from sg3flow.metrics.names import counted_name
from sg3flow.metrics.report import MetricResult


@dataclass(frozen=True)
class MetricValues:
    """The values of a metric: most have one, precision and recall are two.

    Attributes:
        results: in full: value, standard error, counts, detector, digests.
        warnings: what makes the values unreliable, one sentence each.
    """

    results: tuple[MetricResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """The values by name."""
        return {result.metric: result.value for result in self.results}

    @property
    def value(self) -> float:
        """The value of a metric that has one.

        Raises:
            MetricError: it has several.
        """
        return self._only().value

    @property
    def standard_error(self) -> float | None:
        """The standard error of that value; None: there are too few images. Errors as ``value``."""
        return self._only().standard_error

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        lines = [*map(_line, self.results), *(f"warning: {words}" for words in self.warnings)]
        return "\n".join(lines)

    def _only(self) -> MetricResult:
        if len(self.results) > 1:
            names = ", ".join(self.values)
            raise MetricError(f"this metric has several values: {names}; use .values")
        return self.results[0]


class ImageList:
    """Images in memory, as a set to measure.

    Args:
        images: Pillow images of any mode, or arrays uint8 [H, W], [H, W, 1] or [H, W, 3].
        name: of the argument, for messages.

    Raises:
        DataError: something else is among them.
    """

    conversion = ""  # they are converted before their digest is computed
    num_lossy = 0
    ignored: Mapping[str, int] = {}

    def __init__(self, images: Sequence[Any], name: str) -> None:
        self._pixels = [_pixels(image, f"{name}[{i}]") for i, image in enumerate(images)]
        self.num_images = len(self._pixels)
        self.name = f"{name}, a list of {self.num_images} images"
        self.path = Path(self.name)
        if self.num_images < 2:
            words = "a list of one image" if self._pixels else "an empty list"
            raise DataError(f"{name} is {words}; metrics need at least two images")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of sizes and pixels, in order."""
        digest = hashlib.sha256()
        for pixels in self._pixels:
            digest.update(repr(pixels.shape).encode())
            digest.update(pixels.tobytes())
        return digest.hexdigest()

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 ``[H, W, 1 or 3]``."""
        return self._pixels[index]


def compute(
    metric: str,
    a: Any,
    b: Any = None,
    *,
    seed: int = 0,
    batch: int = 32,
    device: str = "auto",
    held_out: Any = None,
) -> MetricValues:
    """A metric between images ``a`` and images ``b``, or of a network ``a`` against a packed set.

    Args:
        metric: between images ``fd_random``, ``fid``, ``kid``, ``pr3``, ``swd`` and the like; of a
            network ``fd_random1k_full``, ``fid50k_full``, ``eqt1k_int`` and the like, or a name
            without a count, which then is the number of images of ``b``.
        a: images to measure: a folder, zip or tar file, or a list of Pillow images or uint8 arrays
            [H, W, 3]. Or a network: what ``sg3flow.load`` takes or gives.
        b: images to compare with, in the same forms. With a network, its packed set; None: the set
            that it was trained on.
        seed: of generated images and of random samples.
        batch: images at once; affects speed and memory only.
        device: ``auto``, ``cpu`` or ``cuda``.
        held_out: images that the training has not seen, for ``fld``, in the same forms as ``a``;
            None: every second image of ``b``.

    Raises:
        MetricError: an unknown metric, weights that are not available, or unsuitable images.
        DataError: images cannot be read.
        CheckpointError: the network cannot be read.
        ConfigError: another argument is wrong.
    """
    _check(metric, seed, batch, device)
    network = _network(a)
    if _network(b):
        raise ConfigError(
            f"b must be images, not the network {cut(_network(b))}; give the network as a"
        )
    settings: dict[str, Any] = {"seed": seed, "batch": batch, "device": open_device(device)}
    if held_out is not None:
        settings["held_out"] = _images(held_out, "held_out")
    if network:
        return _of_network(metric, network, b, settings)
    return _of_images(metric, _images(a, "a"), _images(b, "b"), settings)


def _of_network(metric: str, source: str, b: Any, settings: dict[str, Any]) -> MetricValues:
    if isinstance(b, PackedSet):
        packed = b
    elif b is None:
        packed = set_of_network(source)
    elif isinstance(b, str | os.PathLike):
        packed = PackedSet(os.fspath(b))
    else:
        raise ConfigError(f"with a network, b must be a packed set, not {described(b)}")
    name = counted_name(metric, packed.num_images)
    return MetricValues(tuple(evaluate_network(source, packed, [name], **settings)))


def _of_images(
    metric: str, a: ImageSet | ImageList, b: ImageSet | ImageList, settings: dict[str, Any]
) -> MetricValues:
    warnings: list[str] = []
    results = compare_sets(a, b, [metric], on_warning=warnings.append, **settings)
    return MetricValues(tuple(results), (*warnings, *set_warnings({"a": a, "b": b})))


def _network(given: Any) -> str:
    """The source of a network; empty: it is none."""
    source = getattr(given, "source", None)
    if hasattr(given, "network") and isinstance(source, str):  # of sg3flow.load, in a layer above
        return source
    if isinstance(given, str | os.PathLike) and is_network(given):
        return os.fspath(given)
    return ""


def _images(given: Any, name: str) -> "ImageSet | ImageList":
    if isinstance(given, str | os.PathLike):
        return ImageSet(Path(given))
    if isinstance(given, PackedSet):
        return ImageSet(given.path)
    is_array = isinstance(given, np.ndarray) and given.ndim in (3, 4)
    if is_array and given.ndim == 3 and given.shape[2] in (1, 3):  # its rows are no gray images
        raise ConfigError(
            f"{name} is one image, {_kind(given)}; give a list of images, or an array [N, H, W, 3]"
        )
    if is_array or (isinstance(given, Sequence) and not isinstance(given, bytes)):
        return ImageList(given, name)
    raise ConfigError(
        f"{name} must be a folder, a zip or tar file, or a list of images, not {described(given)}"
    )


def _pixels(image: Any, name: str) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        pixels = image[:, :, None] if image.ndim == 2 else image
        if pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size:
            return np.ascontiguousarray(pixels)
    if isinstance(image, Image.Image):
        try:
            converted = np.array(to_rgb_or_gray(image).image)
        except UnusableImageError as error:
            raise DataError(f"{name}: {error}") from None
        return converted.reshape(*converted.shape[:2], -1)
    kind = _kind(image) if isinstance(image, np.ndarray) else described(image)
    raise DataError(f"{name} must be a Pillow image or an array uint8 [H, W, 3], not {kind}")


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _check(metric: object, seed: object, batch: object, device: object) -> None:
    if not isinstance(metric, str) or not re.fullmatch(r"\w{1,100}", metric):
        raise MetricError(f"metric must be a name such as fd_random, not {described(metric)}")
    for name, value, least, most in (("seed", seed, 0, MOST_SEED), ("batch", batch, 1, MOST_BATCH)):
        if type(value) is not int or not least <= value <= most:
            raise ConfigError(
                f"{name} must be a whole number from {least} to {most}, not {described(value)}"
            )
    if not isinstance(device, str):
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, not {described(device)}")


def _line(result: MetricResult) -> str:
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    counts = f"{result.num_generated:,}"
    if result.num_reference is not None:
        counts += f" against {result.num_reference:,}"
    return f"{result.metric} {result.value:.5g}{error} ({counts} images)"
