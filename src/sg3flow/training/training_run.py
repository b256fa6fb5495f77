"""A whole training: it joins the processes, opens the folders, assembles the loop and runs it.

At the end of the file is the table of layers that a training prints at its start.
"""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sg3flow import distributed
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import report_killed_workers, training_batches
from sg3flow.device import flushed_denormals, open_device
from sg3flow.errors import ConfigError, TrainingInterruptedError
from sg3flow.files import write_json, write_text
from sg3flow.interrupts import held_interrupts
from sg3flow.ops.backend import backend_name
from sg3flow.precision import computing
from sg3flow.progress import progress
from sg3flow.resources import workers_that_fit
from sg3flow.runs.machine import SystemMonitor
from sg3flow.runs.provenance import network_info, write_provenance
from sg3flow.runs.run_folder import (
    CONV_FORMS,
    EVENTS,
    NETWORKS,
    OPTIONS,
    REALS,
    RUN,
    STATS,
    JsonlReporter,
    describe_run,
    read_provenance,
    read_uid,
    read_whole_lines,
)
from sg3flow.runs.snapshot_retention import Retention, check_retention
from sg3flow.settings import cache_folder, state_root
from sg3flow.training.assembly import Parts, build, precision_of, select
from sg3flow.training.batch_size_finder import MemorySettings, out_of_memory_advice
from sg3flow.training.conv_choice import run_networks, settle_forms
from sg3flow.training.diversity import GRID, DiversityMeter
from sg3flow.training.early_warning import EarlyWarning, MemorizationProbe, OverfitProbe
from sg3flow.training.initialize import find_initial_state, initialize_or_resume
from sg3flow.training.job import (
    Job,
    open_held_out,
    precision_words,
    prepare,
    sample_labels,
    training_set_info,
)
from sg3flow.training.launcher import stop_requests
from sg3flow.training.loop import Clock, LoopSettings, Measure, TrainingLoop
from sg3flow.training.notification import Notifier, notify_url
from sg3flow.training.power_averages import STATE_KEY, PowerAverages, parse_widths
from sg3flow.training.recorder import RunRecord, choose_samples, grid_size, save_reals
from sg3flow.training.tensorboard_log import TensorBoardReporter
from sg3flow.training.work_folder import (
    RunFolder,
    as_folder_name,
    check_out,
    numbered_out,
    open_run_folder,
)

# Uploads a run folder to a tracking server while the block runs.
Uploading = Callable[[Path], AbstractContextManager[object]]
# From batch_gpu, packed set and device: measures each snapshot; None without metrics.
MeasureFor = Callable[[int, PackedSet, torch.device], Measure | None]


def train(
    config: TrainConfig,
    data: Path,
    *,
    run_dir: Path | None = None,
    outdir: Path | None = None,
    uploading: Uploading = lambda folder: contextlib.nullcontext(),
    measure_for: MeasureFor = lambda batch_gpu, packed, device: None,
    ranked_by: tuple[str, bool] | None = None,
) -> Path | None:
    """Train, or resume an interrupted training.

    A collective call: with several processes only the main one writes and tracks.

    Args:
        config: settings as the user gave them.
        data: the packed set.
        run_dir: the output folder; None: use ``outdir``.
        outdir: the folder for a numbered output folder; None: use ``run_dir``.
        uploading: uploads the work folder to a tracking server during the training.
        measure_for: makes the function that measures each snapshot.
        ranked_by: the measured metric that ranks snapshots, and whether higher is better; None:
            nothing is measured.

    Returns:
        The output folder in the main process, None in the others.

    Raises:
        ConfigError, DataError, CheckpointError: settings, data or a network cannot be used.
        TrainingInterruptedError: a signal stopped the training before its end.
        DivergedError, TrainingMemoryError, ProcessLostError: the training failed; the last saved
            state remains.
    """
    device = open_device(config.device)
    with (
        distributed.process_group(device),
        flushed_denormals(),
        computing(precision_of(config)),
        stop_requests() as stop_asked,
        report_killed_workers(),
    ):
        _check_processes(config.gpus)
        keep = check_retention(config.keep_snapshots, ranked_by)
        job = prepare(config, data)
        distributed.check_same(job.key, "the training")
        if not distributed.is_main_process():
            _run_worker(job, device, measure_for, stop_asked)
            return None
        check_output(run_dir, outdir)
        folder = open_run_folder(state_root(), job.key, job.final_nimg)
        with contextlib.closing(folder):
            if run_dir is not None:
                check_out(run_dir, job.key, folder.uid)
                folder.out = run_dir
            else:
                folder.out = numbered_out(cast(Path, outdir), job.name, folder.uid)
            notifier = Notifier(notify_url(job.config.notify), folder.work)
            recording = _Recording(folder, notifier, keep, ranked_by)
            with notifier.reporting():
                _run_main(job, device, recording, uploading, measure_for, stop_asked)
            return folder.out


