"""Edits in the render commands and the Python API: the same images, and what wrong ones say."""

import logging
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sg3flow
from sg3flow.checkpoints import save_snapshot
from sg3flow.checkpoints.loading import weights_digest
from sg3flow.cli.stage_commands import render_app
from sg3flow.errors import ConfigError, DataError
from sg3flow.networks import Discriminator
from sg3flow.rendering.edits import Directions, write_directions

SIZES = {"img_resolution": 16, "channel_base": 512, "channel_max": 16}
EDIT = ["--edit", "a=1.5", "--edit", "b=-2"]
EDITS = {"a": 1.5, "b": -2.0}


def directions_of(num_ws, w_dim, network=""):
    vectors = np.zeros((2, num_ws, w_dim), np.float32)
    vectors[0, 1:4, 0] = vectors[1, :, 1] = 1
    ones = np.ones(2)
    return Directions(vectors, ("a", "b"), ones, ones, "own", tuple(range(num_ws)), network)


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_generator):
    """A network, its directions, and it loaded."""
    folder = tmp_path_factory.mktemp("edits")
    G, D = make_generator(), Discriminator(c_dim=0, img_channels=3, **SIZES)
    path = folder / "network.pkl"
    save_snapshot(
        path, G=G, D=D, G_ema=G, augment_p=0.0, training_set={"label_dim": 0}, progress={"nimg": 0}
    )
    own = folder / "directions.npz"
    write_directions(own, directions_of(G.num_ws, G.w_dim, weights_digest(G)))
    return path, own, sg3flow.load(path, device="cpu")


def pixels(image):
    return np.asarray(image)


def run(*arguments):
    return CliRunner().invoke(render_app, [*map(str, arguments), "--device", "cpu"])


def test_images_of_the_command_equal_those_of_the_api(made, tmp_path):
    path, own, G = made
    found = run(
        *("images", "--network", path, "--seeds", "3", "--trunc", 0.7, "--outdir", tmp_path),
        *("--directions", own, *EDIT),
    )
    assert found.exit_code == 0, found.output
    image = pixels(G.image(3, psi=0.7, edits=EDITS, directions=own))
    np.testing.assert_array_equal(pixels(Image.open(tmp_path / "seed0003.png")), image)
    assert (image != pixels(G.image(3, psi=0.7))).any()
    np.testing.assert_array_equal(
        pixels(G.images([3], psi=0.7, edits=EDITS, directions=own)[0]), image
    )
    assert "warning" not in found.output


def test_an_edit_moves_w_after_truncation_in_every_method(made):
    _, own, G = made
    w = G.w(3, psi=0.7)
    moved = w.copy()
    moved[1:4, 0] += 1.5
    moved[:, 1] -= 2
    np.testing.assert_array_equal(G.w(3, psi=0.7, edits=EDITS, directions=own), moved)
    drawn = pixels(G.from_w(w, edits=EDITS, directions=str(own)))
    np.testing.assert_array_equal(drawn, pixels(G.from_w(moved)))
    np.testing.assert_array_equal(drawn, pixels(G.image(3, psi=0.7, edits=EDITS, directions=own)))


def test_strength_0_and_no_edits_are_the_plain_image(made):
    _, own, G = made
    plain = pixels(G.image(1))
    for edits in (None, {}, {"a": 0}):
        np.testing.assert_array_equal(pixels(G.image(1, edits=edits, directions=own)), plain)


@pytest.mark.medium
def test_grid_sweep_own_w_and_video_are_edited(made, tmp_path):
    path, own, G = made
    np.savez(tmp_path / "w.npz", w=G.w(3)[None])
    common = ("--network", path, "--outdir")
    few = ("--w-frames", 2, "--fps", 2)
    for name, arguments, file in (
        ("grid", ("--seeds", "0,1"), "grid.png"),
        ("sweep", ("--seeds", "0", "--truncs", "0,1"), "truncation.png"),
        ("grid", ("--projected-w", tmp_path / "w.npz"), "grid.png"),
        ("images", ("--projected-w", tmp_path / "w.npz"), "proj00.png"),
        ("video", ("--seeds", "0,1", *few), "interpolation.mp4"),
        ("video", ("--projected-w", tmp_path / "w.npz", *few), "interpolation.mp4"),
    ):
        for folder, more in (("plain", ()), ("edited", ("--directions", own, *EDIT))):
            found = run(name, *common, tmp_path / folder, *arguments, *more)
            assert found.exit_code == 0, found.output
        contents = [(tmp_path / each / file).read_bytes() for each in ("plain", "edited")]
        assert contents[0] != contents[1], name
    edited = pixels(Image.open(tmp_path / "edited" / "proj00.png"))
    np.testing.assert_array_equal(edited, pixels(G.image(3, edits=EDITS, directions=own)))
    G.video(tmp_path / "api.mp4", [0, 1], w_frames=2, fps=2, edits=EDITS, directions=own)
    G.video(tmp_path / "none.mp4", [0, 1], w_frames=2, fps=2)
    assert (tmp_path / "api.mp4").read_bytes() != (tmp_path / "none.mp4").read_bytes()
    sheets = [G.grid([0, 1], edits=each, directions=own) for each in (None, EDITS)]
    assert (pixels(sheets[0]) != pixels(sheets[1])).any()


def test_directions_of_another_network_warn_and_of_other_sizes_are_refused(made, tmp_path, caplog):
    _, _, G = made
    other = directions_of(G.num_ws, G.w_dim, "12" * 32)
    with caplog.at_level(logging.WARNING):
        G.image(0, edits={"a": 1}, directions=other)
    assert "the directions are of another network (weights 121212121212…) than" in caplog.text
    with pytest.raises(ConfigError, match=r"for a network with w of \[5, 8\], .* make its own"):
        G.image(0, edits={"a": 1}, directions=directions_of(5, 8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--edit", "a=1"], "edits need directions, and .* has none; give a file"),
        (["--directions", "OWN"], "--directions has no effect without an edit; add --edit a=1, fo"),
        (["--directions", "OWN", "--edit", "c=1"], "no direction 'c'"),
        (["--directions", "OWN", "--edit", "a"], "an edit must be NAME=STRENGTH"),
        (["--directions", "OWN", "--edit", "a=1e9"], "the strength of a must be a number"),
        (["--directions", "none.npz", "--edit", "a=1"], r"no file none\.npz"),
    ],
)
def test_wrong_options_get_one_line_and_write_nothing(made, tmp_path, arguments, words):
    path, own, _ = made
    given = [str(own) if each == "OWN" else each for each in arguments]
    found = run("images", "--network", path, "--seeds", 0, "--outdir", tmp_path / "out", *given)
    assert found.exit_code == 1
    assert len(found.stderr.splitlines()) == 1
    assert re.search(words, found.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("edits", "given", "kind", "words"),
    [
        (["a"], "OWN", ConfigError, r"edits must be \{name: strength\}, not a list of 1"),
        ("a=1", "OWN", ConfigError, "edits must be"),
        (
            {"a": 1},
            7,
            ConfigError,
            "directions must be a path or the content of such a file, not 7",
        ),
        ({"a": 1}, "gone.npz", DataError, r"no file gone\.npz"),
        ({"aa": 1}, "OWN", ConfigError, r"no direction 'aa' \(did you mean 'a'\?\)"),
    ],
)
def test_wrong_arguments_get_a_sentence(made, edits, given, kind, words):
    _, own, G = made
    with pytest.raises(kind, match=words):
        G.image(0, edits=edits, directions=own if given == "OWN" else given)
