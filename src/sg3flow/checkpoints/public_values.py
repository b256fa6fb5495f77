"""Handlers for the globals in a public pickle: tensors, numpy numbers, and modules as data."""

import io
import math
import re
import struct
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sg3flow.checkpoints.public_classes import CLASSES, HANDLERS
from sg3flow.checkpoints.restricted_unpickler import (
    AllowList,
    GlobalName,
    Handler,
    Placeholder,
    RestrictedUnpickler,
    checked_keys,
    describe,
)
from sg3flow.errors import CheckpointError

_CLASS_NAMES = frozenset(
    "Generator Discriminator MappingNetwork SynthesisNetwork SynthesisInput SynthesisLayer "
    "SynthesisBlock ToRGBLayer FullyConnectedLayer Conv2dLayer DiscriminatorBlock "
    "DiscriminatorEpilogue MinibatchStdLayer AugmentPipe".split()
)
_VERSION = 6

_DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NUMPY_NUMBER = re.compile(r"[fiu][1248]|b1")
_MAX_HEADER_OPCODES = 200  # per small pickle in front of the values of a storage
_MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40  # per storage, and per dimension of a tensor


@dataclass(frozen=True)
class StoredModule:
    """A stored network or layer: its class name, and its attributes as data."""

    class_name: str
    state: dict[str, Any]


@dataclass(frozen=True)
class _StorageId:
    kind: GlobalName
    key: str
    count: int