def check_output(run_dir: Path | None, outdir: Path | None) -> None:
    """Check that exactly one of the two folders is given.

    Raises:
        ConfigError: none or both are.
    """
    if (run_dir is None) == (outdir is None):
        raise ConfigError("give the output folder: --outdir DIR (numbered runs) or --run-dir DIR")


def _check_processes(gpus: int) -> None:
    count = distributed.world_size()
    if gpus == count:
        return
    found = f"torchrun started {count}" if distributed.is_launched() else "this is a single one"
    raise ConfigError(
        f"train.gpus is {gpus} processes in total, and {found}; stages/train.py starts them "
        "itself; with torchrun, --nproc-per-node times --nnodes must equal train.gpus"
    )


@dataclasses.dataclass(frozen=True)
class _Recording:
    """What the main process records with.

    Attributes:
        keep: which snapshots stay.
        ranked_by: metric that ranks them, and whether higher is better; None: not measured.
    """

    folder: RunFolder
    notifier: Notifier
    keep: Retention
    ranked_by: tuple[str, bool] | None


def _run_main(
    job: Job,
    device: torch.device,
    recording: _Recording,
    uploading: Uploading,
    measure_for: MeasureFor,
    stop_asked: Callable[[], bool],
) -> None:
    """The main process: it trains and writes the record."""
    folder = recording.folder
    past_end = folder.states.latest_nimg() > job.final_nimg
    distributed.broadcast(b"past its end" if past_end else b"")
    if past_end:
        print(f"a longer run of this training is complete (in {folder.work}); publishing its files")
        folder.publish_all(job.final_nimg)
        return
    write_json(folder.work / OPTIONS, job.options())
    describe_run(folder.work, job.description())
    folder.publish(RUN)
    loop = _assemble(job, device, recording, measure_for)
    assert loop.record is not None
    record = loop.record
    record.prune()  # the rule may be another one than before
    folder.publish_all(job.final_nimg)
    shown = progress("train (images)", job.final_nimg, loop.clock.nimg)
    with uploading(folder.work), _tensorboard(job, record, loop.clock):
        with record.load.sampling(), shown as advance:
            complete = loop.run(stop_asked, advance)
        folder.publish_all(job.final_nimg)
        if not complete:
            raise _interrupted(loop)
    folder.publish(EVENTS)  # now with its last event


@contextlib.contextmanager
def _tensorboard(job: Job, record: RunRecord, clock: Clock) -> Iterator[None]:
    """Write TensorBoard event files in the block, if the settings say so.

    After the readers are forked: it starts a thread.
    """
    if not job.config.tensorboard:
        yield
        return
    folder = record.folder.work.parent / "tensorboard" / as_folder_name(job.name)
    resumed_nimg = clock.nimg if clock.reported_nimg >= 0 else -1
    reporter = TensorBoardReporter(record.reporter, folder, resumed_nimg)
    reporter.show(record.folder.work / REALS, "reals", 0)
    print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(folder.parent))}", flush=True)
    record.reporter = reporter
    with contextlib.closing(reporter):
        yield


def _run_worker(
    job: Job, device: torch.device, measure_for: MeasureFor, stop_asked: Callable[[], bool]
) -> None:
    """The other processes: they train only."""
    if distributed.broadcast(b""):
        return
    loop = _assemble(job, device, None, measure_for)
    if not loop.run(stop_asked, lambda images: None):
        raise _interrupted(loop)


def _interrupted(loop: TrainingLoop) -> TrainingInterruptedError:
    return TrainingInterruptedError(
        f"stopped at {loop.clock.nimg} of {loop.settings.kimg * 1000} images as requested; the "
        "state is saved and the same command resumes from it"
    )


