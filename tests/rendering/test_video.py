"""The looping interpolation: its path, its file, its failures."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from sg3flow.errors import ConfigError, DataError
from sg3flow.rendering import video
from sg3flow.rendering.grid import enlarged
from sg3flow.rendering.images import render_image
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import closed_curve, keyframe_seeds, write_interpolation


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_the_walk_passes_through_its_keyframes(num):
    keyframes = np.random.RandomState(0).randn(num, 2, 4).astype(np.float32)
    curve = closed_curve(keyframes)
    np.testing.assert_allclose(curve(np.arange(num)), keyframes, atol=1e-6)
    np.testing.assert_allclose(curve(num), keyframes[0], atol=1e-6)


def test_the_walk_has_no_seam():
    keyframes = np.random.RandomState(1).randn(5, 3)
    times = np.arange(200) / 40
    walk = closed_curve(keyframes)(times)
    steps = np.diff(np.concatenate([walk, walk[:2]]), axis=0)
    turns = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    assert turns[-1] < 1.5 * turns[:-1].max()
    # Starting at another keyframe gives the same closed curve.
    turned = closed_curve(np.roll(keyframes, -2, axis=0))(times)
    np.testing.assert_allclose(turned, np.roll(walk, -80, axis=0), atol=1e-6)


def _frames(path):
    """Raw frames by ffmpeg itself, and what it says of the file."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    size = re.search(r"Video: h264 .*yuv420p.*, (\d+)x(\d+)[, ].* 10 fps", done.stderr.decode())
    width, height = int(size[1]), int(size[2])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def test_the_file_plays_loops_and_comes_out_the_same_again(generator, tmp_path):
    path = tmp_path / "a b" / "walk.mp4"
    arguments = {
        "options": RenderOptions(psi=0.7),
        "classes": [None] * 4,
        "grid": (2, 1),
        "fps": 10,
    }
    total = write_interpolation(generator, [0, 1, 2, 3], path, frames_per_keyframe=3, **arguments)
    frames = _frames(path)
    assert total == 6 and frames.shape == (6, 256, 512, 3)
    first = enlarged(render_image(generator, 0, RenderOptions(psi=0.7)), 256)
    assert np.abs(frames[0, :, :256].astype(int) - first).mean() < 8
    again = tmp_path / "again.mp4"
    write_interpolation(generator, [0, 1, 2, 3], again, frames_per_keyframe=3, **arguments)
    assert path.read_bytes() == again.read_bytes()
    assert b"sg3flow" in path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["walk.mp4"]


def _decoded(path, side, matrix):
    """Raw frames by ffmpeg, read with a color matrix whatever the file says, and what it says."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    command += ["-vf", f"scale=in_color_matrix={matrix}:in_range=tv:flags=accurate_rnd"]
    done = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, side, side, 3)
    return frames.astype(int), done.stderr.decode()


@pytest.mark.parametrize(
    ("color", "side"), [((200, 30, 30), 256), ((200, 30, 30), 720), ((30, 60, 220), 64)]
)
def test_colors_are_bt709_and_marked_so(tmp_path, color, side):
    path = tmp_path / "flat.mp4"
    frame = np.full((side, side, 3), color, np.uint8)
    video.write_mp4(iter([frame] * 2), path, 10)
    frames, told = _decoded(path, side, "auto")  # as a player that reads the marks
    assert np.abs(frames - color).max() <= 3  # with the matrix of BT.601: 12 and more
    forced, _ = _decoded(path, side, "bt709")  # as one that takes BT.709 for granted
    np.testing.assert_array_equal(forced, frames)
    # One name for all three: matrix, primaries and transfer are the same.
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709, progressive\)", told)
    assert b"colrnclx" + bytes([0, 1, 0, 1, 0, 1, 0]) in path.read_bytes()


@pytest.mark.parametrize(
    ("seeds", "count", "expected"),
    [
        ([5, 6, 7], 0, [5, 6, 7]),
        ([5, 6, 7], 2, [5, 6]),
        ([5, 6, 7], 8, [5, 6, 7, 5, 6, 7, 5, 6]),
    ],
)
def test_the_number_of_keyframes_repeats_or_cuts_the_seeds(seeds, count, expected):
    assert keyframe_seeds(seeds, count, -1) == expected
    shuffled = keyframe_seeds(seeds, count, 0)
    assert sorted(shuffled) == sorted(expected)
    assert shuffled == keyframe_seeds(seeds, count, 0)


def test_a_shuffle_depends_on_its_seed_alone():
    orders = [keyframe_seeds(list(range(20)), 0, seed) for seed in (-1, 0, 1, 0)]
    assert orders[0] == list(range(20)) and orders[1] == orders[3]
    assert orders[0] != orders[1] != orders[2]


def test_keyframes_are_limited_as_seeds_are():
    with pytest.raises(ConfigError, match="100001 keyframes in all tiles are more than 100000"):
        keyframe_seeds([0], 100_001, -1)


def test_seeds_that_do_not_fill_the_tiles_are_refused(generator, tmp_path):
    with pytest.raises(ConfigError, match="multiple of 2"):
        write_interpolation(
            generator,
            [0, 1, 2],
            tmp_path / "x.mp4",
            options=RenderOptions(),
            classes=[None] * 3,
            grid=(2, 1),
        )


def test_frames_too_large_are_refused_before_anything_is_drawn(generator, tmp_path):
    seeds, path = list(range(10_000)), tmp_path / "x.mp4"
    with pytest.raises(ConfigError, match="25600 x 25600 pixels is too large"):
        write_interpolation(
            generator,
            seeds,
            path,
            options=RenderOptions(),
            classes=[None] * 10_000,
            grid=(100, 100),
        )
    assert not path.exists()


def test_odd_sides_are_made_even():
    assert video._even(np.zeros((5, 7, 3), np.uint8)).shape == (6, 8, 3)


def _run_broken(generator, path):
    write_interpolation(
        generator, [0], path, options=RenderOptions(), classes=[None], frames_per_keyframe=40
    )


def test_a_failing_encoder_is_told_by_its_last_line(generator, tmp_path, monkeypatch):
    command = ["sh", "-c", "echo first >&2; echo 'no codec today' >&2; exit 3"]
    monkeypatch.setattr(video, "_ffmpeg_command", lambda *_: command)
    path = tmp_path / "x.mp4"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="no codec today"):
        _run_broken(generator, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_drawing_ends_the_encoder(generator, tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def recorded(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(video.subprocess, "Popen", recorded)
    original = video.synthesize

    def failing(G, ws, noise_mode, seed):
        if seed == 3:
            raise MemoryError
        return original(G, ws, noise_mode, seed)

    monkeypatch.setattr(video, "synthesize", failing)
    with pytest.raises(MemoryError):
        _run_broken(generator, tmp_path / "x.mp4")
    assert started[0].poll() is not None
    assert not list(tmp_path.iterdir())
