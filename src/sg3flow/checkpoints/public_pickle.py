"""Reads public StyleGAN3 and StyleGAN2-ADA-PyTorch pickles as data, without running their code.

Such a file contains the source text of its classes and calls to run it. Here the weights are put
into this project's networks by class name, arguments and parameter name; the text is ignored.
Files of ``nvidia_pickle.py``, which name the classes instead, are read in the same way.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sg3flow.checkpoints.network_entries import check_role, primitive_dict
from sg3flow.checkpoints.public_classes import NamedClassNetwork
from sg3flow.checkpoints.public_values import PUBLIC_GLOBALS, StoredModule
from sg3flow.checkpoints.restricted_unpickler import RestrictedUnpickler
from sg3flow.errors import CheckpointError

_MAX_FILE_BYTES = 8 << 30
MAX_NAMES = 20_000  # layers and tensors per network; the largest public ones have hundreds
_MAX_NAME_LENGTH = 100
_MAX_PREFIX_LENGTH = 400

# Arguments that affect speed only.
_SPEED_ONLY = ("fused_modconv_default", "fp16_channels_last")
# Arguments of StyleGAN2-ADA for which this project supports one value only.
_ALWAYS = {"activation": "lrelu"}


def read_public_pickle(path: Path) -> dict[str, Any]:
    """Read a public network pickle; nothing in it is executed.

    Returns:
        ``G``, ``D``, ``G_ema``: ``{class_name, init_kwargs, state_dict}`` for the classes of
        ``sg3flow.networks``, or None; ``augment_pipe``: ``{init_kwargs, p}`` or None;
        ``training_set_kwargs``: primitives or None; ``sg3flow``: what ``nvidia_pickle.py`` stored
        beside them, or empty.

    Raises:
        CheckpointError: the file is not such a pickle, is damaged, or uses a forbidden global.
    """
    try:
        return _read(Path(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read as a network pickle: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if not 0 < size <= _MAX_FILE_BYTES:
        raise CheckpointError(f"it has {size} bytes")
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content[:1] != b"\x80":
            raise CheckpointError("it is neither a pickle nor a snapshot (by its first bytes)")
        values = RestrictedUnpickler(content, PUBLIC_GLOBALS).load()
        if content.tell() != size:
            raise CheckpointError(f"{size - content.tell()} bytes follow the end of the pickle")
    return _contents(values)


def _contents(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not {"G", "D", "G_ema"} & set(values):
        raise CheckpointError("it has no G, D or G_ema")
    training_set = values.get("training_set_kwargs")
    if training_set is not None:
        training_set = primitive_dict(training_set, "training_set_kwargs")
    known = primitive_dict(values.get("sg3flow") or {}, "sg3flow")
    return {
        "G": _network(values.get("G"), "G", known),
        "D": _network(values.get("D"), "D", known),
        "G_ema": _network(values.get("G_ema"), "G_ema", known),
        "augment_pipe": _augment_pipe(values.get("augment_pipe")),
        "training_set_kwargs": training_set,
        "sg3flow": known,
    }


def _network(module: Any, key: str, known: dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(module, NamedClassNetwork):
        return _named_class_network(module, key, known)
    if module is None:
        return None
    if not isinstance(module, StoredModule):
        raise CheckpointError(f"{key} is a {type(module).__name__}, not a network")
    class_name = _class_name(module, key)
    check_role(key, class_name, "its networks")
    return {
        "class_name": class_name,
        "init_kwargs": _init_kwargs(module, key),
        "state_dict": dict(_tensors(module)),
    }


def _named_class_network(
    module: NamedClassNetwork, key: str, known: dict[str, Any]
) -> dict[str, Any] | None:
    if not module.tensors and key == "D":  # the placeholder for one that was not known
        return None
    check_role(key, module.class_name, "its networks")
    kwargs = primitive_dict(module.init_kwargs, f"{key}: init_kwargs")
    half_dtype = primitive_dict(known.get("half_dtype") or {}, "sg3flow: half_dtype").get(key)
    if half_dtype is not None:
        kwargs["half_dtype"] = half_dtype
    return {
        "class_name": module.class_name,
        "init_kwargs": kwargs,
        "state_dict": dict(_checked_tensors(module.tensors)),
    }


def _checked_tensors(tensors: dict[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    if len(tensors) > MAX_NAMES:
        raise CheckpointError("refused: too many tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or len(name) > _MAX_PREFIX_LENGTH:
            raise CheckpointError("refused: the name of a tensor is too long, or no string")
        yield name, _checked_tensor(tensor, name)


def _class_name(module: StoredModule, key: str) -> str:
    if module.class_name == "Discriminator":
        return "Discriminator"
    synthesis = _children(module).get("synthesis")
    layers = _children(synthesis) if synthesis else {}
    # Both versions of StyleGAN call it Generator; the layers show which one it is.
    if module.class_name == "Generator" and "input" in layers:
        return "StyleGAN3Generator"
    if module.class_name == "Generator" and "b4" in layers:
        return "StyleGAN2Generator"
    raise CheckpointError(f"{key} is a {module.class_name} of no known architecture")


def _init_kwargs(module: StoredModule, key: str) -> dict[str, Any]:
    positional = module.state.get("_init_args", ())
    if not isinstance(positional, list | tuple) or len(positional):
        raise CheckpointError(f"{key} was made with positional arguments")
    kwargs = primitive_dict(module.state.get("_init_kwargs"), f"{key}: _init_kwargs")
    kwargs |= primitive_dict(kwargs.pop("synthesis_kwargs", {}), f"{key}: synthesis_kwargs")
    return _without_fixed(kwargs)


def _without_fixed(kwargs: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in kwargs.items():
        if isinstance(value, dict):
            kept[name] = _without_fixed(value)
        elif name not in _SPEED_ONLY and (name, value) not in _ALWAYS.items():
            kept[name] = value
    return kept


def _augment_pipe(module: Any) -> dict[str, Any] | None:
    if module is None:
        return None
    if not isinstance(module, StoredModule) or module.class_name != "AugmentPipe":
        raise CheckpointError("augment_pipe is not an AugmentPipe")
    p = dict(_tensors(module)).get("p")
    if p is None or p.numel() != 1 or not float(p) >= 0:
        raise CheckpointError("augment_pipe has no strength p")
    kwargs = primitive_dict(module.state.get("_init_kwargs"), "augment_pipe: _init_kwargs")
    return {"init_kwargs": kwargs, "p": float(p)}


def _tensors(root: StoredModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers by their dotted names."""
    pending = [("", root)]
    names_left = MAX_NAMES
    while pending:
        prefix, module = pending.pop()
        buffers, children = _named(module, "_buffers"), _children(module)
        non_persistent = _non_persistent_buffers(module)
        named = {**_named(module, "_parameters"), **buffers}
        # A small file can contain the same layers many times, even recursively.
        names_left -= 1 + len(named) + len(children) + len(non_persistent)
        if names_left < 0 or len(prefix) > _MAX_PREFIX_LENGTH:
            raise CheckpointError("refused: too many layers, or layers nested too deep")
        for name, tensor in named.items():
            if tensor is not None and not (name in buffers and name in non_persistent):
                yield prefix + name, _checked_tensor(tensor, prefix + name)
        pending += [(f"{prefix}{name}.", child) for name, child in children.items()]


