"""Mixing and paths of the Python API: the images of the commands, and what is refused."""

import numpy as np
import pytest
import torch

import sg3flow
from sg3flow.errors import ConfigError, DataError, Sg3flowError
from sg3flow.rendering.edits import Directions
from sg3flow.rendering.images import png_bytes


@pytest.fixture
def G(network_file):
    return sg3flow.load(network_file(3), device="cpu")


@pytest.fixture
def directions(G):
    vectors = np.random.RandomState(1).randn(1, G.num_ws, 16).astype(np.float32)
    layers = tuple(range(G.num_ws))
    return Directions(vectors, ("age",), np.ones(1), np.ones(1), "pca", layers, "")


def png_of(image):
    return png_bytes(np.asarray(image))


def test_mixing_equals_the_command(G, render, tmp_path):
    options = ("--rows", "3,8", "--cols", "5,1", "--styles", "2-5", "--trunc", "0.7")
    render("mix", G.source, *options, "--rotate", 20, "--class", 1)
    images = G.mix([3, 8], [5, 1], "2-5", psi=0.7, rotate=20, class_="dog")
    for row, line in zip((3, 8), images, strict=True):
        for column, image in zip((5, 1), line, strict=True):
            assert png_of(image) == (tmp_path / "out" / f"{row}-{column}.png").read_bytes()
    numbers = G.mix(range(3, 4), np.array([5]), range(2, 6), psi=0.7, rotate=20, class_="dog")
    assert png_of(numbers[0][0]) == png_of(images[0][0])


def test_mixing_of_own_w(G, directions):
    w = np.stack([G.w(3, class_=0), G.w(8, class_=2)])
    (line,) = G.mix([5], w, "all")
    assert [png_of(image) for image in line] == [png_of(G.from_w(each)) for each in w]
    none = G.mix(torch.from_numpy(w), [5], "none")
    assert [png_of(line[0]) for line in none] == [png_of(G.from_w(each)) for each in w]
    edit = {"edits": {"age": 0.5}, "directions": directions}
    edited = G.mix(w, [5], (), **edit)
    assert [png_of(line[0]) for line in edited] == [png_of(G.from_w(each, **edit)) for each in w]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": "0-3"},
        {"rows": []},
        {"rows": None},
        {"columns": [-1]},
        {"columns": np.zeros((2, 3))},
        {"columns": np.full((2, 16, 16), np.nan)},
        {"layers": "9-1"},
        {"layers": 4},
        {"layers": [99]},
        {"layers": [1.5]},
        {"psi": 3},
        {"class_": "horse"},
    ],
)
def test_wrong_mixing(G, wrong):
    with pytest.raises(ConfigError):
        G.mix(**({"rows": [0], "columns": [1]} | wrong))


@pytest.mark.parametrize(
    "unused", [{"psi": 0.5}, {"truncation_cutoff": 3}, {"class_": 1}, {"label": [1, 0, 0]}]
)
def test_arguments_of_seeds_are_refused_with_w_alone(G, tmp_path, unused):
    w, name = G.w(3, class_=0), next(iter(unused))
    with pytest.raises(ConfigError, match=f"{name} has no effect on w"):
        G.mix(w, w, **unused)
    np.save(tmp_path / "w.npy", w)
    with pytest.raises(ConfigError, match=f"{name} has no effect on w"):
        G.path(tmp_path / "a.mp4", [{"w": str(tmp_path / "w.npy")}], **unused)
    assert G.mix(w, [5], **unused)  # the seed takes it


@pytest.mark.parametrize(
    "values", [np.ones((16, 16), complex), np.ones((16, 16), bool), np.full((16, 16), "1"),
               torch.ones(16, 16, dtype=torch.complex64), np.zeros((16, 16), "M8[s]")]
)  # fmt: skip
def test_w_that_are_no_real_numbers_are_refused(G, values):
    for draw in (G.from_w, lambda w: G.mix(w, [1])):
        with pytest.raises(ConfigError, match="an array of numbers"):
            draw(values)


def test_w_of_other_types_of_numbers(G):
    numbers = np.arange(16).repeat(16).reshape(16, 16)
    expected = png_of(G.from_w(numbers.astype(np.float32)))
    for same in (numbers, numbers.tolist(), torch.from_numpy(numbers).bfloat16()):
        assert png_of(G.from_w(same)) == expected


def test_a_path_equals_the_command(G, render, tmp_path):
    (tmp_path / "walk.csv").write_text("seed,class,psi,angle\n3,dog,0.5,0\n8,0,,20\n")
    render("path", G.source, "--keyframes", tmp_path / "walk.csv", "--frames", 3, "--trunc", 0.7)
    expected = (tmp_path / "out" / "path.mp4").read_bytes()
    rows = [
        {"seed": 3, "class": 1, "psi": 0.5},
        {"seed": 8, "class": "cat", "angle": 20},
    ]
    for keyframes in (rows, tmp_path / "walk.csv", str(tmp_path / "walk.csv")):
        path = G.path(tmp_path / "own.mp4", keyframes, frames=3, psi=0.7)
        assert path == tmp_path / "own.mp4" and path.read_bytes() == expected


def test_edits_and_curves_of_a_path(G, directions, tmp_path):
    (tmp_path / "curve.csv").write_text("time,value\n0,0\n1,1\n")
    given = {"fps": 2, "class_": 0, "directions": directions}
    curves = {"curves": {"age": tmp_path / "curve.csv"}, **given}
    paths = [
        G.path(tmp_path / "a.mp4", [{"seed": 3, "edits": {"age": 2}}], **curves),
        G.path(tmp_path / "b.mp4", [{"seed": 3}], edits={"age": 2}, **curves),
        G.path(tmp_path / "c.mp4", [{"seed": 3, "edits": {"age": 2}}], frames=2, **given),
    ]
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "a.gif"},
        {"keyframes": []},
        {"keyframes": [{"sede": 1}]},
        {"keyframes": "none.csv"},
        {"keyframes": 3},
        {"frames": -1},
        {"w_frames": 1.5},
        {"fps": 0},
        {"edits": {"age": 1}},
        {"edits": [1]},
        {"edits": {"age": "x"}},
        {"curves": {"age": "none.csv"}},
        {"curves": {"age": 5}},
        {"curves": ["age=none.csv"]},
        {"wrap": "no"},
        {"psi": 3},
    ],
)
def test_a_wrong_path(G, tmp_path, wrong):
    given = {"path": tmp_path / "a.mp4", "keyframes": [{"seed": 1}], "frames": 1} | wrong
    with pytest.raises(Sg3flowError):
        G.path(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_path_replaces_no_foreign_file(G, tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"a film")
    with pytest.raises(DataError, match="is not replaced"):
        G.path(tmp_path / "holiday.mp4", [{"seed": 1}])
    with pytest.raises(DataError, match="cannot write"):
        G.path(tmp_path / "holiday.mp4" / "a.mp4", [{"seed": 1}], frames=1)