def _assemble(
    job: Job,
    device: torch.device,
    recording: _Recording | None,
    measure_for: MeasureFor,
) -> TrainingLoop:
    """The loop with all its parts, initialized or resumed; only the main process records."""
    config, items = job.config, job.items
    folder = None if recording is None else recording.folder
    memory = select(MemorySettings, config)
    with out_of_memory_advice(memory, device, folder):
        start = find_initial_state(job, folder)
        parts = build(
            config,
            resolution=items.packed.resolution,
            channels=items.packed.channels,
            c_dim=items.label_dim,
            device=device,
            architecture=start.architecture,
        )
        clock = initialize_or_resume(job, parts, start)
        forms = _settle_forms(job, parts, folder)
        record = None
        if recording is not None:
            averages = _averages(config, parts, clock.nimg, start.saved)
            network = start.network_sha256
            record = _record(job, parts, recording, clock.nimg, network, forms, averages)
    # Before the readers are forked, so that they share the memory.
    items.packed.keep_in_memory(share=0.25 / config.gpus)
    with held_interrupts():
        batches = training_batches(
            items,
            config.seed,
            clock.nimg,
            config.batch,
            workers=_workers(config.workers),
            pin_memory=device.type == "cuda",
            class_batches=config.class_batches,
        )
    # After the readers are forked: it may start threads.
    measure = measure_for(config.batch_gpu, items.packed, device)
    settings = select(LoopSettings, config)
    return TrainingLoop(settings, memory, parts, items, batches, clock, record, measure)


def _workers(asked: int) -> int:
    """The number of processes that read images; it changes no number of the training."""
    workers = workers_that_fit(asked)
    if workers < asked and distributed.is_main_process():
        print(
            f"note: train.workers is {asked}; {workers} read images here, one per CPU",
            file=sys.stderr,
            flush=True,
        )
    return workers


def _settle_forms(job: Job, parts: Parts, folder: RunFolder | None) -> dict[str, Any]:
    """Choose the forms of the convolutions; see ``conv_choice.settle_forms``."""
    batch_gpu = job.config.batch_gpu
    # Path lengths are those of smaller passes.
    shrunk = {parts.loss.num_lengths(batch_gpu)} if parts.loss.settings.pl_weight else set()
    return settle_forms(
        job.config.conv_form,
        parts.device,
        lambda: run_networks(parts.G, parts.D, batch_gpu, shrunk - {batch_gpu}),
        # Of the fingerprint, not of the length: a shorter training has the forms of the longer one.
        kept=folder.root / job.key / CONV_FORMS if folder is not None else None,
        memory=cache_folder() / CONV_FORMS,
    )


def _record(
    job: Job,
    parts: Parts,
    recording: _Recording,
    nimg: int,
    network: str,
    forms: Mapping[str, Any],
    averages: PowerAverages,
) -> RunRecord:
    """The record of the main process; this also writes the files of a run's start."""
    config, items, folder = job.config, job.items, recording.folder
    reporter = JsonlReporter(folder.work)
    size = grid_size(config.grid, items.packed.resolution)
    grid = choose_samples(items, size, parts.G.z_dim, config.seed)
    reals = folder.work / REALS
    if not reals.exists():
        save_reals(reals, items, grid)
    reporter.image(reals, "reals", 0)
    summary = folder.work / NETWORKS
    write_text(summary, _summary(parts, config.batch_gpu, precision_words(config, parts.device)))
    print(summary.read_text(encoding="utf-8"), end="", flush=True)
    options, described = folder.work / OPTIONS, folder.work / RUN
    provenance = _provenance(job, parts, folder, nimg, network, forms)
    for path in (options, summary, described, *provenance):
        reporter.artifact(path)
    load = SystemMonitor(folder.work, parts.device)
    training_set = training_set_info(items) | sample_labels(items)
    return RunRecord(
        config.batch_gpu,
        folder,
        reporter,
        grid,
        training_set,
        load,
        _early_warning(job, parts, recording, nimg),
        recording.keep,
        recording.ranked_by,
        averages,
    )


def _averages(
    config: TrainConfig, parts: Parts, nimg: int, saved: Mapping[str, Any] | None
) -> PowerAverages:
    """The power-function averages of the settings, resumed from a saved state."""
    known = (saved or {}).get(STATE_KEY, {})
    averages = PowerAverages(parse_widths(config.phema), parts.G, config.batch, known)
    late = [name for name in averages.names if nimg and name not in known]
    if late:
        print(
            f"note: the averages of train.phema {', '.join(late)} start at {nimg} images, as if G "
            "had been the same up to there",
            file=sys.stderr,
            flush=True,
        )
    return averages


