"""Writes the networks of a snapshot as a pickle in the form of the public StyleGAN3 code.

Needs neither that code nor sg3flow: a snapshot is a dict of tensors and plain values, and the
modules that the pickle names exist only while it is written.
"""

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

_PUBLIC_NAMES = {"StyleGAN3Generator": "Generator", "StyleGAN2Generator": "Generator"}
_LAYER_NAMES = {
    "mapping": "MappingNetwork",
    "synthesis": "SynthesisNetwork",
    "input": "SynthesisInput",
    "torgb": "ToRGBLayer",
    "fromrgb": "Conv2dLayer",
    "affine": "FullyConnectedLayer",
    "embed": "FullyConnectedLayer",
}


class EasyDict(dict[str, Any]):
    """Stands for the class of that name in the public code."""


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("a public pickle is read as data; nothing it names is called")


class _Stored:
    """An object as the public code stores it: a call with its class, its source and its state."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = EasyDict(
            type="class", version=6, module_src="import os\nos.abort()\n", class_name=class_name
        )
        self.meta["state"] = state

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,)


def write_public_pickle(snapshot: Path, path: Path) -> Path:
    """Write ``G``, ``D`` and ``G_ema`` of a snapshot into a public pickle."""
    content = torch.load(snapshot, map_location="cpu", weights_only=True)
    networks: dict[str, Any] = {key: _network(content[key]) for key in ("G", "D", "G_ema")}
    networks |= {"augment_pipe": None, "training_set_kwargs": EasyDict(path="set.zip")}
    path.write_bytes(_dumps(networks))
    return path


def _network(entry: dict[str, Any]) -> _Stored:
    class_name = _PUBLIC_NAMES.get(entry["class_name"], entry["class_name"])
    return _module(class_name, entry["state_dict"], entry["init_kwargs"])


def _module(class_name: str, tensors: dict[str, torch.Tensor], kwargs: dict[str, Any]) -> _Stored:
    """A module and those in it, from the dotted names of their tensors."""
    parameters: OrderedDict[str, Any] = OrderedDict()
    buffers: OrderedDict[str, Any] = OrderedDict()
    inner: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        child, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(child, {})[rest] = tensor
        elif name in ("weight", "bias"):
            parameters[name] = torch.nn.Parameter(tensor)
        else:
            buffers[name] = tensor
    modules = OrderedDict((name, _module(_layer_name(name), t, {})) for name, t in inner.items())
    state = {"training": False, "_parameters": parameters, "_buffers": buffers}
    state |= {"_non_persistent_buffers_set": set(), "_backward_hooks": OrderedDict()}
    state |= {"_modules": modules, "_init_args": (), "_init_kwargs": EasyDict(kwargs)}
    return _Stored(class_name, state)


def _layer_name(name: str) -> str:
    if name in _LAYER_NAMES:
        return _LAYER_NAMES[name]
    if name.startswith(("fc", "out")):
        return "FullyConnectedLayer"
    return "SynthesisBlock" if name.startswith("b") else "SynthesisLayer"


def _dumps(content: dict[str, Any]) -> bytes:
    names: dict[str, Any] = {
        "torch_utils.persistence": _reconstruct_persistent_obj,
        "dnnlib.util": EasyDict,
    }
    modules = {name.partition(".")[0]: types.ModuleType(name.partition(".")[0]) for name in names}
    before = {}
    for module_name, thing in names.items():
        before[thing] = thing.__module__
        modules[module_name] = types.ModuleType(module_name)
        setattr(modules[module_name], thing.__name__, thing)
        thing.__module__ = module_name
    kept = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        return pickle.dumps(content, protocol=4)
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(kept)
        for thing, module_name in before.items():
            thing.__module__ = module_name
