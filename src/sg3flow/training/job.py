"""One training: its checked settings and data, its fingerprint and its name.

The whole ``TrainConfig`` ends here and in ``assembly``: other modules get the parts they need.
"""

import dataclasses
import hashlib
import json
import math
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sg3flow import distributed
from sg3flow.addresses import shown_host, without_secrets
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.network_catalog import named_network
from sg3flow.config import AUTO, TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.data.packed_form import label_kind_of, label_vectors
from sg3flow.device import pick_device, unlike_gpus, visible_words
from sg3flow.errors import ConfigError, DataError
from sg3flow.files import sha256_file
from sg3flow.params_file import load_settings
from sg3flow.precision import override
from sg3flow.runs.code_state import (
    FREE_SETTINGS,
    NEUTRAL_DEFAULTS,
    TRAINING_NUMERICS,
    TRANSFER,
    code_digest,
    given_values,
)
from sg3flow.runs.pipeline import experiment_name
from sg3flow.runs.provenance import data_info, set_title
from sg3flow.runs.run_folder import RUN, list_snapshots, read_options, read_run, snapshot_kimg
from sg3flow.runs.run_names import training_name
from sg3flow.runs.set_names import without_size
from sg3flow.settings import LAUNCHED, project_root, state_root
from sg3flow.training.assembly import (
    NetworkSettings,
    default_glr,
    default_map_depth,
    precision_of,
    resolve,
    select,
)
from sg3flow.training.batch_size_finder import batch_gpu_candidates, cached_batch_gpu, step_trial
from sg3flow.training.notification import notify_url
from sg3flow.training.power_averages import parse_widths
from sg3flow.training.recorder import grid_size
from sg3flow.training.tensorboard_log import check_tensorboard
from sg3flow.training.transfer import (
    TransferSettings,
    architecture_of,
    check_cbase,
    check_transfer,
)


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are set and change the result of a training."""
    return {
        name: value
        for name, value in settings.items()
        if value and name not in FREE_SETTINGS and value != NEUTRAL_DEFAULTS.get(name)
    }


def fingerprint(settings: Mapping[str, Any], data_digest: str) -> str:
    """Twelve hexadecimal digits over settings, data and the code that decides the numbers.

    A training with the same fingerprint resumes from its saved state. ``kimg`` and ``snap`` do not
    change it; a new ``gamma`` does, and starts a new training.

    Args:
        settings: resolved, as ``deciding_settings`` returns them.
        data_digest: of the packed set.
    """
    resume = settings.get("resume", "")
    if resume and (file := _file_of(resume)).is_file():
        settings = {**settings, "resume": sha256_file(file)}  # the content, not the path
    code = numerics_digest(bool(resume))
    key = {"settings": dict(settings), "data": data_digest, "code": code}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _file_of(resume: str) -> Path:
    """The path that ``resume`` is, or that of the bundled network that it names."""
    named = named_network(resume)
    return (named.bundled if named is not None else None) or Path(resume)


def numerics_digest(has_resume: bool) -> str:
    """SHA-256 over the code that decides the numbers of a training, kernels included."""
    return code_digest(TRAINING_NUMERICS + (TRANSFER if has_resume else ()))


def comparable(settings: Mapping[str, Any]) -> str:
    """The settings as ``run.json`` stores them: tuples are lists, and URLs have no password."""
    shown = {**settings, "resume": without_secrets(settings.get("resume", ""))}
    return json.dumps(shown, sort_keys=True)


LATEST = "latest"  # as ``resume``: see ``_latest_network``


def _latest_network(given: TrainConfig, data_digest: str) -> str:
    """The path that ``resume: latest`` stands for.

    It is the newest snapshot of trained networks, of the training that wrote one last. A training
    with equal settings and data that was started so before keeps the snapshot of that time: its own
    snapshots are newer, and the same command must resume it.

    Raises:
        ConfigError: no training in the state folder has a snapshot.
    """
    wanted = comparable(deciding_settings(dataclasses.asdict(given)))
    before: list[tuple[float, str]] = []
    newest: list[tuple[float, str]] = []
    for folder in (described.parent for described in state_root().glob(f"*/run/{RUN}")):
        run = read_run(folder) or {}
        same_data = run.get("training_set", {}).get("digest") == data_digest
        resume = Path(run.get("params", {}).get("resume", ""))
        same = same_data and comparable(deciding_settings(read_options(folder))) == wanted
        if same and resume.is_file():
            before.append((run.get("started", 0.0), str(resume)))
        snapshot = next(reversed(list_snapshots(folder)), None)
        if snapshot is not None and snapshot_kimg(snapshot.name):
            newest.append((snapshot.stat().st_mtime, str(snapshot)))
    if not newest and not before:
        raise ConfigError(
            f"train.resume is latest, and no training in {state_root()} has a snapshot; give a "
            "file, a URL or models:/NAME@ALIAS, or leave it out"
        )
    return max(before or newest)[1]


_MOST_OF_DESC = 100  # characters


def run_name(settings: Mapping[str, Any], title: str, resolution: int) -> str:
    """The name of a training: the settings that change the result and differ come first.

    They differ from the recipe called ``desc``, or else from the defaults. A longer training has
    the same name.

    Args:
        settings: all of them by name, resolved.
        title: name of the packed set for people.
    """
    differing = _differences(settings, _reference_settings(settings))
    what = settings["desc"] or without_size(title)
    return training_name(differing, settings["cfg"], resolution, what, experiment_name())


def _differences(settings: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change the result and differ from the reference."""
    usual_pass = settings["batch_gpu"] * settings["gpus"] == settings["batch"]
    unnamed = FREE_SETTINGS | {"cfg"} | ({"batch_gpu"} if usual_pass else set())
    return {
        name: value
        for name, value in settings.items()
        if name not in unnamed and value != reference.get(name)
    }