def _checked_tensor(tensor: Any, name: str) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{name[:100]} is a {type(tensor).__name__}, not a tensor")
    return tensor


def _children(module: StoredModule) -> dict[str, StoredModule]:
    named = _named(module, "_modules")
    children = {name: child for name, child in named.items() if child is not None}
    strange = next(
        (name for name, child in children.items() if type(child) is not StoredModule), None
    )
    if strange is not None:
        raise CheckpointError(f"the layer {strange[:100]} is not a stored module")
    return children


def _non_persistent_buffers(module: StoredModule) -> set[str]:
    names = module.state.get("_non_persistent_buffers_set", [])
    if not isinstance(names, list) or len(names) > MAX_NAMES:
        raise CheckpointError(
            f"non-persistent buffers of a stored {module.class_name} must be a list of at most "
            f"{MAX_NAMES} names"
        )
    return {name for name in names if isinstance(name, str)}


def _named(module: StoredModule, kind: str) -> dict[str, Any]:
    values = module.state.get(kind, {})
    if not isinstance(values, dict) or len(values) > MAX_NAMES:
        raise CheckpointError(
            f"{kind} of a stored {module.class_name} must be a dict of at most {MAX_NAMES} names"
        )
    if not all(isinstance(name, str) and len(name) < _MAX_NAME_LENGTH for name in values):
        raise CheckpointError(
            f"{kind} of a stored {module.class_name}: names must be strings of less than "
            f"{_MAX_NAME_LENGTH} characters"
        )
    return values
