"""Whether the weights of two networks can be combined: one class, equal arguments and shapes."""

import dataclasses
import inspect
from typing import Any

from torch import nn

from sg3flow.checkpoints.network_entries import to_primitives
from sg3flow.errors import cut
from sg3flow.networks import Discriminator
from sg3flow.networks.layer_schedule import ScheduleArguments
from sg3flow.networks.layers import MappingNetwork

# Arguments that affect only the speed, or the precision on a GPU.
_IMMATERIAL = ("half_dtype", "num_fp16_res")


def architecture_difference(one: nn.Module, other: nn.Module) -> tuple[str, str, str] | None:
    """The name and both values of the first difference; None: the weights can be combined."""
    if type(one) is not type(other):
        return "the class", type(one).__name__, type(other).__name__
    sides = (_arguments(one), _arguments(other)), (_shapes(one), _shapes(other))
    for ours, theirs in sides:
        for name in {**ours, **theirs}:
            if ours.get(name) != theirs.get(name):
                return name, cut(str(ours.get(name))), cut(str(theirs.get(name)))
    return None


def _arguments(network: Any) -> dict[str, Any]:
    """All arguments of a network; a file may leave out those that have their defaults."""
    parts = [network] if isinstance(network, Discriminator) else [network, network.synthesis]
    found = dict(network.init_kwargs)
    for part in parts:
        found = _defaults(type(part)) | found
    if len(parts) > 1:
        found = _field_defaults() | found
    # 8 layers in a discriminator.
    mapping = _defaults(MappingNetwork) | {"num_layers": getattr(network, "mapping_layers", 8)}
    found |= {f"mapping {k}": v for k, v in (mapping | (found["mapping_kwargs"] or {})).items()}
    for name in ("mapping_kwargs", *_IMMATERIAL):
        found.pop(name, None)
    compared: dict[str, Any] = to_primitives(found, "arguments")
    return compared


def _defaults(kind: type[Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _field_defaults() -> dict[str, Any]:
    fields = dataclasses.fields(ScheduleArguments)
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _shapes(network: nn.Module) -> dict[str, list[int]]:
    state = network.state_dict()
    return {f"the shape of {name}": list(tensor.shape) for name, tensor in state.items()}
