"""Writes pickles that name functions and classes of modules that are not installed here.

``pickle.Pickler`` imports every global that it writes. This writer puts down the opcodes itself,
for primitives, tensors, and calls. Equal values give equal bytes.
"""

import io
import pickle
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from sg3flow.checkpoints.restricted_unpickler import GlobalName

_PROTOCOL = 4  # the first one in which a global may be an attribute of a class
_REBUILD = GlobalName("torch._utils", "_rebuild_tensor_v2")
_LOAD_STORAGE = GlobalName("torch.storage", "_load_from_bytes")
_ORDERED_DICT = GlobalName("collections", "OrderedDict")
_STORAGE_TYPES = {torch.float32: GlobalName("torch", "FloatStorage")}
# What torch writes in front of a storage: see its serialization before zip archives.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MACHINE = {
    "protocol_version": _LEGACY_PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
_KEY = "0"


@dataclass(frozen=True)
class Call:
    """The result of ``function(*arguments)`` where the pickle is loaded."""

    function: Any
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Built:
    """An object whose state is set where the pickle is loaded."""

    value: Any
    state: Any


@dataclass(frozen=True)
class Prepared:
    """An object that a function is called with first; the function's result is dropped."""

    value: Any
    function: GlobalName
    arguments: tuple[Any, ...]


def write_pickle(stream: BinaryIO, value: Any) -> None:
    """Write one pickle of primitives, float32 tensors, ``GlobalName``, ``Call``, ``Built``.

    Raises:
        TypeError: a value of another type.
    """
    stream.write(pickle.PROTO + bytes([_PROTOCOL]))
    _Writer(stream).write(value)
    stream.write(pickle.STOP)


class _Writer:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.memo_size = stream, 0

    def write(self, value: Any) -> None:
        match value:
            case None:
                self.stream.write(pickle.NONE)
            case bool():
                self.stream.write(pickle.NEWTRUE if value else pickle.NEWFALSE)
            case int():
                content = value.to_bytes(9, "little", signed=True)
                self.stream.write(pickle.LONG1 + bytes([len(content)]) + content)
            case float():
                self.stream.write(pickle.BINFLOAT + struct.pack(">d", value))
            case str():
                self._write_sized(pickle.BINUNICODE, "<I", value.encode("utf-8", "surrogatepass"))
            case bytes():
                self._write_sized(pickle.BINBYTES8, "<Q", value)
            case torch.Tensor():
                self.write(_tensor(value))
            case _:
                self._write_compound(value)

    def _write_compound(self, value: Any) -> None:
        match value:
            case tuple():
                self._write_marked(value, pickle.TUPLE)
            case list():
                self.stream.write(pickle.EMPTY_LIST)
                self._write_marked(value, pickle.APPENDS)
            case dict():
                self.stream.write(pickle.EMPTY_DICT)
                self._write_marked((x for item in value.items() for x in item), pickle.SETITEMS)
            case GlobalName(module, name):
                self.stream.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            case Call(function, arguments):
                self.write(function)
                self.write(arguments)
                self.stream.write(pickle.REDUCE)
            case Built(target, state):
                self.write(target)
                self.write(state)
                self.stream.write(pickle.BUILD)
            case Prepared():
                self._write_prepared(value)
            case _:
                raise TypeError(f"a pickle of a {type(value).__name__} is not supported")

    def _write_prepared(self, value: Prepared) -> None:
        place, self.memo_size = self.memo_size, self.memo_size + 1
        self.write(value.value)
        self.stream.write(pickle.LONG_BINPUT + struct.pack("<I", place))
        self.write(value.function)
        self.stream.write(pickle.MARK + pickle.LONG_BINGET + struct.pack("<I", place))
        for argument in value.arguments:
            self.write(argument)
        self.stream.write(pickle.TUPLE + pickle.REDUCE + pickle.POP)

    def _write_marked(self, values: Iterable[Any], end: bytes) -> None:
        self.stream.write(pickle.MARK)
        for value in values:
            self.write(value)
        self.stream.write(end)

    def _write_sized(self, opcode: bytes, length: str, content: bytes) -> None:
        self.stream.write(opcode + struct.pack(length, len(content)))
        self.stream.write(content)


def _tensor(tensor: torch.Tensor) -> Call:
    """As torch reduces a tensor to a pickle."""
    tensor = tensor.detach().contiguous()
    storage = Call(_LOAD_STORAGE, (_storage_bytes(tensor),))
    size, stride = tuple(tensor.shape), tuple(tensor.stride())
    return Call(_REBUILD, (storage, 0, size, stride, False, Call(_ORDERED_DICT, ())))


def _storage_bytes(tensor: torch.Tensor) -> bytes:
    """The values of a contiguous tensor as torch saves a storage.

    torch itself names the storage by its address, which differs from one process to the next.
    """
    kind = _STORAGE_TYPES.get(tensor.dtype)
    if kind is None:
        raise TypeError(f"a tensor of {tensor.dtype} is not supported; expected float32")
    headers = (_LEGACY_MAGIC, _LEGACY_PROTOCOL, _MACHINE)
    stream = io.BytesIO()
    for header in headers:
        stream.write(pickle.dumps(header, protocol=2))
    stream.write(pickle.PROTO + b"\x02")
    _Writer(stream).write(("storage", kind, _KEY, "cpu", tensor.numel(), None))
    stream.write(pickle.BINPERSID + pickle.STOP)
    stream.write(pickle.dumps([_KEY], protocol=2))
    stream.write(struct.pack("<q", tensor.numel()))
    stream.write(tensor.numpy().tobytes())
    return stream.getvalue()
