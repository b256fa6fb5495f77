"""What a worker process does with one picture: a raw one to be packed, or an entry to be judged.

Light on purpose (numpy, Pillow, standard library): every worker process imports it.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sg3flow.data.images import (
    Decoded,
    Measures,
    NotWanted,
    UnusablePicture,
    decode_picture,
    fit,
    measure,
    picture_endings,
    pixel_digest,
)
from sg3flow.data.plain_pictures import Colour, plain_picture
from sg3flow.data.png import encode_png
from sg3flow.data.quality import quality
from sg3flow.data.storage import Storage
from sg3flow.errors import DataError

_MODES = {"rgb": "RGB", "grey": "L"}


@dataclass(frozen=True, slots=True)
class ScanTask:
    """What is the same for all pictures of a source; ``mode`` is keep, rgb or grey."""

    storage: Storage
    transform: str
    size: tuple[int, int] | None
    aspect: str
    min_side: int
    mode: str
    background: Colour


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One picture, and whether it is to be packed (else it is only measured)."""

    name: str
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture in the form in which it is packed."""

    png: bytes
    width: int
    height: int
    mode: str
    pixel_sha256: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What became of one picture.

    ``problem`` says why it cannot be used (then there are no measures); ``unwanted`` is the kind of
    reason for which the settings leave it out, and ``why`` the reason; all are "" otherwise.
    ``changes`` names the rules by which it became plain.
    """

    name: str
    num_bytes: int
    file_sha256: str | None = None
    mode: str | None = None
    measures: Measures | None = None
    changes: tuple[str, ...] = ()
    encoded: Encoded | None = None
    problem: str = ""
    unwanted: str = ""
    why: str = ""


def scan_picture(task: ScanTask, job: ScanJob) -> Scanned:
    """Read and measure one picture, and bring it into packed form if it is wanted."""
    try:
        content = task.storage.read(job.name)
    except DataError as error:
        # The manifest must not depend on where the source stands.
        problem = str(error).replace(f"{task.storage.path}/", "")
        problem = problem.replace(f" of {task.storage.path}", "")
        return Scanned(job.name, task.storage.size(job.name), problem=problem)
    num_bytes, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        decoded = decode_picture(content)
        plain = plain_picture(decoded.picture, task.background)
    except UnusablePicture as error:
        return Scanned(job.name, num_bytes, digest, problem=str(error))
    picture = plain.picture
    measures = measure(picture)
    encoded, unwanted, why = None, "", ""
    if job.is_wanted:
        try:
            _check_wanted(picture, task)
            encoded = _encode(_coloured(fit(picture, task.transform, task.size), task.mode))
        except NotWanted as error:
            unwanted, why = error.kind, str(error)
    changes = (*_misnamed(job.name, decoded), *decoded.changes, *plain.changes)
    mode = decoded.picture.mode
    return Scanned(job.name, num_bytes, digest, mode, measures, changes, encoded, "", unwanted, why)


def _misnamed(name: str, decoded: Decoded) -> tuple[str, ...]:
    """Whether a file's ending is that of another format; what counts is the content."""
    said = picture_endings().get(PurePosixPath(name).suffix.lower())
    found = decoded.picture.format
    is_same = said is None or said == found or {said, found} == {"JPEG", "MPO"}
    return () if is_same else ("wrong ending",)


def _check_wanted(picture: Image.Image, task: ScanTask) -> None:
    width, height = picture.size
    if task.aspect == "square" and width != height:
        raise NotWanted("not square", f"{width}x{height} is not square")
    if min(width, height) < task.min_side:
        raise NotWanted("too small", f"{width}x{height} is below min_side {task.min_side}")


def _coloured(picture: Image.Image, mode: str) -> Image.Image:
    wanted = _MODES.get(mode, picture.mode)
    return picture if picture.mode == wanted else picture.convert(wanted)


def _encode(picture: Image.Image) -> Encoded:
    pixels = np.asarray(picture)
    digest = pixel_digest(pixels)
    return Encoded(encode_png(pixels), picture.width, picture.height, picture.mode, digest)


def inspect_entry(storage: Storage, name: str) -> dict[str, Any]:
    """Read and measure one entry of a packed set: its row in the table of entries."""
    try:
        picture = decode_picture(storage.read(name)).picture
    except (DataError, UnusablePicture) as error:
        return {"entry": name, "problem": str(error)}
    row = {"entry": name, "mode": picture.mode, "width": picture.width, "height": picture.height}
    if picture.mode not in ("RGB", "L"):  # then only its name counts: a check says it is wrong
        return row
    return row | asdict(measure(picture)) | asdict(quality(picture))
