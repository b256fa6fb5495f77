"""`sg3flow project`: its files, several photos, what it replaces, bad input, Ctrl-C."""

import io
import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sg3flow
from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.bundled_network import bundled_bytes
from sg3flow.cli.projection_command import projection_app
from sg3flow.cli.stage_commands import render_app
from sg3flow.config import ProjectConfig
from sg3flow.files import sha256_file
from sg3flow.latent.projection_outputs import project_photos
from sg3flow.networks import Discriminator
from sg3flow.rendering.images import png_bytes

FILES = ["proj.mp4", "proj.png", "projected_w.npz", "projection.json", "target.png"]
SIZES = {"img_resolution": 16, "channel_base": 512, "channel_max": 16}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture(scope="module")
def write_network(small_generator, tmp_path_factory):
    """``write_network(c_dim=0, channels=3)``: the snapshot of a small StyleGAN2 network."""
    place = tmp_path_factory.mktemp("networks")

    def write(c_dim=0, channels=3):
        path = place / f"{c_dim}-{channels}.pkl"
        if not path.exists():
            G = small_generator("stylegan2", c_dim=c_dim, img_channels=channels)
            D = Discriminator(c_dim=c_dim, img_channels=channels, **SIZES)
            training_set = {"name": "toy", "label_dim": c_dim, "digest": "ab"}
            progress = {"nimg": 5000}
            save_snapshot(
                path,
                G=G, D=D, G_ema=G, augment_p=0.25, training_set=training_set, progress=progress,
            )  # fmt: skip
        return path

    return write


@pytest.fixture
def network(write_network):
    return write_network()


