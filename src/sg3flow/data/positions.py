"""Bytes of a file by their position, from any process and thread, without a lock."""

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError


class PositionFile:
    """A file that is read by position (``os.pread``): it may be pickled, forked and shared.

    Reads share no offset and take no lock; every process opens the file for itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = _stamp(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        self._handle: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}  # a handle means nothing in another process

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; fewer where the file ends.

        Raises:
            DataError: the file is not the one that was opened first.
        """
        if self._handle is None:
            self._handle = self._open()
        pieces = []
        while size > 0:  # one call gives at most 2 GiB, and less on some network file systems
            piece = os.pread(self._handle, size, offset)
            if not piece:
                break
            pieces.append(piece)
            size, offset = size - len(piece), offset + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _open(self) -> int:
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None
        if _stamp(handle) != self._stamp:
            os.close(handle)
            raise DataError(f"{self.path} was changed while in use; start again")
        weakref.finalize(self, os.close, handle)
        return handle


class Scratch:
    """A temporary file that is removed with the object that made it, or when the process ends.

    Copies in other processes only name the file.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="sg3flow-")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, _remove_own, self.path, os.getpid())


def _remove_own(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy must not take it from its parent
        with suppress(OSError):
            path.unlink()


def _stamp(file: Path | int) -> tuple[int, int]:
    """What tells that a file was changed or replaced: its size and time of change."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns
