"""``render mix``: the sheet, its files, and the ends at which it is the row's or column's image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sg3flow.rendering.grid import table_sheet
from sg3flow.rendering.images import load_model, png_bytes, render_image, seed_ws, w_image
from sg3flow.rendering.mix_outputs import mixed_images, sides_of
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.w_files import write_w


@pytest.fixture
def model(network_file):
    return load_model(network_file(), "cpu")


@pytest.fixture
def mix(render, tmp_path):
    """Runs ``render mix`` and gives its files by name."""

    def run(model, rows, columns, *options):
        render("mix", model.source, "--rows", rows, "--cols", columns, *options)
        return {path.stem: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    return run


def image_of(model, seed, options=None, condition=None):
    return render_image(model.G, seed, options or RenderOptions(), condition)


def mixed_ws(model, row, column, layers, options=None):
    options = options or RenderOptions()
    ws, styles = (seed_ws(model.G, seed, options, None) for seed in (row, column))
    ws[:, layers] = styles[:, layers]
    return ws


def test_a_pair_has_the_styles_of_its_column(mix, model):
    files = mix(model, "3,8", "5,1,9", "--styles", "2-4,6", "--trunc", 0.7, "--rotate", 20)
    options = RenderOptions(psi=0.7, rotate=20)
    for row in (3, 8):
        for column in (5, 1, 9):
            ws = mixed_ws(model, row, column, [2, 3, 4, 6], options)
            assert files[f"{row}-{column}"] == png_bytes(w_image(model.G, ws, options, 0))
    for seed in (3, 8, 5, 1, 9):
        assert files[f"{seed}-{seed}"] == png_bytes(image_of(model, seed, options))
    assert len(files) == 6 + 5 + 1


def test_without_styles_the_row_and_with_all_the_column(mix, model):
    none = mix(model, "3,8", "5,1", "--styles", "none")
    every = mix(model, "3,8", "5,1", "--styles", "all")
    numbers = mix(model, "3,8", "5,1", "--styles", f"0-{model.G.num_ws - 1}")
    for row in (3, 8):
        for column in (5, 1):
            name = f"{row}-{column}"
            assert none[name] == png_bytes(image_of(model, row))
            assert every[name] == numbers[name] == png_bytes(image_of(model, column))


def test_the_sheet_has_rows_and_columns_at_its_margins(mix, model):
    files = mix(model, "3", "5,1", "--styles", "0-3")
    white = np.full((16, 16, 3), 255, np.uint8)
    mixed = [
        w_image(model.G, mixed_ws(model, 3, column, [0, 1, 2, 3]), RenderOptions(), 0)
        for column in (5, 1)
    ]
    images = [white, image_of(model, 5), image_of(model, 1), image_of(model, 3), *mixed]
    expected = table_sheet(images, ["", "seed 3"], ["", "seed 5", "seed 1"], 16)
    assert files["grid"] == png_bytes(expected)


def test_styles_are_the_public_default(mix, model):
    assert mix(model, "3", "5") == mix(model, "3", "5", "--styles", "0-6")


def test_a_seed_in_rows_and_columns_has_one_class(mix, network_file):
    model = load_model(network_file(3), "cpu")
    files = mix(model, "4,2", "2,7", "--styles", "0-3")
    for seed, condition in ((4, 0), (2, 1), (7, 2)):
        assert files[f"{seed}-{seed}"] == png_bytes(image_of(model, seed, None, condition))
    files = mix(model, "4,2", "2,7", "--class", 2)
    for seed in (4, 2, 7):
        assert files[f"{seed}-{seed}"] == png_bytes(image_of(model, seed, None, 2))


def test_own_w_in_rows_or_columns(mix, model, tmp_path):
    ws = torch.cat([seed_ws(model.G, s, RenderOptions(0.5), None) for s in (5, 1)]).numpy()
    write_w(tmp_path / "own.npz", ws)
    files = mix(model, "3", tmp_path / "own.npz", "--styles", "all", "--trunc", 0.5)
    assert files["3-c1"] == files["c1-c1"] == png_bytes(image_of(model, 1, RenderOptions(0.5)))
    assert files["3-3"] == png_bytes(image_of(model, 3, RenderOptions(0.5)))
    both = mix(model, tmp_path / "own.npz", tmp_path / "own.npz", "--styles", "none")
    assert both["r0-c1"] == both["r0-r0"] == png_bytes(image_of(model, 5, RenderOptions(0.5)))


def test_mixing_does_not_depend_on_the_order_of_drawing(mix, model):
    alone = mix(model, "8", "1", "--styles", "0-3")["8-1"]
    assert mix(model, "3,8", "5,1", "--styles", "0-3")["8-1"] == alone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rows", "3"), "give --cols"),
        (("--rows", "3", "--cols", "x"), "such as 0,3-7,2"),
        (("--rows", "3", "--cols", "1", "--styles", "0-99"), "the layers of this network"),
        (("--rows", "3", "--cols", "1", "--styles", ""), "all or none, not ''"),
        (("--rows", "0-999", "--cols", "0-999"), "more than 100000 images"),
        (("--rows", "0-199", "--cols", "0-199"), "is too large"),
        (("--rows", "none.npz", "--cols", "1"), "none.npz; it should be a file of w"),
        (("--rows", "a.npz", "--cols", "b.npy", "--trunc", "0.5"), "--trunc has no effect on w"),
        (("--rows", "a.npz", "--cols", "b.npy", "--class", "0"), "--class has no effect on w"),
    ],
)
def test_wrong_options_end_in_one_line(render, model, tmp_path, options, words):
    result = render("mix", model.source, *options, code=1)
    assert words in result.stderr
    assert not list(tmp_path.glob("out/*"))


def test_a_foreign_file_is_not_replaced(render, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "3-1.png").write_bytes(b"holiday")
    result = render("mix", model.source, "--rows", 3, "--cols", "5,1", code=1)
    assert "is not replaced" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["3-1.png"]


def test_an_edit_moves_rows_and_columns(model):
    edit = np.zeros((model.G.num_ws, 16), np.float32)
    edit[3] = 0.5
    options = RenderOptions(edit=edit)
    rows, columns = sides_of(model, [3], [5], options, None)
    (image,) = mixed_images(model, rows, columns, (3,), options)
    ws = mixed_ws(model, 3, 5, [3], options)
    assert np.array_equal(image, w_image(model.G, ws, replace(options, edit=None), 0))
    plain = seed_ws(model.G, 5, RenderOptions(), None).numpy()
    moved, _ = sides_of(model, plain, [3], options, None)
    np.testing.assert_array_equal(moved.ws, columns.ws)
