"""Arrays from a ``.npz`` file that anyone may have written: no code in it runs, no bomb unpacks."""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sg3flow.errors import DataError, cut, listed

_MOST_BYTES = 512 << 20  # unpacked; 1024 directions of a 1024-pixel network are 32 MiB
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MOST_NAMES = 8


def read_npz(path: Path, names: Sequence[str], what: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names; others in the file are not read.

    Args:
        what: the kind of file with its article, such as "a directions file".

    Raises:
        DataError: the file is missing, damaged or no .npz file, an array is missing, is not made
            of numbers or text, or the arrays unpack to more than 512 MiB.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            return _arrays(archive, names, path, what)
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no file {path}; it should be {what}") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not {what}, which is an .npz file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or cut(str(error), 200)}") from None
    except Exception as error:  # damaged zips and headers raise any exception
        reason = cut(" ".join(str(error).split()), 200)
        raise DataError(f"{path} is damaged or not {what}: {reason}") from None


def _arrays(
    archive: zipfile.ZipFile, names: Sequence[str], path: Path, what: str
) -> dict[str, npt.NDArray[Any]]:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    missing = [name for name in names if name not in entries]
    if missing:
        found = listed([cut(name, 30) for name in entries], _MOST_NAMES) or "nothing"
        raise DataError(f"{path} is not {what}: it has no array '{missing[0]}', only {found}")
    if sum(entries[name].file_size for name in names) > _MOST_BYTES:
        raise DataError(f"{path} unpacks to more than {_MOST_BYTES >> 20} MiB; it is not {what}")
    return {name: _array(archive.read(entries[name]), name, path) for name in names}


def _array(content: bytes, name: str, path: Path) -> npt.NDArray[Any]:
    """The array of a member; its header is compared with its length before memory is taken."""
    stream = io.BytesIO(content)
    shape, dtype = array_header(stream)
    if dtype.kind not in "fiuU":
        raise DataError(f"{path}: '{name}' must be numbers or text, not {cut(str(dtype), 30)}")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise DataError(f"{path}: '{name}' is cut off or damaged; write the file again")
    stream.seek(0)
    found: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return found


def array_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array of an ``.npy`` stream, which is then after the header.

    Raises:
        ValueError: it is not such a stream.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format")
    shape, _, dtype = _HEADERS[version](stream)
    return shape, dtype
