"""The Python API of a trained network: images, grids, videos and w, from any source.

The images are those of the ``render`` commands for the same arguments, pixel by pixel. Arguments
are checked before anything is computed, and a wrong one raises an ``Sg3flowError``. Nothing is
compiled until something is drawn.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from sg3flow.config import DEVICES
from sg3flow.networks import StyleGAN2Generator
from sg3flow.rendering.call_arguments import (
    disk_errors,
    options_of,
    refuse,
    seed_of,
    seeds_of,
    tiles_of,
    video_path_of,
    whole_number,
)
from sg3flow.rendering.call_conditions import (
    condition_of,
    labels_text,
    num_classes,
    one_condition,
)
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.edit_options import Given, with_edits
from sg3flow.rendering.grid import seed_sheet
from sg3flow.rendering.images import (
    Image,
    load_model,
    network_device,
)
from sg3flow.rendering.latent_drawing import LatentDrawing, pillow_image
from sg3flow.rendering.notebook_view import html_view
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import keyframe_seeds, write_interpolation
from sg3flow.rendering.w_files import W


def load(source: str | os.PathLike[str], device: str = "auto") -> "LoadedGenerator":
    """The generator of a network from any source.

    Args:
        source: ``starter`` or another name of ``sg3flow networks``; a file; an https:// URL;
            ``models:/NAME@ALIAS``, ``runs:/ID/PATH``. A file or folder goes before a name.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.

    Raises:
        CheckpointError: the source cannot be read, or has no generator.
        ConfigError: there is no such device.
        DataError: a download failed.
        TrackingError: the tracking server or the registry failed.
    """
    if not isinstance(source, str | os.PathLike):
        refuse("source", "a path, an address or a name", source)
    if not isinstance(device, str):
        refuse("device", f"one of {', '.join(DEVICES)}", device)
    name = os.fspath(source)
    return LoadedGenerator(load_model(name, device), name)


class LoadedGenerator(LatentDrawing):
    """A trained generator that draws images; ``sg3flow.load`` makes it.

    Common arguments of the methods:

    - ``seed``: a whole number from 0 to 2^32 - 1.
    - ``psi``: truncation psi from -2 to 2; 1 is off and the default, as in all commands; 0 is the
      average image. ``truncation_cutoff``: the number of layers, from the first, that psi applies
      to; None: all.
    - ``class_``: number or name of a class of a conditional network; ``label``: instead of it, the
      numbers of a label of a network trained with vectors. One image needs one of them; several
      images without take all classes in turn, or labels of training images.
    - ``translate``: shift (x, y) in image widths; ``rotate``: degrees. StyleGAN3 only.
    - ``noise_mode``: noise of a StyleGAN2 network: const, random or none.
    - ``edits``: strengths of directions in w by name, in units of w, such as ``{"pca0": 2.0}``;
      ``directions``: the file of `sg3flow directions` that they are in, or its content; None: those
      registered with a version of the registry.

    All methods raise ConfigError for a wrong argument and CheckpointError if the network generates
    values that are not finite.

    Attributes:
        network: the torch module, G_ema, in evaluation mode and without gradients.
        source: where it comes from, as it was given.
        training_labels: what is known of the labels that it was trained with.
    """

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.network.img_resolution

    @property
    def channels(self) -> int:
        """3: RGB; 1: gray."""
        return self.network.img_channels

    @property
    def num_classes(self) -> int:
        """Number of classes; 0: the network is unconditional, or its labels are no classes."""
        return num_classes(self.training_labels)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; empty: it has none."""
        return list(self._model.class_names)

    @property
    def config(self) -> str:
        """The architecture: ``stylegan3-t``, ``stylegan3-r`` or ``stylegan2``."""
        if isinstance(self.network, StyleGAN2Generator):
            return "stylegan2"
        kwargs = getattr(self.network, "init_kwargs", {})
        return "stylegan3-r" if kwargs.get("use_radial_filters") else "stylegan3-t"

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def device(self) -> str:
        """Where it computes: ``cpu`` or ``cuda:0``."""
        return str(network_device(self.network))

    @property
    def w_avg(self) -> W:
        """The average w, [w_dim], to which truncation pulls."""
        mapping: Any = self.network.mapping
        average: W = mapping.w_avg.cpu().numpy().copy()
        return average

    def image(
        self,
        seed: int = 0,
        *,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> PillowImage.Image:
        """The image of a seed: the pixels of ``render images`` with the same arguments."""
        number, options = (
            seed_of(seed),
            options_of(psi, translate, rotate, noise_mode, truncation_cutoff),
        )
        options = with_edits(options, self._model, edits, directions)
        condition = one_condition(self._model, class_, label)
        return pillow_image(self._model.picture(number, options, condition))

    def images(
        self,
        seeds: Iterable[int] = range(8),
        *,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> list[PillowImage.Image]:
        """The images of seeds, in their order."""
        numbers, options = (
            seeds_of(seeds),
            options_of(psi, translate, rotate, noise_mode, truncation_cutoff),
        )
        options = with_edits(options, self._model, edits, directions)
        drawn = self._drawn(numbers, options, condition_of(self._model, class_, label))
        return [pillow_image(image) for image in drawn]

    def grid(
        self,
        seeds: Iterable[int] = range(24),
        *,
        columns: int = 0,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> PillowImage.Image:
        """A sheet of the images of seeds with captions, as ``render grid`` writes it.

        Args:
            columns: images per row; 0: slightly wider than high.
        """
        numbers, options = (
            seeds_of(seeds),
            options_of(psi, translate, rotate, noise_mode, truncation_cutoff),
        )
        options = with_edits(options, self._model, edits, directions)
        per_row = whole_number("columns", columns, 0, 1000)
        condition = condition_of(self._model, class_, label)
        conditions = self._model.conditions(numbers, condition)
        captions = [self._model.caption(*pair) for pair in zip(numbers, conditions, strict=True)]
        images = self._drawn(numbers, options, condition)
        return pillow_image(seed_sheet(images, captions, self.resolution, per_row))

    def video(
        self,
        path: str | os.PathLike[str],
        seeds: Iterable[int] = range(4),
        *,
        grid: tuple[int, int] = (1, 1),
        num_keyframes: int = 0,
        w_frames: int = 120,
        fps: int = 60,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> Path:
        """Write an MP4, a loop through the w of the seeds, as ``render video`` does.

        Args:
            path: the file, which ends in .mp4; an earlier video of sg3flow there is replaced.
            grid: tiles across and down; each gets an equal part of the seeds.
            num_keyframes: keyframes per tile, the seeds repeated or cut off to fit; 0: all seeds.
            w_frames: frames from one keyframe to the next.
            fps: frames per second.

        Raises:
            DataError: ``path`` is taken by another file, or cannot be written.
        """
        file, numbers = video_path_of(path), seeds_of(seeds)
        options = options_of(psi, translate, rotate, noise_mode, truncation_cutoff)
        options = with_edits(options, self._model, edits, directions)
        tiles = tiles_of(grid)
        count = whole_number("num_keyframes", num_keyframes, 0, 10_000) * tiles[0] * tiles[1]
        frames, rate = (
            whole_number("w_frames", w_frames, 1, 10_000),
            whole_number("fps", fps, 1, 240),
        )
        keyframes = keyframe_seeds(numbers, count, -1)
        conditions = self._model.conditions(keyframes, condition_of(self._model, class_, label))
        with self._model.named(), disk_errors(file):
            write_interpolation(
                self.network,
                keyframes,
                file,
                options=options,
                classes=conditions,
                grid=tiles,
                frames_per_keyframe=frames,
                fps=rate,
            )
        return file

    def __repr__(self) -> str:
        return f"<{', '.join(f'{name} {value}' for name, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        """Facts and samples for a notebook."""
        return html_view(self._model, self._facts())

    def _facts(self) -> dict[str, str]:
        return {
            "network": self._model.source,
            "config": self.config,
            "resolution": f"{self.resolution} px" + (" gray" if self.channels == 1 else ""),
            "parameters": f"{self.num_parameters:,}",
            "classes": labels_text(self._model),
            "device": self.device,
        }

    def _drawn(
        self, seeds: Sequence[int], options: RenderOptions, condition: Condition
    ) -> Iterator[Image]:
        conditions = self._model.conditions(seeds, condition)
        for seed, each in zip(seeds, conditions, strict=True):
            yield self._model.picture(seed, options, each)