def _reference_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the recipe called ``desc``, or the defaults, which lack batch and gamma."""
    cfg = settings["cfg"]
    found = _recipe_settings(settings["desc"])
    if not found:
        found = dataclasses.asdict(TrainConfig(cfg=cfg, gpus=1, batch=1, gamma=1.0))
        del found["batch"], found["gamma"]
    usual = {"glr": default_glr(cfg), "map_depth": default_map_depth(cfg)}
    return found | {name: found[name] or value for name, value in usual.items()}


def _recipe_settings(desc: str) -> dict[str, Any]:
    path = _recipe(desc)
    try:
        return dataclasses.asdict(load_settings(TrainConfig, "train", path)) if path else {}
    except ConfigError:  # it cannot be read
        return {}


def _recipe(desc: str) -> Path | None:
    if len(desc) > _MOST_OF_DESC or not re.fullmatch(r"[\w.-]+", desc):
        return None
    path = project_root() / "recipes" / f"{desc}.yaml"
    return path if path.is_file() else None


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        given: settings as the user gave them.
        config: resolved settings.
        items: the training set.
        key: the fingerprint.
    """

    given: TrainConfig
    config: TrainConfig
    items: TrainingSet
    key: str

    @property
    def name(self) -> str:
        """The name of a numbered folder: ``<cfg>-<dataset>-gpus<N>-batch<B>-gamma<G>[-desc]``."""
        c = self.config
        name = f"{c.cfg}-{self.items.packed.name}-gpus{c.gpus}-batch{c.batch}-gamma{c.gamma:g}"
        return f"{name}-{c.desc}" if c.desc else name

    @property
    def final_nimg(self) -> int:
        """Images seen at the end: kimg, rounded up to whole batches."""
        return math.ceil(self.config.kimg * 1000 / self.config.batch) * self.config.batch

    def options(self) -> dict[str, Any]:
        """Settings and data for people to read; a password in a URL is removed."""
        given, resolved = (
            dataclasses.asdict(each)
            | {"resume": without_secrets(each.resume), "notify": _shown_webhook(each.notify)}
            for each in (self.given, self.config)
        )
        return {
            "given": given,
            "resolved": resolved,
            "training_set": training_set_info(self.items),
        }

    def description(self) -> dict[str, Any]:
        """The content of run.json."""
        options = self.options()
        packed = self.items.packed
        return {
            "fingerprint": self.key,
            "name": run_name(dataclasses.asdict(self.config), set_title(packed), packed.resolution),
            "command": self.command,
            "params": options["resolved"],
            "training_set": options["training_set"],
        }

    @property
    def command(self) -> str:
        """The command line of this process, without secrets."""
        program = ["python"] if sys.argv[0].endswith(".py") else []  # else it is `sg3flow train`
        webhook = self.config.notify
        given = [a.replace(webhook, shown_host(webhook)) if webhook else a for a in sys.argv]
        return without_secrets(shlex.join([*program, *given]))

    def provenance(self) -> dict[str, Any]:
        """The part of provenance.json that only the training knows."""
        return {
            "command": self.command,
            "fingerprint": self.key,
            "numerics": numerics_digest(bool(self.config.resume)),
            "seed": self.config.seed,
            "data": data_info(self.items.packed, self.items.label_dim),
        }


