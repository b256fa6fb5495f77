"""Restricted unpickler: reads a pickle as data and never calls the functions it names.

Each global in the file is looked up in an allow-list of handlers that build primitive values. Any
other global, opcode or call is refused before it has an effect, and the message names it. Nothing
is recursive, and memory is bounded by the size of the file and the number of opcodes.

Why not a subclass of ``pickle.Unpickler`` with its own ``find_class``: that class has no hook for
opcodes other than those that look up globals. Measured with Python 3.11: a file of a few bytes took
a gigabyte of memory; in another one, each additional byte doubled the time; memory was 80 bytes per
byte of the file without a limit; and methods of the values returned by ``find_class`` were called.
Only a pass over all opcodes that tracks the stack, like this module, can refuse such files.
``pickle._Unpickler``, written in Python, is private; ``pickletools.genops``, which decodes the
opcodes here, is public.
"""

import io
import mmap
import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.errors import CheckpointError

# Maximum opcodes per pickle; the largest public files have about a tenth.
MAX_OPCODES = 1_000_000
# Maximum bytes and items copied by calls, per byte of the file; protocol 2 stores bytes as text.
MAX_COPIES = 4

_MARK = object()
# Errors that a damaged pickle causes here, in the handlers and in pickletools: a pop from an empty
# stack, a list instead of a tuple, a bad escape.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
Handler = Callable[[tuple[Any, ...]], Any]
PersistentLoad = Callable[[Any], Any]
_SIZED = (str, bytes, bytearray, list, tuple, dict)
_ARGUMENT_OPCODES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
).split()


@dataclass(frozen=True)
class GlobalName:
    """A global of a pickle, as a value: a constant, or the function of a call."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


@dataclass(frozen=True)
class Placeholder:
    """Replaces a harmless object whose value is not needed."""

    kind: str


class StoredObject(ABC):
    """An object of a handler whose state the file may set, and which the file may call.

    Like handlers, its methods only put together primitive values.
    """

    @abstractmethod
    def set_state(self, state: Any) -> None:
        """Take over the state; raises ``CheckpointError`` if it is refused."""

    @abstractmethod
    def call(self, arguments: tuple[Any, ...]) -> Any:
        """The value of a call; raises ``CheckpointError`` if it is refused."""


@dataclass(frozen=True)
class AllowList:
    """The globals that a pickle may use.

    Args:
        functions: functions and classes, each with the handler that is called instead.
        constants: globals that are values and cannot be called.
        persistent_load: returns the object of a persistent ID; None: such IDs are refused.
    """

    functions: Mapping[GlobalName, Handler]
    constants: frozenset[GlobalName] = frozenset()
    persistent_load: PersistentLoad | None = None

    def find_global(self, module: Any, name: Any) -> GlobalName:
        """Return the global as a value, or raise ``CheckpointError`` if it is not allowed."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("refused: a global whose name is not a string")
        found = GlobalName(module, name)
        if found not in self.functions and found not in self.constants:
            raise CheckpointError(f"refused: the file names {found}, which is not allowed")
        return found


