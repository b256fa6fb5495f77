"""A looping interpolation in latent space, as an MP4 file for all common players."""

import itertools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import CubicSpline

from sg3flow.errors import ConfigError, DataError
from sg3flow.files import atomic_write
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.grid import check_sheet_size, enlarged, enlarged_side
from sg3flow.rendering.images import (
    SOFTWARE,
    Image,
    RenderedGenerator,
    network_device,
    placed_as,
    seed_ws,
    synthesize,
)
from sg3flow.rendering.seeds import MAX_SEEDS, RenderOptions
from sg3flow.rendering.w_files import W

_MIN_TILE = 256
# Players assume BT.709 for HD videos, so the frames are converted to it and marked as such. The
# marks come from `setparams`: what `-colorspace` does differs between ffmpeg 7 and 9.
_COLORS = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    ",format=yuv420p"
    ",setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)


def write_interpolation(
    G: RenderedGenerator,
    seeds: Sequence[int],
    path: Path,
    *,
    options: RenderOptions,
    classes: Sequence[Condition],
    grid: tuple[int, int] = (1, 1),
    frames_per_keyframe: int = 60,
    fps: int = 30,
) -> int:
    """Write a loop through the ws of the seeds; returns the number of frames.

    Args:
        seeds: keyframes of all tiles; their number is a multiple of the number of tiles.
        classes: the class or label of each seed; None for an unconditional network.

    Other arguments, and errors: as ``write_loop``.
    """
    _check_frames(G, len(seeds), grid)  # before any w is computed
    ws = [seed_ws(G, s, options, c).cpu().numpy() for s, c in zip(seeds, classes, strict=True)]
    return write_loop(
        G,
        np.concatenate(ws),
        path,
        options=options,
        grid=grid,
        frames_per_keyframe=frames_per_keyframe,
        fps=fps,
    )


def write_loop(
    G: RenderedGenerator,
    ws: W,
    path: Path,
    *,
    options: RenderOptions,
    grid: tuple[int, int] = (1, 1),
    frames_per_keyframe: int = 60,
    fps: int = 30,
) -> int:
    """Write a loop through ws; returns the number of frames.

    Each tile of the grid gets an equal part of the ws, in order. The same network and arguments
    give the same bytes.

    Args:
        ws: keyframes of all tiles, [K, num_ws, w_dim]; K is a multiple of the number of tiles.
        options: movement and noise; truncation does not apply.
        grid: tiles across and down.

    Raises:
        ConfigError: K is not a multiple of the tiles, or frames are too large.
        CheckpointError: the network generates values that are not finite.
        DataError: the video encoder failed; the message has its last line.
    """
    _check_frames(G, len(ws), grid)
    tiles = grid[0] * grid[1]
    keyframes = ws.reshape(tiles, len(ws) // tiles, *ws.shape[1:])
    curve = closed_curve(keyframes.swapaxes(0, 1))  # each point: [tiles, num_ws, w_dim]
    total = len(ws) // tiles * frames_per_keyframe
    times = (i / frames_per_keyframe for i in range(total))
    with placed_as(G, options):
        frames = _frames(G, map(curve, times), grid, options.noise_mode)
        write_mp4(tracked(frames, "rendering video", total), path, fps)
    return total


def keyframe_seeds(seeds: Sequence[int], count: int, shuffle_seed: int) -> list[int]:
    """The seeds of the keyframes of all tiles.

    Args:
        seeds: as given.
        count: number of keyframes; the seeds are taken in turn, and again from the first; 0: all
            seeds, each once.
        shuffle_seed: random seed of a shuffle; -1: keep the order.

    Raises:
        ConfigError: there are too many.
    """
    if count > MAX_SEEDS:
        raise ConfigError(
            f"{count} keyframes in all tiles are more than {MAX_SEEDS}; lower --num-keyframes"
        )
    chosen = [seeds[i % len(seeds)] for i in range(count or len(seeds))]
    if shuffle_seed >= 0:
        np.random.RandomState(shuffle_seed).shuffle(chosen)
    return chosen


def _check_frames(G: RenderedGenerator, count: int, grid: tuple[int, int]) -> None:
    tiles = grid[0] * grid[1]
    if count % tiles or not count:
        raise ConfigError(
            f"{count} keyframes cannot be divided among {grid[0]} x {grid[1]} tiles; "
            f"use a multiple of {tiles}, or --num-keyframes"
        )
    side = enlarged_side(G.img_resolution, _MIN_TILE)
    check_sheet_size(grid[0] * side, grid[1] * side)


def closed_curve(keyframes: npt.NDArray[np.floating]) -> CubicSpline:
    """A smooth closed curve through the keyframes, [K, ...], at parameters 0, 1, … K.

    It is a periodic cubic spline with continuous first and second derivatives, so the video loops
    without a visible jump.
    """
    closed = np.concatenate([keyframes, keyframes[:1]]).astype(np.float64)
    return CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")


def _frames(
    G: RenderedGenerator,
    points: Iterable[npt.NDArray[np.float64]],
    grid: tuple[int, int],
    noise_mode: str,
) -> Iterator[Image]:
    device = network_device(G)
    for i, point in enumerate(points):
        ws = torch.from_numpy(point).to(device, torch.float32)  # [tiles, num_ws, w_dim]
        tiles = [enlarged(synthesize(G, one[None], noise_mode, seed=i), _MIN_TILE) for one in ws]
        rows = [np.hstack(tiles[y * grid[0] : (y + 1) * grid[0]]) for y in range(grid[1])]
        yield _even(np.vstack(rows))


def video_frame(image: Image) -> Image:
    """An image as a frame, [H, W, 3]: at least 256 pixels wide, with even sides."""
    return _even(enlarged(image, _MIN_TILE))


def _even(frame: Image) -> Image:
    """Repeat the last row or column if their number is odd: yuv420p needs even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_mp4(frames: Iterable[Image], path: Path, fps: int) -> None:
    """Write frames [H, W, 3] of equal, even sides; at least one.

    Raises:
        DataError: the video encoder failed; the message has its last line.
    """
    frames = iter(frames)
    first = next(frames)
    with atomic_write(path) as stream, tempfile.TemporaryFile() as log:
        command = _ffmpeg_command(first.shape[1], first.shape[0], fps, stream.name)
        encoder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log
        )
        assert encoder.stdin is not None
        try:
            # A broken pipe means that the encoder ended; its exit code and log show why.
            with suppress(BrokenPipeError):
                for frame in itertools.chain([first], frames):
                    encoder.stdin.write(frame.tobytes())
                encoder.stdin.close()
            code = encoder.wait()
        finally:
            encoder.kill()
            encoder.wait()
            with suppress(BrokenPipeError):
                encoder.stdin.close()
        if code:
            raise DataError(f"the video encoder failed on {path}: {last_line(log.fileno())}")


def _ffmpeg_command(width: int, height: int, fps: int, output: str) -> list[str]:
    """RGB frames in, H.264 in BT.709 out; one thread and no version strings, for equal bytes."""
    import imageio_ffmpeg

    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    codec = ["-vf", _COLORS, "-c:v", "libx264", "-preset", "medium", "-crf", "18"]
    exact = [
        "-threads",
        "1",
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-map_metadata",
        "-1",
    ]
    mark = ["-metadata", f"comment={SOFTWARE}", "-movflags", "+faststart", "-f", "mp4"]
    start = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    return [*start, *source, "-i", "pipe:0", *codec, *exact, *mark, output]


def last_line(log: int) -> str:
    """The last line of the log of ffmpeg, an open file."""
    with open(log, "rb", closefd=False) as stream:
        stream.seek(0)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