def _module(arguments: tuple[Any, ...]) -> StoredModule:
    (meta,) = arguments
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise CheckpointError("refused: a stored object that is not a class of the public format")
    if meta.get("version") != _VERSION:
        found = meta.get("version")
        raise CheckpointError(
            f"unknown version {describe(found)} of a stored class; known: {_VERSION}"
        )
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or name not in _CLASS_NAMES:
        raise CheckpointError(f"refused: the stored class {describe(name)}, which is not allowed")
    if not isinstance(state, dict):
        raise CheckpointError(f"the stored {name} has no state")
    return StoredModule(name, state)


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict() and EasyDict(); the older form of OrderedDict stores its items as a list."""
    pairs = arguments[0] if arguments else []
    if type(pairs) is not list or any(len(pair) != 2 for pair in pairs):
        raise CheckpointError("refused: a dict that is not made of pairs")
    return dict(checked_keys(pairs))


def _list(arguments: tuple[Any, ...]) -> list[Any]:
    items = arguments[0] if arguments else []
    if type(items) is not list:
        raise CheckpointError("refused: a set that is not made of a list")
    return items


def _latin_bytes(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError(f"refused: bytes in the encoding {describe(encoding)}")
    return text.encode("latin1")


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(arguments[0], list | tuple):
        raise CheckpointError("refused: a size that is not a list of numbers")
    return tuple(arguments[0])


def _device(arguments: tuple[Any, ...]) -> Placeholder:
    return Placeholder("torch.device")


def _storage(arguments: tuple[Any, ...]) -> torch.Tensor:
    """A storage that torch saved inside a pickle, as a 1-D tensor.

    The format is that of torch before zip archives: a magic number, a version, the machine, the
    description of the storage, and the list of keys, each as a pickle; then count and values.
    """
    (content,) = arguments
    if not isinstance(content, bytes):
        raise CheckpointError("refused: a tensor's storage that is not bytes")
    stream = io.BytesIO(content)
    magic, version, machine = (_load_header(stream, _NO_GLOBALS) for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_PROTOCOL or not isinstance(machine, dict):
        raise CheckpointError("refused: a nested archive that is not one storage of torch")
    if machine.get("little_endian") is not True or sys.byteorder != "little":
        raise CheckpointError("the tensors were saved by, or read on, a big-endian machine")
    described = _load_header(stream, _STORAGE_GLOBALS)
    keys = _load_header(stream, _NO_GLOBALS)
    if not isinstance(described, _StorageId) or keys != [described.key]:
        raise CheckpointError("refused: a nested archive that is not one storage of torch")
    dtype = STORAGES[described.kind.name]
    expected = struct.pack("<q", described.count)
    given = memoryview(content)[stream.tell() :]
    numbers = given[len(expected) :]
    if given[: len(expected)] != expected or len(numbers) != described.count * dtype.itemsize:
        raise CheckpointError("the storage of a tensor is cut off or longer than declared")
    if not numbers:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(numbers), dtype=dtype)


def _load_header(stream: io.BytesIO, allowed: AllowList) -> Any:
    return RestrictedUnpickler(stream, allowed, _MAX_HEADER_OPCODES).load()


def _storage_id(value: Any) -> _StorageId:
    tag, kind, key, _location, count, *view = value
    if (
        tag != "storage"
        or not isinstance(kind, GlobalName)
        or any(part is not None for part in view)
    ):
        raise CheckpointError("refused: a nested archive that is not one storage of torch")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < MAX_ELEMENTS:
        raise CheckpointError("a tensor's storage has an impossible size")
    return _StorageId(kind, key, count)


def _tensor(arguments: tuple[Any, ...]) -> torch.Tensor:
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, torch.Tensor) or not 6 <= len(arguments) <= 7:
        raise CheckpointError("refused: a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise CheckpointError("refused: a tensor whose size is not a tuple")
    numbers = (offset, *size, *stride)
    if any(type(number) is not int or not 0 <= number < MAX_ELEMENTS for number in numbers):
        raise CheckpointError("a tensor has an impossible size")
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise CheckpointError("a tensor has an impossible number of dimensions")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= storage.numel() or count > storage.numel()):
        raise CheckpointError("a tensor reaches beyond its storage")
    return storage.as_strided(size, stride, offset) if count else storage.new_empty(size)


def _parameter(arguments: tuple[Any, ...]) -> torch.Tensor:
    data = arguments[0]
    if not isinstance(data, torch.Tensor):
        raise CheckpointError("refused: a parameter that is not a tensor")
    return data


def _numpy_dtype(arguments: tuple[Any, ...]) -> Placeholder:
    name = arguments[0]
    if not isinstance(name, str) or not _NUMPY_NUMBER.fullmatch(name):
        raise CheckpointError(
            f"refused: numpy values of type {describe(name)}; only numbers may be"
        )
    return Placeholder(name)


def _numpy_scalar(arguments: tuple[Any, ...]) -> Any:
    dtype, content = arguments
    if not isinstance(dtype, Placeholder) or not isinstance(content, bytes):
        raise CheckpointError("refused: a numpy number of an unknown type")
    return np.frombuffer(content, dtype=f"<{dtype.kind}", count=1)[0].item()


def _numpy_array(arguments: tuple[Any, ...]) -> Placeholder:
    return Placeholder("a numpy array")


_HANDLERS: dict[str, Handler] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _module,
    "dnnlib.util.EasyDict": _dict,
    "collections.OrderedDict": _dict,
    "builtins.set": _list,
    "__builtin__.set": _list,
    "_codecs.encode": _latin_bytes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch.device": _device,
    "torch.Size": _size,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_array,
    "numpy._core.numeric._frombuffer": _numpy_array,
}


def _name(dotted: str) -> GlobalName:
    module, _, name = dotted.rpartition(".")
    return GlobalName(module, name)


_NO_GLOBALS = AllowList({})
_STORAGE_GLOBALS = AllowList(
    {}, frozenset(GlobalName("torch", name) for name in STORAGES), _storage_id
)
PUBLIC_GLOBALS = AllowList(
    {_name(dotted): handler for dotted, handler in _HANDLERS.items()} | HANDLERS,
    # The class is named as the first argument of numpy's _reconstruct.
    frozenset(GlobalName("torch", name) for name in _DTYPES)
    | {GlobalName("numpy", "ndarray")}
    | frozenset(CLASSES),
)
