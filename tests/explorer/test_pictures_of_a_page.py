"""Pictures, files and commands of the explorer: the bytes of ``render images``; bad input."""

import io
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.rendering.loaded_generator import load


def rendered(command: str, folder) -> bytes:
    """The one picture that a command of the page writes."""
    words = shlex.split(command)
    assert words[:3] == ["sg3flow", "render", "images"] and words[-2:] == ["--outdir", "pictures"]
    done = CliRunner().invoke(app, [*words[1:-1], str(folder / "pictures")])
    assert done.exit_code == 0, done.output
    (path,) = (folder / "pictures").iterdir()
    return path.read_bytes()


PICTURES = [
    {"seed": 5, "class": 1},
    {"seed": 4294967295, "class": 0, "psi": 0.7},
    {"seed": 1, "class": 2, "psi": -0.3, "translate_x": -0.125, "rotate": 33.3},
    {"seed": 1, "label": [0.5, 0.25, -1], "translate_y": 0.1},
    {"seed": 3, "class": 1, "psi": 0.5, "mix": {"seed": 9, "layers": "2-4,7"}, "rotate": -10},
    {"seed": 3, "class": 1, "directions": "sefa:0-15", "edits": {"sefa0": 2.5, "sefa3": -1}},
    {
        "seed": 3,
        "class": 1,
        "mix": {"seed": 2, "layers": "0"},
        "directions": "sefa:0-15",
        "edits": {"sefa1": 1},
    },
]


@pytest.mark.parametrize("picture", PICTURES, ids=range(len(PICTURES)))
def test_the_command_of_a_picture_writes_the_same_bytes(page, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = page.post("/api/command", {"picture": picture}).json()
    w = page.post("/api/w", {"picture": picture}).content
    if "picture.npz" in found["command"]:
        assert "picture.npz" in found["note"]
        (tmp_path / "picture.npz").write_bytes(w)
    if "directions.npz" in found["command"]:
        saved = page.post("/api/directions.npz", {"directions": picture["directions"]})
        (tmp_path / "directions.npz").write_bytes(saved.content)
    png = page.picture(**picture)
    assert png == rendered(found["command"], tmp_path)
    with np.load(io.BytesIO(w)) as content:
        ws = content["w"]
    placed = {k: picture.get(k, 0.0) for k in ("translate_x", "translate_y", "rotate")}
    shift = (placed["translate_x"], placed["translate_y"])
    drawn = load(str(page.explorer.network), "cpu").from_w(
        ws, translate=shift, rotate=placed["rotate"]
    )
    assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(io.BytesIO(png))))


