"""Projection of a photo that a page uploads: its w becomes a picture of the page."""

from collections.abc import Mapping
from dataclasses import dataclass

from sg3flow.config import PROJECTION_LOSSES
from sg3flow.data.image_decoding import UnusableImageError, decode_image
from sg3flow.errors import ConfigError, DataError, cut
from sg3flow.explorer.jobs import Job, JobRunner, StoppedError
from sg3flow.explorer.picture_renderer import PictureRenderer
from sg3flow.explorer.pictures import object_of
from sg3flow.latent.image_distances import open_distance, psnr
from sg3flow.latent.projection import ProjectionSettings, ProjectionStep, project
from sg3flow.latent.targets import TargetForm, as_tensor, fitted
from sg3flow.metrics.features import vgg
from sg3flow.networks.layers import to_uint8
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.images import Image, Model, network_device, png_bytes
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.settings import cache_folder

MAX_STEPS = 5000
TARGET_FILE = "target.png"
_KEYS = ("space", "steps", "loss", "crop", "class", "label")
_CROPS = ("center-crop", "none")
_NUM_PREVIEWS = 100
_SMALLEST_SEEN = 32  # side of images that VGG16 can see


@dataclass(frozen=True)
class ProjectionRequest:
    """A photo to project.

    Args:
        target: as the network would draw it, uint8 [R, R, C].
        settings: how to project.
        loss: what is minimized.
        condition: class or label whose w are searched first.
    """

    target: Image
    settings: ProjectionSettings
    loss: str
    condition: Condition


def known_losses(resolution: int) -> list[str]:
    """The losses whose weights are at hand: a page shall not start a download of 553 MB."""
    has_vgg = resolution >= _SMALLEST_SEEN and (cache_folder() / vgg.VGG_NAME).is_file()
    return list(PROJECTION_LOSSES) if has_vgg else ["pixels"]


def read_projection(photo: bytes, words: Mapping[str, str], model: Model) -> ProjectionRequest:
    """The request of a page.

    Raises:
        ConfigError: a word is unknown or wrong.
        DataError: the photo cannot be decoded.
    """
    given = object_of("a projection", words, _KEYS)
    loss, crop = given.get("loss", "pixels"), given.get("crop", _CROPS[0])
    losses = known_losses(model.G.img_resolution)
    if loss not in losses:
        raise ConfigError(f"loss must be one of {', '.join(losses)}, not '{cut(loss)}'")
    if crop not in _CROPS:
        raise ConfigError(f"crop must be one of {', '.join(_CROPS)}, not '{cut(crop)}'")
    class_index = _whole("class", given["class"], 0, 1 << 31) if "class" in given else None
    condition = given_condition(class_index, given.get("label", ""))
    model.labels.check(condition)
    steps = _whole("steps", given.get("steps", "300"), 1, MAX_STEPS)
    settings = ProjectionSettings(space=given.get("space", "w"), steps=steps)
    return ProjectionRequest(read_target(photo, crop, model), settings, loss, condition)


def read_target(photo: bytes, crop: str, model: Model) -> Image:
    """A photo as the network would draw it, decoded as ``pack`` does: uint8 [R, R, C].

    Raises:
        DataError: it is no picture, damaged, or far too large.
    """
    form = TargetForm.of(model.G.img_resolution, model.G.img_channels, crop)
    try:
        image = decode_image(photo).image
    except UnusableImageError as error:
        raise DataError(f"the photo cannot be used: {error}") from None
    return fitted(image, form, "the photo")


def start_projection(request: ProjectionRequest, jobs: JobRunner, renderer: PictureRenderer) -> Job:
    """Start a projection; its w is stored with the renderer, also if it is stopped.

    Raises:
        TooBusyError: too many jobs wait.
    """

    def work(job: Job, model: Model) -> None:
        (job.folder / TARGET_FILE).write_bytes(png_bytes(request.target))
        target = as_tensor(request.target)
        last: ProjectionStep | None = None
        device = network_device(model.G)
        conditions = [request.condition]
        distance = open_distance(request.loss, device, model.G.img_resolution)
        every = max(1, request.settings.steps // _NUM_PREVIEWS)
        try:
            for step in project(model.G, target, distance, request.settings, conditions):
                last = step
                _show(job, step, every)
        except StoppedError:
            if last is not None:
                job.show(w=renderer.store(last.w.cpu().numpy()))
            raise
        assert last is not None  # there is one step at least
        w = last.w.cpu().numpy()
        image = model.w_picture(w[0], RenderOptions())
        job.preview = png_bytes(image)
        decibels = psnr(as_tensor(image), target)
        job.show(w=renderer.store(w), psnr=decibels, preview=job.shown["preview"] + 1)

    shown = {"step": 0, "preview": 0, "psnr": None, "loss": None, "w": ""}
    return jobs.start("projection", request.settings.steps, work, shown)


def _show(job: Job, step: ProjectionStep, every: int) -> None:
    preview = job.shown["preview"]
    if step.step % every == 0 or step.step == 1:
        pixels = to_uint8(step.img)[0].permute(1, 2, 0).contiguous().cpu().numpy()
        job.preview, preview = png_bytes(pixels), preview + 1
    job.show(step=step.step, loss=step.loss, psnr=step.psnr, preview=preview)


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        raise ConfigError(
            f"{name} must be a whole number from {least} to {most}, not '{cut(text)}'"
        )
    return int(text)
