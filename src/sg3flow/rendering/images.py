"""From a seed to an image: seeds as text, latents, render options, and PNG files."""

import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.networks.layers import to_uint8
from sg3flow.networks.stylegan3 import input_transform, motion_matrix, placed
from sg3flow.rendering.conditions import Condition, TrainingLabels, label_tensor

MAX_SEED = 2**32 - 1
MAX_SEEDS = 100_000

_PART = re.compile(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?")
NOISE_MODES = ("const", "random", "none")
# Mark in our images; files without it are never overwritten.
SOFTWARE = "sg3flow"
Image = npt.NDArray[np.uint8]


def parse_seeds(text: str) -> list[int]:
    """Seeds in the order given: ``0,3-7,2`` is 0, 3, 4, 5, 6, 7, 2.

    Raises:
        ConfigError: not such a list, a seed above 2^32 - 1, a descending range, or more than
            100,000 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, last = _bounds(part, text)
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ConfigError(
                f"seeds '{text[:60]}' give more than {MAX_SEEDS} images; use fewer seeds"
            )
        seeds.extend(range(first, last + 1))
    return seeds


def seed_latent(seed: int, z_dim: int) -> npt.NDArray[np.float64]:
    """The latent z of a seed, [1, z_dim], equal to that of the public StyleGAN tools.

    NumPy's legacy generator is frozen: its output does not change between versions.
    """
    check_seed(seed)
    return np.random.RandomState(seed).randn(1, z_dim)


def check_seed(seed: int) -> None:
    """Refuse a seed outside the range of the random number generator.

    Raises:
        ConfigError: the seed is below 0 or above 2^32 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"a seed must be a whole number from 0 to {MAX_SEED}, not {seed}")


def _bounds(part: str, text: str) -> tuple[int, int]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(
            f"seeds must be whole numbers and ranges such as 0,3-7,2, not '{text[:60]}'"
        )
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    check_seed(first)
    check_seed(last)
    if last < first:
        raise ConfigError(f"the range of seeds {first}-{last} is descending; write {last}-{first}")
    return first, last


class RenderedGenerator(Protocol):
    """The parts of a generator that rendering uses."""

    @property
    def z_dim(self) -> int: ...
    @property
    def c_dim(self) -> int: ...
    @property
    def w_dim(self) -> int: ...
    @property
    def num_ws(self) -> int: ...
    @property
    def img_resolution(self) -> int: ...
    @property
    def img_channels(self) -> int: ...
    @property
    def mapping(self) -> Callable[..., torch.Tensor]: ...
    @property
    def synthesis(self) -> Callable[..., torch.Tensor]: ...
    @property
    def parameters(self) -> Callable[[], Iterator[Any]]: ...


@dataclass(frozen=True)
class RenderOptions:
    """How to render the image of a seed.

    Args:
        psi: truncation psi; 1 is off, 0 gives the average image.
        noise_mode: per-pixel noise of StyleGAN2: const, random or none; StyleGAN3 has none.
        translate: shift in image widths, (x, y); StyleGAN3 only.
        rotate: angle in degrees; StyleGAN3 only.
    """

    psi: float = 1.0
    noise_mode: str = "const"
    translate: tuple[float, float] = (0.0, 0.0)
    rotate: float = 0.0

    def __post_init__(self) -> None:
        if self.noise_mode not in NOISE_MODES:
            known = ", ".join(NOISE_MODES)
            raise ConfigError(f"noise mode must be one of {known}, not '{self.noise_mode}'")
        for name, value in {"psi": self.psi, "rotate": self.rotate}.items():
            if not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, not {value}")
        if not all(map(math.isfinite, self.translate)):
            raise ConfigError(f"translate must be two finite numbers, not {self.translate}")

    @property
    def is_still(self) -> bool:
        """Whether the image is neither translated nor rotated."""
        return tuple(self.translate) == (0, 0) and self.rotate == 0


def render_image(
    G: RenderedGenerator, seed: int, options: RenderOptions, condition: Condition = None
) -> Image:
    """The image of a seed, [H, W, C] uint8.

    Raises:
        ConfigError: the seed is out of range; the class or label is missing, unknown, or the
            network is unconditional; the network does not support translation and rotation.
        CheckpointError: the network generates values that are not finite.
    """
    ws = seed_ws(G, seed, options, condition)
    with placed_as(G, options):
        return synthesize(G, ws, options.noise_mode, seed)


def seed_ws(
    G: RenderedGenerator, seed: int, options: RenderOptions, condition: Condition
) -> torch.Tensor:
    """The ws of a seed, [1, num_ws, w_dim], with truncation."""
    device = network_device(G)
    z = torch.from_numpy(seed_latent(seed, G.z_dim)).to(device, torch.float32)
    c = label_tensor(condition, TrainingLabels(G.c_dim)).to(device)
    with torch.no_grad():
        return G.mapping(z, c, truncation_psi=options.psi)


def synthesize(G: RenderedGenerator, ws: torch.Tensor, noise_mode: str, seed: int) -> Image:
    """One image, [H, W, C] uint8, from its ws, [1, num_ws, w_dim].

    Images are generated one at a time: in a batch the last bits would depend on the batch size.
    Random noise comes from the seed of the image, so that it is reproducible.

    Raises:
        CheckpointError: the network generates values that are not finite.
    """
    devices = [ws.device] if ws.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices, enabled=noise_mode == "random"):
        if noise_mode == "random":
            torch.manual_seed(seed)
        img = G.synthesis(ws, noise_mode=noise_mode)  # [1, C, H, W]
    if not torch.isfinite(img).all():
        raise CheckpointError("the network generates values that are not finite")
    image: Image = to_uint8(img)[0].permute(1, 2, 0).contiguous().cpu().numpy()
    return image


def placed_as(G: RenderedGenerator, options: RenderOptions) -> AbstractContextManager[None]:
    """Let the network draw as moved as the options says while the block runs; see ``placed``.

    Raises:
        ConfigError: on entry, if a network that cannot move anything should.
    """
    if options.is_still and input_transform(G) is None:
        return nullcontext()
    return placed(G, motion_matrix(options.translate, math.radians(options.rotate)))


def png_bytes(image: Image) -> bytes:
    """An image [H, W, 1 or 3] uint8 as PNG with our mark; equal pixels give equal bytes."""
    from PIL import Image as PillowImage
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    stream = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def network_device(G: RenderedGenerator) -> torch.device:
    """The device of the network's parameters; the CPU if it has none."""
    for parameter in G.parameters():
        return torch.device(parameter.device)
    return torch.device("cpu")
