"""From a packaged generator and a request to a picture's file; safe to ask from several threads."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from sg3flow.checkpoints.packaged import load_packaged
from sg3flow.devices import pick_device
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.networks.placement import input_transform, placed_each
from sg3flow.rendering.images import (
    Generator,
    Image,
    Look,
    class_label,
    look_matrix,
    network_device,
    picture,
    placed_as,
    seed_ws,
    synthesize,
)
from sg3flow.rendering.samples import resized
from sg3flow.serving.encoding import DEFAULT_QUALITY, encoded
from sg3flow.serving.passes import Gatherer, Job, is_independent, pass_size

_logger = logging.getLogger(__name__)

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Request:
    """One picture to make, from a seed, a z or w's.

    Args:
        seed: 0 to 2^32 - 1; None where a vector is given.
        look: truncation (of a seed or a z), translation, rotation.
        class_index: the class of a labelled network; None for an unlabelled one, and for w's.
        z: a latent of z_dim numbers, in place of a seed.
        ws: one w for all layers, or one for each, of w_dim numbers; used as they are.
        kind: png, jpeg or webp.
        quality: 1 to 100, for jpeg and webp.
        size: side of the picture in pixels; 0: as the network draws it.
    """

    seed: int | None
    look: Look = field(default_factory=Look)
    class_index: int | None = None
    z: Vector | None = None
    ws: tuple[Vector, ...] | None = None
    kind: str = "png"
    quality: int = DEFAULT_QUALITY
    size: int = 0


@dataclass(frozen=True)
class Shapes:
    """What requests are checked against: the sizes of a generator."""

    num_classes: int
    resolution: int
    channels: int
    z_dim: int
    w_dim: int
    num_ws: int


class Predictor:
    """Makes pictures with one generator; the same request gives the same bytes.

    Args:
        G: the generator, in evaluation mode.
        class_names: of its classes, if it is labelled.
        batch: pictures a pass, see ``passes.py``; 1: one at a time.
    """

    def __init__(self, G: Generator, class_names: tuple[str, ...] = (), batch: int = 1) -> None:
        self.G = G
        self.class_names = class_names
        # The input's transform is state of the network, and one picture keeps all cores busy.
        self._lock = threading.Lock()
        self._gatherer = Gatherer(self._compute, batch) if self._can_gather(batch) else None

    @classmethod
    def load(cls, weights: Path, description: Path) -> "Predictor":
        """A predictor from a package's two files, on the device that ``SG3FLOW_DEVICE`` names.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            ConfigError: there is no such device, or a pass of no possible size.
        """
        batch, device = pass_size(), pick_device(os.environ.get("SG3FLOW_DEVICE", "auto"))
        network, content = load_packaged(weights, description)
        network.requires_grad_(False).to(device)
        names = content["training_set"].get("class_names") or ()
        return cls(cast(Generator, network), tuple(map(str, names)), batch)

    @property
    def shapes(self) -> Shapes:
        """The generator's sizes."""
        G = self.G
        return Shapes(G.c_dim, G.img_resolution, G.img_channels, G.z_dim, G.w_dim, G.num_ws)

    def predict(self, request: Request) -> bytes:
        """The file of one request; see ``predict_all``."""
        return self.predict_all([request])[0]

    def predict_all(self, requests: Sequence[Request]) -> list[bytes]:
        """The files of requests; the bytes of none depend on those beside it.

        Raises:
            ConfigError: the seed, the class or the look is not one this generator can serve, or
                vectors that it draws no finite picture from.
            CheckpointError: the generator draws values that are not finite.
        """
        return [_file(image, request) for image, request in self._images(requests)]

    def _images(self, requests: Sequence[Request]) -> Iterator[tuple[Image, Request]]:
        """Each request's picture, as the network draws it."""
        if self._gatherer is None:
            for request in requests:
                with self._lock:
                    yield self._alone(request), request
            return
        # A pass at a time: a long request neither fills the memory nor keeps short ones waiting.
        for start in range(0, len(requests), self._gatherer.size):
            part = requests[start : start + self._gatherer.size]
            waiting = [self._gatherer.submit(self._job(request)) for request in part]
            for future, request in zip(waiting, part, strict=True):
                with _blamed(request):
                    image = picture(future.result())
                yield image, request

    def _alone(self, request: Request) -> Image:
        ws = self._ws(request)
        with placed_as(self.G, request.look), _blamed(request):
            return synthesize(self.G, ws, request.look.noise_mode, request.seed or 0)

    def _job(self, request: Request) -> Job:
        if not request.look.is_still and input_transform(self.G) is None:
            raise ConfigError("this network cannot translate or rotate: only StyleGAN3 can")
        return self._ws(request)[0], look_matrix(request.look)

    def _compute(self, jobs: Sequence[Job]) -> torch.Tensor:
        """Pictures [N, C, H, W] of N jobs in one pass."""
        ws, matrices = (torch.stack(parts) for parts in zip(*jobs, strict=True))
        moves = input_transform(self.G) is not None
        with torch.no_grad(), placed_each(self.G, matrices) if moves else nullcontext():
            pictures: torch.Tensor = self.G.synthesis(ws, noise_mode="const").cpu()
        return pictures

    def _can_gather(self, batch: int) -> bool:
        if batch == 1:
            return False
        index = 0 if self.G.c_dim else None
        moves = input_transform(self.G) is not None
        looks = [Look(rotate=30.0 * i if moves else 0.0) for i in range(3)]
        jobs = [self._job(Request(i, look, index)) for i, look in enumerate(looks)]
        if is_independent(self._compute, jobs, batch):
            return True
        _logger.warning(
            "a pass of %d pictures does not keep every bit on this machine; pictures are made one "
            "at a time",
            batch,
        )
        return False

    def _ws(self, request: Request) -> torch.Tensor:
        """The w's of a request, [1, num_ws, w_dim]."""
        if request.seed is not None:
            return seed_ws(self.G, request.seed, request.look, request.class_index)
        device = network_device(self.G)
        if request.ws is not None:
            w = torch.tensor(request.ws, dtype=torch.float32, device=device)  # [1 or num_ws, w_dim]
            return w.expand(self.G.num_ws, self.G.w_dim).unsqueeze(0).contiguous()
        z = torch.tensor([request.z], dtype=torch.float32, device=device)  # [1, z_dim]
        label = class_label(self.G, request.class_index).to(device)
        with torch.no_grad():
            return self.G.mapping(z, label, truncation_psi=request.look.psi)


def _file(image: Image, request: Request) -> bytes:
    if request.size:
        image = resized(image, request.size)
    return encoded(image, request.kind, request.quality)


@contextmanager
def _blamed(request: Request) -> Iterator[None]:
    """A client's own numbers may lead out of the range of float32: no fault of the server."""
    try:
        yield
    except CheckpointError as error:
        if request.seed is not None:
            raise
        raise ConfigError(f"{error}, from this vector") from None
