"""From a packaged generator and a seed to a PNG; safe to ask from several threads at once."""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from sg3flow.checkpoints.packaged import load_packaged
from sg3flow.devices import pick_device
from sg3flow.rendering.images import Generator, Look, png_bytes, render_image


@dataclass(frozen=True)
class Request:
    """One picture to make.

    Args:
        seed: 0 to 2^32 - 1.
        look: truncation, translation, rotation.
        class_index: the class of a labelled network; None for an unlabelled one.
    """

    seed: int
    look: Look = field(default_factory=Look)
    class_index: int | None = None


class Predictor:
    """Makes pictures with one generator; the same request gives the same bytes."""

    def __init__(self, G: Generator, class_names: tuple[str, ...] = ()) -> None:
        self.G = G
        self.class_names = class_names
        # The input's transform is state of the network, and one picture keeps all cores busy.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, weights: Path, description: Path) -> "Predictor":
        """A predictor from a package's two files, on the device that ``SG3FLOW_DEVICE`` names.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            ConfigError: there is no such device.
        """
        device = pick_device(os.environ.get("SG3FLOW_DEVICE", "auto"))
        network, content = load_packaged(weights, description)
        network.requires_grad_(False).to(device)
        names = content["training_set"].get("class_names") or ()
        return cls(cast(Generator, network), tuple(map(str, names)))

    def predict(self, request: Request) -> bytes:
        """The PNG of a request; made alone, so that its bytes do not depend on its neighbours.

        Raises:
            ConfigError: the seed, the class or the look is not one this generator can serve.
            CheckpointError: the generator draws values that are not finite.
        """
        with self._lock:
            image = render_image(self.G, request.seed, request.look, request.class_index)
        return png_bytes(image)
