"""The ``project`` command: from photos to folders of results.

A folder per photo is written as a whole and replaces only one of its own kind.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from sg3flow.checkpoints import Networks
from sg3flow.config import ProjectConfig
from sg3flow.device import open_device
from sg3flow.errors import ConfigError
from sg3flow.files import atomic_folder, write_bytes, write_json
from sg3flow.latent.combined_networks import (
    Combination,
    Parent,
    read_parent,
    write_combination,
)
from sg3flow.latent.projection_reports import (
    ProjectionReporter,
    last_of,
    picture_psnr,
    reported,
)
from sg3flow.latent.projector import Projector
from sg3flow.latent.targets import read_target, target_names
from sg3flow.output_checks import check_replaceable, json_marked
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, described_labels, given_condition
from sg3flow.rendering.images import Image, RenderedGenerator, as_model, png_bytes, w_image
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.w_files import write_w

FORMAT = "sg3flow-projection-1"
MARKER = "projection.json"
TARGET, PICTURE, W_FILE, VIDEO = "target.png", "proj.png", "projected_w.npz", "proj.mp4"
TUNED_PICTURE, SNAPSHOT, SAFETENSORS = "proj-pti.png", "pti.pkl", "pti.safetensors"
_FILES = (MARKER, TARGET, PICTURE, W_FILE, VIDEO, TUNED_PICTURE, SNAPSHOT, SAFETENSORS)


@dataclass(frozen=True)
class TrackedProjection(ProjectConfig):
    """The settings of the projection of a photo, as they are tracked."""

    network: str = ""
    target: str = ""
    class_index: int = -1  # none was given


@dataclass(frozen=True)
class Projected:
    """The result of a photo.

    Attributes:
        psnr: of ``proj.png`` to ``target.png`` in dB.
        pti_psnr: of ``proj-pti.png``; None: there was no pivotal tuning.
    """

    folder: Path
    psnr: float
    pti_psnr: float | None


Tracking = Callable[[str, TrackedProjection], AbstractContextManager[ProjectionReporter]]


def project_photos(
    source: str,
    photos: list[Path],
    outdir: Path,
    config: ProjectConfig,
    class_index: int | None,
    tracking: Tracking,
) -> Iterator[Projected]:
    """Project photos one after the other; yields each result when its folder is complete.

    One photo is written into ``outdir``, several into folders of their names below it. All photos
    are read before the first is projected.

    Args:
        class_index: of a conditional network; None: w of all classes are sampled.
        tracking: opens the record of a photo, given its name and settings.

    Raises:
        ConfigError: invalid settings, or they do not fit the network.
        DataError: a photo cannot be used, or a folder has files of others.
        CheckpointError: the network cannot be read.
        MetricError: the weights of the loss are not available.
        DivergedError: the numbers are no longer finite.
    """
    if not photos:
        raise ConfigError("there is nothing to project; give --target PHOTO")
    names = target_names(photos)
    folders = [outdir] if len(photos) == 1 else [outdir / name for name in names]
    given = given_condition(class_index, config.label)
    for folder in folders:
        check_replaceable(folder, _is_ours, "a projection", "--outdir")
    parent, projector = _open(source, config, given)
    for photo in photos:
        read_target(photo, projector.form)
    for photo, name, folder in zip(photos, names, folders, strict=True):
        settings = TrackedProjection(
            **asdict(config),
            network=parent.address,
            target=photo.name,
            class_index=-1 if class_index is None else class_index,
        )
        with tracking(name, settings) as reporter, projector.model.named():
            yield _project_photo(projector, parent, settings, photo, folder, reporter)


def _open(source: str, config: ProjectConfig, given: Condition) -> tuple[Parent, Projector]:
    device, parent = open_device(config.device), read_parent(source)
    # A snapshot of an earlier version may be in the folder of its run.
    described = described_labels(dict(parent.training_set), Path(source).parent)
    model = as_model(Networks(G_ema=parent.G_ema), parent.address, device, described)
    return parent, Projector.open(model, config, model.usable(given))


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or has a projection and nothing else."""
    names = {path.name for path in folder.iterdir()}
    return not names or (names <= set(_FILES) and json_marked(FORMAT)(folder / MARKER))


def _project_photo(
    projector: Projector,
    parent: Parent,
    settings: TrackedProjection,
    photo: Path,
    folder: Path,
    reporter: ProjectionReporter,
) -> Projected:
    target, content = read_target(photo, projector.form)
    with atomic_folder(folder) as work:
        write_bytes(work / TARGET, png_bytes(target))
        w, loss = _projected_w(projector, target, photo.name, work, reporter)
        write_w(work / W_FILE, w.cpu().numpy())
        facts: dict[str, Any] = {
            "target": {"name": photo.name, "sha256": hashlib.sha256(content).hexdigest()},
            "settings": _own_settings(settings),
            "loss": loss,
            "psnr": _drawn(projector.model.G, w, work / PICTURE, target),
        }
        if settings.pti_steps:
            tuned = _tuned(projector, w, target, photo.name, reporter)
            facts["pti_psnr"] = _drawn(tuned, w, work / TUNED_PICTURE, target)
            _write_tuned(work, parent, cast(torch.nn.Module, tuned), facts)
        network = {"source": parent.address, "sha256": parent.sha256}
        write_json(work / MARKER, {"format": FORMAT, "network": network, **facts})
    _report(folder, facts, reporter)
    return Projected(folder, facts["psnr"], facts.get("pti_psnr"))


def _own_settings(settings: TrackedProjection) -> dict[str, Any]:
    """The settings without what stands beside them."""
    beside = ("network", "target")
    return {key: value for key, value in asdict(settings).items() if key not in beside}


def _projected_w(
    projector: Projector, target: Image, name: str, work: Path, reporter: ProjectionReporter
) -> tuple[torch.Tensor, float]:
    """The w, [1, num_ws, w_dim], and its loss; writes the video."""
    config = projector.config
    shown = tracked(projector.projection(target), f"projecting {name}", config.steps)
    recorded = reported(shown, config.steps, reporter, "projection", target)
    last = last_of(recorded, work / VIDEO if config.video else None, target)
    return last.w, last.loss


def _drawn(G: RenderedGenerator, w: torch.Tensor, path: Path, target: Image) -> float:
    """Write the picture of a w; its PSNR. It is that of ``render images --projected-w``."""
    picture = w_image(G, w, RenderOptions(), seed=0)
    write_bytes(path, png_bytes(picture))
    return picture_psnr(picture, target)


def _tuned(
    projector: Projector, w: torch.Tensor, target: Image, name: str, reporter: ProjectionReporter
) -> RenderedGenerator:
    total = projector.config.pti_steps
    tuned, steps = projector.tuning(w, target)
    shown = tracked(steps, f"tuning {name}", total)
    last_of(reported(shown, total, reporter, "pti", target), None, target)
    return tuned


def _write_tuned(
    folder: Path, parent: Parent, tuned: torch.nn.Module, facts: dict[str, Any]
) -> None:
    """Write the tuned G_ema with G and D of its parent; without D in the form for that."""
    networks = {**parent.networks, "G_ema": tuned}
    made_by = {"kind": "pivotal tuning", **facts}
    result = Combination(networks, parent.augment_p, made_by, [parent], parent.training_set)
    name = SAFETENSORS if parent.networks["D"] is None else SNAPSHOT
    write_combination(result, folder / name)


def _report(folder: Path, facts: dict[str, Any], reporter: ProjectionReporter) -> None:
    reporter.metrics({key: facts[key] for key in ("psnr", "pti_psnr") if key in facts})
    for name in _FILES:
        reporter.artifact(folder / name)
