"""Own w in the render commands, and truncation of some layers only."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import sg3flow
from sg3flow.config import RenderVideoConfig
from sg3flow.errors import ConfigError
from sg3flow.rendering.images import load_model, png_bytes, render_image, seed_ws
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.w_files import write_w


@pytest.fixture
def model(network_file):
    return load_model(network_file(), "cpu")


def ws_of(model, *seeds, psi=1.0, condition=None):
    ws = [seed_ws(model.G, seed, RenderOptions(psi), condition) for seed in seeds]
    return torch.cat(ws).numpy()


@pytest.fixture
def w_file(model, tmp_path):
    """The w of seeds 2, 5, 7 and 9 with psi 0.6."""
    write_w(tmp_path / "own.npz", ws_of(model, 2, 5, 7, 9, psi=0.6))
    return tmp_path / "own.npz"


@pytest.mark.parametrize("option", ["--projected-w", "--w", "--projected_w"])
def test_the_images_of_w_are_those_of_their_seeds_byte_for_byte(
    render, model, w_file, option, tmp_path
):
    moved = ("--translate=0.2,-0.1", "--rotate", 30)
    result = render("images", model.source, option, w_file, *moved)
    assert "4 images" in result.stdout and "proj03.png" in result.stdout
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"proj0{i}.png" for i in range(4)]
    render("images", model.source, "--seeds", "2,5,7,9", "--trunc", 0.6, *moved)
    for i, seed in enumerate((2, 5, 7, 9)):
        drawn = (tmp_path / "out" / f"proj0{i}.png").read_bytes()
        assert drawn == (tmp_path / "out" / f"seed000{seed}.png").read_bytes()


def test_a_w_holds_its_class(render, network_file, tmp_path):
    model = load_model(network_file(3), "cpu")
    write_w(tmp_path / "dog.npy", ws_of(model, 4, condition=1))
    render("images", model.source, "--w", tmp_path / "dog.npy")
    drawn = (tmp_path / "out" / "proj00.png").read_bytes()
    assert drawn == png_bytes(render_image(model.G, 4, RenderOptions(), 1))


def test_one_vector_is_drawn_in_all_layers(render, model, tmp_path):
    np.save(tmp_path / "one.npy", model.G.mapping.w_avg.numpy())
    render("images", model.source, "--w", tmp_path / "one.npy")
    drawn = (tmp_path / "out" / "proj00.png").read_bytes()
    assert drawn == png_bytes(render_image(model.G, 9, RenderOptions(psi=0)))


def test_a_video_through_w_is_that_of_the_seeds(render, model, w_file, tmp_path):
    shape = ("--grid", "2x1", "--w-frames", 2, "--fps", 10, "--shuffle-seed", 3)
    render("video", model.source, "--w", w_file, *shape)
    own = (tmp_path / "out" / "interpolation.mp4").read_bytes()
    render("video", model.source, "--seeds", "2,5,7,9", "--trunc", 0.6, *shape)
    assert own == (tmp_path / "out" / "interpolation.mp4").read_bytes()
    path = tmp_path / "own.mp4"
    more = ("--num-keyframes", 6, "--w-frames", 1, "--output", path)
    render("video", model.source, "--w", w_file, *more, outdir=False)
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 6


def test_a_grid_of_w_has_their_numbers(render, model, w_file, tmp_path):
    render("grid", model.source, "--w", w_file, "--columns", 4)
    sheet = (tmp_path / "out" / "grid.png").read_bytes()
    model_images = [model.w_picture(w, RenderOptions()) for w in ws_of(model, 2, 5, 7, 9, psi=0.6)]
    expected = sg3flow.rendering.grid.seed_sheet(model_images, ["w 0", "w 1", "w 2", "w 3"], 16, 4)
    assert sheet == png_bytes(expected)


@pytest.mark.parametrize("command", ["images", "grid", "video"])
@pytest.mark.parametrize(
    "option",
    [
        ("--seeds", "0-3"),
        ("--trunc", "0.7"),
        ("--truncation-cutoff", "0"),
        ("--class", "0"),
        ("--label", "1,2"),
    ],
)
def test_an_option_without_effect_on_w_is_refused(render, tmp_path, command, option):
    result = render(command, "none.pkl", "--w", tmp_path / "none.npz", *option, code=1)
    assert f"{option[0]} has no effect on w" in result.stderr


@pytest.mark.parametrize("command", ["images", "grid", "video"])
def test_wrong_w_and_foreign_files_end_in_one_line(render, model, w_file, tmp_path, command):
    result = render(command, model.source, "--w", tmp_path / "none.npz", code=1)
    assert "none.npz; it should be a file of w" in result.stderr
    np.save(tmp_path / "long.npy", np.zeros((3, 99)))
    result = render(command, model.source, "--w", tmp_path / "long.npy", code=1)
    assert "long.npy: w must have the shape" in result.stderr
    assert not (tmp_path / "out").exists()
    name = {"images": "proj02.png", "grid": "grid.png", "video": "interpolation.mp4"}[command]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"holiday")
    result = render(command, model.source, "--w", w_file, code=1)
    assert "is not replaced" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_images_need_seeds_or_w(render):
    result = render("images", "none.pkl", code=1)
    assert "--seeds 0-9, or --projected-w FILE" in result.stderr


def test_truncation_stops_at_the_cutoff(model):
    full, half = ws_of(model, 3), ws_of(model, 3, psi=0.5)
    cut = seed_ws(model.G, 3, RenderOptions(psi=0.5, truncation_cutoff=4), None).numpy()
    np.testing.assert_array_equal(cut[:, :4], half[:, :4])
    np.testing.assert_array_equal(cut[:, 4:], full[:, 4:])
    everything = RenderOptions(psi=0.5, truncation_cutoff=model.G.num_ws)
    np.testing.assert_array_equal(seed_ws(model.G, 3, everything, None).numpy(), half)


@pytest.mark.parametrize(
    ("command", "name"), [("grid", "grid.png"), ("video", "interpolation.mp4")]
)
def test_sheets_and_videos_take_the_cutoff(render, model, tmp_path, command, name):
    short = ("--w-frames", 1) if command == "video" else ()
    drawn = []
    for cutoff in (-1, 4):
        options = ("--seeds", 3, "--trunc", 0.5, "--truncation-cutoff", cutoff, *short)
        render(command, model.source, *options)
        drawn.append((tmp_path / "out" / name).read_bytes())
    assert drawn[0] != drawn[1]


def test_images_take_the_cutoff(render, model, tmp_path):
    for cutoff, expected in (
        (-1, RenderOptions(0.5)),
        (4, RenderOptions(0.5, truncation_cutoff=4)),
        (model.G.num_ws, RenderOptions(0.5)),
        (0, RenderOptions()),
    ):
        options = ("--seeds", 3, "--trunc", 0.5, "--truncation-cutoff", cutoff)
        render("images", model.source, *options)
        drawn = (tmp_path / "out" / "seed0003.png").read_bytes()
        assert drawn == png_bytes(render_image(model.G, 3, expected))


def test_a_cutoff_beyond_the_layers(render, model):
    more = model.G.num_ws + 1
    with pytest.raises(ConfigError, match=f"from 0 to {more - 1}, the layers of this network"):
        seed_ws(model.G, 3, RenderOptions(truncation_cutoff=more), None)
    render("images", model.source, "--seeds", 1, "--truncation-cutoff", more, code=1)


def test_the_options_of_the_public_scripts(render, network_file, model, tmp_path):
    """Their command lines, option by option, and what they mean without."""
    out, network = tmp_path / "out", network_file(3)
    images = ("--seeds=3", "--trunc=0.7", "--class=1", "--noise-mode=const", "--translate=0.1,0")
    render("images", network, *images, "--rotate=20")
    options = RenderOptions(0.7, "const", (0.1, 0.0), 20.0)
    expected = png_bytes(render_image(load_model(network, "cpu").G, 3, options, 1))
    assert (out / "seed0003.png").read_bytes() == expected
    mix = ("--rows=3", "--cols=5", "--styles=0-6", "--trunc=1", "--noise-mode=const")
    render("mix", model.source, *mix)
    first = (out / "3-5.png").read_bytes()
    render("mix", model.source, *mix[:2])
    assert (out / "3-5.png").read_bytes() == first
    video = RenderVideoConfig()
    assert (video.grid, video.num_keyframes, video.w_frames) == ("1x1", 0, 120)
    assert (video.trunc, video.shuffle_seed, video.fps) == (1, -1, 60)
