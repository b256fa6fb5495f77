"""A whole training, from settings and a packed set to snapshots in a folder."""

import contextlib
import dataclasses
import math
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch

from sg3flow.addresses import without_secrets
from sg3flow.checkpoints import load_networks
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet, endless_batches
from sg3flow.data.sampler import WindowedShuffle
from sg3flow.devices import flushed_denormals, pick_device
from sg3flow.errors import ConfigError, DataError, Interrupted
from sg3flow.files import write_json
from sg3flow.networks.summary import format_summary, summarize
from sg3flow.ops.backend import backend_name
from sg3flow.progress import progress
from sg3flow.project import state_root
from sg3flow.reporting import JsonlReporter
from sg3flow.training.build import Parts, build, resolve
from sg3flow.training.fingerprint import fingerprint
from sg3flow.training.folder import (
    RunFolder,
    check_out,
    describe_run,
    numbered_out,
    open_run_folder,
)
from sg3flow.training.grids import SampleGrid, choose_samples, grid_size, save_reals
from sg3flow.training.interrupt import stop_requests
from sg3flow.training.loop import Clock, TrainingLoop
from sg3flow.training.state import restore
from sg3flow.training.transfer import check_transfer, start_architecture, transfer

# Mirrors a run folder to a tracker while the block runs.
Mirror = Callable[[Path], AbstractContextManager[object]]


def train(
    config: TrainConfig,
    data: Path,
    *,
    run_dir: Path | None = None,
    outdir: Path | None = None,
    mirror: Mirror = lambda folder: contextlib.nullcontext(),
) -> Path:
    """Train, or go on with a training that was interrupted.

    Args:
        config: settings as given.
        data: the packed set.
        run_dir: the output folder itself; or else
        outdir: the folder in which a numbered output folder is made.
        mirror: tells a tracker what happens in the work folder.

    Returns:
        The output folder.

    Raises:
        ConfigError, DataError, CheckpointError: settings, data or a network that cannot be used.
        Interrupted: a signal ended the training before its end.
    """
    items, resolved = _prepare(config, data)
    key = fingerprint(resolved, items.packed.digest)
    name = run_name(resolved, items.packed.name)
    if (run_dir is None) == (outdir is None):
        raise ConfigError("say where results go: --outdir DIR (numbered runs) or --run-dir DIR")
    # The training ends with the first step that reaches kimg.
    final_nimg = math.ceil(resolved.kimg * 1000 / resolved.batch) * resolved.batch
    folder = open_run_folder(state_root(), key, final_nimg)
    with contextlib.closing(folder), flushed_denormals(), stop_requests() as stop_asked:
        if run_dir is not None:
            check_out(run_dir, key)
            folder.out = run_dir
        else:
            folder.out = numbered_out(cast(Path, outdir), name, key)
        if folder.states.latest_nimg() > final_nimg:
            print(f"a longer run of this training has been here already (in {folder.work})")
            folder.publish_all(final_nimg)
            return folder.out
        _describe(folder, key, name, config, resolved, items)
        folder.publish("run.json")
        loop = _assemble(resolved, items, folder)
        folder.publish_all(final_nimg)
        total = resolved.kimg * 1000
        with mirror(folder.work):
            with progress("train (images)", total) as advance:
                advance(loop.clock.nimg)
                complete = loop.run(stop_asked, advance)
            folder.publish_all(final_nimg)
            if not complete:
                raise Interrupted(
                    f"stopped at {loop.clock.nimg} of {total} images as asked; the state is saved "
                    "and the same command goes on from there"
                )
    return folder.out


def run_name(config: TrainConfig, dataset: str) -> str:
    """``<cfg>-<dataset>-gpus<N>-batch<B>-gamma<G>[-desc]``."""
    name = f"{config.cfg}-{dataset}-gpus{config.gpus}-batch{config.batch}-gamma{config.gamma:g}"
    return f"{name}-{config.desc}" if config.desc else name


def dry_run(config: TrainConfig, data: Path) -> dict[str, Any]:
    """Check settings and data as a training would; the resolved settings."""
    items, resolved = _prepare(config, data)
    key = fingerprint(resolved, items.packed.digest)
    return _options(config, resolved, items) | {"fingerprint": key}


