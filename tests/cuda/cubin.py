"""What a cubin says about its kernels: registers, stack, spills, shared memory, parameters.

A cubin is an ELF file. For each kernel it has a section ``.text.KERNEL`` of instructions, for
static shared memory ``.nv.shared.KERNEL``, and in ``.nv.info`` and ``.nv.info.KERNEL`` a list of
attributes: a byte for the format, one for the attribute, two for the value or its size. The names
of the attributes are those that ``cuobjdump -elf`` prints.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_MACHINE = 190  # EM_CUDA
_FRAME_SIZE, _MAX_THREADS, _PARAMETER, _REGISTERS = 0x11, 0x05, 0x17, 0x2F  # EIATTR_...
_SIZED = 4  # EIFMT_SVAL: the value follows
_LOCAL_STORE, _LOCAL_LOAD = 0x387, 0x983  # the low 12 bits of STL and LDL


@dataclass(frozen=True)
class Kernel:
    """A kernel of a cubin.

    Attributes:
        registers: of a thread.
        stack: bytes of a thread's frame.
        stores, loads: instructions that spill to the frame and fill from it.
        shared: bytes of static shared memory, on compute capability 9.0 and up with 1 KiB that the
            system reserves.
        threads: most threads of a block, from ``__launch_bounds__``.
        parameters: bytes of each parameter.
    """

    name: str
    registers: int
    stack: int
    stores: int
    loads: int
    shared: int
    threads: int
    parameters: tuple[int, ...]


class _Section(NamedTuple):
    name: str
    kind: int
    size: int
    content: bytes


def architecture(image: bytes) -> int:
    """The compute capability that a cubin is for: 10 * major + minor."""
    _, flags = _header(image)
    # from version 8 of the ABI on, one byte higher
    return flags >> 8 & 0xFF if image[8] >= 8 else flags & 0xFF


def compiler_of(image: bytes) -> str:
    """The version of the compiler, such as ``13.0.88``; CUDA 12 does not note it."""
    found = re.search(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)", image)
    return found[1].decode() if found else "12 or older"


def kernels_of(image: bytes) -> list[Kernel]:
    """The kernels of a cubin, by name."""
    sections = {section.name: section for section in _sections(image)}
    names = _symbols(sections)
    common: dict[tuple[int, str], int] = {}
    for attribute, value in _attributes(sections[".nv.info"].content):
        if attribute in (_FRAME_SIZE, _REGISTERS):
            symbol, number = struct.unpack("<II", value)
            common[attribute, names[symbol]] = number
    found = sorted(name[6:] for name in sections if name.startswith(".text."))
    return [_kernel(name, sections, common) for name in found]


def _kernel(name: str, sections: dict[str, _Section], common: dict[tuple[int, str], int]) -> Kernel:
    code = _opcodes(sections[f".text.{name}"].content)
    shared = sections.get(f".nv.shared.{name}")
    threads, parameters = 0, {}
    for attribute, value in _attributes(sections[f".nv.info.{name}"].content):
        if attribute == _MAX_THREADS:
            threads = struct.unpack("<III", value)[0]
        if attribute == _PARAMETER:
            _, ordinal, _, packed = struct.unpack("<IHHI", value)
            parameters[ordinal] = packed >> 18
    return Kernel(
        name,
        common[_REGISTERS, name],
        common.get((_FRAME_SIZE, name), 0),
        code[_LOCAL_STORE],
        code[_LOCAL_LOAD],
        shared.size if shared else 0,
        threads,
        tuple(size for _, size in sorted(parameters.items())),
    )


def _opcodes(text: bytes) -> Counter[int]:
    """Of instructions of 16 bytes, those of compute capability 7.0 and up."""
    return Counter(word & 0xFFF for word, _ in struct.iter_unpack("<QQ", text))


def _header(image: bytes) -> tuple[int, int]:
    """The place of the section headers, and the flags."""
    if image[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", image, 18)[0] != _MACHINE:
        raise ValueError("this is no cubin")
    _, place, flags = struct.unpack_from("<QQI", image, 32)
    return place, flags


def _sections(image: bytes) -> Iterator[_Section]:
    place, _ = _header(image)
    count, names_index = struct.unpack_from("<HH", image, 60)
    rows = [struct.unpack_from("<IIQQQQIIQQ", image, place + 64 * i) for i in range(count)]
    names = rows[names_index][4]
    for name, kind, _, _, begin, size, *_ in rows:
        text = image[names + name : image.index(b"\0", names + name)].decode()
        yield _Section(text, kind, size, image[begin : begin + size])


def _symbols(sections: dict[str, _Section]) -> list[str]:
    texts = sections[".strtab"].content
    rows = struct.iter_unpack("<IBBHQQ", sections[".symtab"].content)
    return [texts[row[0] : texts.index(b"\0", row[0])].decode() for row in rows]


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        form, attribute, size = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == _SIZED:
            yield attribute, content[at : at + size]
            at += size
