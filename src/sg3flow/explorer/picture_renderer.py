"""Draws the pictures of a page: seeds as ``render images`` does, and w that were changed."""

import io
import itertools
import secrets
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from sg3flow.errors import ConfigError, cut
from sg3flow.explorer.direction_sets import DirectionSets
from sg3flow.explorer.pictures import Picture
from sg3flow.rendering.edits import Offset, edited, resolve_edits
from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import (
    Image,
    Model,
    png_bytes,
    seed_ws,
)
from sg3flow.rendering.mixing import mix_styles, parse_layers

W = npt.NDArray[np.float32]
_STORED = 64  # w of projections that pages can draw


class PictureRenderer:
    """Draws with one network; for one thread.

    Args:
        model: the network.
        sets: the directions of edits.
    """

    def __init__(self, model: Model, sets: DirectionSets) -> None:
        self.model, self.sets = model, sets
        self._stored: OrderedDict[str, W] = OrderedDict()
        self._numbers = itertools.count(1)
        # A link of an earlier explorer, or version, must not show another photo.
        self._token = secrets.token_hex(2)

    def store(self, w: W) -> str:
        """Keep a w, [1, num_ws, w_dim], for pictures; returns its name."""
        name = f"w{next(self._numbers)}-{self._token}"
        self._stored[name] = w
        while len(self._stored) > _STORED:
            self._stored.popitem(last=False)
        return name

    def w(self, picture: Picture) -> W:
        """The w of a picture, [1, num_ws, w_dim]: of its seed or stored, mixed, then edited.

        Raises:
            ConfigError: there is no such stored w or direction.
        """
        w = self._stored_w(picture.w) if picture.w else self._seed_w(picture.seed, picture)
        if picture.mix is not None:
            layers = parse_layers(picture.mix.layers, self.model.G.num_ws)
            w = mix_styles(w, self._seed_w(picture.mix.seed, picture), layers)[0]
        found: W = edited(torch.from_numpy(w), self._edit(picture)).numpy()
        return found

    def image(self, picture: Picture, model: Model | None = None) -> Image:
        """The image of a picture, [H, W, C].

        Args:
            model: a twin of the network that draws instead.

        Raises:
            ConfigError: as ``w``, or the network cannot be moved.
            CheckpointError: the network generates values that are not finite.
        """
        model = model or self.model
        if not picture.needs_w:
            options = replace(picture.options, edit=self._edit(picture))
            return model.picture(picture.seed, options, picture.condition)
        return model.w_picture(self.w(picture)[0], picture.options)

    def png(self, picture: Picture, side: int = 0) -> bytes:
        """A picture as PNG, of at most ``side`` pixels; 0: of all its pixels."""
        image = self.image(picture)
        return png_bytes(resized(image, side) if 0 < side < image.shape[0] else image)

    def npz(self, picture: Picture) -> bytes:
        """The w of a picture in the form of ``projected_w.npz``."""
        return npz_bytes(self.w(picture))

    def _seed_w(self, seed: int, picture: Picture) -> W:
        ws = seed_ws(self.model.G, seed, picture.options, picture.condition)
        found: W = ws.cpu().numpy()
        return found

    def _stored_w(self, name: str) -> W:
        if name not in self._stored:
            raise ConfigError(
                f"there is no stored w '{cut(name)}' any more; project the photo again"
            )
        return self._stored[name]

    def _edit(self, picture: Picture) -> Offset | None:
        if not picture.edits:
            return None
        return resolve_edits(self.sets.get(picture.directions), dict(picture.edits))


def npz_bytes(w: W) -> bytes:
    """A file of w, [N, num_ws, w_dim]."""
    stream = io.BytesIO()
    np.savez(stream, w=w)
    return stream.getvalue()