def _prepare(config: TrainConfig, data: Path) -> tuple[TrainingSet, TrainConfig]:
    resolved = resolve(config)
    if resolved.gpus > 1:
        raise ConfigError("train.gpus: this version trains on one device; use gpus 1")
    items = TrainingSet(PackedSet(data), mirror=resolved.mirror, labels=resolved.cond)
    if resolved.cond and items.label_dim == 0:
        raise ConfigError(
            f"train.cond needs labels and {data} has none; pack with --labels folders"
        )
    resolution = items.packed.resolution
    if resolution < 16 or resolution & (resolution - 1):
        raise DataError(
            f"{data} holds pictures of {resolution} pixels; training needs a power of two from 16 "
            "on: pack with --resolution 256x256, say"
        )
    check_transfer(resolved, resolution)
    grid_size(resolved.grid, resolution)  # say now what is wrong with it, and with the device
    pick_device(resolved.device)
    return items, resolved


def _options(config: TrainConfig, resolved: TrainConfig, items: TrainingSet) -> dict[str, Any]:
    # These are shown to others: a password in an address is not.
    shown = without_secrets(config.resume)
    return {
        "given": dataclasses.asdict(config) | {"resume": shown},
        "resolved": dataclasses.asdict(resolved) | {"resume": shown},
        "training_set": training_set_info(items),
    }


def training_set_info(items: TrainingSet) -> dict[str, Any]:
    """What a snapshot remembers of its training set: plain values, no paths."""
    packed = items.packed
    info = {
        "name": packed.name,
        "digest": packed.digest,
        "num_images": packed.num_images,
        "resolution": packed.resolution,
        "channels": packed.channels,
        "label_dim": items.label_dim,
        "mirror": items.mirror,
    }
    optional = {"class_names": packed.class_names, "licence": packed.licence}
    return info | {name: value for name, value in optional.items() if value}


def _describe(
    folder: RunFolder,
    key: str,
    name: str,
    config: TrainConfig,
    resolved: TrainConfig,
    items: TrainingSet,
) -> None:
    options = _options(config, resolved, items)
    write_json(folder.work / "training_options.json", options)
    content = {
        "fingerprint": key,
        "name": name,
        "command": without_secrets(shlex.join(["python", *sys.argv])),
        "params": options["resolved"],
        "training_set": options["training_set"],
    }
    describe_run(folder.work, content)


def _assemble(config: TrainConfig, items: TrainingSet, folder: RunFolder) -> TrainingLoop:
    """Everything a run needs, at its start or where its saved state left it."""
    device = pick_device(config.device)
    packed = items.packed
    sizes = {
        "resolution": packed.resolution,
        "channels": packed.channels,
        "c_dim": items.label_dim,
    }
    state = folder.states.load()
    networks = load_networks(config.resume) if config.resume and state is None else None
    kept = folder.work.parent / "architecture.json"
    architecture = start_architecture(kept, networks, config, **sizes)
    parts = build(config, **sizes, device=device, architecture=architecture)
    clock = Clock()
    if state is not None:
        restore(parts, state)
        clock = Clock(state["nimg"], **state["clock"])
        print(f"going on at {clock.nimg} images (state in {folder.states.folder})")
    elif networks is not None:
        print(transfer(parts, networks, config.resume, config.resume_partial))
    _print_summary(parts, config, device)
    reporter = JsonlReporter(folder.work)
    grid = choose_samples(
        items, grid_size(config.grid, packed.resolution), parts.G.z_dim, config.seed
    )
    _show_reals(items, grid, folder, reporter)
    batches = endless_batches(
        items,
        WindowedShuffle(len(items), config.seed, start=clock.nimg),
        config.batch,
        workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    return TrainingLoop(
        config,
        parts,
        items,
        batches,
        grid,
        folder,
        reporter,
        training_set_info(items),
        clock,
    )


def _show_reals(
    items: TrainingSet, grid: SampleGrid, folder: RunFolder, reporter: JsonlReporter
) -> None:
    path = folder.work / "reals.png"
    if not path.exists():
        save_reals(path, items, grid)
    reporter.image(path, "reals", 0)
    reporter.artifact(folder.work / "training_options.json")


def _print_summary(parts: Parts, config: TrainConfig, device: torch.device) -> None:
    z = torch.zeros([config.batch_gpu, parts.G.z_dim], device=device)
    c = torch.zeros([config.batch_gpu, parts.G.c_dim], device=device)
    with torch.no_grad():
        img = parts.G_ema(z, c)
        print(format_summary(summarize(parts.G_ema, z, c)))
        print(format_summary(summarize(parts.D, img, c)))
    print(f"device {device}, ops {backend_name(device)}", flush=True)
