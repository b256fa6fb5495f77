"""What is to be trained: settings and data, checked; its fingerprint and its name."""

import dataclasses
import hashlib
import json
import math
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from sg3flow import distributed
from sg3flow.addresses import without_secrets
from sg3flow.config import AUTO, TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import ConfigError, DataError
from sg3flow.files import sha256_file
from sg3flow.params_file import load_settings
from sg3flow.resources import pick_device
from sg3flow.runs.code_state import (
    FREE_SETTINGS,
    TRAINING_NUMERICS,
    TRANSFER,
    code_digest,
    given_values,
)
from sg3flow.runs.provenance import data_info
from sg3flow.runs.run_folder import RUN, list_snapshots, read_provenance, read_run
from sg3flow.settings import project_root, state_root
from sg3flow.training.assembly import resolve
from sg3flow.training.batch_size_finder import cached_batch_gpu
from sg3flow.training.recorder import grid_size
from sg3flow.training.transfer import check_transfer
from sg3flow.training.work_folder import StateFolder


def fingerprint(config: TrainConfig, data_digest: str) -> str:
    """Twelve hexadecimal digits over resolved settings, data and the code of the numerics.

    A training with the same fingerprint resumes from saved state; a change of ``kimg`` or ``snap``
    keeps it, a change of ``gamma`` starts a new training.
    """
    settings = deciding_settings(given_values(config))
    if config.resume and Path(config.resume).is_file():
        settings["resume"] = sha256_file(Path(config.resume))  # the network, not where it lies
    key = {"settings": settings, "data": data_digest, "code": numerics_digest(config)}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def numerics_digest(config: TrainConfig) -> str:
    """SHA-256 over the code that decides the numbers of this training, kernels included."""
    return code_digest(TRAINING_NUMERICS + (TRANSFER if config.resume else ()))


