"""Error terms of measurements: what is kept so that a later measurement can be paired with one.

``Estimate.terms`` says what they are. A file of ``evaluate`` beside its report holds them as
float32: one array per snapshot and metric. They are identified by their digest, which the row of
the report has: terms of another measurement can never be taken for those of a row.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sg3flow.files import atomic_write

Stored = NDArray[np.float32]
Terms = Mapping[str, Stored]  # by digest
NO_TERMS: Terms = {}
TERMS_NAME = "evaluation.npz"  # beside evaluation.json
MOST_BYTES = 64 << 20  # of a file; a million images in 16 metrics
_SUFFIX = ".npy"
_MARK = "sg3flow-error-terms-1"  # name of an empty array


def stored_form(terms: ArrayLike) -> Stored:
    """Error terms as they are stored: float32, little-endian."""
    return np.asarray(terms, dtype="<f4")


def digest_of(terms: Stored) -> str:
    """SHA-256 of the values."""
    return hashlib.sha256(terms.tobytes()).hexdigest()


def beside(report: Path) -> Path:
    """The file of the error terms of a report."""
    return report.with_suffix(".npz")


def write_terms(path: Path, terms: Mapping[str, Stored]) -> None:
    """Write error terms by name; equal terms give equal bytes.

    Args:
        terms: names are for people: readers go by the digests.
    """
    arrays: dict[str, ArrayLike] = {_MARK: np.zeros(0, np.float32), **terms}
    with atomic_write(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def is_terms_file(path: Path) -> bool:
    """Whether a file was written by ``write_terms``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _MARK + _SUFFIX in archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return False


def read_terms(path: Path) -> dict[str, Stored]:
    """The error terms in a file, by digest; none if it is missing, damaged or too large."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > 2 * MOST_BYTES:
                return {}
            arrays = [from_npy(archive.read(entry)) for entry in entries]
    except Exception:  # damaged zip files raise any exception
        return {}
    return {digest_of(array): array for array in arrays if array is not None and array.size}


def npy_bytes(terms: Stored) -> bytes:
    """Error terms as the content of an ``.npy`` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, terms, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def from_npy(content: bytes) -> Stored | None:
    """The error terms of an ``.npy`` file; None: it holds something else, or is damaged."""
    stream = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            return None
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        return None
    rest = content[stream.tell() :]
    if dtype != np.dtype("<f4") or len(shape) != 1 or math.prod(shape) * 4 != len(rest):
        return None
    return np.frombuffer(rest, dtype="<f4")
