"""An LSUN folder (``NAME_lmdb``): picture files as the values of an LMDB database."""

import importlib
import os
from pathlib import Path
from typing import Any

from sg3flow.data.storage import check_entry_size
from sg3flow.errors import DataError


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an LMDB database."""
    return (path / "data.mdb").is_file()


class LmdbStorage:
    """The values of an LMDB database by their keys; every process opens it for itself.

    Raises:
        DataError: the package ``lmdb`` is missing, or the database is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self._environment: tuple[int, Any] | None = None
        with self._begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
        self._keys = {key.decode("utf-8", "backslashreplace"): key for key in keys}
        self.names = sorted(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_environment": None}

    def read(self, name: str) -> bytes:
        lmdb = _package()
        try:
            with self._begin(buffers=True) as transaction:
                value = transaction.get(self._keys[name])
                check_entry_size(f"entry {name} of {self.path}", len(value or b""))
                return bytes(value or b"")
        except lmdb.Error as error:
            raise DataError(f"entry {name} of {self.path} cannot be read ({error})") from None

    def size(self, name: str) -> int:
        return 0  # known only by reading

    def _begin(self, buffers: bool = False) -> Any:
        lmdb = _package()
        # An environment must not be used on the other side of a fork.
        if self._environment is None or self._environment[0] != os.getpid():
            try:
                opened = lmdb.open(
                    str(self.path), readonly=True, lock=False, readahead=False, max_readers=1
                )
            except lmdb.Error as error:
                raise DataError(f"{self.path} is no whole LMDB database ({error})") from None
            self._environment = (os.getpid(), opened)
        return self._environment[1].begin(buffers=buffers)


def _package() -> Any:
    try:
        return importlib.import_module("lmdb")
    except ImportError:
        raise DataError("LSUN folders need the package lmdb: pip install 'sg3flow[lsun]'") from None
