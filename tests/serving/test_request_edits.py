"""Edits in requests: names and strengths, and the images of a predictor with directions."""

import math

import numpy as np
import pytest

from sg3flow.checkpoints.loading import DIRECTIONS_NAME, load_networks
from sg3flow.errors import CheckpointError, ConfigError, DataError
from sg3flow.rendering.edits import Directions, resolve_edits, write_directions
from sg3flow.rendering.images import png_bytes, render_image, seed_ws, synthesize
from sg3flow.rendering.seeds import RenderOptions, seed_latent
from sg3flow.serving.pyfunc_model import Predictor
from sg3flow.serving.request_schema import Limits, Request, Shapes, read_requests

NAMES = ("pca0", "pca1")


def directions_of(num_ws, w_dim):
    vectors = np.zeros((2, num_ws, w_dim), np.float32)
    vectors[0, 1:, 0] = vectors[1, :, 1] = 1
    ones = np.ones(2)
    return Directions(vectors, NAMES, ones, ones, "pca", tuple(range(num_ws)), "")


def read(row, names=NAMES):
    shapes = Shapes(0, 64, 3, 4, 2, 3, directions=names)
    return read_requests([row], {}, shapes, Limits())[0]


def test_edits_become_strengths_by_name():
    assert read({"seed": 1, "edits": {"pca1": 2, "pca0": -0.5}}).edits == {"pca1": 2, "pca0": -0.5}
    assert read({"seed": 1, "edits": {"pca1": np.float64(2)}}).edits == {"pca1": 2}
    assert read({"seed": 1, "edits": {}}).edits == {}
    assert read({"seed": 1, "edits": None}) == read({"seed": 1}) == Request(1)
    assert read({"w": [0, 0], "edits": {"pca0": 1}}).edits == {"pca0": 1}


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"pca": 1}, r"row 0: no direction 'pca' \(did you mean 'pca\d'\?\); known: pca0, pca1"),
        ({"x\nerror": 1}, r"no direction 'x\\nerror'"),
        ({"pca0": 1000.5}, "edits.pca0 must be a number from -1000 to 1000, not 1000.5"),
        ({"pca0": math.nan}, "not nan"),
        ({"pca0": "2"}, "not '2'"),
        ({"pca0": True}, "not True"),
        ({"pca0": None}, "not None"),
        ({"pca0": [1]}, "not a list of 1"),
        ({"pca0": 10**400}, "not a huge number"),
        ([1], r"edits must be an object of strengths such as \{'pca0': 1.5\}, not a list of 1"),
        ("pca0=1", "not 'pca0=1'"),
        ({f"d{i}": 1 for i in range(65)}, "edits must be at most 64, not 65"),
    ],
)
def test_wrong_edits_are_refused_in_words(edits, words):
    with pytest.raises(ConfigError, match=words) as error:
        read({"seed": 1, "edits": edits})
    assert str(error.value).startswith("row 0")


@pytest.mark.parametrize("edits", [{"pca0": 1}, {}, "x"])
def test_a_model_without_directions_says_so(edits):
    with pytest.raises(ConfigError, match="row 0: this model was registered without directions"):
        read({"seed": 1, "edits": edits}, names=())


@pytest.fixture
def model(make_package):
    """A package with directions: its predictor, its network, and its folder."""
    package, G = make_package()
    path = package.weights.with_name(DIRECTIONS_NAME)
    write_directions(path, directions_of(G.num_ws, G.w_dim))
    return Predictor.load(package.weights, package.description, path), G, package.weights.parent


def test_a_predictor_edits_seeds_z_and_w_alike(model):
    predictor, G, _ = model
    assert predictor.shapes.directions == NAMES
    edits = {"pca0": 3.0, "pca1": -1.0}
    edit = resolve_edits(predictor.directions, edits)
    expected = png_bytes(render_image(G, 5, RenderOptions(psi=0.7, edit=edit)))
    options = RenderOptions(psi=0.7)
    assert predictor.predict(Request(5, options, edits=edits)) == expected
    assert predictor.predict(Request(5, options)) == predictor.predict(
        Request(5, options, edits={"pca0": 0})
    )
    assert predictor.predict(Request(5, options)) != expected
    z = tuple(np.float32(seed_latent(5, G.z_dim)[0]).tolist())
    assert predictor.predict(Request(None, options, z=z, edits=edits)) == expected
    ws = seed_ws(G, 5, options, None)
    rows = tuple(map(tuple, ws[0].tolist()))
    assert predictor.predict(Request(None, ws=rows, edits=edits)) == expected
    moved = seed_ws(G, 5, RenderOptions(psi=0.7, edit=edit), None)
    assert expected == png_bytes(synthesize(G, moved, "const", 0))


def test_an_edit_without_a_finite_picture_is_the_clients_fault(model):
    predictor = model[0]
    predictor.directions.vectors[0] = 3e38
    with pytest.raises(ConfigError, match="not finite, from this edit"):
        predictor.predict(Request(5, edits={"pca0": 1.0}))


def test_a_predictor_without_directions_refuses_edits(make_package):
    package, _ = make_package()
    predictor = Predictor.load(package.weights, package.description)
    assert predictor.shapes.directions == ()
    with pytest.raises(ConfigError, match="registered without directions"):
        predictor.predict(Request(5, edits={"pca0": 1.0}))


def test_damaged_and_foreign_directions_are_refused_when_the_model_loads(model):
    _, G, folder = model
    files = (folder / "generator.safetensors", folder / "generator.json", folder / DIRECTIONS_NAME)
    write_directions(files[2], directions_of(G.num_ws, G.w_dim + 1))
    with pytest.raises(CheckpointError, match="for a generator of other sizes"):
        Predictor.load(*files)
    files[2].write_bytes(b"PK")
    with pytest.raises(DataError, match="is not a directions file"):
        Predictor.load(*files)


def test_a_package_names_its_directions(model):
    folder = model[2]
    (folder.parent / "version").mkdir()
    folder.rename(folder.parent / "version" / "artifacts")
    networks = load_networks(folder.parent / "version")
    assert networks.directions_file == folder.parent / "version" / "artifacts" / DIRECTIONS_NAME
    networks.directions_file.unlink()
    assert load_networks(folder.parent / "version").directions_file is None
