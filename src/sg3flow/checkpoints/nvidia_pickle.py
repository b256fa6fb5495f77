"""Writes networks as a pickle that the scripts of NVlabs/stylegan3 load, without their source.

The official pickles contain the source text of their classes. This one names the classes by
module and name, as ``training.networks_stylegan3.Generator``, with their arguments: it loads where
the repository is on the path, which it is for every script in it. Loading it runs, per network,

1. ``functools.partial(CLASS, **init_kwargs)()``, the constructor of the official class;
2. ``torch.nn.Module.load_state_dict(network, state_dict)``, strict: a missing tensor is an error;
3. ``eval()`` and ``requires_grad_(False)``, as networks in the official pickles are.

The content is that of the official files, ``G``, ``D``, ``G_ema``, ``training_set_kwargs`` and
``augment_pipe`` (None), and ``sg3flow``: what only this project knows of the networks. Its own
reader (``public_pickle.py``) reads the file without running any of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from sg3flow.checkpoints.network_entries import network_entry, to_primitives
from sg3flow.checkpoints.pickle_writer import Built, Call, Prepared, write_pickle
from sg3flow.checkpoints.public_classes import (
    CLASSES,
    EVAL,
    LOAD_STATE_DICT,
    PARTIAL,
    REQUIRES_GRAD,
)
from sg3flow.errors import CheckpointError

FORMAT = "sg3flow-nvidia-pickle-1"
# The official loader wants a discriminator in every file: this is the width of a placeholder.
_PLACEHOLDER_CHANNELS = 16
_SIZES = ("c_dim", "img_resolution", "img_channels")


def write_nvidia_pickle(
    stream: BinaryIO,
    *,
    G_ema: nn.Module,
    G: nn.Module | None = None,
    D: nn.Module | None = None,
    training_set: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Write the networks of a checkpoint; equal networks give equal bytes.

    Args:
        G: None: G_ema is also the G of the file.
        D: None: the file has an untrained one of little width, as the official loader wants one;
            read back, it is None again.
        training_set: its description in a snapshot.
        progress: its progress in a snapshot.

    Raises:
        CheckpointError: a value is not a primitive.
        OSError: writing failed.
    """
    entries = {"G_ema": network_entry(G_ema)}
    entries["G"] = entries["G_ema"] if G is None or G is G_ema else network_entry(G)
    if D is not None:
        entries["D"] = network_entry(D)
    known = {
        "format": FORMAT,
        "training_set": to_primitives(training_set, "training_set"),
        "progress": to_primitives(progress, "progress"),
        "half_dtype": {
            role: entry["init_kwargs"]["half_dtype"]
            for role, entry in sorted(entries.items())
            if "half_dtype" in entry["init_kwargs"]
        },
    }
    discriminator = _stored(entries["D"]) if D is not None else _placeholder(entries["G_ema"])
    content = {
        "sg3flow": known,  # first: the format is at the start of the file
        "G": _stored(entries["G"]),
        "D": discriminator,
        "G_ema": _stored(entries["G_ema"]),
        "augment_pipe": None,
        "training_set_kwargs": _official_data(training_set),
    }
    write_pickle(stream, content)


def is_nvidia_pickle(path: Path) -> bool:
    """Whether a file is a pickle that ``write_nvidia_pickle`` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(len(FORMAT) + 100)
    return head.startswith(b"\x80\x04") and FORMAT.encode() in head


def _stored(entry: dict[str, Any]) -> Call:
    constructed = _constructed(entry["class_name"], entry["init_kwargs"])
    return _frozen(Prepared(constructed, LOAD_STATE_DICT, (entry["state_dict"],)))


def _placeholder(generator: dict[str, Any]) -> Call:
    """A discriminator with the random weights that its constructor gives it."""
    kwargs = {key: generator["init_kwargs"][key] for key in _SIZES}
    width = {
        "channel_base": _PLACEHOLDER_CHANNELS * kwargs["img_resolution"],
        "channel_max": _PLACEHOLDER_CHANNELS,
    }
    return _frozen(_constructed("Discriminator", kwargs | width))


def _constructed(class_name: str, kwargs: dict[str, Any]) -> Call:
    name = next((name for name, known in CLASSES.items() if known == class_name), None)
    if name is None:
        raise CheckpointError(f"the official code has no {class_name}")
    # The official layers know half precision as float16 only.
    given = {key: value for key, value in kwargs.items() if key != "half_dtype"}
    return Call(Built(Call(PARTIAL, (name,)), (name, (), given, None)), ())


def _frozen(network: Any) -> Call:
    return Call(REQUIRES_GRAD, (Call(EVAL, (network,)), False))


def _official_data(training_set: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of the official data set class; its metrics take another path by ``--data``."""
    if not training_set:
        return None
    name = str(training_set.get("name") or "dataset")
    return {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": f"{name}.zip",
        "use_labels": bool(training_set.get("label_dim")),
        "max_size": training_set.get("num_images"),
        "xflip": bool(training_set.get("mirror")),
        "resolution": training_set.get("resolution"),
    }
