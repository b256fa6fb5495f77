"""From a seed to an image: models, rendering, and PNG files."""

import functools
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.checkpoints.loading import weights_digest
from sg3flow.device import open_device
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.networks.layers import to_uint8
from sg3flow.networks.stylegan3 import input_transform, motion_matrix, placed
from sg3flow.precision import computing
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import (
    Condition,
    TrainingLabels,
    condition_text,
    described_labels,
    label_tensor,
)
from sg3flow.rendering.edits import edited
from sg3flow.rendering.seeds import RenderOptions, seed_latent

# Mark in our images; files without it are never overwritten.
SOFTWARE = "sg3flow"
Image = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)


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


def render_image(
    G: RenderedGenerator, seed: int, options: RenderOptions, condition: Condition = None
) -> Image:
    """The image of a seed, [H, W, C] uint8.

    Raises:
        ConfigError: the seed is out of range; the class or label is missing, unknown, or the
            network is unconditional; the network does not support translation and rotation.
        CheckpointError: the network generates values that are not finite.
    """
    return w_image(G, seed_ws(G, seed, options, condition), options, seed)


def w_image(G: RenderedGenerator, ws: torch.Tensor, options: RenderOptions, seed: int) -> Image:
    """The image of ws, [1, num_ws, w_dim]; [H, W, C] uint8. Truncation does not apply.

    Args:
        seed: of random noise.

    Raises:
        ConfigError: the network does not support translation and rotation.
        CheckpointError: the network generates values that are not finite.
    """
    with placed_as(G, options):
        return synthesize(G, ws, options.noise_mode, seed)


def seed_ws(
    G: RenderedGenerator, seed: int, options: RenderOptions, condition: Condition
) -> torch.Tensor:
    """The ws of a seed, [1, num_ws, w_dim], with truncation, and then the edit.

    Raises:
        ConfigError: as ``render_image``, truncation of more layers than there
            are, or an edit for a network of other sizes.
    """
    cutoff = options.truncation_cutoff
    if cutoff is not None and not 0 <= cutoff <= G.num_ws:
        raise ConfigError(
            f"truncation_cutoff must be from 0 to {G.num_ws}, the layers of this network, not "
            f"{cutoff}"
        )
    device = network_device(G)
    z = torch.from_numpy(seed_latent(seed, G.z_dim)).to(device, torch.float32)
    c = label_tensor(condition, TrainingLabels(G.c_dim)).to(device)
    with torch.no_grad(), computing():
        ws = G.mapping(z, c, truncation_psi=options.psi, truncation_cutoff=cutoff)
        return edited(ws, options.edit)


def synthesize(G: RenderedGenerator, ws: torch.Tensor, noise_mode: str, seed: int) -> Image:
    """One image, [H, W, C] uint8, from its ws, [1, num_ws, w_dim].

    Images are generated one at a time: in a batch the last bits would depend on the batch size.
    Random noise comes from the seed of the image, so that it is reproducible.

    Raises:
        CheckpointError: the network generates values that are not finite.
    """
    devices = [ws.device] if ws.device.type == "cuda" else []
    random = torch.random.fork_rng(devices, enabled=noise_mode == "random")
    with torch.no_grad(), computing(), random:
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


@dataclass(frozen=True)
class Model:
    """A generator with its source, the labels it was trained with, and the names of its classes.

    Attributes:
        directions_file: the directions that were registered with it; None: there are none.
    """

    G: RenderedGenerator
    source: str
    labels: TrainingLabels
    class_names: Sequence[str] = ()
    directions_file: Path | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, computed at the first use."""
        return weights_digest(cast(torch.nn.Module, self.G))

    def picture(self, seed: int, options: RenderOptions, condition: Condition) -> Image:
        """The image of a seed; errors as in ``render_image``, with the name of the network."""
        with self.named():
            return render_image(self.G, seed, options, condition)

    def w_picture(self, w: npt.NDArray[np.float32], options: RenderOptions, seed: int = 0) -> Image:
        """The image of a w, [num_ws, w_dim]; errors as in ``w_image``, with the network's name."""
        ws = torch.from_numpy(w[None]).to(network_device(self.G))
        with self.named():
            return w_image(self.G, ws, options, seed)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Add the name of the network to errors inside the block."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from None

    def usable(self, condition: Condition) -> Condition:
        """The condition if the network knows it; an unconditional one ignores it with a warning.

        Raises:
            ConfigError: the condition does not fit the labels that the network was trained with.
        """
        if condition is None:
            return None
        if self.labels.dim == 0:
            option = "--class" if isinstance(condition, int) else "--label"
            _log.warning("warning: %s is ignored: %s is unconditional", option, self.source)
            return None
        self.labels.check(condition)
        return condition

    def conditions(self, seeds: Sequence[int], condition: Condition) -> list[Condition]:
        """The condition of each seed: the given one, or all classes or training labels in turn."""
        if condition is not None:
            return [condition] * len(seeds)
        return self.labels.in_turn(len(seeds))

    def caption(self, seed: int, condition: Condition) -> str:
        """The caption of an image: its seed, and its class or label if it has one."""
        text = condition_text(condition, self.class_names)
        return f"seed {seed}, {text}" if text else f"seed {seed}"


def load_model(source: str, device: str) -> Model:
    """The generator of a path, a URL, ``models:/…`` or ``runs:/…``, on a device.

    Raises:
        CheckpointError: the source cannot be read, or has no generator.
        ConfigError: there is no such device.
    """
    place = open_device(device)
    networks = load_networks(source)
    # A snapshot of an earlier version may be in the folder of its run.
    described = described_labels(networks.training_set or {}, Path(source).parent)
    return as_model(networks, shown_url(source), place, described)


def as_model(
    networks: Networks,
    source: str,
    device: torch.device,
    training_set: Mapping[str, Any] | None = None,
) -> Model:
    """The generator of loaded networks: G_ema, or G if there is no G_ema.

    Args:
        training_set: the description of the training set; None: that of the networks.

    Raises:
        CheckpointError: there is no generator, or the description does not fit it.
    """
    network = networks.G_ema or networks.G
    if network is None:
        raise CheckpointError(f"{source} has no generator")
    network.requires_grad_(False).to(device)
    described = training_set or networks.training_set or {}
    names = [str(name) for name in described.get("class_names") or ()]
    G = cast(RenderedGenerator, network)
    try:
        labels = TrainingLabels.read(G.c_dim, described)
        return Model(G, source, labels, names, networks.directions_file)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def pictures(
    model: Model,
    seeds: Sequence[int],
    condition: Condition,
    options: RenderOptions,
    description: str,
) -> Iterator[Image]:
    """The images of seeds, rendered one by one on demand, with a progress bar."""
    pairs = zip(seeds, model.conditions(seeds, condition), strict=True)
    for seed, one in tracked(pairs, description, len(seeds)):
        yield model.picture(seed, options, one)


def captions(model: Model, seeds: Sequence[int], condition: Condition) -> list[str]:
    """The captions of the images of seeds."""
    pairs = zip(seeds, model.conditions(seeds, condition), strict=True)
    return [model.caption(seed, one) for seed, one in pairs]