def _shown_webhook(url: str) -> str:
    return shown_host(url) if url else ""


def prepare(config: TrainConfig, data: Path) -> Job:
    """Check settings and data, and resolve ``batch_gpu: auto``.

    Raises:
        ConfigError, DataError: they cannot be used, or do not go together.
    """
    resolved = resolve(config)
    notify_url(config.notify)
    check_tensorboard(config.tensorboard)
    parse_widths(config.phema)
    items = TrainingSet(PackedSet(data), mirror=resolved.mirror, labels=resolved.cond)
    if resolved.cond and items.label_dim == 0:
        raise ConfigError(
            f"train.cond needs labels and {data} has none; pack with --labels folders"
        )
    if resolved.class_batches and not items.classes():
        raise ConfigError(
            "train.class_batches needs train.cond and a set with classes, and "
            + ("train.cond is off" if not resolved.cond else f"the labels of {data} are vectors")
        )
    open_held_out(resolved.held_out, items)
    resolution = items.packed.resolution
    if resolution < 16 or resolution & (resolution - 1):
        raise DataError(
            f"{data} holds images of {resolution} pixels; training needs a power of two, at least "
            "16: pack with --resolution, for example 256x256"
        )
    if resolved.resume == LATEST:
        resolved = dataclasses.replace(resolved, resume=_shared_latest(config, items))
    check_transfer(select(TransferSettings, resolved), resolved.freezed, resolution)
    if not resolved.resume_arch:  # it has the channels of a checkpoint, not those of cbase
        check_cbase(resolved.cbase, resolution)
    grid_size(resolved.grid, resolution)
    device = pick_device(resolved.device)
    _check_device(device, resolved)
    if resolved.batch_gpu == AUTO:
        found = _find_batch_gpu(resolved, items, device) if distributed.is_main_process() else 0
        found = int(distributed.broadcast(str(found).encode()))
        resolved = dataclasses.replace(resolved, batch_gpu=found)
    key = fingerprint(deciding_settings(given_values(resolved)), items.packed.digest)
    return Job(config, resolved, items, key)


def open_held_out(path: str, items: TrainingSet) -> TrainingSet | None:
    """The images of ``train.held_out``, with labels as the training; None: none are given.

    Raises:
        DataError: they cannot be read, are those of the training, or have another form.
    """
    if not path:
        return None
    ours, packed = items.packed, PackedSet(path)
    if packed.digest == ours.digest:
        raise DataError(
            f"train.held_out {packed.path} has the images of the training set {ours.path}; name a "
            "set of images that the training does not see, or leave it out"
        )
    held_out = TrainingSet(packed, labels=items.use_labels)
    forms = [
        (each.packed.resolution, each.packed.channels, each.label_dim) for each in (items, held_out)
    ]
    if forms[0] != forms[1]:
        expected, found = ("{} px, {} channels, labels of length {}".format(*f) for f in forms)
        raise DataError(
            f"train.held_out {packed.path} has {found}; the training set {ours.path} has "
            f"{expected}; pack both with the same settings"
        )
    return held_out


def _shared_latest(given: TrainConfig, items: TrainingSet) -> str:
    """As ``_latest_network``, the same in all processes."""
    is_main = distributed.is_main_process()
    found = _latest_network(given, items.packed.digest) if is_main else ""
    return distributed.broadcast(found.encode()).decode()


