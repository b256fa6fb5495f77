"""Paths through keyframes: their curve, their frames, and the video."""

import json
import wave

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.networks import StyleGAN2Generator
from sg3flow.rendering.conditions import TrainingLabels
from sg3flow.rendering.edits import Directions, resolve_edits, write_directions
from sg3flow.rendering.envelopes import Envelope
from sg3flow.rendering.images import Model, load_model, render_image, seed_ws, w_image
from sg3flow.rendering.keyframes import keyframes_of
from sg3flow.rendering.path_outputs import Timing, parse_curves
from sg3flow.rendering.paths import PathCurve, path_images, points_of
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.w_files import write_w

VALUES = np.random.RandomState(0).randn(4, 3).astype(np.float32)


@pytest.fixture
def model(network_file):
    return load_model(network_file(3), "cpu")


@pytest.fixture
def directions(model):
    vectors = np.random.RandomState(1).randn(2, model.G.num_ws, 16).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    layers = tuple(range(model.G.num_ws))
    return Directions(vectors, ("age", "smile"), np.ones(2), np.ones(2), "pca", layers, "")


def keyframes(folder, *rows):
    return keyframes_of(list(rows), "keyframes", folder)


def frames_of(model, folder, rows, frames, *, options=None, is_closed=False, **more):
    points = points_of(model, keyframes(folder, *rows), options or RenderOptions(), None)
    options = options or RenderOptions()
    return list(path_images(model, points, options, frames, is_closed=is_closed, **more))


# The curve


@pytest.mark.parametrize(("is_closed", "frames"), [(False, 10), (True, 12)])
def test_the_curve_has_its_keyframes_bit_for_bit(is_closed, frames):
    for values in (VALUES, np.random.RandomState(2).randn(4, 100)):
        curve = PathCurve(values, frames, is_closed)
        for i in range(4):
            assert curve.at(3 * i).astype(values.dtype).tobytes() == values[i].tobytes()
    between = np.array([curve.at(i) for i in range(frames)])
    assert len(np.unique(between, axis=0)) == frames


def test_the_open_curve_is_natural():
    """Second differences vanish at both ends, and nowhere else."""
    frames = 3 * 200 + 1
    walk = np.array([PathCurve(VALUES, frames, False).at(i) for i in range(frames)])
    bends = np.abs(np.diff(walk, 2, axis=0)).max(axis=1) * 200**2
    assert max(bends[0], bends[-1]) < 0.02 * bends.max()
    line = np.array([PathCurve(VALUES[:2], 5, False).at(i) for i in range(5)])
    np.testing.assert_allclose(line, np.linspace(*VALUES[:2], 5), atol=1e-6)


def test_the_closed_curve_has_no_seam():
    curve = PathCurve(VALUES, 400, True)
    walk = np.array([curve.at(i) for i in range(400)])
    steps = np.diff(np.concatenate([walk, walk[:2]]), axis=0)
    turns = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    assert turns[-1] < 1.5 * turns[:-1].max()
    turned = PathCurve(np.roll(VALUES, -1, axis=0), 400, True)
    np.testing.assert_allclose(turned.at(30), curve.at(130), atol=1e-6)


def test_reversed_keyframes_give_the_reversed_curve():
    curve, reverse = (PathCurve(each, 14, False) for each in (VALUES, VALUES[::-1]))
    for i in range(14):
        np.testing.assert_allclose(curve.at(i), reverse.at(13 - i), atol=1e-6)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_single_keyframe_stands_still(is_closed):
    curve = PathCurve(VALUES[:1], 5, is_closed)
    assert all(np.array_equal(curve.at(i), VALUES[0]) for i in range(5))
    nothing = PathCurve(np.zeros((4, 0)), 9, is_closed)
    assert nothing.at(4).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((Timing(is_closed=True), 3, 0.0), 360),
        ((Timing(), 4, 0.0), 361),
        ((Timing(w_frames=10), 4, 2.0), 31),
        ((Timing(frames=7), 4, 2.0), 7),
        ((Timing(fps=30), 4, 2.0), 60),
        ((Timing(), 1, 0.0), 1),
        ((Timing(is_closed=True), 1, 0.001), 1),
        ((Timing(fps=10), 2, 2.01), 21),
    ],
)
def test_the_number_of_frames(arguments, expected):
    timing, keyframes, seconds = arguments
    assert timing.total(keyframes, seconds) == expected


