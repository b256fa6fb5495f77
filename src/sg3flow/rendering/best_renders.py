"""The render stage: images, sheets and a video of the best snapshot of a run."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sg3flow.checkpoints import load_networks
from sg3flow.config import RenderConfig
from sg3flow.device import pick_device
from sg3flow.files import atomic_folder, write_bytes, write_json
from sg3flow.output_checks import check_replaceable, folder_marked
from sg3flow.rendering.conditions import described_labels, given_condition
from sg3flow.rendering.grid import seed_sheet
from sg3flow.rendering.images import Image, RenderOptions, parse_seeds, png_bytes
from sg3flow.rendering.outputs import (
    GRID_NAME,
    SWEEP_NAME,
    VIDEO_NAME,
    Model,
    as_model,
    captions,
    parse_tiles,
    parse_truncs,
    pictures,
    seed_name,
    write_sweep,
)
from sg3flow.rendering.video import write_interpolation
from sg3flow.runs.best_snapshot import BestSnapshot, best_of_run

FORMAT = "sg3flow-renders-1"
MARKER_NAME = "renders.json"


def render_best(run_dir: Path, metrics: Path, outdir: Path, config: RenderConfig) -> dict[str, Any]:
    """Fill ``outdir`` from the best snapshot: seeds, grid, truncation sweep, interpolation, marker.

    The folder is replaced as a whole, and only if it is empty or one of ours.

    Returns:
        The content of ``renders.json``.

    Raises:
        ConfigError: invalid settings.
        MetricError, CheckpointError: the report or the snapshot is missing or damaged, or the
            report is about another snapshot of that name.
        DataError: ``outdir`` has foreign files, or the video encoder failed.
    """
    plan = _plan(config)
    check_replaceable(outdir, folder_marked(MARKER_NAME, FORMAT), "a renders folder", "--outdir")
    best, path, digest = best_of_run(run_dir, metrics)
    networks = load_networks(path)
    described = described_labels(networks.training_set or {}, run_dir)
    model = as_model(networks, str(path), pick_device(config.device), described)
    with atomic_folder(outdir) as work:
        frames = _render_all(model, work, config, plan)
        marker = _marker(best, digest, config, plan, frames)
        write_json(work / MARKER_NAME, marker)
    return marker


def _plan(config: RenderConfig) -> dict[str, Any]:
    """Parse the settings that are lists, before any work starts."""
    return {
        "condition": given_condition(
            None if config.class_index < 0 else config.class_index, config.label
        ),
        "seeds": list(dict.fromkeys(parse_seeds(config.seeds))),
        "sweep_seeds": parse_seeds(config.sweep_seeds),
        "sweep_truncs": parse_truncs(config.sweep_truncs),
        "video_seeds": parse_seeds(config.video_seeds),
        "video_grid": parse_tiles(config.video_grid),
    }


def _render_all(model: Model, folder: Path, config: RenderConfig, plan: dict[str, Any]) -> int:
    seeds, options = plan["seeds"], RenderOptions(psi=config.trunc)
    condition = model.usable(plan["condition"])
    images = _written(folder, seeds, pictures(model, seeds, condition, options, "rendering images"))
    sheet = seed_sheet(images, captions(model, seeds, condition), model.G.img_resolution)
    write_bytes(folder / GRID_NAME, png_bytes(sheet))
    write_sweep(
        model, folder / SWEEP_NAME, plan["sweep_seeds"], condition, options, plan["sweep_truncs"]
    )
    with model.named():
        return write_interpolation(
            model.G,
            plan["video_seeds"],
            folder / VIDEO_NAME,
            options=options,
            classes=model.conditions(plan["video_seeds"], condition),
            grid=plan["video_grid"],
            frames_per_keyframe=config.video_frames,
            fps=config.video_fps,
        )


def _written(folder: Path, seeds: Sequence[int], images: Iterable[Image]) -> Iterator[Image]:
    """Write each image to its file and yield it, so that none is kept or rendered twice."""
    for seed, image in zip(seeds, images, strict=True):
        write_bytes(folder / seed_name(seed), png_bytes(image))
        yield image


def _marker(
    best: BestSnapshot, digest: str, config: RenderConfig, plan: dict[str, Any], frames: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "snapshot": best.snapshot,
        "snapshot_sha256": digest,
        "kimg": best.kimg,
        "metric": best.metric,
        "value": best.value,
        "trunc": config.trunc,
        "class_index": config.class_index,
        **({"label": config.label} if config.label else {}),
        **{name: value for name, value in plan.items() if name != "condition"},
        "video_frames": frames,
        "video_fps": config.video_fps,
    }
