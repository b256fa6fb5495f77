"""Generates the image file of a request with a packaged generator; thread-safe."""

import copy
import io
import queue
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image as PillowImage

from sg3flow.checkpoints.loading import load_packaged
from sg3flow.device import pick_device
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.rendering.conditions import TrainingLabels, label_tensor
from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import (
    Image,
    RenderedGenerator,
    network_device,
    placed_as,
    png_bytes,
    render_image,
    synthesize,
)
from sg3flow.serving.request_schema import Limits, Request, Shapes
from sg3flow.settings import DEVICE


class Predictor:
    """Generates images with one generator; equal requests give equal bytes.

    Concurrent requests are not batched: in a batch the last bits of an image would depend on the
    other images, because StyleGAN3 normalizes the styles over the batch.

    Args:
        G: the generator, in evaluation mode.
        together: number of images to compute concurrently; they share the CPU cores.
        labels: what is known of the labels it was trained with; None: nothing.
    """

    def __init__(
        self, G: RenderedGenerator, together: int = 1, labels: TrainingLabels | None = None
    ) -> None:
        self.G, self.labels = G, labels or TrainingLabels(G.c_dim)
        # The input transform is state of the network, so each copy computes one image at a time.
        self._free: queue.SimpleQueue[RenderedGenerator] = queue.SimpleQueue()
        self._free.put(G)
        for _ in range(together - 1):
            self._free.put(_twin(G))
        if together > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // together))

    @classmethod
    def load(cls, weights: Path, description: Path) -> "Predictor":
        """A predictor from the two files of a package, on the device ``SG3FLOW_DEVICE``.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            ConfigError: there is no such device, or a limit in the environment is not a number.
        """
        together = Limits.from_environment().together
        device = pick_device(DEVICE.text())
        network, content = load_packaged(weights, description)
        network.requires_grad_(False).to(device)
        G = cast(RenderedGenerator, network)
        return cls(G, together, TrainingLabels.read(G.c_dim, content["training_set"]))

    @property
    def shapes(self) -> Shapes:
        """The sizes of the generator."""
        G = self.G
        classes = 0 if self.labels.are_vectors else G.c_dim
        sizes = (G.img_resolution, G.img_channels, G.z_dim, G.w_dim, G.num_ws)
        return Shapes(classes, *sizes, label_dim=G.c_dim)

    def predict(self, request: Request) -> bytes:
        """The image file of a request; concurrent requests do not change its bytes.

        Raises:
            ConfigError: the generator cannot serve the seed, class or options, or a vector leads to
                values that are not finite.
            CheckpointError: the generator generates values that are not finite.
        """
        G = self._free.get()
        try:
            image = _drawn(G, request)
        finally:
            self._free.put(G)
        if request.size:
            image = resized(image, request.size)
        return encode(image, request.kind, request.quality)


def encode(image: Image, kind: str, quality: int) -> bytes:
    """An image [H, W, 1 or 3] uint8 as a file; equal pixels give equal bytes on any machine.

    Args:
        kind: one of ``request_schema.FORMATS``.
        quality: 1 to 100, for jpeg and webp; PNG keeps every bit.
    """
    if kind == "png":
        return png_bytes(image)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    stream = io.BytesIO()
    # No chroma subsampling: it is visible in small images.
    more = {"subsampling": 0} if kind == "jpeg" else {"method": 4}
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    picture.save(stream, kind.upper(), quality=quality, **more)
    return stream.getvalue()


def _drawn(G: RenderedGenerator, request: Request) -> Image:
    if request.seed is not None and request.label is None:
        return render_image(G, request.seed, request.options, request.class_index)
    try:
        if request.seed is not None:
            return render_image(G, request.seed, request.options, request.label)
        with placed_as(G, request.options):
            return synthesize(G, _vector_ws(G, request), request.options.noise_mode, 0)
    except CheckpointError as error:
        # A vector of the client can overflow float32: a client error, not a server error.
        raise ConfigError(f"{error}, from this vector") from None


def _vector_ws(G: RenderedGenerator, request: Request) -> torch.Tensor:
    """The ws of a request without a seed, [1, num_ws, w_dim]."""
    device = network_device(G)
    if request.ws is not None:
        w = torch.tensor(request.ws, dtype=torch.float32, device=device)  # [1 or num_ws, w_dim]
        return w.expand(G.num_ws, G.w_dim).unsqueeze(0).contiguous()
    z = torch.tensor([request.z], dtype=torch.float32, device=device)  # [1, z_dim]
    condition = request.class_index if request.label is None else request.label
    label = label_tensor(condition, TrainingLabels(G.c_dim)).to(device)
    with torch.no_grad():
        return G.mapping(z, label, truncation_psi=request.options.psi)


def _twin(G: RenderedGenerator) -> RenderedGenerator:
    """A copy of the network with its own state and shared weights."""
    return copy.deepcopy(G, {id(parameter): parameter for parameter in G.parameters()})
