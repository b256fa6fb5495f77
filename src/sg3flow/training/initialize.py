"""Initialize or resume: from the saved state, from another network, or with random weights.

With several processes the main process reads the files and broadcasts their content.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow import distributed
from sg3flow.addresses import without_secrets
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.checkpoints.loading import local_copy
from sg3flow.errors import CheckpointError
from sg3flow.ops.backend import backend_name
from sg3flow.runs.code_state import given_values
from sg3flow.runs.provenance import network_digest
from sg3flow.runs.run_folder import RUN, list_snapshots, read_provenance, read_run
from sg3flow.training.assembly import NetworkSettings, Parts, select
from sg3flow.training.batch_size_finder import batch_gpu_candidates
from sg3flow.training.job import (
    Job,
    comparable,
    deciding_settings,
    fingerprint,
    numerics_digest,
)
from sg3flow.training.loop import Clock
from sg3flow.training.transfer import (
    Architecture,
    TransferSettings,
    check_training_set,
    start_architecture,
    transfer,
)
from sg3flow.training.work_folder import (
    RunFolder,
    StateFolder,
    broadcast_state,
    capture_state,
    restore,
)


@dataclass(frozen=True)
class InitialState:
    """What a training starts from.

    Attributes:
        resumes: whether there is a saved state; set in all processes.
        saved: the saved state; set in the main process.
        networks: those of ``resume``; set in the main process.
        network_sha256: of the file of the networks; empty if none was read.
        architecture: that of the checkpoint, with ``resume_arch``; set in all processes.
    """

    resumes: bool
    saved: dict[str, Any] | None
    networks: Networks | None
    network_sha256: str
    architecture: Architecture | None


def find_initial_state(job: Job, folder: RunFolder | None) -> InitialState:
    """Read the saved state, or else the networks of ``resume``.

    Args:
        folder: of the training; None: this is not the main process.

    Raises:
        CheckpointError, ConfigError, DataError, TrackingError: ``resume`` cannot be used.
    """
    saved = networks = architecture = None
    digest = ""
    config, items = job.config, job.items
    if folder is not None:
        saved = folder.states.load()
        if saved is None:
            _print_other_states(job, folder)
        if config.resume and saved is None:
            source = local_copy(config.resume)
            networks, digest = load_networks(source), network_digest(source)
            check_training_set(networks, config.resume)
            check_finite(networks, config.resume)
        architecture = start_architecture(
            folder.work.parent / "architecture.json",
            networks,
            select(TransferSettings, config),
            select(NetworkSettings, config),
            resolution=items.packed.resolution,
            channels=items.packed.channels,
            c_dim=items.label_dim,
        )
    shared = json.dumps([saved is not None, architecture]).encode()
    resumes, architecture = json.loads(distributed.broadcast(shared))
    return InitialState(resumes, saved, networks, digest, architecture)


def check_finite(networks: Networks, source: str) -> None:
    """Check that no weight of a checkpoint is NaN or infinite.

    The average G_ema would never recover from one, and the losses do not show it.

    Raises:
        CheckpointError: one is.
    """
    for name in ("G", "D", "G_ema"):
        network = getattr(networks, name)
        state = {} if network is None else network.state_dict()
        for key, tensor in state.items():
            if not tensor.isfinite().all():
                raise CheckpointError(
                    f"{without_secrets(source)}: {name}.{key} has values that are not finite; "
                    "use an earlier snapshot"
                )


def initialize_or_resume(job: Job, parts: Parts, start: InitialState) -> Clock:
    """Put the initial state into the parts; the clock of the training.

    Raises:
        CheckpointError: the networks of ``resume`` do not fit.
    """
    if start.resumes:
        state = broadcast_state(start.saved or {})
    else:
        if start.networks is not None:
            print(transfer(parts, start.networks, job.config.resume, job.config.resume_partial))
        if distributed.world_size() == 1:
            return Clock()
        state = broadcast_state(capture_state(parts, 0) | {"clock": {}})
    restore(parts, state)
    clock = Clock(state["nimg"], **state["clock"])
    if start.resumes and distributed.is_main_process():
        print(f"resuming from the saved state at {clock.nimg} images")
        _print_other_ops(state["ops"], backend_name(parts.device))
    return clock


def other_code_note(root: Path, settings: Mapping[str, Any], data_digest: str, key: str) -> str:
    """A sentence about a saved state of this training that other code made; empty without one.

    Version 0.1 hashed other files under other names, so its states have other fingerprints. A
    later change of the numerics has the same effect: the state remains, and the user learns of it.

    Args:
        root: the folder of all states.
        settings: resolved, as ``deciding_settings`` returns them.
        data_digest: of the packed set.
        key: the fingerprint of this training with the present code.
    """
    wanted = comparable(settings)
    code = numerics_digest("resume" in settings)
    found: dict[Path, int] = {}
    for described in root.glob(f"*/run/{RUN}"):
        base = described.parents[1]
        run = read_run(described.parent)
        if run is None or base.name.partition("-")[0] == key or "params" not in run:
            continue
        same_data = run.get("training_set", {}).get("digest") == data_digest
        # With equal code only the file of `resume` can differ: that is another training.
        same_code = (read_provenance(base / "run") or {}).get("numerics") == code
        if not same_data or same_code or not (base / "states").is_dir():
            continue
        nimg = StateFolder(base / "states").latest_nimg()
        if nimg and comparable(deciding_settings(run["params"])) == wanted:
            found[base] = nimg
    if not found:
        return ""
    base = max(found, key=lambda each: found[each])
    version = ((read_provenance(base / "run") or {}).get("code") or {}).get("version", "")
    snapshot = next(reversed(list_snapshots(base / "run")), None)
    advice = f"; --resume {snapshot} takes over its networks" if snapshot else ""
    made_by = f"sg3flow {version}" if version else "another version of sg3flow"
    return (
        f"note: {base} holds this training at {found[base]} images, made by other code ({made_by}) "
        f"that cannot be resumed here; it is kept, and this training starts from zero{advice}"
    )


def _print_other_states(job: Job, folder: RunFolder) -> None:
    """Name saved states that the user may have wanted to resume."""
    settings, digest = deciding_settings(given_values(job.config)), job.items.packed.digest
    config = job.config
    for size in batch_gpu_candidates(config.batch, config.gpus, config.mbstd_group):
        if size != config.batch_gpu:
            other = fingerprint({**settings, "batch_gpu": size}, digest)
            _print_other_pass(folder.root / other, size, config.batch_gpu)
    note = other_code_note(folder.root, settings, digest, job.key)
    if note:
        print(note, flush=True)


def _print_other_pass(base: Path, size: int, batch_gpu: int) -> None:
    """Name a saved state that differs in ``batch_gpu`` only."""
    nimg = StateFolder(base / "states").latest_nimg() if base.is_dir() else 0
    if nimg:
        print(
            f"note: this training with batch_gpu {size} has a saved state at {nimg} images; "
            f"batch_gpu {batch_gpu} changes the result (minibatch standard deviation), so it "
            f"starts from zero: --batch-gpu {size} resumes the saved state"
        )


def _print_other_ops(before: str, now: str) -> None:
    """Another machine, or a compiler that came or went: no reason to start from zero."""
    if before != now:
        print(
            f"note: ops changed: {before} -> {now}; the training resumes with numbers that are "
            "equal up to rounding, not bit for bit"
        )