def _check_device(device: torch.device, config: TrainConfig) -> None:
    gpus = config.gpus
    if device.type == "cuda" and config.bf16 and not torch.cuda.is_bf16_supported():
        raise ConfigError("train.bf16: this GPU has no bfloat16; leave it out to use float16")
    if device.type != "cuda" and config.conv_form != "auto":
        raise ConfigError(
            f"train.conv_form {config.conv_form}: the device is {device.type}, where the forms of "
            "convolutions are fixed; leave it out, or train on a GPU"
        )
    if device.type != "cuda" and config.cuda_graphs:
        raise ConfigError(
            f"train.cuda_graphs: the device is {device.type}, which has no CUDA graphs; leave it "
            "out, or train on a GPU"
        )
    if device.type == "cpu":
        _say_without_effect(config)
    if distributed.is_launched():
        if device.type == "cuda" and gpus > 1 and distributed.is_main_process():
            warn_of_unlike_gpus(gpus)
        return
    if device.type == "cuda" and gpus > torch.cuda.device_count():
        raise ConfigError(
            f"train.gpus is {gpus}, and {torch.cuda.device_count()} CUDA devices are visible"
            f"{visible_words()}; lower it, or start the command on several machines with torchrun"
        )


def _say_without_effect(config: TrainConfig) -> None:
    """Name the settings that are on and change nothing on a CPU, once for all processes."""
    named = [name for name in ("tf32", "cudnn_benchmark") if getattr(config, name)]
    if named and distributed.is_main_process() and not LAUNCHED.is_set():
        settings = " and ".join(f"train.{name}" for name in named)
        verb = "has" if len(named) == 1 else "have"
        print(f"note: {settings} {verb} no effect on a CPU", file=sys.stderr, flush=True)


def warn_of_unlike_gpus(gpus: int) -> None:
    """Warn if the GPUs of this machine are of several kinds."""
    if words := unlike_gpus(gpus):
        print(f"warning: {words}", file=sys.stderr, flush=True)


def _find_batch_gpu(resolved: TrainConfig, items: TrainingSet, device: torch.device) -> int:
    form: dict[str, Any] = {
        "resolution": items.packed.resolution,
        "channels": items.packed.channels,
        "c_dim": items.label_dim,
    }
    if resolved.resume_arch:
        networks, settings = load_networks(resolved.resume), select(NetworkSettings, resolved)
        form["architecture"] = architecture_of(
            networks, select(TransferSettings, resolved), settings, **form
        )
    key = fingerprint(deciding_settings(given_values(resolved)), items.packed.digest)
    return cached_batch_gpu(
        batch_gpu_candidates(resolved.batch, resolved.gpus, resolved.mbstd_group),
        step_trial(dataclasses.asdict(resolved), form),
        device,
        memo=state_root() / "batch-gpu" / f"{key}.json",
    )


def dry_run(config: TrainConfig, data: Path) -> dict[str, Any]:
    """Check settings and data as a training does, and return the resolved settings."""
    job = prepare(config, data)
    precision = precision_words(job.config, pick_device(job.config.device))
    return job.options() | {"fingerprint": job.key, "precision": precision}


def precision_words(config: TrainConfig, device: torch.device) -> str:
    """The precision of a training in words: types of the layers, TF32, cuDNN benchmark."""
    if device.type == "cpu":
        return "exact float32"
    half = f"{'bfloat16' if config.bf16 else 'float16'} in the highest resolutions, else "
    words = ("" if config.fp32 else half) + precision_of(config).words()
    return f"{words} ({override()})" if override() else words


def training_set_info(items: TrainingSet) -> dict[str, Any]:
    """The description of a training set in a snapshot: plain values, no paths."""
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
        "label_kind": label_kind_of(packed.path) if items.label_dim else "",
        "class_names": packed.class_names,
        "licence": packed.license,
        "citation": packed.citation,
    }
    return info | {name: value for name, value in optional.items() if value}


def sample_labels(items: TrainingSet) -> dict[str, Any]:
    """What a snapshot adds to ``training_set_info``: labels for sample images, unless classes."""
    labels = label_vectors(items.packed.path) if items.label_dim else []
    return {"sample_labels": labels} if labels else {}
