"""A whole training, from settings and a packed set to snapshots in a folder."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import torch

from sg3flow import processes
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import endless_batches, lost_readers_named
from sg3flow.data.sampler import WindowedShuffle
from sg3flow.devices import flushed_denormals, pick_device
from sg3flow.errors import ConfigError, Interrupted
from sg3flow.files import write_json, write_text
from sg3flow.networks.summary import format_summary, summarize
from sg3flow.ops.backend import backend_name
from sg3flow.progress import progress
from sg3flow.project import state_root
from sg3flow.provenance.capture import capture
from sg3flow.provenance.files import read_provenance
from sg3flow.provenance.load import LoadSampler
from sg3flow.provenance.network import network_facts
from sg3flow.reporting import JsonlReporter, describe_run, read_uid
from sg3flow.training.begin import begin, find_start
from sg3flow.training.build import Parts, build
from sg3flow.training.folder import RunFolder, check_out, numbered_out, open_run_folder
from sg3flow.training.grids import choose_samples, grid_size, save_reals
from sg3flow.training.interrupt import stop_requests
from sg3flow.training.job import Job, prepare, training_set_info
from sg3flow.training.loop import Measure, TrainingLoop
from sg3flow.training.memory import out_of_memory_advice
from sg3flow.training.record import RunRecord

# Mirrors a run folder to a tracker while the block runs.
Mirror = Callable[[Path], AbstractContextManager[object]]
# Makes what measures snapshots on the fly, or None where no metrics are wanted.
MeasureFor = Callable[[TrainConfig, PackedSet, torch.device], Measure | None]


def train(
    config: TrainConfig,
    data: Path,
    *,
    run_dir: Path | None = None,
    outdir: Path | None = None,
    mirror: Mirror = lambda folder: contextlib.nullcontext(),
    measure_for: MeasureFor = lambda config, packed, device: None,
) -> Path | None:
    """Train, or go on with a training that was interrupted.

    With several processes each of them calls this; the first one alone writes and tracks.

    Args:
        config: settings as given.
        data: the packed set.
        run_dir: the output folder itself; or else
        outdir: the folder in which a numbered output folder is made.
        mirror: tells a tracker what happens in the work folder.
        measure_for: makes the metrics that each snapshot gets at once.

    Returns:
        The output folder; None in all processes but the first.

    Raises:
        ConfigError, DataError, CheckpointError: settings, data or a network that cannot be used.
        Interrupted: a signal ended the training before its end.
        Diverged, OutOfMemory, ProcessLost: it cannot go on; the saved state stands.
    """
    device = pick_device(config.device)
    with (
        processes.joined(device),
        flushed_denormals(),
        stop_requests() as stop_asked,
        lost_readers_named(),
    ):
        _check_group(config)
        job = prepare(config, data)
        processes.check_same(job.key, "the training")
        if not processes.is_first():
            _follow(job, device, measure_for, stop_asked)
            return None
        check_output(run_dir, outdir)
        folder = open_run_folder(state_root(), job.key, job.final_nimg)
        with contextlib.closing(folder):
            if run_dir is not None:
                check_out(run_dir, job.key, folder.uid)
                folder.out = run_dir
            else:
                folder.out = numbered_out(cast(Path, outdir), job.name, folder.uid)
            _lead(job, device, folder, mirror, measure_for, stop_asked)
            return folder.out


def check_output(run_dir: Path | None, outdir: Path | None) -> None:
    """Make sure that exactly one of the two says where results go.

    Raises:
        ConfigError: none or both do.
    """
    if (run_dir is None) == (outdir is None):
        raise ConfigError("say where results go: --outdir DIR (numbered runs) or --run-dir DIR")


def _check_group(config: TrainConfig) -> None:
    count = processes.world_size()
    if config.gpus == count:
        return
    how = f"torchrun started {count}" if processes.is_launched() else "this is a single one"
    raise ConfigError(
        f"train.gpus is {config.gpus} processes in all, and {how}; stages/train.py starts them "
        "itself, or torchrun with --nproc-per-node times --nnodes"
    )


def _lead(
    job: Job,
    device: torch.device,
    folder: RunFolder,
    mirror: Mirror,
    measure_for: MeasureFor,
    stop_asked: Callable[[], bool],
) -> None:
    """The first process's part: it trains and keeps the record."""
    past_end = folder.states.latest_nimg() > job.final_nimg
    processes.told(b"past its end" if past_end else b"")
    if past_end:
        print(f"a longer run of this training has been here already (in {folder.work})")
        folder.publish_all(job.final_nimg)
        return
    write_json(folder.work / "training_options.json", job.options())
    describe_run(folder.work, job.description())
    folder.publish("run.json")
    loop = _assemble(job, device, folder, measure_for)
    folder.publish_all(job.final_nimg)
    total = job.config.kimg * 1000
    with mirror(folder.work):
        assert loop.record is not None
        with loop.record.load.sampling(), progress("train (images)", total) as advance:
            advance(loop.clock.nimg)
            complete = loop.run(stop_asked, advance)
        folder.publish_all(job.final_nimg)
        if not complete:
            raise _interrupted(loop)
    folder.publish("events.jsonl")  # with its end