def test_noise_of_stylegan2_is_that_of_render(other_page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = [{"seed": 3, "noise_mode": mode} for mode in ("const", "random", "none")]
    drawn = [other_page.picture(**each) for each in pictures]
    assert len(set(drawn)) == 3
    for number, (picture, png) in enumerate(zip(pictures, drawn, strict=True)):
        command = other_page.post("/api/command", {"picture": picture}).json()["command"]
        (tmp_path / str(number)).mkdir()
        assert rendered(command, tmp_path / str(number)) == png
    mixed = {"seed": 3, "noise_mode": "random", "mix": {"seed": 1, "layers": "all"}}
    (tmp_path / "picture.npz").write_bytes(other_page.post("/api/w", {"picture": mixed}).content)
    command = other_page.post("/api/command", {"picture": mixed}).json()["command"]
    assert rendered(command, tmp_path / "0" / "..") == other_page.picture(**mixed)


def test_no_mixed_layer_draws_the_seed_and_all_draw_the_other(page):
    one, two = page.picture(seed=1, **{"class": 0}), page.picture(seed=2, **{"class": 0})
    mix = {"seed": 2, "layers": "none"}
    assert page.picture(seed=1, **{"class": 0}, mix=mix) == one != two
    mix["layers"] = "all"
    assert page.picture(seed=1, **{"class": 0}, mix=mix) == two


def test_an_edit_of_the_first_direction_changes_more_than_one_of_the_last(page):
    def change(name: str) -> float:
        edit = {"directions": "sefa:0-15", "edits": {name: 2}}
        pixels = [
            np.asarray(Image.open(io.BytesIO(png)), np.float64)
            for png in (
                page.picture(seed=1, **{"class": 0}),
                page.picture(seed=1, **{"class": 0}, **edit),
            )
        ]
        return float(np.abs(pixels[0] - pixels[1]).mean())

    assert change("sefa0") > change("sefa9") > 0


def test_small_pictures_of_the_wall(page):
    content = {"picture": {"seed": 1, "class": 0}, "side": 8, "slot": "wall 1"}
    small = page.post("/api/picture", content).content
    assert Image.open(io.BytesIO(small)).size == (8, 8)
    content["side"] = 500  # never enlarged
    assert page.post("/api/picture", content).content == page.picture(seed=1, **{"class": 0})


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ({"seed": -1, "class": 0}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"seed": 1.5, "class": 0}, "seed must be a whole number"),
        ({"seed": True, "class": 0}, "seed must be a whole number"),
        ({"seed": "<b>", "class": 0}, "seed must be a whole number"),
        ({"seed": 1}, "this network is conditional; give a class from 0 to 2"),
        ({"seed": 1, "class": 3}, "class must be a whole number from 0 to 2, not 3"),
        ({"seed": 1, "class": 0, "label": [1, 0, 0]}, "class or label, not both"),
        ({"seed": 1, "label": [1, 0]}, "a label must have 3 numbers, not 2"),
        ({"seed": 1, "label": "x"}, "label must be a list of numbers"),
        ({"seed": 1, "label": [1e39, 0, 0]}, "a label must be finite numbers"),
        ({"seed": 1, "class": 0, "psi": 3}, "psi must be a number from -2 to 2, not 3"),
        ({"seed": 1, "class": 0, "psi": "1"}, "psi must be a number"),
        ({"seed": 1, "class": 0, "translate_x": 1e9}, "translate must be a number from -1000"),
        ({"seed": 1, "class": 0, "rotate": [1]}, "rotate must be a number"),
        ({"seed": 1, "class": 0, "noise_mode": "loud"}, "noise mode must be one of"),
        ({"seed": 1, "clas": 0}, "a picture has no 'clas' (did you mean 'class'?)"),
        ({"w": "w99"}, "there is no stored w 'w99' any more; project the photo again"),
        ({"w": "w1", "psi": 1}, "psi has no effect on a stored w"),
        ({"w": 7}, "w must be a text"),
        ({"seed": 1, "class": 0, "mix": 3}, "mix must be an object"),
        ({"seed": 1, "class": 0, "mix": {"seed": 1, "layers": "5-99"}}, "layers must be from 0"),
        ({"seed": 1, "class": 0, "mix": {"layers": "1"}}, "seed must be a whole number"),
        ({"seed": 1, "class": 0, "edits": {"x": "y"}}, "edit 'x' must be a number from -1000"),
        ({"seed": 1, "class": 0, "edits": {"x": 1}}, "no set of directions ''"),
        (
            {"seed": 1, "class": 0, "directions": "sefa:0-15", "edits": {"smile": 1}},
            "no direction 'smile'",
        ),
    ],
)
def test_a_hostile_picture_gets_a_sentence(page, picture, words):
    assert words in page.refused(**picture)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "the request must be an object"),
        (b'{"picture": NaN}', "NaN is not a JSON number"),
        (b'{"picture": {"seed": ' + b"9" * 5000 + b"}}", "not valid JSON"),
        (b'{"picture": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"picture": {"seed": 1, "class": 0}, "side": -1}', "side must be a whole number"),
        (b'{"pictures": 1}', "the request has no 'pictures' (did you mean 'picture'?)"),
        (b'{"picture": 5}', "a picture must be an object"),
    ],
)
def test_a_hostile_body_gets_a_sentence(page, body, words):
    answer = page.post("/api/picture", body, content_type="application/json")
    assert answer.status == 400 and words in answer.json()["message"]


def test_other_types_long_bodies_and_unknown_addresses_are_refused(page):
    assert page.post("/api/picture", b"{}", content_type="text/plain").status == 415
    long = page.post("/api/picture", b" " * (2 << 20), content_type="application/json")
    assert long.status == 413 and "longer than 1 MiB" in long.json()["message"]
    for path in ("/api/nothing", "/../pyproject.toml", "/page_files.py"):
        answer = page.get(path)
        assert answer.status == 404 and "the explorer has no GET" in answer.json()["message"]
    assert page.get("/api/picture").status == 405
    assert page.get("/health").status == 200


def test_a_network_that_cannot_move_says_so(other_page):
    facts = other_page.get("/api/model").json()
    assert not facts["can_move"] and facts["has_noise"] and facts["label_dim"] == 0
    assert "cannot translate or rotate" in other_page.refused(seed=1, rotate=5)


def test_a_network_without_classes_says_so(other_page, vector_page):
    for page, words in (
        (other_page, "this network is unconditional; do not give a class"),
        (vector_page, "labels that are vectors, not classes; give a label of 2 numbers"),
    ):
        assert words in page.refused(seed=1, **{"class": 9})
        assert words in page.refused(seed=1, **{"class": 0})


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/w", {"picture": {"seed": 1, "class": 0}}),
        ("/api/directions", {"directions": "sefa:0-15"}),
        ("/api/directions.npz", {"directions": "sefa:0-15"}),
        ("/api/picture", {"picture": {"seed": 1, "class": 0}}),
    ],
)
def test_two_pages_get_their_files_at_once(page, path, content):
    gate = threading.Event()
    page.explorer.drawing.submit("held", 0, gate.wait)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(page.post, path, content) for _ in range(2)]
        while len(page.explorer.drawing._waiting) < 2 and not any(each.done() for each in asked):
            pass
        gate.set()
        assert [each.result().status for each in asked] == [200, 200]
