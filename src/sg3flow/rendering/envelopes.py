"""Envelopes: how loud an audio file is, or the values of a CSV file, over time.

The envelope of audio is the root mean square of all channels in a window of 0.1 s, divided by its
greatest value: 0 is silence, 1 the loudest moment.
"""

import csv
import io
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError, DataError, cut
from sg3flow.rendering.video import last_line

Values = npt.NDArray[np.float64]

_HOP_SEC, _WINDOW_HOPS = 0.01, 10
_RATE, _CHANNELS = 24_000, 2
_MOST_SEC = 24 * 3600
_MOST_VALUE = 1e6
_MOST_ROWS = 1_000_000
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Envelope:
    """Values at ascending times in seconds, linear between them.

    Attributes:
        seconds: the length.
        after: the value after the last time; None: the last value.
    """

    times: Values
    values: Values
    seconds: float
    after: float | None = None

    def at(self, times: Values) -> Values:
        """The values at some times in seconds; before the first time, the first value."""
        return np.interp(times, self.times, self.values, right=self.after)


def read_envelope(path: Path) -> Envelope:
    """The envelope of a file.

    Args:
        path: ``.csv`` with the columns ``time`` (seconds, ascending) and ``value``; any other file
            is audio, in any format that ffmpeg decodes, at most 24 hours of it.

    Raises:
        DataError: there is no such file, or it is neither.
        ConfigError: a row of the CSV file is invalid.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give audio, or a .csv of time,value")
    return _csv_envelope(path) if path.suffix.lower() == ".csv" else audio_envelope(_energies(path))


def audio_envelope(energies: Values) -> Envelope:
    """The envelope of energies, the mean squares of successive parts of 0.01 s.

    1. Mean over 10 parts around each; at the ends, over those that there are.
    2. The square root, divided by its greatest value.
    """
    kernel = np.ones(_WINDOW_HOPS)
    counts = np.convolve(np.ones(len(energies)), kernel)[_lag(len(energies))]
    loudness = np.sqrt(np.convolve(energies, kernel)[_lag(len(energies))] / counts)
    greatest = loudness.max()
    values = np.asarray(loudness / greatest if greatest else loudness, np.float64)
    times = np.asarray((np.arange(len(energies)) + 0.5) * _HOP_SEC, np.float64)
    return Envelope(times, values, len(energies) * _HOP_SEC, after=0.0)


def _lag(count: int) -> slice:
    return slice(_WINDOW_HOPS // 2, _WINDOW_HOPS // 2 + count)


def _energies(path: Path) -> Values:
    """Mean squares of parts of 0.01 s; decoded piece by piece, so that memory stays small."""
    part = round(_RATE * _HOP_SEC) * _CHANNELS * 4
    found: list[Values] = []
    with tempfile.TemporaryFile() as log:
        decoder = subprocess.Popen(
            _decoder_command(path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        assert decoder.stdout is not None
        try:
            while block := decoder.stdout.read(part * 1000):
                samples = np.frombuffer(block[: len(block) // 4 * 4], "<f4").astype(np.float64)
                padded = np.pad(samples, (0, -len(samples) % (part // 4)))
                found.append((padded.reshape(-1, part // 4) ** 2).mean(axis=1))
            code = decoder.wait()
        finally:
            decoder.kill()
            decoder.wait()
            decoder.stdout.close()
        if code or not found:
            reason = last_line(log.fileno()) if code else "it has no sound"
            raise DataError(f"{path} cannot be read as audio: {cut(reason, 200)}")
    energies = np.concatenate(found)
    if not np.isfinite(energies).all():
        raise DataError(f"{path} has samples that are not finite")
    return energies


def _decoder_command(path: Path) -> list[str]:
    import imageio_ffmpeg

    start = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    source = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path.absolute()}", "-vn"]
    form = ["-t", str(_MOST_SEC), "-ac", str(_CHANNELS), "-ar", str(_RATE), "-f", "f32le", "-"]
    return [*start, *source, *form]


def _csv_envelope(path: Path) -> Envelope:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text, at byte {error.start}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} has more than {_MOST_BYTES >> 20} MiB")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[float, float]] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header != ["time", "value"]:
            raise ConfigError(f"{path}, row 1: must be the header time,value")
        for cells in reader:
            if any(cells):
                last = rows[-1][0] if rows else -1.0
                rows.append(_csv_row(cells, last, f"{path}, row {reader.line_num}"))
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: not CSV: {cut(str(error), 200)}") from None
    if not 0 < len(rows) <= _MOST_ROWS:
        raise ConfigError(f"{path} must have 1 to {_MOST_ROWS} rows after the header")
    times, values = np.array(rows).T
    return Envelope(times, values, float(times[-1]))


def _csv_row(cells: list[str], last: float, where: str) -> tuple[float, float]:
    try:
        time, value = map(float, cells)
    except ValueError:
        raise ConfigError(f"{where}: must be two numbers, time and value") from None
    if not (0 <= time <= _MOST_SEC and time > last):
        raise ConfigError(
            f"{where}: times must ascend, from 0 to {_MOST_SEC} seconds, not {time:g} after "
            f"{max(last, 0):g}"
        )
    if not abs(value) <= _MOST_VALUE:
        raise ConfigError(f"{where}: the value must be within 1e6 of 0, not {value:g}")
    return time, value
