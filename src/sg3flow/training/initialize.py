"""Where a training begins: at its saved state, at another's networks, or at nothing.

With several processes the first one reads, and the others get what it has.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sg3flow import distributed
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.checkpoints.loading import local_copy
from sg3flow.ops.backend import backend_name
from sg3flow.runs.provenance import network_digest
from sg3flow.training.assembly import Parts
from sg3flow.training.job import Job, fingerprint, other_code_note
from sg3flow.training.loop import Clock
from sg3flow.training.transfer import Architecture, start_architecture, transfer
from sg3flow.training.work_folder import RunFolder, StateFolder, capture, restore, spread


@dataclass(frozen=True)
class InitialState:
    """What there is to begin with.

    Attributes:
        goes_on: whether there is a saved state; all processes know.
        saved: the state; the first process has it.
        networks: another training's, to start from; the first process has them.
        network_sha256: of the file they were read from; empty: none was read.
        architecture: of the checkpoint, if it is to be taken from there; all processes know.
    """

    goes_on: bool
    saved: dict[str, Any] | None
    networks: Networks | None
    network_sha256: str
    architecture: Architecture | None


def find_initial_state(job: Job, folder: RunFolder | None) -> InitialState:
    """Look for a state in ``folder`` (None: this is not the first process), and at ``resume``.

    Raises:
        CheckpointError, ConfigError, DataError, TrackingError: ``resume`` cannot be used.
    """
    saved = networks = architecture = None
    digest = ""
    config, items = job.config, job.items
    if folder is not None:
        saved = folder.states.load()
        if saved is None:
            _say_other_pass(job, folder)
            _say_other_code(job, folder)
        if config.resume and saved is None:
            source = local_copy(config.resume)
            networks, digest = load_networks(source), network_digest(source)
        architecture = start_architecture(
            folder.work.parent / "architecture.json",
            networks,
            config,
            resolution=items.packed.resolution,
            channels=items.packed.channels,
            c_dim=items.label_dim,
        )
    news = json.dumps([saved is not None, architecture]).encode()
    goes_on, architecture = json.loads(distributed.broadcast(news))
    return InitialState(goes_on, saved, networks, digest, architecture)


def initialize_or_resume(job: Job, parts: Parts, start: InitialState) -> Clock:
    """Bring the parts to their start.

    Raises:
        CheckpointError: the networks to start from do not fit.
    """
    if start.goes_on:
        state = spread(start.saved or {})
    else:
        if start.networks is not None:
            print(transfer(parts, start.networks, job.config.resume, job.config.resume_partial))
        if distributed.world_size() == 1:
            return Clock()
        state = spread(capture(parts, 0) | {"clock": {}})
    restore(parts, state)
    clock = Clock(state["nimg"], **state["clock"])
    if start.goes_on and distributed.is_main_process():
        print(f"going on at {clock.nimg} images from the saved state")
        _say_other_ops(state["ops"], backend_name(parts.device))
    return clock


def _say_other_pass(job: Job, folder: RunFolder) -> None:
    """A training that differs in ``batch_gpu`` alone may be the one that was meant."""
    config = job.config
    share = config.batch // config.gpus
    for size in range(config.mbstd_group, share + 1, config.mbstd_group):
        if share % size or size == config.batch_gpu:
            continue
        other = dataclasses.replace(config, batch_gpu=size)
        base = folder.root / fingerprint(other, job.items.packed.digest)
        nimg = StateFolder(base / "states").latest_nimg() if base.is_dir() else 0
        if nimg:
            print(
                f"note: the same training with batch_gpu {size} has come to {nimg} images; with "
                f"{config.batch_gpu} it is another one (the discriminator compares the pictures "
                f"of a pass) and starts anew: --batch-gpu {size} goes on there"
            )


def _say_other_code(job: Job, folder: RunFolder) -> None:
    note = other_code_note(folder.root, job.config, job.items.packed.digest, job.key)
    if note:
        print(note, flush=True)


def _say_other_ops(before: str, now: str) -> None:
    """Another machine, or a compiler that came or went: no reason to start again."""
    if before != now:
        print(
            f"note: the ops were '{before}' and are '{now}' now: the training goes on with the "
            "same numbers up to rounding, no longer bit for bit"
        )
