"""Envelopes of audio and of CSV files."""

import subprocess
import wave

import imageio_ffmpeg
import numpy as np
import pytest

from sg3flow.errors import Sg3flowError
from sg3flow.rendering.envelopes import audio_envelope, read_envelope

RATE = 8000


def tone(seconds, amplitude, frequency=440):
    times = np.arange(round(seconds * RATE)) / RATE
    return amplitude * np.sin(2 * np.pi * frequency * times)


def write_wav(path, *channels):
    samples = (np.stack(channels, axis=1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(len(channels))
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(samples.tobytes())
    return path


def test_the_envelope_is_the_loudness_by_its_peak(tmp_path):
    sound = np.concatenate([tone(1, 0.2), tone(1, 0.8), np.zeros(RATE)])
    envelope = read_envelope(write_wav(tmp_path / "a.wav", sound))
    assert envelope.seconds == pytest.approx(3, abs=0.011)
    values = envelope.at(np.array([0.0, 0.5, 1.5, 2.5, 10.0]))
    np.testing.assert_allclose(values, [0.25, 0.25, 1, 0, 0], atol=0.01)
    # A step is the mean of both sides: the root mean square of 0.2 and 0.8, by 0.8.
    half = np.sqrt((0.2**2 + 0.8**2) / 2) / 0.8
    assert envelope.at(np.array([1.0]))[0] == pytest.approx(half, abs=0.05)


def test_loudness_is_the_root_mean_square_and_not_the_peak(tmp_path):
    sine = tone(1, 0.5, 100)
    envelope = read_envelope(
        write_wav(tmp_path / "a.wav", np.concatenate([np.sign(sine) / 2, sine]))
    )
    assert envelope.at(np.array([1.5]))[0] == pytest.approx(np.sqrt(0.5), abs=0.03)


def test_channels_that_cancel_each_other_are_loud(tmp_path):
    left = tone(1, 0.5)
    envelope = read_envelope(write_wav(tmp_path / "a.wav", left, -left))
    assert envelope.at(np.array([0.5]))[0] == pytest.approx(1, abs=0.01)


def test_a_compressed_file_has_the_envelope_of_its_sound(tmp_path):
    wav = write_wav(tmp_path / "a.wav", np.concatenate([tone(1, 0.2), tone(1, 0.8)]))
    flac = tmp_path / "a file.flac"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(wav), str(flac)]
    subprocess.run(ffmpeg, check=True)
    times = np.linspace(0, 2, 50)
    np.testing.assert_allclose(read_envelope(flac).at(times), read_envelope(wav).at(times))


def test_windows_of_energy():
    energies = np.zeros(40)
    energies[20] = 4.0
    envelope = audio_envelope(energies)
    assert envelope.values.max() == 1 and (envelope.values > 0.5).sum() == 10
    assert envelope.values[15:25].tolist() == [1.0] * 10
    assert audio_envelope(np.ones(3)).values.tolist() == [1.0] * 3
    assert audio_envelope(np.zeros(30)).values.tolist() == [0.0] * 30


def test_values_of_a_csv_file_are_linear_between_times(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("time,value\n1,2\n\n3,-2\n")
    envelope = read_envelope(path)
    assert envelope.seconds == 3
    assert envelope.at(np.array([0, 1, 1.5, 2, 3, 9.0])).tolist() == [2, 2, 1, 0, -2, -2]


WRONG = {
    "none.csv": (None, "there is no such file"),
    "none.wav": (None, "there is no such file"),
    "empty.csv": ("", "row 1: must be the header time,value"),
    "header.csv": ("time,value\n", "must have 1 to 1000000 rows"),
    "names.csv": ("t,v\n1,2\n", "row 1: must be the header time,value"),
    "cells.csv": ("time,value\n1,2,3\n", "row 2: must be two numbers"),
    "text.csv": ("time,value\n1,2\n2,loud\n", "row 3: must be two numbers"),
    "nan.csv": ("time,value\n1,nan\n", "row 2: the value must be within 1e6 of 0, not nan"),
    "time.csv": ("time,value\nnan,1\n", "row 2: times must ascend"),
    "huge.csv": ("time,value\n1e300,1\n", "row 2: times must ascend"),
    "back.csv": ("time,value\n2,1\n2,1\n", "row 3: times must ascend"),
    "bytes.csv": (b"\xff", "not UTF-8 text, at byte 0"),
    "photo.wav": (b"holiday", "cannot be read as audio"),
    "nothing.mp3": (b"", "cannot be read as audio"),
    "list.m3u8": ("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n", "cannot be read as audio"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_sentence(tmp_path, name):
    content, words = WRONG[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Sg3flowError) as caught:
        read_envelope(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and words in said and "\n" not in said


def test_a_wav_without_sound(tmp_path):
    with pytest.raises(Sg3flowError, match="it has no sound"):
        read_envelope(write_wav(tmp_path / "a.wav", np.zeros(0)))
