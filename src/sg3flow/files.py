"""Durable files: nothing half-written ever stands under a final name.

Every output is written under a temporary name beside its target, flushed to the disk, and renamed.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK_BYTES = 1 << 20


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    Raises:
        OSError: from the block or the disk; ``path`` is then as it was, and nothing is left beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = _beside(path, "tmp")
    try:
        with work.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(work, path)
    except BaseException:
        with suppress(FileNotFoundError):
            work.unlink()
        raise
    _sync_folder(path.parent)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``path`` when the block ends well.

    An existing ``path`` is removed only after the new one is complete; whether it may be removed is
    the caller's question.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work, old = _beside(path, "tmp"), _beside(path, "old")
    work.mkdir()
    try:
        yield work
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step."""
    with replaced_file(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` by ``content`` (UTF-8) in one step."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by ``content`` as indented JSON in one step; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` in one step."""
    with source.open("rb") as reader, replaced_file(target) as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


def _beside(path: Path, suffix: str) -> Path:
    # A random part, not a fixed name: two processes may write the same file at once.
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.{suffix}")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be synced."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
