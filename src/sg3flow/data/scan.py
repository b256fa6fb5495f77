"""What a worker process does with one raw picture: read, decode, measure, fit and encode."""

import hashlib
from dataclasses import dataclass

from PIL import Image

from sg3flow.data.images import (
    Measures,
    TooSmall,
    UnusablePicture,
    decode_picture,
    encode_png,
    fit,
    measure,
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
        picture, mode = decode_picture(content)
    except UnusablePicture as error:
        return Scanned(job.name, num_bytes, digest, problem=str(error))
    measures = measure(picture)
    encoded, too_small = None, ""
    if job.is_wanted:
        try:
            encoded = _encode(fit(picture, task.transform, task.size))
        except TooSmall as error:
            too_small = str(error)
    return Scanned(job.name, num_bytes, digest, mode, measures, encoded, "", too_small)


def _encode(picture: Image.Image) -> Encoded:
    digest = hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
    return Encoded(encode_png(picture), picture.width, picture.height, picture.mode, digest)
