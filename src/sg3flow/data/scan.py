"""What a worker process does with one picture: a raw one to be packed, or an entry to be judged.

Light on purpose (numpy, Pillow, standard library): every worker process imports it.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from sg3flow.data.images import (
    Measures,
    TooSmall,
    UnusablePicture,
    decode_picture,
    encode_png,
    fit,
    measure,
    plain_mode,
)
from sg3flow.data.storage import Storage
from sg3flow.errors import DataError


@dataclass(frozen=True, slots=True)
class ScanTask:
    """What is the same for all pictures of a source."""

    storage: Storage
    transform: str
    size: tuple[int, int] | None


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

    ``problem`` says why it cannot be used (then there are no measures), ``too_small`` why the
    transform left it out; both are "" otherwise.
    """

    name: str
    num_bytes: int
    file_sha256: str | None = None
    mode: str | None = None
    measures: Measures | None = None
    encoded: Encoded | None = None
    problem: str = ""
    too_small: str = ""


def scan_picture(task: ScanTask, job: ScanJob) -> Scanned:
    """Read and measure one picture, and bring it into packed form if it is wanted."""
    try:
        content = task.storage.read(job.name)
    except DataError as error:
        return Scanned(job.name, task.storage.size(job.name), problem=str(error))
    num_bytes, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        decoded = decode_picture(content)
        picture = plain_mode(decoded)
    except UnusablePicture as error:
        return Scanned(job.name, num_bytes, digest, problem=str(error))
    measures = measure(picture)
    encoded, too_small = None, ""
    if job.is_wanted:
        try:
            encoded = _encode(fit(picture, task.transform, task.size))
        except TooSmall as error:
            too_small = str(error)
    return Scanned(job.name, num_bytes, digest, decoded.mode, measures, encoded, "", too_small)


def _encode(picture: Image.Image) -> Encoded:
    digest = hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
    return Encoded(encode_png(picture), picture.width, picture.height, picture.mode, digest)


def inspect_entry(storage: Storage, name: str) -> dict[str, Any]:
    """Read and measure one entry of a packed set: its row in the table of entries."""
    try:
        picture = decode_picture(storage.read(name))
    except (DataError, UnusablePicture) as error:
        return {"entry": name, "problem": str(error)}
    row = {"entry": name, "mode": picture.mode, "width": picture.width, "height": picture.height}
    # Of another mode only its name counts: a check says that it is wrong.
    return row | asdict(measure(picture)) if picture.mode in ("RGB", "L") else row