def deciding_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide where a training goes, without those that are not set."""
    return {name: value for name, value in settings.items() if value and name not in FREE_SETTINGS}


def other_code_note(root: Path, config: TrainConfig, data_digest: str, key: str) -> str:
    """A sentence about a saved state of this training that other code made; empty: there is none.

    Version 0.1 hashed other files under other names, so its states have other fingerprints. Any
    later change of the numerics has the same effect: the state stays, and is not silently ignored.

    Args:
        root: the folder of all states.
        key: the fingerprint now.
    """
    wanted = deciding_settings(given_values(config))
    found: dict[Path, int] = {}
    for described in root.glob(f"*/run/{RUN}"):
        base = described.parents[1]
        run = read_run(described.parent)
        if run is None or base.name.partition("-")[0] == key or "params" not in run:
            continue
        same_data = run.get("training_set", {}).get("digest") == data_digest
        nimg = StateFolder(base / "states").latest_nimg()
        # Through JSON: lists there are tuples here.
        same_settings = json.dumps(deciding_settings(run["params"])) == json.dumps(wanted)
        if same_data and same_settings and nimg:
            found[base] = nimg
    if not found:
        return ""
    base = max(found, key=lambda each: found[each])
    version = ((read_provenance(base / "run") or {}).get("code") or {}).get("version", "")
    snapshot = next(reversed(list_snapshots(base / "run")), None)
    advice = f"; --resume {snapshot} starts from its last network" if snapshot else ""
    made_by = f"sg3flow {version}" if version else "another version of the code"
    return (
        f"note: {base} holds this training at {found[base]} images, made by {made_by}, whose code "
        f"computes by other source files than this one: it stays there, and this training starts "
        f"anew{advice}"
    )


_ALWAYS_NAMED = {"cfg", "batch", "gamma"}
_MOST_DIFFERENCES = 6


def run_name(config: TrainConfig, packed: PackedSet) -> str:
    """``<cfg>-<desc or data>-<resolution>px-batch<B>-gamma<G>`` and the settings that differ.

    They are held to the recipe that has the same ``desc``, or else to the defaults, and only those
    count that change the result. A training that is made longer keeps its name.

    Args:
        config: resolved settings.
    """
    what = config.desc or packed.name
    main = f"{config.cfg}-{what}-{packed.resolution}px-batch{config.batch}-gamma{config.gamma:g}"
    words = differences(config, _usual(config))
    if len(words) > _MOST_DIFFERENCES:
        words = [*words[:_MOST_DIFFERENCES], f"and{len(words) - _MOST_DIFFERENCES}more"]
    return "-".join([main, *words])


def differences(config: TrainConfig, usual: Mapping[str, Any]) -> list[str]:
    """A word for each setting that changes the result and is not as ``usual``, in their order."""
    return [
        _word(field.name, getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in FREE_SETTINGS | _ALWAYS_NAMED
        and getattr(config, field.name) != usual[field.name]
        and not (field.name == "batch_gpu" and config.batch_gpu * config.gpus == config.batch)
    ]


def _usual(config: TrainConfig) -> dict[str, Any]:
    """The settings that nobody has to be told of."""
    base: dict[str, Any] = {
        "cfg": config.cfg,
        "gpus": 1,
        "batch": config.batch,
        "gamma": config.gamma,
    }
    try:
        usual = load_settings(TrainConfig, "train", _recipe(config), base)
    except ConfigError:  # a recipe that cannot be read
        usual = TrainConfig(**base)
    # Where these are 0 they follow from cfg.
    filled = resolve(dataclasses.replace(config, glr=usual.glr, map_depth=usual.map_depth))
    return dataclasses.asdict(usual) | {"glr": filled.glr, "map_depth": filled.map_depth}


def _recipe(config: TrainConfig) -> Path | None:
    if not re.fullmatch(r"[\w.-]+", config.desc):
        return None
    path = project_root() / "recipes" / f"{config.desc}.yaml"
    return path if path.is_file() else None


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if name == "aug":
        return str(value)
    if name == "resume":
        # Without @: NAME@ALIAS is a registered version to those who look for a run by its name.
        return "from-" + re.sub(r"[^\w.-]+", "_", PurePosixPath(str(value)).stem)[-40:]
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        given: settings as given.
        config: with every default filled in.
        items: the training set.
        key: fingerprint of all that decides the result.
    """

    given: TrainConfig
    config: TrainConfig
    items: TrainingSet
    key: str

    @property
    def name(self) -> str:
        """``<cfg>-<dataset>-gpus<N>-batch<B>-gamma<G>[-desc]``."""
        c = self.config
        name = f"{c.cfg}-{self.items.packed.name}-gpus{c.gpus}-batch{c.batch}-gamma{c.gamma:g}"
        return f"{name}-{c.desc}" if c.desc else name

    @property
    def final_nimg(self) -> int:
        """Images seen at the end: that of the first step that reaches kimg."""
        return math.ceil(self.config.kimg * 1000 / self.config.batch) * self.config.batch

    def options(self) -> dict[str, Any]:
        """Settings and data, to be shown: a password in an address is not."""
        shown = {"resume": without_secrets(self.config.resume)}
        return {
            "given": dataclasses.asdict(self.given) | shown,
            "resolved": dataclasses.asdict(self.config) | shown,
            "training_set": training_set_info(self.items),
        }

    def description(self) -> dict[str, Any]:
        """What run.json says of it."""
        options = self.options()
        return {
            "fingerprint": self.key,
            "name": run_name(self.config, self.items.packed),
            "command": self.command,
            "params": options["resolved"],
            "training_set": options["training_set"],
        }

    @property
    def command(self) -> str:
        """The command line that runs."""
        program = ["python"] if sys.argv[0].endswith(".py") else []  # else it is `sg3flow train`
        return without_secrets(shlex.join([*program, *sys.argv]))

    def provenance(self) -> dict[str, Any]:
        """What the training tells of where it comes from."""
        return {
            "command": self.command,
            "fingerprint": self.key,
            "numerics": numerics_digest(self.config),
            "seed": self.config.seed,
            "data": data_info(self.items.packed, self.items.label_dim),
        }


def prepare(config: TrainConfig, data: Path) -> Job:
    """Check settings and data.

    Raises:
        ConfigError, DataError: they cannot be used, or not together.
    """
    resolved = resolve(config)
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
    grid_size(resolved.grid, resolution)
    _check_device(resolved)
    if resolved.batch_gpu == AUTO:
        key = fingerprint(resolved, items.packed.digest)
        memo = state_root() / "batch-gpu" / f"{key}.json"
        fitting = cached_batch_gpu(resolved, items, memo) if distributed.is_main_process() else 0
        fitting = int(distributed.broadcast(str(fitting).encode()))
        resolved = dataclasses.replace(resolved, batch_gpu=fitting)
    return Job(config, resolved, items, fingerprint(resolved, items.packed.digest))


def _check_device(config: TrainConfig) -> None:
    device = pick_device(config.device)
    if device.type == "cuda" and config.bf16 and not torch.cuda.is_bf16_supported():
        raise ConfigError("train.bf16: this GPU has no bfloat16; leave it out for float16")
    if distributed.is_launched():
        return
    if device.type == "cuda" and config.gpus > torch.cuda.device_count():
        raise ConfigError(
            f"train.gpus is {config.gpus}, and {torch.cuda.device_count()} CUDA devices are "
            "visible; lower it, or start the command on several machines with torchrun"
        )


def dry_run(config: TrainConfig, data: Path) -> dict[str, Any]:
    """Check settings and data as a training would; the resolved settings."""
    job = prepare(config, data)
    return job.options() | {"fingerprint": job.key}


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
    optional = {
        "class_names": packed.class_names,
        "licence": packed.license,
        "citation": packed.citation,
    }
    return info | {name: value for name, value in optional.items() if value}
