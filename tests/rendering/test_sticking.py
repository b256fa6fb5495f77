"""``render sticking``: what moves draws slanted lines, what stays horizontal ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.rendering.images import load_model, seed_ws, w_image
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.sticking import column_strip


def frames_of(speed, count=12, side=16):
    """A texture of rows that moves down by ``speed`` pixels per frame."""
    rows = np.random.RandomState(0).randint(0, 256, (side, 1, 3)).astype(np.uint8)
    return [
        np.broadcast_to(np.roll(rows, i * speed, axis=0), (side, side, 3)) for i in range(count)
    ]


def test_a_texture_that_stays_draws_horizontal_lines():
    _, strip = column_strip(iter(frames_of(0)), 3)
    assert strip.shape == (16, 12, 3)
    assert (strip == strip[:, :1]).all()


def test_a_texture_that_moves_draws_slanted_lines():
    _, strip = column_strip(iter(frames_of(1)), 3)
    assert not (strip[:, 0] == strip[:, 1]).all()
    for frame in range(11):
        np.testing.assert_array_equal(np.roll(strip[:, frame], 1, axis=0), strip[:, frame + 1])


def test_it_is_the_column_of_each_frame(render, network_file, tmp_path):
    model = load_model(network_file(), "cpu")
    options = ["--seeds", "3,8", "--frames", 5, "--column", 0.25, "--trunc", 0.7]
    render("sticking", model.source, *options)
    with Image.open(tmp_path / "out" / "sticking.png") as picture:
        sheet = np.asarray(picture)
    side, factor = model.G.img_resolution, 256 // model.G.img_resolution
    assert sheet.shape == (256, (side + 5) * factor + 8, 3)
    psi = RenderOptions(psi=0.7)
    ends = [seed_ws(model.G, seed, psi, None) for seed in (3, 8)]
    column = side // 4
    strip = sheet[:, side * factor + 8 :]
    for frame, ws in ((0, ends[0]), (4, ends[1]), (2, torch.lerp(*ends, 0.5))):
        image = w_image(model.G, ws, psi, frame)
        drawn = strip[::factor, frame * factor].astype(int)
        assert np.abs(drawn - image[:, column]).max() <= 1, frame
    marked = sheet[:, column * factor + factor // 2]
    assert (marked == (255, 64, 64)).all()
    first = np.delete(sheet[::factor, : side * factor : factor], column, axis=1)
    image = np.delete(w_image(model.G, ends[0], psi, 0), column, axis=1)
    np.testing.assert_array_equal(first, image)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "3"], "needs two seeds"),
        (["--column", "1.5"], "column must be at most 1"),
        (["--frames", "1"], "frames must be at least 2"),
        (["--frames", "90000"], "too large"),
    ],
)
def test_what_gives_no_strip(render, network_file, options, words):
    assert words in render("sticking", network_file(), *options, code=1).stderr
