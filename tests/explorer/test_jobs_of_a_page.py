"""Films and projections of a page: their files, their commands, stops and bad input."""

import io
import shlex
import time
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.commands import app

BYTES = "application/octet-stream"


def start_projection(page, photo: bytes, **words):
    return page.post(f"/api/projection?{urlencode(words)}", photo, content_type=BYTES)


def test_a_film_has_the_bytes_of_its_command(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = [
        {"seed": 1, "class": 0, "psi": 0.7, "rotate": 10},
        {"seed": 2, "class": 1, "translate_x": -0.25, "mix": {"seed": 3, "layers": "0-4"}},
    ]
    answer = page.post("/api/video", {"pictures": pictures, "frames": 2, "fps": 10})
    assert answer.status == 202
    job = page.ended(answer.json())
    assert (job["state"], job["done"], job["total"]) == ("done", 4, 4), job
    for name in job["files"]:
        (tmp_path / name).write_bytes(page.get(f"/api/jobs/{job['job']}/{name}").content)
    words = shlex.split(job["command"])
    assert words[:3] == ["sg3flow", "render", "path"] and words[-2:] == ["--output", "film.mp4"]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    film = page.get(f"/api/jobs/{job['job']}/film.mp4")
    assert film.headers["content-type"] == "video/mp4"
    assert film.content == (tmp_path / "film.mp4").read_bytes()


def test_names_of_jobs_and_w_are_not_those_of_another_explorer(page, other_page):
    """A page or a link that outlives an explorer must not get the result of another one."""
    w = np.zeros((1, page.explorer.model.G.num_ws, 16), np.float32)
    names = [each.explorer.renderer.store(w) for each in (page, page, other_page, other_page)]
    assert len({name.partition("-")[2] for name in names}) == 2 and len(set(names)) == 4
    jobs = [
        each.explorer.jobs.start("film", 1, lambda *_: None).name for each in (page, other_page)
    ]
    assert len({name.partition("-")[2] for name in jobs}) == 2


@pytest.mark.parametrize(
    ("film", "words"),
    [
        ({"pictures": [{"seed": 1, "class": 0}]}, "a film must have 2 to 64 pictures"),
        ({"pictures": "x"}, "a film must have 2 to 64 pictures"),
        ({"pictures": [{"seed": 1}] * 2}, "this network is conditional"),
        ({"frames": 0}, "frames must be a whole number from 1 to 600, not 0"),
        ({"frames": None}, "frames must be a whole number"),
        ({"fps": 1e9}, "fps must be a whole number from 1 to 120"),
        ({"pictures": [{"w": "w99"}, {"w": "w98"}]}, "there is no stored w 'w99'"),
        (
            {"pictures": [{"seed": 1, "class": 0, "noise_mode": m} for m in ("const", "none")]},
            "the pictures of a film must have the same noise",
        ),
    ],
)
def test_a_hostile_film_gets_a_sentence(page, film, words):
    usual = {"pictures": [{"seed": 1, "class": 0}, {"seed": 2, "class": 0}]}
    answer = page.post("/api/video", usual | film)
    assert answer.status == 400 and words in answer.json()["message"]


def test_a_photo_of_the_network_is_found_again(page):
    target = page.picture(seed=4, **{"class": 1, "psi": 0.5})
    answer = start_projection(page, target, space="w+", steps=30, **{"class": 1})
    job = page.ended(answer.json())
    assert job["state"] == "done" and job["step"] == 30 and job["preview"] > 30, job
    assert page.get(f"/api/jobs/{job['job']}/target.png").content == target
    found = page.get(f"/api/jobs/{job['job']}/preview.png").content
    assert found == page.picture(w=job["w"])
    average = page.picture(seed=0, **{"class": 1, "psi": 0})

    def error(png: bytes) -> float:
        a, b = (np.asarray(Image.open(io.BytesIO(each)), np.float64) for each in (png, target))
        return float(np.square(a - b).mean())

    assert error(found) < error(average) / 2
    decibels = 10 * np.log10(255**2 / error(found))
    assert job["psnr"] == pytest.approx(decibels, abs=1e-3)
    moved = page.picture(w=job["w"], rotate=40, mix={"seed": 1, "layers": "8-14"}, **{"class": 0})
    assert moved != found


def test_photos_are_decoded_and_cropped_as_pack_does(page):
    photo = Image.new("RGBA", (40, 24), (255, 0, 0, 255))
    photo.paste((0, 0, 255, 0), (8, 0, 32, 24))  # transparent, so white
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    white = set()
    for crop in ("center-crop", "none"):
        answer = start_projection(page, stream.getvalue(), steps=1, crop=crop, **{"class": 0})
        job = page.ended(answer.json())
        target = page.get(f"/api/jobs/{job['job']}/target.png").content
        pixels = np.asarray(Image.open(io.BytesIO(target)))
        assert pixels.shape == (16, 16, 3)
        white.add(bool((pixels == 255).all()))
    assert white == {True, False}


def test_stopping_keeps_what_was_found(page):
    answer = start_projection(
        page, page.picture(seed=4, **{"class": 1}), steps=5000, **{"class": 1}
    )
    job = answer.json()
    while job["step"] < 2:
        time.sleep(0.01)
        job = page.get(f"/api/jobs/{job['job']}").json()
    page.post(f"/api/jobs/{job['job']}/stop", b"")
    job = page.ended(job)
    assert job["state"] == "stopped" and job["step"] < 5000
    assert page.picture(w=job["w"]) != page.picture(seed=0, **{"class": 1, "psi": 0})


@pytest.mark.parametrize(
    ("photo", "words", "sentence"),
    [
        (b"", {}, "the photo cannot be used: the file is empty"),
        (b"<script>", {}, "not a picture in a format that Pillow reads"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, {}, "the photo cannot be used"),
        (None, {"steps": "0"}, "steps must be a whole number from 1 to 5000, not '0'"),
        (None, {"steps": "9" * 400}, "(400 characters)"),
        (None, {"space": "z"}, "space must be w or w+, not 'z'"),
        (None, {"loss": "inception"}, "loss must be one of pixels"),
        (None, {"crop": "wide"}, "crop must be one of center-crop, none"),
        (None, {"class": "7"}, "class must be from 0 to 2, not 7"),
        (None, {"class": "x"}, "class must be a whole number"),
        (None, {"label": "1,2"}, "class or a label, not both"),
        (None, {"speed": "1"}, "a projection has no 'speed'"),
    ],
)
def test_a_hostile_photo_gets_a_sentence(page, photo, words, sentence):
    usual = page.picture(seed=1, **{"class": 0}) if photo is None else photo
    answer = start_projection(page, usual, **({"class": "0", "steps": "1"} | words))
    assert answer.status == 400 and sentence in answer.json()["message"], answer.content


def test_a_bomb_and_other_content_types_are_refused(page):
    stream = io.BytesIO()
    Image.new("1", (9_500, 9_500)).save(stream, "PNG")
    answer = start_projection(page, stream.getvalue(), **{"class": "0"})
    assert answer.status == 400 and "the photo cannot be used" in answer.json()["message"]
    form = page.post("/api/projection", b"x", content_type="multipart/form-data; boundary=x")
    assert form.status == 415 and "the content type of a photo" in form.json()["message"]


def test_jobs_that_there_are_not(page):
    for path in ("/api/jobs/999", "/api/jobs/x", "/api/jobs/999/film.mp4"):
        answer = page.get(path)
        assert answer.status == 400 and "there is no job" in answer.json()["message"]
    job = page.ended(
        start_projection(page, page.picture(seed=1, **{"class": 0}), steps=1, **{"class": 0}).json()
    )
    for name in ("film.mp4", "..", "x.py", "%2e%2e"):
        assert page.get(f"/api/jobs/{job['job']}/{name}").status in (400, 404)


def test_too_many_jobs_are_refused(page):
    photo = page.picture(seed=1, **{"class": 0})
    answers = [start_projection(page, photo, steps=5000, **{"class": 0}) for _ in range(5)]
    assert [answer.status for answer in answers] == [202] * 4 + [503]
    assert "are waiting; stop one, or wait" in answers[-1].json()["message"]
    jobs = [answer.json() for answer in answers[:4]]
    for job in reversed(jobs):
        page.post(f"/api/jobs/{job['job']}/stop", b"")
    assert {page.ended(job)["state"] for job in jobs} == {"stopped"}
