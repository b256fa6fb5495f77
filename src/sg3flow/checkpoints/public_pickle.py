"""Public StyleGAN3 and StyleGAN2-ADA-PyTorch pickles: read as data, without the code they name.

Such a file holds the source text of its classes and calls to run it. Here weights go into this
project's networks by class name, arguments and parameter name; the text is never looked at.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sg3flow.checkpoints.pickle_machine import read_pickle
from sg3flow.checkpoints.plain import plain_dict
from sg3flow.checkpoints.public_values import PUBLIC_NAMES, Module
from sg3flow.errors import CheckpointError

_MAX_FILE_BYTES = 8 << 30
_MAX_LAYER_DEPTH = 8
_MAX_LAYERS = 10_000

# Arguments that change the speed, not the function.
_SPEED_ONLY = ("fused_modconv_default", "fp16_channels_last")


def read_public_pickle(path: Path) -> dict[str, Any]:
    """Read a public network pickle; nothing that it holds is executed.

    Returns:
        ``G``, ``D``, ``G_ema``: ``{class_name, init_kwargs, state_dict}`` in the terms of
        ``sg3flow.networks``, or None; ``augment_pipe``: ``{init_kwargs, p}`` or None;
        ``training_set_kwargs``: plain values or None.

    Raises:
        CheckpointError: the file is no such pickle, is damaged, or names what is not allowed.
    """
    try:
        return _read(Path(path))
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
        values = read_pickle(content, PUBLIC_NAMES)
        if content.tell() != size:
            raise CheckpointError(f"{size - content.tell()} bytes follow the end of the pickle")
    return _contents(values)


def _contents(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not {"G", "D", "G_ema"} & set(values):
        raise CheckpointError("it holds no G, D or G_ema")
    training_set = values.get("training_set_kwargs")
    if training_set is not None:
        training_set = plain_dict(training_set, "training_set_kwargs")
    return {
        "G": _network(values.get("G"), "G"),
        "D": _network(values.get("D"), "D"),
        "G_ema": _network(values.get("G_ema"), "G_ema"),
        "augment_pipe": _augment_pipe(values.get("augment_pipe")),
        "training_set_kwargs": training_set,
    }


def _network(module: Any, key: str) -> dict[str, Any] | None:
    if module is None:
        return None
    if not isinstance(module, Module):
        raise CheckpointError(f"{key} is a {type(module).__name__}, not a network")
    return {
        "class_name": _class_name(module, key),
        "init_kwargs": _init_kwargs(module, key),
        "state_dict": dict(_tensors(module)),
    }


def _class_name(module: Module, key: str) -> str:
    if module.class_name == "Discriminator":
        return "Discriminator"
    layers = _children(_children(module).get("synthesis"))
    # Both generations call it Generator: the layers tell which one it is.
    if module.class_name == "Generator" and "input" in layers:
        return "StyleGAN3Generator"
    if module.class_name == "Generator" and "b4" in layers:
        return "StyleGAN2Generator"
    raise CheckpointError(f"{key} is a {module.class_name} of no known architecture")


def _init_kwargs(module: Module, key: str) -> dict[str, Any]:
    if module.state.get("_init_args"):
        raise CheckpointError(f"{key} was made with positional arguments")
    kwargs = plain_dict(module.state.get("_init_kwargs"), f"{key}: _init_kwargs")
    kwargs |= plain_dict(kwargs.pop("synthesis_kwargs", {}), f"{key}: synthesis_kwargs")
    kwargs |= plain_dict(kwargs.pop("block_kwargs", {}), f"{key}: block_kwargs") if False else {}
    return {name: value for name, value in kwargs.items() if name not in _SPEED_ONLY}


def _augment_pipe(module: Any) -> dict[str, Any] | None:
    if module is None:
        return None
    if not isinstance(module, Module) or module.class_name != "AugmentPipe":
        raise CheckpointError("augment_pipe is no AugmentPipe")
    p = dict(_tensors(module)).get("p")
    if p is None or p.numel() != 1 or not float(p) >= 0:
        raise CheckpointError("augment_pipe has no strength p")
    kwargs = plain_dict(module.state.get("_init_kwargs"), "augment_pipe: _init_kwargs")
    return {"init_kwargs": kwargs, "p": float(p)}


def _tensors(root: Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers by their dotted names."""
    waiting = [("", root, 0)]
    for count in range(_MAX_LAYERS + 1):
        if not waiting:
            return
        prefix, module, depth = waiting.pop()
        # A small file may hold the same layer many times over.
        if depth > _MAX_LAYER_DEPTH or count == _MAX_LAYERS:
            raise CheckpointError("refused: layers within layers without end")
        skipped = module.state.get("_non_persistent_buffers_set") or []
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _named(module, kind).items():
                if tensor is not None and name not in skipped:
                    yield prefix + name, _checked_tensor(tensor, prefix + name)
        children = _children(module).items()
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in children]


def _checked_tensor(tensor: Any, name: str) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{name[:100]} is a {type(tensor).__name__}, not a tensor")
    return tensor


def _children(module: Any) -> dict[str, Module]:
    if module is None:
        return {}
    children = {name: child for name, child in _named(module, "_modules").items() if child}
    strange = next((name for name, child in children.items() if type(child) is not Module), None)
    if strange is not None:
        raise CheckpointError(f"the layer {strange[:100]} is no stored module")
    return children


def _named(module: Module, kind: str) -> Mapping[str, Any]:
    values = module.state.get(kind, {})
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{kind} of a stored {module.class_name} is no dict of names")
    return values