# The frames


def test_a_frame_at_a_keyframe_is_the_image_of_render_images(model, tmp_path, directions):
    rows = [
        {"seed": 3, "psi": 0.7, "class": "dog", "x": 0.1, "y": -0.2, "angle": 30},
        {"seed": 8, "class": 2, "edits": {"smile": 1.5}},
        {"seed": 1, "psi": -0.5, "label": [0, 0.5, 0.5], "angle": -400, "edits": {"age": -0.3}},
    ]
    expected = [
        render_image(model.G, 3, RenderOptions(0.7, translate=(0.1, -0.2), rotate=30), 1),
        render_image(model.G, 8, RenderOptions(edit=resolve_edits(directions, {"smile": 1.5})), 2),
        render_image(
            model.G,
            1,
            RenderOptions(-0.5, rotate=-400, edit=resolve_edits(directions, {"age": -0.3})),
            (0, 0.5, 0.5),
        ),
    ]
    drawn = frames_of(model, tmp_path, rows, 5, directions=directions)
    for i in range(3):
        np.testing.assert_array_equal(drawn[2 * i], expected[i])
    closed = frames_of(model, tmp_path, rows, 6, directions=directions, is_closed=True)
    for i in range(3):
        np.testing.assert_array_equal(closed[2 * i], expected[i])
    assert len({image.tobytes() for image in drawn}) == 5


def test_between_two_keyframes_is_the_middle(model, tmp_path, directions):
    rows = [
        {"seed": 3, "class": 0, "x": 0.2, "angle": 10, "edits": {"age": 1}},
        {"seed": 8, "class": 1, "y": 0.4, "angle": -30, "edits": {"smile": 2}},
    ]
    ws = [seed_ws(model.G, s, RenderOptions(), c).double() for s, c in ((3, 0), (8, 1))]
    middle = ((ws[0] + ws[1]) / 2).float()
    offset = resolve_edits(directions, {"age": 0.5, "smile": 1.0})
    options = RenderOptions(translate=(0.1, 0.2), rotate=-10)
    expected = w_image(model.G, middle + torch.from_numpy(offset), options, 0).astype(int)
    drawn = frames_of(model, tmp_path, rows, 3, directions=directions)[1]
    assert np.abs(drawn - expected).max() <= 1
    assert np.abs(drawn - w_image(model.G, middle, options, 0).astype(int)).max() > 1


def test_keyframes_take_what_they_do_not_give_from_the_options(model, tmp_path):
    options = RenderOptions(0.6, translate=(0.1, 0.2), rotate=15, truncation_cutoff=3)
    drawn = frames_of(
        model, tmp_path, [{"seed": 4}, {"seed": 5, "psi": 1, "x": 0}], 2, options=options
    )
    np.testing.assert_array_equal(drawn[0], render_image(model.G, 4, options, 0))
    other = RenderOptions(1, translate=(0, 0.2), rotate=15, truncation_cutoff=3)
    np.testing.assert_array_equal(drawn[1], render_image(model.G, 5, other, 1))  # classes in turn
    points = points_of(model, keyframes(tmp_path, {"seed": 4}, {"seed": 5, "class": 1}), options, 2)
    for i, (seed, condition) in enumerate([(4, 2), (5, 1)]):
        ws = seed_ws(model.G, seed, options, condition).numpy()
        np.testing.assert_array_equal(points.ws[i : i + 1], ws)


