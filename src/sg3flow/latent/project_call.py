"""The Python API of projection: ``sg3flow.project(G, photo)``."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image as PillowImage

from sg3flow.config import ProjectConfig
from sg3flow.latent.pivotal_tuning import TuningStep
from sg3flow.latent.projection import ProjectionStep
from sg3flow.latent.projection_reports import picture_psnr
from sg3flow.latent.projector import Projector
from sg3flow.latent.targets import TargetForm, fitted, read_target
from sg3flow.params_file import load_settings
from sg3flow.rendering.call_arguments import refuse
from sg3flow.rendering.call_conditions import condition_of
from sg3flow.rendering.images import Image, Model
from sg3flow.rendering.loaded_generator import LoadedGenerator
from sg3flow.rendering.w_files import W

Photo = str | os.PathLike[str] | PillowImage.Image | np.ndarray
OnStep = Callable[[ProjectionStep | TuningStep], None]
S = TypeVar("S", ProjectionStep, TuningStep)


@dataclass(frozen=True)
class ProjectedImage:
    """A projected photo.

    Attributes:
        w: float32 [num_ws, w_dim], for ``G.from_w``.
        image: ``generator.from_w(w)``.
        target: the photo, cropped and scaled as the network would make it.
        psnr: of ``image`` to ``target`` in dB.
        generator: what draws ``image``: the given one, or after pivotal tuning a tuned copy.
    """

    w: W
    image: PillowImage.Image
    target: PillowImage.Image
    psnr: float
    generator: LoadedGenerator


def project(
    G: LoadedGenerator,
    target: Photo,
    *,
    space: str = "w",
    steps: int = 1000,
    lr: float = 0.1,
    loss: str = "pixels",
    noise_reg: float = 1e5,
    pti_steps: int = 0,
    pti_lr: float = 3e-4,
    pti_locality: float = 0.1,
    transform: str = "center-crop",
    resolution: str = "",
    background: str = "white",
    class_: int | str | None = None,
    label: Sequence[float] | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> ProjectedImage:
    """The w whose image is nearest to a photo, as ``sg3flow project`` finds it.

    Args:
        G: a generator that ``sg3flow.load`` gave.
        target: a path, a Pillow image, or pixels uint8 [H, W] or [H, W, 3].
        class_, label: whose w are sampled; without, those of all classes in turn.
        on_step: called after every step, with its number, loss, PSNR and image.

    Other arguments: as the options of the command.

    Raises:
        ConfigError: a wrong argument.
        DataError: the photo cannot be used.
        MetricError: the weights of the loss are not available.
        DivergedError: the numbers are no longer finite.
    """
    if not isinstance(G, LoadedGenerator):
        refuse("G", "a generator that sg3flow.load gave", G)
    given = {
        "space": space,
        "steps": steps,
        "lr": lr,
        "loss": loss,
        "noise_reg": noise_reg,
        "pti_steps": pti_steps,
        "pti_lr": pti_lr,
        "pti_locality": pti_locality,
        "transform": transform,
        "resolution": resolution,
        "background": background,
        "seed": seed,
    }
    config = load_settings(ProjectConfig, "project", overrides=given)
    model = Model(G.network, G.source, G.training_labels, G.class_names)
    projector = Projector.open(model, config, condition_of(model, class_, label))
    photo = _photo_of(target, projector.form)
    with model.named():
        w = _last(projector.projection(photo), on_step).w
        drawn_by = G
        if config.pti_steps:
            tuned, tuning = projector.tuning(w, photo)
            _last(tuning, on_step)
            source = f"{G.source}, tuned"
            drawn_by = LoadedGenerator(
                Model(tuned, source, model.labels, model.class_names), source
            )
    ws: W = w[0].cpu().numpy()
    image = drawn_by.from_w(ws)
    shown = PillowImage.fromarray(photo[:, :, 0] if photo.shape[2] == 1 else photo)
    psnr = picture_psnr(np.asarray(image).reshape(photo.shape), photo)
    return ProjectedImage(ws, image, shown, psnr, drawn_by)


def _photo_of(target: Photo, form: TargetForm) -> Image:
    if isinstance(target, str | os.PathLike):
        return read_target(Path(target), form)[0]
    if isinstance(target, PillowImage.Image):
        return fitted(target, form)
    is_pixels = isinstance(target, np.ndarray) and target.dtype == np.uint8 and target.size > 0
    if not is_pixels or target.ndim not in (2, 3) or target.shape[2:] not in ((), (3,), (4,)):
        refuse("target", "a path, a Pillow image, or pixels uint8 [H, W] or [H, W, 3]", target)
    return fitted(PillowImage.fromarray(target), form)


def _last(steps: Iterable[S], on_step: OnStep | None) -> S:
    found: deque[S] = deque(maxlen=1)
    for step in steps:
        found.append(step)
        if on_step is not None:
            on_step(step)
    return found[0]
