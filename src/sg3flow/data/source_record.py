"""What is known of fetched pictures: their SOURCE.json, counts, digest and terms."""

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.data.listing import open_listing
from sg3flow.errors import DataError

SOURCE_NAME = "SOURCE.json"
FORMAT = "sg3flow-source-1"
# A set of a thousand class folders would drown the run's other metrics.
_MAX_FOLDER_METRICS = 50


def source_metrics(source: dict[str, Any]) -> dict[str, float]:
    """Numbers of a SOURCE.json for a tracking run: bytes, pictures in all and by folder."""
    counts: dict[str, int] = source["counts"]
    metrics: dict[str, float] = {"num_images": sum(counts.values()), "bytes": source["bytes"]}
    if len(counts) <= _MAX_FOLDER_METRICS:
        for folder, number in counts.items():
            if folder != ".":
                metrics["num_images/" + re.sub(r"[^\w.\-/ ]", "_", folder)] = number
    return metrics


def read_source(folder: Path) -> dict[str, Any] | None:
    """What the SOURCE.json at the top of a folder says; None: it has none of ours."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / SOURCE_NAME).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content
    return None


def inherited_terms(work: Path, origin: str) -> dict[str, str | None]:
    """Licence and citation that the source's own SOURCE.json names: they travel with the copy.

    Raises:
        DataError: the source holds a SOURCE.json of another kind, which ours would overwrite.
    """
    content = read_source(work)
    if content is None and (work / SOURCE_NAME).exists():
        raise DataError(f"{origin} has a {SOURCE_NAME} of another kind; rename it there first")
    content = content or {}
    return {key: content.get(key) for key in ("licence", "citation")}


def plain_files(folder: Path) -> list[str]:
    """Relative paths of the files in a folder, sorted, hidden ones left out.

    Raises:
        DataError: a link, a special file, or a name that is not UTF-8.
    """
    names = [path.relative_to(folder).as_posix() for path in _walk(folder)]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {name!r} in {folder} is no UTF-8; rename it") from None
    return sorted(names)


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _walk(Path(entry.path))
            elif stat.S_ISREG(mode):
                yield Path(entry.path)
            else:
                raise DataError(
                    f"{entry.path} is a link or a special file; give a folder of plain files"
                )


def folder_digest(folder: Path, files: list[str]) -> tuple[int, str]:
    """Bytes in all, and the SHA-256 over the sorted names and contents, each with its length."""
    total, digest = 0, hashlib.sha256()
    for name in files:
        size = (folder / name).stat().st_size
        total += size
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded + size.to_bytes(8, "big"))
        with (folder / name).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return total, digest.hexdigest()


def count_pictures(folder: Path) -> dict[str, int]:
    """Number of pictures by the folder that holds them; "." is ``folder`` itself.

    Raises:
        DataError: there are none.
    """
    counts = Counter(PurePosixPath(name).parent.as_posix() for name in open_listing(folder).names)
    return dict(sorted(counts.items()))