def test_own_w_are_keyframes(model, tmp_path):
    own = torch.cat([seed_ws(model.G, s, RenderOptions(0.5), 1) for s in (3, 8)]).numpy()
    write_w(tmp_path / "two.npz", own)
    write_w(tmp_path / "one.npy", own[1])
    rows = [{"w": "two.npz", "index": 0}, {"w": "one.npy", "angle": 20}]
    rows.append({"w": "two.npz", "index": 1})
    drawn = frames_of(model, tmp_path, rows, 3, options=RenderOptions(psi=0.1))
    np.testing.assert_array_equal(drawn[2], render_image(model.G, 8, RenderOptions(0.5), 1))
    np.testing.assert_array_equal(drawn[0], render_image(model.G, 3, RenderOptions(0.5), 1))
    turned = RenderOptions(0.5, rotate=20)
    np.testing.assert_array_equal(drawn[1], render_image(model.G, 8, turned, 1))
    for row, words in (
        ({"w": "two.npz"}, "keyframe 1: .*has 2 w; give index, from 0 to 1"),
        ({"w": "two.npz", "index": 2}, "keyframe 1: index must be from 0 to 1"),
        ({"seed": 1, "class": 7}, "keyframe 1: class_? must be"),
        ({"seed": 1, "class": "horse"}, "keyframe 1: no class 'horse'"),
        ({"seed": 1, "label": [1]}, "keyframe 1: a label must have 3 numbers"),
    ):
        with pytest.raises(ConfigError, match=words):
            frames_of(model, tmp_path, [row], 1)


def test_a_network_that_cannot_move_is_refused_with_the_keyframe(tmp_path):
    sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
    G = StyleGAN2Generator(z_dim=16, c_dim=0, w_dim=16, **sizes).eval().requires_grad_(False)
    older = Model(G, "older.pkl", TrainingLabels(0))
    with pytest.raises(ConfigError, match=r"keyframe 2: .*only StyleGAN3"):
        frames_of(older, tmp_path, [{"seed": 1}, {"seed": 2, "angle": 5}], 3)
    drawn = frames_of(older, tmp_path, [{"seed": 1}, {"seed": 2}], 2)
    np.testing.assert_array_equal(drawn[1], render_image(G, 2, RenderOptions()))


def test_random_noise_has_the_number_of_the_frame_as_its_seed(tmp_path):
    torch.manual_seed(0)
    sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
    G = StyleGAN2Generator(z_dim=16, c_dim=0, w_dim=16, **sizes).eval().requires_grad_(False)
    for parameter in G.parameters():  # a fresh network has noise strengths of 0
        parameter.add_(0.1 * torch.randn_like(parameter))
    model, options = Model(G, "noisy.pkl", TrainingLabels(0)), RenderOptions(noise_mode="random")
    rows = [{"seed": 0}, {"seed": 1}, {"seed": 0}]
    drawn = frames_of(model, tmp_path, rows, 3, options=options)
    for seed in (0, 1):
        np.testing.assert_array_equal(drawn[seed], render_image(G, seed, options))
    assert not np.array_equal(drawn[2], drawn[0])


def test_a_curve_scales_the_strength_of_its_edit(model, tmp_path, directions):
    row = {"seed": 3, "class": 0, "edits": {"age": 2.0, "smile": 1.0}}
    factors = {"age": np.array([0.0, 0.5, 1.0])}
    drawn = frames_of(model, tmp_path, [row], 3, directions=directions, factors=factors)
    for factor, image in zip((0.0, 0.5, 1.0), drawn, strict=True):
        offset = resolve_edits(directions, {"age": 2 * factor, "smile": 1.0})
        expected = render_image(model.G, 3, RenderOptions(edit=offset), 0)
        np.testing.assert_array_equal(image, expected)


# The command


