"""Own w: checked, and as files in the form of the public tools, ``projected_w.npz``.

A w has one vector per layer, float32 ``[num_ws, w_dim]``. A file holds one or several. Reading runs
no code of the file and takes no more memory than its w.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError, DataError, cut, listed
from sg3flow.files import write_bytes

W = npt.NDArray[np.float32]

KEY = "w"
MOST_WS = 10_000
_MEMBER = f"{KEY}.npy"


class WSizes(Protocol):
    """The sizes of a generator's w."""

    @property
    def w_dim(self) -> int: ...
    @property
    def num_ws(self) -> int: ...


def read_w(path: Path, G: WSizes) -> W:
    """The w of a file, float32 ``[N, num_ws, w_dim]``.

    Args:
        path: ``.npz`` with the key ``w``, or ``.npy``: numbers ``[w_dim]``, ``[num_ws, w_dim]``,
            ``[1, 1, w_dim]`` or ``[N, num_ws, w_dim]`` with N from 1 to ``MOST_WS``.
        G: the generator that they are for.

    Raises:
        DataError: there is no such file, it has no w, or it is damaged.
        ConfigError: its w are of another shape than those of the generator, or not finite numbers.
    """
    with _opened(path) as stream:
        shape, dtype = _header(stream)
        if dtype.kind not in "fiu":
            raise ConfigError(f"{path}: w must be numbers, not {cut(str(dtype))}")
        _check_shape(shape, G, f"{path}: w", MOST_WS)
        stream.seek(0)
        found = np.lib.format.read_array(stream, allow_pickle=False)
    return _finite(found, G, f"{path}: w")


def write_w(path: Path, w: npt.ArrayLike) -> None:
    """Write w, ``[N, num_ws, w_dim]`` or ``[num_ws, w_dim]``, as the public tools do.

    The file holds float32 ``[N, num_ws, w_dim]``, in ``.npz`` under the key ``w``; equal w give
    equal bytes.

    Raises:
        ConfigError: the path ends in neither ``.npz`` nor ``.npy``, or w has another shape.
    """
    found = np.asarray(w, np.float32)
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or not found.size:
        raise ConfigError(f"w must have the shape [N, num_ws, w_dim], not {list(found.shape)}")
    stream = io.BytesIO()
    if _suffix(path) == ".npz":
        np.savez(stream, w=found)
    else:
        np.save(stream, found)
    write_bytes(path, stream.getvalue())


def is_w_file(path: Path) -> bool:
    """Whether it is a file of nothing but w, so that newer w may replace it."""
    if path.suffix.lower() == ".npz":
        return zipfile.is_zipfile(path) and zipfile.ZipFile(path).namelist() == [_MEMBER]
    with path.open("rb") as stream:
        return stream.read(6) == b"\x93NUMPY"


def checked_ws(found: npt.NDArray[np.number], G: WSizes, most: int) -> W:
    """The w of 1 to ``most`` images as float32 ``[N, num_ws, w_dim]``, their own copy.

    Raises:
        ConfigError: as ``read_w``, or they are more.
    """
    _check_shape(found.shape, G, "w", most)
    return _finite(found, G, "w")


def _check_shape(shape: tuple[int, ...], G: WSizes, what: str, most: int) -> None:
    layers = (G.num_ws, G.w_dim)
    is_several = len(shape) == 3 and shape[1:] == layers and 1 <= shape[0] <= most
    if is_several or shape in ((G.w_dim,), layers, (1, 1, G.w_dim)):
        return
    count = "one image at a time" if most == 1 else f"or of 1 to {most} images [N, *, *]"
    raise ConfigError(
        f"{what} must have the shape {list(layers)} or [{G.w_dim}], {count}, not {list(shape)}"
    )


def _finite(found: npt.NDArray[np.number], G: WSizes, what: str) -> W:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused
        w = found.astype(np.float32)
    if not np.isfinite(w).all():
        raise ConfigError(f"{what} has values that are not finite")
    count = w.shape[0] if w.ndim == 3 else 1
    return np.broadcast_to(w, (count, G.num_ws, G.w_dim)).copy()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The array of a file as a stream in NumPy's form."""
    suffix = _suffix(path)
    try:
        with path.open("rb") as stream:
            yield _member(stream, path) if suffix == ".npz" else stream
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; give a file of w, .npz or .npy") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is not a file of w, or it is damaged: {cut(str(error))}") from None


def _member(stream: BinaryIO, path: Path) -> BinaryIO:
    archive = zipfile.ZipFile(stream)
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if KEY not in names:
        raise DataError(f"{path} has no key '{KEY}'; it has {listed(map(cut, names), 5) or 'none'}")
    return archive.open(_MEMBER)  # type: ignore[return-value]


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of NumPy's form")
    shape, _, dtype = read(stream)
    return shape, dtype


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy"):
        raise ConfigError(f"{path}: a file of w must end in .npz or .npy")
    return suffix
