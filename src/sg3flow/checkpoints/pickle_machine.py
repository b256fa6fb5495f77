"""Reads pickles as data: a machine of its own over the opcodes, which calls nothing.

``pickle.Unpickler`` imports and calls what a file names. This machine knows no imports: a name in
the file is looked up in a table of handlers that build plain values, and a name, an opcode or a
call that is not in the table is refused with its name, before anything is done with it. It is not
recursive, and what it holds is bounded by the file's size and the number of opcodes.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.checkpoints.plain import shown
from sg3flow.errors import CheckpointError

# Bytes that calls may copy, as a multiple of the file's: protocol 2 stores bytes as encoded texts.
_COPIES = 4

_MARK = object()


@dataclass(frozen=True)
class Name:
    """A name in a pickle, as a value: a constant, or the function of a call."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


@dataclass
class Opaque:
    """A value that is known to be harmless and that nobody needs."""

    what: str


Handler = Callable[[tuple[Any, ...]], Any]
PersistentLoad = Callable[[Any], Any]


@dataclass(frozen=True)
class Vocabulary:
    """What a pickle may name.

    Args:
        calls: functions and classes, with what takes the place of calling them.
        constants: names that stand for themselves.
        persistent: what takes the place of a persistent id; None: there may be none.
        max_opcodes: a longer pickle is refused; the largest public files have about a tenth.
    """

    calls: Mapping[Name, Handler]
    constants: frozenset[Name] = frozenset()
    persistent: PersistentLoad | None = None
    max_opcodes: int = 1_000_000

    def checked(self, module: Any, name: Any) -> Name:
        """The name, if the file may hold it.

        Raises:
            CheckpointError: it may not; the message tells it.
        """
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("refused: a global whose name is no text")
        found = Name(module, name)
        if found not in self.calls and found not in self.constants:
            raise CheckpointError(f"refused: the file names {found}, which is not allowed")
        return found


def read_pickle(stream: io.BytesIO | mmap.mmap, vocabulary: Vocabulary) -> Any:
    """The value of the pickle at the stream's position; the stream is then behind its end.

    Args:
        stream: in memory: a read beyond the end gives what is left.
        vocabulary: the names it may hold.

    Raises:
        CheckpointError: the pickle is damaged, too long, or holds what is not allowed.
    """
    machine = _Machine(vocabulary, _size(stream))
    try:
        for opcode, argument in _opcodes(stream, vocabulary.max_opcodes):
            if opcode == "STOP":
                return machine.result()
            machine.step(opcode, argument)
    # What a damaged pickle makes of the machine and of pickletools: a pop from an empty stack, a
    # list where a tuple belongs, a bad escape, a key that cannot be hashed.
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as e:
        reason = (str(e).splitlines() or [""])[0][:120]
        raise CheckpointError(f"the pickle is damaged or cut off: {reason}") from None
    raise CheckpointError("the pickle is cut off: it has no end")


def _size(stream: io.BytesIO | mmap.mmap) -> int:
    if isinstance(stream, mmap.mmap):
        return len(stream)
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    return size


def _opcodes(stream: io.BytesIO | mmap.mmap, limit: int) -> Iterator[tuple[str, Any]]:
    # `genops` decodes arguments and never acts on them.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if count >= limit:
            raise CheckpointError(f"refused: the pickle has more than {limit} opcodes")
        yield opcode.name, argument


class _Machine:
    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        self.vocabulary = vocabulary
        self.copies_left = _COPIES * size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        value = self.pop()
        if self.stack:
            raise ValueError("values are left over at its end")
        return value

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _MAKERS:
            self.stack.append(_MAKERS[opcode]())
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in _IGNORED:
            what = f" ({shown(argument)})" if argument is not None else ""
            raise CheckpointError(f"refused: the file uses the pickle opcode {opcode}{what}")

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def pop(self) -> Any:
        value = self.top()
        del self.stack[-1]
        return value

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def push_tuple(self, length: int) -> None:
        items = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def push_dict(self) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError("an append to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("an item set in what is no dict")
        target.update(checked_keys(zip(items[::2], items[1::2], strict=True)))

    def drop(self) -> None:
        self.stack.pop()

    def drop_to_mark(self) -> None:
        self.pop_to_mark()

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def look_up(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(self.vocabulary.checked(module, name))

    def look_up_stacked(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.vocabulary.checked(module, name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name):
            kind = type(function).__name__
            raise CheckpointError(f"refused: the file calls a {kind}, which is no allowed function")
        handler = self.vocabulary.calls.get(function)
        if handler is None:
            raise CheckpointError(f"refused: the file calls {function}, which is a constant")
        if type(arguments) is not tuple:
            raise ValueError(f"a call of {function} without arguments")
        # Calls copy their arguments, and the memo can give the same large one a thousand times.
        self.copies_left -= sum(len(part) for part in arguments if isinstance(part, _SIZED))
        if self.copies_left < 0:
            raise CheckpointError("refused: the pickle uses the same values over and over")
        self.stack.append(handler(arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        # Numpy arrays and dtypes set their state so; only the byte order matters here. A dict (an
        # OrderedDict or EasyDict) may carry attributes: none of them is a weight.
        if isinstance(target, Opaque):
            if isinstance(state, tuple) and state[1:2] == (">",):
                raise CheckpointError("numpy numbers of a big-endian machine")
        elif type(target) is not dict:
            kind = str(target) if isinstance(target, Name) else f"a {type(target).__name__}"
            raise CheckpointError(f"refused: the file sets the state of {kind}")

    def load_persistent(self) -> None:
        if self.vocabulary.persistent is None:
            raise CheckpointError("refused: the file refers to objects outside itself")
        self.stack.append(self.vocabulary.persistent(self.pop()))


def checked_keys(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str | int, Any]]:
    """The pairs, whose keys must be texts or whole numbers: hashing a nested key may never end."""
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise CheckpointError(f"refused: a dict with a key of type {type(key).__name__}")
        yield key, value


_SIZED = (str, bytes, bytearray, list, tuple, dict)
_IGNORED = frozenset(("PROTO", "FRAME"))
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
# Sets are lists here: nothing that is needed is a set, and a set could not hold every value.
_MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.drop_to_mark(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "DICT": lambda machine, _: machine.push_dict(),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GLOBAL": _Machine.look_up,
    "STACK_GLOBAL": lambda machine, _: machine.look_up_stacked(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.load_persistent(),
}