@pytest.fixture
def walk(tmp_path, directions):
    """Keyframes with an edit, its directions, and a sound of 0.3 s."""
    write_directions(tmp_path / "directions.npz", directions)
    (tmp_path / "walk.csv").write_text("seed,class,angle,edit:age\n3,0,0,1\n8,dog,20,-1\n")
    with wave.open(str(tmp_path / "beat.wav"), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes((np.arange(2400) % 7 * 1000).astype("<i2").tobytes())
    return tmp_path


def count(path):
    return imageio_ffmpeg.count_frames_and_secs(str(path))


def test_the_command_writes_a_video(render, model, walk):
    given = ("--keyframes", walk / "walk.csv", "--directions", walk / "directions.npz")
    result = render("path", model.source, *given, "--w-frames", 3, "--fps", 10)
    path = walk / "out" / "path.mp4"
    assert result.stdout.strip() == f"4 frames in {path}" and count(path)[0] == 4
    first = path.read_bytes()
    render("path", model.source, *given, "--frames", 4, "--fps", 10)
    assert path.read_bytes() == first
    render("path", model.source, *given, "--w-frames", 3, "--fps", 10, "--wrap")
    assert count(path)[0] == 6
    render("path", model.source, *given, "--fps", 10, "--curve", f"age={walk / 'beat.wav'}")
    assert count(path) == (3, pytest.approx(0.3))


def test_a_json_file_gives_the_video_of_the_csv_file(render, model, walk):
    rows = [
        {"seed": 3, "class": 0, "edits": {"age": 1}},
        {"seed": 8, "class": "dog", "angle": 20, "edits": {"age": -1}},
    ]
    (walk / "walk.json").write_text(json.dumps(rows))
    files = []
    for name in ("walk.csv", "walk.json"):
        path = walk / f"{name}.mp4"
        given = ("--keyframes", walk / name, "--directions", walk / "directions.npz")
        render("path", model.source, *given, "--frames", 2, "--output", path, outdir=False)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_wrong_options_end_in_one_line(render, model, walk):
    (walk / "plain.csv").write_text("seed\n1\n")
    (walk / "other.csv").write_text("seed,edit:rage\n1,1\n")
    directions = ("--directions", walk / "directions.npz")
    beat = f"smile={walk / 'beat.wav'}"
    for keys, options, words in (
        ("walk.csv", (), "edits need directions"),
        ("other.csv", directions, "row 2: no direction 'rage' (did you mean 'age'?)"),
        ("plain.csv", directions, "no keyframe has an edit"),
        ("plain.csv", ("--curve", "age=a.csv"), "a.csv: there is no such file"),
        ("walk.csv", (*directions, "--curve", beat), "no keyframe has the edit 'smile'"),
        ("plain.csv", ("--curve", beat), "edits need directions"),
        ("plain.csv", ("--curve", "age"), "a curve must be NAME=FILE"),
        ("plain.csv", ("--fps", 0), "fps must be at least 1"),
        ("plain.csv", ("--truncation-cutoff", 99), "row 2: truncation_cutoff must be"),
        ("none.csv", (), "none.csv: there is no such file"),
    ):
        result = render("path", model.source, "--keyframes", walk / keys, *options, code=1)
        assert words in result.stderr, result.stderr
    assert not (walk / "out").exists()
    (walk / "out").mkdir()
    (walk / "out" / "path.mp4").write_bytes(b"holiday")
    result = render("path", model.source, "--keyframes", walk / "plain.csv", code=1)
    assert "is not replaced; choose another --outdir" in result.stderr


@pytest.mark.parametrize(
    "option", [("--trunc", 0.5), ("--truncation-cutoff", 0), ("--class", 1), ("--label", "1,0,0")]
)
def test_options_of_seeds_are_refused_with_w_alone(render, tmp_path, option):
    (tmp_path / "w.csv").write_text("w\nown.npz\nown.npz\n")
    result = render("path", "none.pkl", "--keyframes", tmp_path / "w.csv", *option, code=1)
    assert f"{option[0]} has no effect on w; give a keyframe with a seed" in result.stderr


def test_too_many_frames_are_refused():
    with pytest.raises(ConfigError, match="the path has 2990001 frames, at most 1000000"):
        Timing(w_frames=10_000).total(300, 0.0)


def test_two_numbers_of_frames_are_refused():
    with pytest.raises(ConfigError, match="give w_frames or frames, not both: 10 frames"):
        Timing(w_frames=10, frames=7)


def test_edits_of_the_command_are_those_of_keyframes_without_their_own(render, model, walk):
    (walk / "part.csv").write_text("seed,class,angle,edit:age\n3,0,0,1\n8,1,20,\n")
    given = ("--directions", walk / "directions.npz", "--frames", 2)
    files = []
    for name in ("walk.csv", "part.csv"):
        keyframes = ("--keyframes", walk / name, "--edit", "age=-1")
        render("path", model.source, *keyframes, *given)
        files.append((walk / "out" / "path.mp4").read_bytes())
    assert files[0] == files[1]


def test_curves_of_a_command_line(tmp_path):
    assert parse_curves(["a=b=c.wav"]) == {"a": tmp_path.__class__("b=c.wav")}
    for wrong in (["a="], ["=b"], [""], ["a=b", "a=c"]):
        with pytest.raises(ConfigError):
            parse_curves(wrong)
    assert Envelope(np.zeros(1), np.ones(1), 1.0).at(np.array([3.0])).tolist() == [1]
