"""Conversion between a network and a dict ``{class_name, init_kwargs, state_dict}``.

Building needs no more memory than the given tensors: the module is first created on torch's meta
device (without storage), names and shapes are compared, and then it takes over the tensors.

Besides tensors an entry has primitives: None, booleans, integers, floats, strings, lists, and dicts
with string keys. Their canonical form gives equal bytes for equal values; pickle alone would not,
because it compares objects by identity.
"""

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sg3flow.checkpoints.restricted_unpickler import describe, is_int64
from sg3flow.errors import CheckpointError, Sg3flowError, listed, nearest
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.layer_schedule import ScheduleArguments, plan_layers

CLASSES: dict[str, type[nn.Module]] = {
    "StyleGAN3Generator": StyleGAN3Generator,
    "StyleGAN2Generator": StyleGAN2Generator,
    "Discriminator": Discriminator,
}

# Maximum number of primitives in one value, and their maximum nesting.
MAX_PRIMITIVES = 200_000
MAX_DEPTH = 32
MAX_TAPS = 1024  # per filter
# Limits of arguments that cost time or memory in the constructor, before shapes are compared.
_LIMITS = {
    "num_layers": 256,
    "filter_size": 64,
    "lrelu_upsampling": 16,
    "img_resolution": 16384,
}
_MAX_LISTED = 5


def network_entry(network: nn.Module) -> dict[str, Any]:
    """A network as a dict of primitives and copied tensors."""
    kwargs = to_primitives(network.init_kwargs, f"init_kwargs of {type(network).__name__}")
    state = {interned(name): _stored(tensor) for name, tensor in network.state_dict().items()}
    return {
        interned("class_name"): interned(type(network).__name__),
        interned("init_kwargs"): kwargs,
        interned("state_dict"): state,
    }


def checked_entry(entry: Any, where: str) -> dict[str, Any]:
    """Check the form of an untrusted entry, and that its tensors fit its class and arguments.

    Raises:
        CheckpointError: the message says what is missing, unexpected or of another shape.
    """
    return _checked(entry, where)[0]


def _checked(entry: Any, where: str) -> tuple[dict[str, Any], nn.Module]:
    """The entry, and its network without storage."""
    if not isinstance(entry, Mapping) or set(entry) != {"class_name", "init_kwargs", "state_dict"}:
        raise CheckpointError(f"{where} must hold class_name, init_kwargs and state_dict")
    checked = {
        "class_name": _checked_class_name(entry["class_name"], where),
        "init_kwargs": primitive_dict(entry["init_kwargs"], f"{where}: init_kwargs"),
    }
    state = _checked_tensors(entry["state_dict"], where)
    network = _meta_network(checked, where)
    _check_shapes(network, state, where)
    return {**checked, "state_dict": state}, network


def check_role(name: str, class_name: str, where: str) -> None:
    """Check that the network stored as ``G``, ``D`` or ``G_ema`` is of that kind.

    Raises:
        CheckpointError: a discriminator in the place of a generator, or the reverse.
    """
    is_discriminator = class_name == "Discriminator"
    if is_discriminator != (name == "D"):
        wanted = "generator" if is_discriminator else "discriminator"
        raise CheckpointError(
            f"{where}: {name} is a {class_name} and must be a {wanted}; the file was put together "
            "wrongly, use another one"
        )


def build_network(entry: Mapping[str, Any], where: str = "network") -> nn.Module:
    """The network of an entry, in evaluation mode, on the CPU; uses no random numbers.

    Args:
        entry: ``{class_name, init_kwargs, state_dict}``; the network takes over its tensors.
        where: description of the entry, for messages.

    Raises:
        CheckpointError: an unknown class, refused arguments, or tensors that do not fit.
    """
    entry, network = _checked(entry, where)
    network.load_state_dict(entry["state_dict"], assign=True)
    return network.eval()


def to_primitives(value: Any, where: str) -> Any:
    """A canonical copy: exact types, interned strings, lists for tuples, dicts sorted by key.

    Args:
        value: nested primitives; numpy and torch scalars count as numbers.
        where: description of the value, for messages.

    Raises:
        CheckpointError: another type, a key that is not a string, or a value that is too deep or
            too large (a small file can refer to the same list many times).
    """
    return _PrimitiveCopier(where).copy(value, 0)


