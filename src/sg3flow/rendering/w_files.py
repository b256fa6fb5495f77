"""Own w: checked, and as files in the form of the public tools, ``projected_w.npz``.

A w has one vector per layer, float32 ``[num_ws, w_dim]``. A file holds one or several. Reading runs
no code of the file and takes no more memory than its w.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError, DataError, cut
from sg3flow.files import write_bytes
from sg3flow.rendering.npz_file import array_header, read_npz

W = npt.NDArray[np.float32]

KEY = "w"
MOST_WS = 10_000
_MEMBER = f"{KEY}.npy"
_WHAT = "a file of w"


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
    if _suffix(path) == ".npz":
        found = read_npz(path, (KEY,), _WHAT)[KEY]
        _check_form(found.shape, found.dtype, G, path)
    else:
        found = _read_npy(path, G)
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


def _read_npy(path: Path, G: WSizes) -> npt.NDArray[np.number]:
    try:
        with path.open("rb") as stream:
            _check_form(*array_header(stream), G, path)  # before memory is taken
            stream.seek(0)
            found: npt.NDArray[np.number] = np.lib.format.read_array(stream, allow_pickle=False)
            return found
    except FileNotFoundError:
        raise DataError(f"no file {path}; it should be {_WHAT}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged or not {_WHAT}: {cut(str(error), 200)}") from None


def _check_form(shape: tuple[int, ...], dtype: np.dtype[Any], G: WSizes, path: Path) -> None:
    if dtype.kind not in "fiu":
        raise ConfigError(f"{path}: w must be numbers, not {cut(str(dtype))}")
    _check_shape(shape, G, f"{path}: w", MOST_WS)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy"):
        raise ConfigError(f"{path}: a file of w must end in .npz or .npy")
    return suffix
