"""The command ``sg3flow directions``: files, strips, wrong options, and its record in MLflow."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sg3flow
from sg3flow.checkpoints import save_snapshot
from sg3flow.cli.commands import app
from sg3flow.networks import Discriminator, StyleGAN3Generator
from sg3flow.rendering.edits import read_directions

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
FILE = ("--samples", 50, "--num", 2, "--device", "cpu")
QUICK = (*FILE, "--seeds", "0,3", "--steps=-2,0,2")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(2)
    G = StyleGAN3Generator(z_dim=16, c_dim=2, w_dim=16, **SIZES)
    D = Discriminator(c_dim=2, **SIZES)
    path = tmp_path_factory.mktemp("directions") / "network.pkl"
    about = {"label_dim": 2, "class_names": ["cat", "dog"]}
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0, training_set=about, progress={"nimg": 0})
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["directions", *map(str, arguments)])


@pytest.mark.medium
def test_a_folder_has_the_file_and_a_strip_per_direction(network, tmp_path):
    found = run("--network", network, "--outdir", tmp_path, "--layers", "1-3,5", *QUICK)
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "directions.npz", "sefa0.png", "sefa1.png",
    ]  # fmt: skip
    directions = read_directions(tmp_path / "directions.npz")
    assert directions.layers == (1, 2, 3, 5)
    assert "sefa of layers 1-3,5" in found.output
    assert f"{directions.scales[1]:.4g}" in found.output
    strip = np.asarray(Image.open(tmp_path / "sefa1.png"))
    assert (strip.shape[0] - 16) // 128 == 2  # rows of images, below the captions
    G = sg3flow.load(network, device="cpu")
    for seed, class_, row in ((0, 0, 0), (3, 1, 1)):  # classes in turn
        for step, column in ((-2, 0), (0, 1), (2, 2)):
            strength = step * float(directions.scales[1])
            image = G.image(seed, class_=class_, edits={"sefa1": strength}, directions=directions)
            tile = np.asarray(image).repeat(8, axis=0).repeat(8, axis=1)
            assert _has(strip, tile, row, column)


def _has(sheet, tile, row, column):
    """Whether the sheet has the tile in this row and column of the tiles of 128 pixels."""
    height, width = sheet.shape[:2]
    top, left = height - (2 - row) * 132, width - (3 - column) * 132
    return (sheet[top : top + 128, left : left + 128] == tile).all()


def test_a_file_alone_equals_that_of_a_folder(network, tmp_path):
    more = ("--network", network, "--method", "pca", "--class", 1, *FILE)
    for place in (("--output", tmp_path / "own.npz"), ("--outdir", tmp_path / "all")):
        assert run(*more, *place).exit_code == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["own.npz"]
    own, other = tmp_path / "own.npz", tmp_path / "all" / "directions.npz"
    assert own.read_bytes() == other.read_bytes()
    assert read_directions(own).names == ("pca0", "pca1")
    assert run(*more, "--output", own, "--seed", 1).exit_code == 0  # ours is replaced
    assert own.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give the place of the directions: --outdir DIR .* or --output FILE.npz"),
        (("--outdir", "a", "--output", "b.npz"), "give the place of the directions"),
        (("--output", "b.zip"), r"--output must end in \.npz, the form of the file, not 'b\.zip'"),
        (("--output", "b.npz", "--seeds", "5", "--trunc", "0.5"), "--seeds and --trunc: of the"),
        (("--outdir", "a", "--method", "ica"), "method must be one of sefa, pca"),
        (("--outdir", "a", "--steps", "a"), "steps must be numbers like -2,0,2, from -100 to 100"),
        (("--outdir", "a", "--steps", "101"), "not '101'"),
        (("--outdir", "a", "--steps", "nan"), "not 'nan'"),
        (("--outdir", "a", "--seeds", "x"), "seeds must be whole numbers"),
        (("--outdir", "a", "--num", "0"), "num must be at least 1"),
        (("--outdir", "a", "--num", "17"), "num must be from 1 to 16, the dimension of w, not 17"),
        (("--outdir", "a", "--layers", "99"), "layers must be from 0 to"),
        (("--outdir", "a", "--layers", "none"), "layers must name at least one layer"),
        (("--outdir", "a", "--class", "2"), "class must be from 0 to 1, not 2"),
        (("--outdir", "a", "--class", "1", "--label", "1,0"), "give a class or a label, not both"),
    ],
)
def test_wrong_options_get_one_line_and_write_nothing(
    network, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    found = run("--network", network, *options, "--samples", 10, "--device", "cpu")
    assert found.exit_code == 1
    lines = [line for line in found.stderr.splitlines() if not line.startswith("sampling w")]
    assert len(lines) == 1
    assert re.search(words, lines[0])
    assert not [path for path in tmp_path.iterdir() if path.name != "state"]  # records of the runs


@pytest.mark.parametrize("name", ["directions.npz", "sefa1.png"])
def test_foreign_files_are_not_replaced(network, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    found = run("--network", network, "--outdir", tmp_path, *QUICK)
    assert found.exit_code == 1
    assert "made by sg3flow and is not replaced; choose another --outdir" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
def test_a_run_in_mlflow_has_settings_file_and_strips(network, tmp_path, monkeypatch):
    from sg3flow.checkpoints import load_networks
    from sg3flow.checkpoints.loading import weights_digest
    from sg3flow.tracking.mlflow_store import connect
    from sg3flow.tracking.uploader import Uploader

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = run("--network", network, "--outdir", "out", "--class", 1, *QUICK)
    assert found.exit_code == 0, found.output
    [outbox] = Path("state/tracking").iterdir()
    Uploader(outbox).send()  # an upload process takes seconds to start
    store = connect()
    [record] = store.client.search_runs([store.experiment_id])
    assert record.data.tags["sg3flow.stage"] == "directions"
    digest = weights_digest(load_networks(network).G_ema)
    assert record.data.tags["sg3flow.weights_sha256"] == digest
    params = record.data.params
    assert (params["method"], params["num"], params["class_index"]) == ("sefa", "2", "1")
    assert params["network"] == str(network)
    files = [file.path for file in store.client.list_artifacts(record.info.run_id)]
    assert files == ["directions.npz", "strips"]
    strips = store.client.list_artifacts(record.info.run_id, "strips")
    assert [file.path for file in strips] == ["strips/sefa0.png", "strips/sefa1.png"]
    stored = store.client.download_artifacts(record.info.run_id, "directions.npz")
    assert read_directions(tmp_path / stored).names == ("sefa0", "sefa1")