def primitive_dict(value: Any, where: str) -> dict[str, Any]:
    """Like ``to_primitives``, for a value that must be a dict."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where} must be a dict, not {type(value).__name__}")
    copied: dict[str, Any] = to_primitives(value, where)
    return copied


def interned(value: str) -> str:
    """The interned object of this string: one per process."""
    return sys.intern(str.__str__(value))


class _PrimitiveCopier:
    def __init__(self, where: str) -> None:
        self.where = where
        self.left = MAX_PRIMITIVES

    def copy(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise CheckpointError(f"{self.where} is nested too deep or has too many values")
        if isinstance(value, Mapping):
            return self._copy_mapping(value, depth)
        if isinstance(value, list | tuple):
            return [self.copy(item, depth + 1) for item in value]
        if isinstance(value, str):
            return interned(value)
        return self._copy_number(value)

    def _copy_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            raise CheckpointError(
                f"{self.where} has a key that is not a string: {describe(strange)}"
            )
        return {interned(key): self.copy(value[key], depth + 1) for key in sorted(value)}

    def _copy_number(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()  # a numpy or torch scalar
        for kind in (bool, int, float):
            if isinstance(value, kind) and (kind is float or is_int64(value)):
                return kind(value)
        if isinstance(value, str):
            return interned(value)
        raise CheckpointError(f"{self.where} contains {describe(value)}, which is not a primitive")


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with its own storage and standard layout, so that equal values give equal bytes."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="cpu").copy_(tensor.detach())


def _checked_class_name(name: Any, where: str) -> str:
    if not isinstance(name, str) or name not in CLASSES:
        known = ", ".join(CLASSES)
        hint = nearest(name[:60], CLASSES) if isinstance(name, str) else ""
        raise CheckpointError(f"{where}: unknown network {describe(name)}{hint}; known: {known}")
    return name


def _checked_tensors(state: Any, where: str) -> dict[str, torch.Tensor]:
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{where}: state_dict must be a dict, not {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not _is_dense_float_tensor(tensor):
            raise CheckpointError(
                f"{where}: state_dict[{describe(name)}] is not a dense float tensor on the CPU"
            )
    storages = [tensor.untyped_storage() for tensor in state.values()]
    own = {storage.data_ptr(): storage.nbytes() for storage in storages}
    if sum(map(_size, state.values())) > sum(own.values()):
        raise CheckpointError(f"{where}: several tensors of state_dict share the same memory")
    return {name: tensor.detach().float().contiguous() for name, tensor in state.items()}


def _is_dense_float_tensor(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        # With strides of 0 a small file could describe a huge tensor.
        and _size(value) <= value.untyped_storage().nbytes()
    )


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_ELEMENTWISE = ("mul", "div", "sub", "square", "sqrt", "exp", "pow")


class _ShapesOnly(TorchFunctionMode):
    """What the constructors compute on initial weights, as shapes; the device is meta.

    Torch's own functions for that device are Python code, whose first call imports torch._dynamo:
    that takes longer than importing torch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        match getattr(func, "__name__", ""):
            case "randn" | "rand":
                return torch.empty(*args, **kwargs)
            case "eye" if len(args) == 1:
                return torch.empty(args[0], args[0], **kwargs)
            case "sum" if kwargs.get("keepdim") and isinstance(kwargs["dim"], int):
                shape = list(args[0].shape)
                shape[kwargs["dim"]] = 1
                return torch.empty(shape)
            case name if name in _ELEMENTWISE:
                shapes = [arg.shape for arg in args if isinstance(arg, torch.Tensor)]
                return torch.empty(np.broadcast_shapes(*shapes))
        return func(*args, **kwargs)


def _meta_network(entry: Mapping[str, Any], where: str) -> nn.Module:
    """The module without storage: all parameters and buffers are on the meta device."""
    network_type, kwargs = CLASSES[entry["class_name"]], entry["init_kwargs"]
    where = f"{where} ({entry['class_name']})"
    _check_limits(kwargs, where)
    try:
        if network_type is StyleGAN3Generator:
            _check_filters(kwargs)
        inspect.signature(network_type).bind(**kwargs)
        with torch.device("meta"), _ShapesOnly():
            return network_type(**kwargs)
    # A hostile argument can cause any of these errors in the constructor.
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where} refuses its init_kwargs: {reason}") from None
    except (AssertionError, AttributeError, MemoryError, Sg3flowError) as error:
        raise CheckpointError(f"{where} refuses its init_kwargs: {error}") from None


def _check_limits(kwargs: Mapping[str, Any], where: str) -> None:
    for name, value in kwargs.items():
        if isinstance(value, Mapping):
            _check_limits(value, where)
        elif name in _LIMITS and isinstance(value, int | float) and not value <= _LIMITS[name]:
            raise CheckpointError(f"{where}: {name} is {value}, at most {_LIMITS[name]} is allowed")


def _check_filters(kwargs: Mapping[str, Any]) -> None:
    names = {field.name for field in dataclasses.fields(ScheduleArguments)}
    given = {name: value for name, value in kwargs.items() if name in names}
    for layer in plan_layers(ScheduleArguments(**given)).layers:
        if max(layer.up_taps, layer.down_taps) > MAX_TAPS:
            raise ValueError(f"{layer.name} would need a filter of more than {MAX_TAPS} taps")


def _check_shapes(network: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    reshaped = [
        f"{name} is {list(found[name])}, not {list(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": reshaped,
    }
    messages = [
        f"{kind}: {listed((name[:100] for name in names), _MAX_LISTED)}"
        for kind, names in problems.items()
        if names
    ]
    if messages:
        raise CheckpointError(
            f"{where}: tensors do not fit the architecture; {'; '.join(messages)}"
        )