def _follow(
    job: Job, device: torch.device, measure_for: MeasureFor, stop_asked: Callable[[], bool]
) -> None:
    """The other processes' part: they train."""
    if processes.told(b""):
        return
    loop = _assemble(job, device, None, measure_for)
    if not loop.run(stop_asked, lambda images: None):
        raise _interrupted(loop)


def _interrupted(loop: TrainingLoop) -> Interrupted:
    return Interrupted(
        f"stopped at {loop.clock.nimg} of {loop.config.kimg * 1000} images as asked; the state is "
        "saved and the same command goes on from there"
    )


def _assemble(
    job: Job, device: torch.device, folder: RunFolder | None, measure_for: MeasureFor
) -> TrainingLoop:
    """Everything a run needs, at its start or where its saved state left it."""
    config, items = job.config, job.items
    with out_of_memory_advice(config, device, folder):
        start = find_start(job, folder)
        parts = build(
            config,
            resolution=items.packed.resolution,
            channels=items.packed.channels,
            c_dim=items.label_dim,
            device=device,
            architecture=start.architecture,
        )
        clock = begin(job, parts, start)
        digest = start.network_sha256
        record = _record(job, parts, folder, clock.nimg, digest) if folder is not None else None
    sampler = WindowedShuffle(
        len(items),
        config.seed,
        start=clock.nimg,
        rank=processes.rank(),
        num_processes=processes.world_size(),
    )
    # Before the readers are forked, so that they share it; some is left for the other processes.
    items.packed.keep_in_memory(share=0.25 / config.gpus)
    batches = endless_batches(
        items,
        sampler,
        config.batch // config.gpus,
        workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    # After the readers have been forked: it may start threads.
    measure = measure_for(config, items.packed, device)
    return TrainingLoop(config, parts, items, batches, clock, record, measure)


def _record(job: Job, parts: Parts, folder: RunFolder, nimg: int, network: str) -> RunRecord:
    """What the first process keeps; what stands at a run's beginning is made here."""
    config, items = job.config, job.items
    reporter = JsonlReporter(folder.work)
    size = grid_size(config.grid, items.packed.resolution)
    grid = choose_samples(items, size, parts.G.z_dim, config.seed)
    reals = folder.work / "reals.png"
    if not reals.exists():
        save_reals(reals, items, grid)
    reporter.image(reals, "reals", 0)
    summary = folder.work / "networks.txt"
    write_text(summary, _summary(parts, config))
    print(summary.read_text(encoding="utf-8"), end="", flush=True)
    options, described = folder.work / "training_options.json", folder.work / "run.json"
    for path in (options, summary, described, *_provenance(job, parts, folder, nimg, network)):
        reporter.artifact(path)
    load = LoadSampler(folder.work, parts.device)
    return RunRecord(config, folder, reporter, grid, training_set_info(items), load)


def _provenance(job: Job, parts: Parts, folder: RunFolder, nimg: int, network: str) -> list[Path]:
    """Write down where the run comes from, if this start of it trains at all.

    Args:
        network: SHA-256 of the network that it starts from; empty: it goes on, or has none.
    """
    known = read_provenance(folder.work)
    if known is not None and nimg >= job.final_nimg:
        return []
    told = job.provenance() | {"uid": read_uid(folder.work), "start_nimg": nimg}
    if network or known is None:
        told["network"] = network_facts(job.config.resume, network)
    else:
        told["network"] = known.get("network", {})
    return capture(folder.work, parts.device, told)


@torch.no_grad()
def _summary(parts: Parts, config: TrainConfig) -> str:
    """Layers, shapes, parameters and types of both networks."""
    z = torch.zeros([config.batch_gpu, parts.G.z_dim], device=parts.device)
    c = torch.zeros([config.batch_gpu, parts.G.c_dim], device=parts.device)
    img = parts.G_ema(z, c)
    tables = [summarize(parts.G_ema, z, c), summarize(parts.D, img, c)]
    device = f"device {parts.device}, ops {backend_name(parts.device)}"
    return "\n".join([*map(format_summary, tables), device]) + "\n"
