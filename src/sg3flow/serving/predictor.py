"""From a packaged generator and a request to the bytes of an image file; safe to use in threads."""

import copy
import io
import os
import queue
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image as PillowImage

from sg3flow.checkpoints.loading import load_packaged
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import (
    Generator,
    Image,
    class_label,
    network_device,
    placed_as,
    png_bytes,
    render_image,
    synthesize,
)
from sg3flow.resources import pick_device
from sg3flow.serving.request_schema import Limits, Request, Shapes


class Predictor:
    """Makes pictures with one generator; the same request gives the same bytes.

    Waiting pictures are computed side by side, each alone: in a batch, the last bits of a picture
    would depend on its neighbors, for StyleGAN3 scales the styles of a batch by their mean square.

    Args:
        G: the generator, in evaluation mode.
        together: pictures computed at once, on a share of the cores each.
    """

    def __init__(self, G: Generator, together: int = 1) -> None:
        self.G = G
        # The input's transform is state of a network: one picture at a time on each.
        self._free: queue.SimpleQueue[Generator] = queue.SimpleQueue()
        self._free.put(G)
        for _ in range(together - 1):
            self._free.put(_twin(G))
        if together > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // together))

    @classmethod
    def load(cls, weights: Path, description: Path) -> "Predictor":
        """A predictor from a package's two files, on the device that ``SG3FLOW_DEVICE`` names.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            ConfigError: there is no such device, or a limit in the environment is no number.
        """
        together = Limits.from_environment().together
        device = pick_device(os.environ.get("SG3FLOW_DEVICE", "auto"))
        network, _ = load_packaged(weights, description)
        network.requires_grad_(False).to(device)
        return cls(cast(Generator, network), together)

    @property
    def shapes(self) -> Shapes:
        """The generator's sizes."""
        G = self.G
        return Shapes(G.c_dim, G.img_resolution, G.img_channels, G.z_dim, G.w_dim, G.num_ws)

    def predict(self, request: Request) -> bytes:
        """The file of a request; its bytes do not depend on what is computed beside it.

        Raises:
            ConfigError: the seed, the class or the options is not one this generator can serve, or
                vectors that it draws no finite picture from.
            CheckpointError: the generator draws values that are not finite.
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
    # No chroma subsampling: on the small images of a small network it shows.
    more = {"subsampling": 0} if kind == "jpeg" else {"method": 4}
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    picture.save(stream, kind.upper(), quality=quality, **more)
    return stream.getvalue()


def _drawn(G: Generator, request: Request) -> Image:
    if request.seed is not None:
        return render_image(G, request.seed, request.options, request.class_index)
    with placed_as(G, request.options):
        try:
            return synthesize(G, _vector_ws(G, request), request.options.noise_mode, 0)
        except CheckpointError as error:
            # A client's own numbers may lead out of float32: no fault of the server.
            raise ConfigError(f"{error}, from this vector") from None


def _vector_ws(G: Generator, request: Request) -> torch.Tensor:
    """The w's of a request without a seed, [1, num_ws, w_dim]."""
    device = network_device(G)
    if request.ws is not None:
        w = torch.tensor(request.ws, dtype=torch.float32, device=device)  # [1 or num_ws, w_dim]
        return w.expand(G.num_ws, G.w_dim).unsqueeze(0).contiguous()
    z = torch.tensor([request.z], dtype=torch.float32, device=device)  # [1, z_dim]
    label = class_label(G, request.class_index).to(device)
    with torch.no_grad():
        return G.mapping(z, label, truncation_psi=request.options.psi)


def _twin(G: Generator) -> Generator:
    """The same network with a state of its own; the weights are shared."""
    return copy.deepcopy(G, {id(parameter): parameter for parameter in G.parameters()})