class RestrictedUnpickler:
    """Reads the pickle at the stream's position.

    Args:
        stream: in memory, so that a read beyond the end returns the available bytes.
        allowed: the globals that the pickle may use.
        max_opcodes: limit; None: ``MAX_OPCODES``.
    """

    def __init__(
        self, stream: io.BytesIO | mmap.mmap, allowed: AllowList, max_opcodes: int | None = None
    ) -> None:
        size = len(stream) if isinstance(stream, mmap.mmap) else stream.getbuffer().nbytes
        self._stream, self._allowed = stream, allowed
        self._max_opcodes = MAX_OPCODES if max_opcodes is None else max_opcodes
        self._copies_left = MAX_COPIES * size
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the value; afterwards the position of the stream is behind the pickle.

        Raises:
            CheckpointError: the pickle is damaged, too long, or contains something forbidden.
        """
        try:
            for opcode, argument in self._opcodes():
                if opcode == "STOP":
                    return self._result()
                self._step(opcode, argument)
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [""])[0][:120]
            raise CheckpointError(f"the pickle is damaged or cut off: {reason}") from None
        raise CheckpointError("the pickle is cut off: it has no end")

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        # `genops` only decodes arguments.
        opcodes = pickletools.genops(self._stream)  # type: ignore[arg-type]
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count >= self._max_opcodes:
                limit = self._max_opcodes
                raise CheckpointError(f"refused: the pickle has more than {limit} opcodes")
            yield opcode.name, argument

    def _step(self, opcode: str, argument: Any) -> None:
        run = _OPCODES.get(opcode)
        if run is None:
            what = f" ({describe(argument)})" if argument is not None else ""
            raise CheckpointError(f"refused: the file uses the pickle opcode {opcode}{what}")
        run(self, argument)

    def _result(self) -> Any:
        value = self._pop()
        if self._stack:
            raise ValueError("values are left over at its end")
        return value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is _MARK:
            raise ValueError("a mark in place of a value")
        return value

    def _pop(self) -> Any:
        value = self._top()
        del self._stack[-1]
        return value

    def _pop_many(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _push_dict(self) -> None:
        items = self._pop_to_mark()
        self._push({})
        self._set_items(items)

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("an append to what is not a list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("an item set in what is not a dict")
        target.update(checked_keys(zip(items[::2], items[1::2], strict=True)))

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._top()

    def _push_global(self, module: Any, name: Any) -> None:
        self._push(self._allowed.find_global(module, name))

    def _call(self) -> None:
        function, arguments = self._pop_many(2)
        handler = self._handler(function)
        if type(arguments) is not tuple:
            raise ValueError(f"a call of {function} without arguments")
        # Calls copy their arguments, and the memo can supply the same large one many times.
        self._copies_left -= sum(len(part) for part in arguments if isinstance(part, _SIZED))
        if self._copies_left < 0:
            raise CheckpointError("refused: the pickle copies the same values too often")
        self._push(handler(arguments))

    def _handler(self, function: Any) -> Handler:
        if isinstance(function, StoredObject):
            return function.call
        if not isinstance(function, GlobalName):
            kind = type(function).__name__
            raise CheckpointError(f"refused: the file calls a {kind}, which is not a function")
        handler = self._allowed.functions.get(function)
        if handler is None:
            raise CheckpointError(f"refused: the file calls {function}, which is a constant")
        return handler

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        # Numpy arrays and dtypes set their state here; only the byte order matters. A dict (an
        # OrderedDict or EasyDict) may carry attributes: none of them is a weight.
        if isinstance(target, StoredObject):
            target.set_state(state)
        elif isinstance(target, Placeholder):
            if isinstance(state, tuple) and state[1:2] == (">",):
                raise CheckpointError("numpy numbers of a big-endian machine")
        elif type(target) is not dict:
            kind = str(target) if isinstance(target, GlobalName) else f"a {type(target).__name__}"
            raise CheckpointError(f"refused: the file sets the state of {kind}")

    def _load_persistent(self) -> None:
        if self._allowed.persistent_load is None:
            raise CheckpointError("refused: the file refers to objects outside itself")
        self._push(self._allowed.persistent_load(self._pop()))


def checked_keys(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str | int, Any]]:
    """Accept only keys that are strings or integers: hashing a nested key may never end."""
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise CheckpointError(f"refused: a dict with a key of type {type(key).__name__}")
        yield key, value


def describe(value: Any) -> str:
    """An untrusted value for a message; long values are described by their type only."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, float) or is_int64(value):
        return repr(value)
    return f"a {type(value).__name__}"


def is_int64(value: Any) -> bool:
    """Whether this is an integer of at most 64 bits; larger ones may be too long to print."""
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 63


# All other opcodes are refused. Sets become lists: no set is needed, and not all values are
# hashable.
_OPCODES: dict[str, Callable[[RestrictedUnpickler, Any], object]] = {
    **dict.fromkeys(_ARGUMENT_OPCODES, RestrictedUnpickler._push),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), RestrictedUnpickler._recall),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), RestrictedUnpickler._memoize),
    **dict.fromkeys(("PROTO", "FRAME"), lambda u, _: None),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda u, _: u._push([])),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda u, _: u._append(u._pop_to_mark())),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda u, _: u._call()),
    "MEMOIZE": lambda u, _: u._memoize(len(u._memo)),
    "NONE": lambda u, _: u._push(None),
    "NEWTRUE": lambda u, _: u._push(True),
    "NEWFALSE": lambda u, _: u._push(False),
    "EMPTY_DICT": lambda u, _: u._push({}),
    "EMPTY_TUPLE": lambda u, _: u._push(()),
    "MARK": lambda u, _: u._push(_MARK),
    "POP": lambda u, _: u._stack.pop(),
    "POP_MARK": lambda u, _: u._pop_to_mark(),
    "TUPLE": lambda u, _: u._push(tuple(u._pop_to_mark())),
    "TUPLE1": lambda u, _: u._push(tuple(u._pop_many(1))),
    "TUPLE2": lambda u, _: u._push(tuple(u._pop_many(2))),
    "TUPLE3": lambda u, _: u._push(tuple(u._pop_many(3))),
    "LIST": lambda u, _: u._push(u._pop_to_mark()),
    "APPEND": lambda u, _: u._append(u._pop_many(1)),
    "DICT": lambda u, _: u._push_dict(),
    "SETITEM": lambda u, _: u._set_items(u._pop_many(2)),
    "SETITEMS": lambda u, _: u._set_items(u._pop_to_mark()),
    "GLOBAL": lambda u, names: u._push_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda u, _: u._push_global(*u._pop_many(2)),
    "BUILD": lambda u, _: u._build(),
    "BINPERSID": lambda u, _: u._load_persistent(),
}