def write_photo(path: Path, seed: int = 0) -> Path:
    pixels = np.random.RandomState(seed).randint(0, 256, (3, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((50, 30)).save(path)
    return path


@pytest.fixture
def photo(folder):
    return write_photo(folder / "photo.png")


@pytest.fixture
def project(network):
    def run(*arguments, outdir="out", source=network, steps=3):
        given = ("--network", source, "--outdir", outdir, "--steps", steps, "--device", "cpu")
        return CliRunner().invoke(projection_app, list(map(str, [*given, *arguments])))

    return run


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_files_and_the_picture_of_the_render_command(project, network, photo, folder):
    result = project("--target", photo)
    assert result.exit_code == 0, result.output
    assert names_in("out") == FILES
    with np.load("out/projected_w.npz") as found:
        assert found.files == ["w"]
        w = found["w"]
    assert w.shape == (1, 6, 16) and w.dtype == np.float32
    arguments = ["--network", network, "--projected-w", "out/projected_w.npz", "--outdir", "drawn"]
    drawn = CliRunner().invoke(render_app, list(map(str, ["images", *arguments])))
    assert drawn.exit_code == 0, drawn.output
    assert Path("drawn/proj00.png").read_bytes() == Path("out/proj.png").read_bytes()
    with Image.open("out/target.png") as target, Image.open("out/proj.png") as picture:
        expected = np.asarray(Image.open(photo).crop((10, 0, 40, 30)).resize((16, 16), 1))
        np.testing.assert_array_equal(np.asarray(target), expected)
        error = np.square(np.asarray(target, float) - np.asarray(picture, float)).mean()
    content = json.loads(Path("out/projection.json").read_text())
    assert content["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert f"{content['psnr']:.1f} dB" in result.stdout
    assert content["network"] == {"source": str(network), "sha256": sha256_file(network)}
    assert content["target"] == {"name": "photo.png", "sha256": sha256_file(photo)}
    assert content["settings"]["steps"] == 3 and content["settings"]["class_index"] == -1
    assert imageio_ffmpeg.count_frames_and_secs("out/proj.mp4")[0] == 3
    assert "pti_psnr" not in content


def test_pivotal_tuning_gives_a_snapshot_that_draws_its_picture(project, network, photo):
    result = project("--target", photo, "--pti-steps", 4, "--pti-lr", 3e-3, "--no-video")
    assert result.exit_code == 0, result.output
    content = json.loads(Path("out/projection.json").read_text())
    assert content["pti_psnr"] > content["psnr"] + 0.5
    assert "after tuning" in result.stdout
    assert not Path("out/proj.mp4").exists()
    w = np.load("out/projected_w.npz")["w"]
    picture = np.asarray(sg3flow.load("out/pti.pkl", device="cpu").from_w(w))
    assert png_bytes(picture) == Path("out/proj-pti.png").read_bytes()
    before, after = load_networks(network), load_networks("out/pti.pkl")
    for role in ("G", "D"):  # a training can start from it
        ours, theirs = (getattr(each, role).state_dict() for each in (before, after))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert after.augment_pipe.p == 0.25 and after.training_set["name"] == "toy"
    assert after.progress["nimg"] == 5000
    [parent] = after.progress["parents"]
    assert parent["sha256"] == sha256_file(network) and parent["source"] == network.name
    made = after.progress["made_by"]
    assert made["kind"] == "pivotal tuning" and made["settings"]["pti_steps"] == 4
    assert made["target"]["sha256"] == sha256_file(photo)


def test_a_network_without_a_discriminator_is_tuned_to_safetensors(project, photo, network):
    G = load_networks(network).G_ema
    Path("alone.safetensors").write_bytes(bundled_bytes(G_ema=G))
    options = ("--pti-steps", 1, "--no-video")
    result = project("--target", photo, *options, source="alone.safetensors")
    assert result.exit_code == 0, result.output
    w = np.load("out/projected_w.npz")["w"]
    tuned = sg3flow.load("out/pti.safetensors", device="cpu")
    assert png_bytes(np.asarray(tuned.from_w(w))) == Path("out/proj-pti.png").read_bytes()


def test_two_runs_give_equal_bytes_and_the_second_replaces_the_first(project, photo):
    options = ("--target", photo, "--pti-steps", 2, "--space", "w+")
    assert project(*options).exit_code == 0
    first = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert project(*options).exit_code == 0
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == first
    assert len(first) == len(FILES) + 2
    assert project(*options, "--seed", 1).exit_code == 0
    assert Path("out/projected_w.npz").read_bytes() != first["projected_w.npz"]


def test_several_photos_get_folders_of_their_names(project, folder):
    photos = [
        write_photo(folder / name, seed=i) for i, name in enumerate(("a/cat.png", "b/cat.png"))
    ]
    result = project("--target", *photos, "--no-video")  # as a shell expands *.png
    assert result.exit_code == 0, result.output
    assert names_in("out") == ["cat", "cat-2"]
    alone = project("--target", photos[1], "--no-video", outdir="alone")
    assert alone.exit_code == 0
    assert names_in("out/cat-2") == names_in("alone") == FILES[1:]
    for name in FILES[1:]:
        assert Path("out/cat-2", name).read_bytes() == Path("alone", name).read_bytes()
    again = project("--target", photos[0], "--target", photos[1], "--no-video")
    assert again.exit_code == 0 and again.stdout == result.stdout


def test_classes_labels_and_gray(project, photo, write_network):
    labeled = write_network(c_dim=2)
    runs = {"one": ("--class", "0"), "other": ("--class", "1"), "all": ()}
    for name, options in runs.items():
        result = project("--target", photo, "--no-video", *options, source=labeled, outdir=name)
        assert result.exit_code == 0, result.output
    found = {Path(name, "projected_w.npz").read_bytes() for name in runs}
    assert len(found) == 3
    wrong = project("--target", photo, "--class", "2", source=labeled, outdir="wrong")
    assert wrong.exit_code == 1 and "class must be from 0 to 1, not 2" in wrong.stderr
    both = project("--target", photo, "--class", "1", "--label", "0,1", source=labeled)
    assert both.exit_code == 1 and "give a class or a label, not both" in both.stderr
    gray = project("--target", photo, source=write_network(channels=1), outdir="gray")
    assert gray.exit_code == 0, gray.output
    with Image.open("gray/proj.png") as picture, Image.open("gray/target.png") as target:
        assert picture.mode == target.mode == "L"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is nothing to project; give --target PHOTO"),
        (("--target", "none.png"), "cannot read the target none.png"),
        (("--target", "photo.png", "text.txt"), "the target text.txt cannot be used"),
        (("--target", "photo.png", "--space", "z"), "project.space"),
        (("--target", "photo.png", "--lr", "nan"), "project.lr"),
        (("--target", "photo.png", "--pti-steps", "-1"), "project.pti_steps"),
        (("--target", "photo.png", "--loss", "ssim"), "project.loss"),
        (("--target", "photo.png", "--loss", "lpips"), "at least 32 pixels"),
        (("--target", "photo.png", "--transform", "center-crop-wide"), "needs --resolution"),
        (("--target", "photo.png", "--background", "no color"), "is not a color"),
        (("--target", "photo.png", "--lr", "100", "--space", "w+"), ""),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(project, photo, folder, arguments, words):
    (folder / "text.txt").write_text("not a picture")
    result = project(*arguments)
    if not words:  # far too fast, and still finite: a result, however bad
        assert result.exit_code == 0
        return
    assert result.exit_code == 1 and words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert names_in(".") == ["photo.png", "text.txt"]  # and no record of a run


def test_a_network_that_is_not_there(project, photo):
    result = project("--target", photo, source="none.pkl")
    assert result.exit_code == 1 and "none.pkl" in result.stderr


def test_only_its_own_folders_are_replaced(project, photo):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    result = project("--target", photo)
    assert result.exit_code == 1 and "is not a projection made by sg3flow" in result.stderr
    assert names_in("out") == ["notes.txt"]
    Path("out/notes.txt").unlink()
    assert project("--target", photo, "--no-video").exit_code == 0
    Path("out/notes.txt").write_text("mine")  # beside a result
    assert project("--target", photo).exit_code == 1
    assert Path("out/notes.txt").read_text() == "mine"


class Record:
    """What a run reports; it may be interrupted in the middle."""

    def __init__(self, interrupt_at=None):
        self.points, self.pictures, self.results, self.files = [], {}, {}, []
        self.interrupt_at = interrupt_at

    def curves(self, points):
        self.points += points

    def step_image(self, content, key, step):
        if step == self.interrupt_at:
            raise KeyboardInterrupt
        self.pictures[key, step] = content

    def metrics(self, values):
        self.results |= values

    def artifact(self, path, folder=""):
        if path.is_file():
            self.files.append(path.name)


def project_with(record, network, photo, **settings):
    config = ProjectConfig(device="cpu", **settings)

    @contextmanager
    def tracking(name, tracked):
        assert (name, tracked.target, tracked.network) == ("photo", "photo.png", str(network))
        yield record

    return list(project_photos(str(network), [photo], Path("out"), config, None, tracking))


def test_curves_and_pictures_by_step(network, photo):
    record = Record()
    [found] = project_with(record, network, photo, steps=20, pti_steps=3, video=False)
    steps = [step for step, _, values in record.points if "projection/loss" in values]
    assert steps == list(range(1, 21))
    assert [step for step, _, values in record.points if "pti/loss" in values] == [1, 2, 3]
    times = [when for _, when, _ in record.points]
    assert times == sorted(times)
    keys = [step for key, step in record.pictures if key == "projection/picture"]
    assert keys == list(range(2, 21, 2))
    with Image.open(io.BytesIO(record.pictures["projection/picture", 20])) as pair:
        assert pair.size == (32, 16)
        with Image.open("out/target.png") as target:
            left = np.asarray(pair.convert("RGB"))[:, :16]
            np.testing.assert_array_equal(left, np.asarray(target))
    assert record.results == {"psnr": found.psnr, "pti_psnr": found.pti_psnr}
    assert sorted(record.files) == ["proj-pti.png", *FILES[1:4], "pti.pkl", "target.png"]


def test_an_interruption_leaves_what_was_there(network, photo):
    record = Record(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        project_with(record, network, photo, steps=20)
    assert not Path("out").exists() and names_in(".") == ["photo.png"]
    assert [step for step, _, _ in record.points] == [1, 2]  # what was reached is recorded
    project_with(Record(), network, photo, steps=2)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        project_with(Record(interrupt_at=2), network, photo, steps=20)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


@pytest.mark.medium
def test_ctrl_c_ends_it_with_one_line(network, photo, folder, start_in_terminal):
    script = Path(__file__).parents[2] / "stages" / "project.py"
    options = ("--steps", 1_000_000, "--network", network, "--target", photo, "--outdir", "out")
    process = start_in_terminal([script, *options], os.environ | {"SG3FLOW_TRACKING": "off"})
    while process.poll() is None and not list(folder.glob("*/.proj.mp4*")):
        time.sleep(0.1)  # until a temporary folder has the video
    os.killpg(process.pid, signal.SIGINT)
    lines = process.communicate(timeout=100)[0].splitlines()
    assert process.returncode == 130
    assert "error: interrupted; run the same command again to continue" in lines
    assert names_in(".") == ["photo.png", "state"]