def _early_warning(job: Job, parts: Parts, recording: _Recording, nimg: int) -> EarlyWarning:
    """The early warnings, which know what was reported up to ``nimg`` images."""
    config, items = job.config, job.items
    batch = choose_samples(items, GRID, parts.G.z_dim, config.seed)
    held_out = open_held_out(config.held_out, items)
    warning = EarlyWarning(
        DiversityMeter.of(items, batch.items, batch.z, batch.c, config.batch_gpu),
        MemorizationProbe(items, held_out, config.seed),
        OverfitProbe(items, held_out, config.seed, config.batch_gpu) if held_out else None,
        recording.notifier,
        items.packed.class_names,
    )
    rows = read_whole_lines(recording.folder.work / STATS)
    warning.resume(row for row in rows if row["nimg"] <= nimg)
    return warning


def _provenance(
    job: Job,
    parts: Parts,
    folder: RunFolder,
    nimg: int,
    network: str,
    forms: Mapping[str, Any],
) -> list[Path]:
    """Write the provenance of the run, unless it is complete already.

    Args:
        network: SHA-256 of the network of ``resume``; empty: none was read.
        forms: of the convolutions; empty: those of a CPU.
    """
    known = read_provenance(folder.work)
    if known is not None and nimg >= job.final_nimg:
        return []
    facts = job.provenance() | {"uid": read_uid(folder.work), "start_nimg": nimg}
    facts["precision"] = precision_words(job.config, parts.device)
    if network or known is None:
        facts["network"] = network_info(job.config.resume, network)
    else:
        facts["network"] = known.get("network", {})
    if forms:
        facts["conv_forms"] = forms
    return write_provenance(folder.work, parts.device, facts)


@torch.no_grad()
def _summary(parts: Parts, batch_gpu: int, precision: str) -> str:
    """Layers, shapes, parameters and types of both networks."""
    z = torch.zeros([batch_gpu, parts.G.z_dim], device=parts.device)
    c = torch.zeros([batch_gpu, parts.G.c_dim], device=parts.device)
    img = parts.G_ema(z, c)
    tables = [summarize(parts.G_ema, z, c), summarize(parts.D, img, c)]
    device = f"device {parts.device}, ops {backend_name(parts.device)}, precision {precision}"
    return "\n".join([*map(format_summary, tables), device]) + "\n"


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer: its output, and the count of its parameters and buffers without its children's."""

    name: str
    num_parameters: int
    num_buffers: int
    output_shape: tuple[int, ...]
    dtype: str


def summarize(module: nn.Module, *inputs: Any) -> list[LayerRow]:
    """Run `module` on `inputs` without gradients and return one row per layer that ran.

    Layers without parameters and buffers of their own are left out, except the module itself: it
    is the last row, under its class name. Training mode and buffers do not change.
    """
    outputs: list[tuple[str, nn.Module, torch.Tensor]] = []

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, _args: Any, output: Any) -> None:
            tensor = next((t for t in _flat(output) if isinstance(t, torch.Tensor)), None)
            if tensor is not None:
                outputs.append((name, layer, tensor))

        return hook

    hooks = [m.register_forward_hook(remember(n)) for n, m in module.named_modules()]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [_row(n or type(m).__name__, m, t) for n, m, t in outputs if not n or _own(m) != (0, 0)]


def format_summary(rows: Sequence[LayerRow]) -> str:
    """The rows as aligned text with header and totals."""
    header = ("layer", "parameters", "buffers", "output", "dtype")
    total = ("total", _count(rows, "num_parameters"), _count(rows, "num_buffers"), "", "")
    table = [header, *(_cells(r) for r in rows), total]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in table]
    rule = "  ".join("-" * w for w in widths)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(name: str, module: nn.Module, output: torch.Tensor) -> LayerRow:
    parameters, buffers = _own(module)
    dtype = str(output.dtype).removeprefix("torch.")
    return LayerRow(name, parameters, buffers, tuple(output.shape), dtype)


def _own(module: nn.Module) -> tuple[int, int]:
    """Element counts of the parameters and buffers of the module, without its children."""
    parameters = sum(p.numel() for p in module.parameters(recurse=False))
    return parameters, sum(b.numel() for b in module.buffers(recurse=False))


def _flat(output: Any) -> Sequence[Any]:
    return output if isinstance(output, (list, tuple)) else [output]


def _cells(row: LayerRow) -> tuple[str, ...]:
    shape = str(list(row.output_shape))
    return row.name, str(row.num_parameters), str(row.num_buffers), shape, row.dtype


def _count(rows: Sequence[LayerRow], field: str) -> str:
    return str(sum(getattr(r, field) for r in rows))
