"""Networks from whatever holds them: our snapshot, a public pickle, or a registered model.

The content of a file decides what it is, never its name. Nothing that is read is executed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sg3flow.checkpoints.network_entries import build_network
from sg3flow.checkpoints.packaged_model import DESCRIPTION_NAME, WEIGHTS_NAME, load_packaged
from sg3flow.checkpoints.public_pickle import read_public_pickle
from sg3flow.checkpoints.snapshots import read_snapshot
from sg3flow.checkpoints.sources import local_copy
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.training.augment import AUGMENT_PRESETS, AugmentPipe

_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class Networks:
    """What a checkpoint holds; None for what it does not hold.

    The networks are in evaluation mode on the CPU. ``augment_pipe`` carries the strength ``p`` at
    that moment; ``training_set`` and ``progress`` are primitives.
    """

    G: nn.Module | None = None
    D: nn.Module | None = None
    G_ema: nn.Module | None = None
    augment_pipe: AugmentPipe | None = None
    training_set: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None


def load_networks(source: str | os.PathLike[str]) -> Networks:
    """Read networks from a path, a URL, ``models:/…`` or ``runs:/…``; never executes what it reads.

    Raises:
        CheckpointError: no such file, no checkpoint, a damaged or hostile one, or weights that do
            not fit their architecture; the message names the file and what is wrong.
        DataError: a download failed.
        TrackingError: the tracking server or the registry failed.
    """
    path = local_copy(source)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file to read networks from")
    try:
        with path.open("rb") as stream:
            is_archive = stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return _from_snapshot(path) if is_archive else _from_public_pickle(path)


def _from_snapshot(path: Path) -> Networks:
    content = read_snapshot(path)
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"])
    pipe.p.fill_(content["augment_p"])
    return Networks(
        G=build_network(content["G"], f"{path}: G"),
        D=build_network(content["D"], f"{path}: D"),
        G_ema=build_network(content["G_ema"], f"{path}: G_ema"),
        augment_pipe=pipe,
        training_set=content["training_set"],
        progress=content["progress"],
    )


def _from_public_pickle(path: Path) -> Networks:
    content = read_public_pickle(path)
    G, D, G_ema = (
        build_network(content[key], f"{path}: {key}") if content[key] else None
        for key in ("G", "D", "G_ema")
    )
    return Networks(
        G=G,
        D=D,
        G_ema=G_ema,
        augment_pipe=_public_augment_pipe(content["augment_pipe"], path),
        training_set=content["training_set_kwargs"],
    )


def _public_augment_pipe(entry: Mapping[str, Any] | None, path: Path) -> AugmentPipe | None:
    if entry is None:
        return None
    try:
        pipe = AugmentPipe(**entry["init_kwargs"])
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: augment_pipe refuses its arguments: {error}") from None
    pipe.p.fill_(entry["p"])
    return pipe


def _from_folder(folder: Path) -> Networks:
    """A registered model (``artifacts/generator.json``), or a folder around one snapshot."""
    package = folder / "artifacts"
    if (package / DESCRIPTION_NAME).is_file():
        G_ema, description = load_packaged(package / WEIGHTS_NAME, package / DESCRIPTION_NAME)
        return Networks(G_ema=G_ema, training_set=description["training_set"])
    snapshots = sorted(folder.glob("*.pkl"))
    if len(snapshots) != 1:
        found = ", ".join(path.name for path in snapshots[-5:]) or "none"
        raise CheckpointError(
            f"{folder} holds no artifacts/{DESCRIPTION_NAME} and not exactly one *.pkl ({found}); "
            "name the file"
        )
    return load_networks(snapshots[0])
