"""What is to be trained: settings and data, checked against each other before anything is made."""

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from sg3flow import processes
from sg3flow.addresses import without_secrets
from sg3flow.config import AUTO, TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.devices import pick_device
from sg3flow.errors import ConfigError, DataError
from sg3flow.project import state_root
from sg3flow.provenance.data_source import data_facts
from sg3flow.training.build import resolve
from sg3flow.training.fingerprint import fingerprint, numerics_digest
from sg3flow.training.fit import remembered_batch_gpu
from sg3flow.training.grids import grid_size
from sg3flow.training.naming import run_name
from sg3flow.training.transfer import check_transfer


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
        return without_secrets(shlex.join(["python", *sys.argv]))

    def provenance(self) -> dict[str, Any]:
        """What the training tells of where it comes from."""
        return {
            "command": self.command,
            "fingerprint": self.key,
            "numerics": numerics_digest(),
            "seed": self.config.seed,
            "data": data_facts(self.items.packed, self.items.label_dim),
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
        fitting = remembered_batch_gpu(resolved, items, memo) if processes.is_first() else 0
        fitting = int(processes.told(str(fitting).encode()))
        resolved = dataclasses.replace(resolved, batch_gpu=fitting)
    return Job(config, resolved, items, fingerprint(resolved, items.packed.digest))


def _check_device(config: TrainConfig) -> None:
    device = pick_device(config.device)
    if device.type == "cuda" and config.bf16 and not torch.cuda.is_bf16_supported():
        raise ConfigError("train.bf16: this GPU has no bfloat16; leave it out for float16")
    if processes.is_launched():
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
        "licence": packed.licence,
        "citation": packed.citation,
    }
    return info | {name: value for name, value in optional.items() if value}
