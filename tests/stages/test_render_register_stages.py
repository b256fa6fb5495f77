"""The render and register commands on a small training run with random weights."""

import base64
import hashlib
import io
import json
import math
import zipfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sg3flow
from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.cli.directions_command import directions_app
from sg3flow.cli.stage_commands import register_app, render_app
from sg3flow.files import sha256_file, write_json
from sg3flow.metrics.error_terms import digest_of, stored_form, write_terms
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.registry.version_terms import read_version_terms
from sg3flow.rendering.grid import seed_sheet
from sg3flow.rendering.images import render_image
from sg3flow.rendering.seeds import RenderOptions

# MLflow's own use of SQLAlchemy, pandas and type hints; the caps in pyproject.toml keep it working.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType"),
]

_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
_FAST = ("--seeds", "0-3", "--sweep-seeds", "0,1", "--sweep-truncs", "0,1", "--video-seeds", "0,1")


@pytest.fixture
def render():
    return lambda *arguments: CliRunner().invoke(render_app, [str(a) for a in arguments])


@pytest.fixture
def register():
    return lambda *arguments: CliRunner().invoke(register_app, [str(a) for a in arguments])


def _save(path: Path, c_dim: int = 0, seed: int = 0, generator=StyleGAN3Generator, more=None):
    torch.manual_seed(seed)
    G = generator(z_dim=16, c_dim=c_dim, w_dim=16, **_SIZES)
    D = Discriminator(c_dim=c_dim, **_SIZES)
    training_set = {
        "name": "toy",
        "resolution": 16,
        "channels": 3,
        "label_dim": c_dim,
        "num_images": 9,
        "digest": "ab",
        "mirror": False,
        "class_names": ["cat", "dog"][:c_dim],
        **(more or {}),
    }
    progress = {"nimg": 10_000}
    networks = {"G": G, "D": D, "G_ema": G, "augment_p": 0.0}
    return save_snapshot(path, **networks, training_set=training_set, progress=progress)


def _row(kimg: int, value: float, digest: str, metric: str = "fd_random1k_full") -> dict:
    return {
        "snapshot": f"network-snapshot-{kimg:06d}.pkl",
        "kimg": kimg,
        "metric": metric,
        "value": value,
        "higher_is_better": metric.startswith("eq"),
        "network_sha256": digest,
        "reference_sha256": "r",
        "detector_sha256": "d",
        "num_generated": 1000,
        "num_reference": 9,
        "seed": 0,
    }


def _write_metrics(path: Path, *rows: dict) -> None:
    best = {"metric": "fd_random1k_full"}
    write_json(path, {"format": "sg3flow-metrics-1", "best": best, "results": list(rows)})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with a training run of two snapshots and its metrics; the second one is better."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    digests = {
        kimg: _save(tmp_path / "run" / f"network-snapshot-{kimg:06d}.pkl", 2, seed=kimg)
        for kimg in (0, 10)
    }
    rows = [_row(0, 9.0, digests[0]), _row(10, 4.0, digests[10])]
    rows += [_row(0, 30.0, digests[0], "eqt1k_int"), _row(10, 20.0, digests[10], "eqt1k_int")]
    _write_metrics(tmp_path / "metrics.json", *rows)
    write_json(tmp_path / "run" / "run.json", {"format": "sg3flow-run-1", "uid": "u1"})
    return tmp_path


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.medium
def test_the_articles_line_renders_a_seed(render, tmp_path):
    _save(tmp_path / "plain.pkl")
    other = tmp_path / "out" / "notes.txt"
    other.parent.mkdir()
    other.write_text("mine")
    arguments = ("--network", tmp_path / "plain.pkl", "--seeds", 2, "--trunc", 1)
    result = render("images", *arguments, "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    G = load_networks(tmp_path / "plain.pkl").G_ema
    np.testing.assert_array_equal(
        _pixels(tmp_path / "out" / "seed0002.png"), render_image(G, 2, RenderOptions())
    )
    assert sorted(p.name for p in other.parent.iterdir()) == ["notes.txt", "seed0002.png"]


def test_images_takes_class_place_and_ranges(render, run):
    network = run / "run" / "network-snapshot-000010.pkl"
    options = ("--class", 1, "--translate", "-0.1,0.2", "--rotate", "-20", "--noise-mode", "none")
    result = render("images", "--network", network, "--seeds", "0,2-3", "--outdir", "o", *options)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path("o").iterdir()) == [f"seed000{i}.png" for i in (0, 2, 3)]
    options = RenderOptions(1.0, "none", (-0.1, 0.2), -20.0)
    expected = render_image(load_networks(network).G_ema, 3, options, 1)
    np.testing.assert_array_equal(_pixels(Path("o/seed0003.png")), expected)


def test_a_class_of_an_unconditional_network_is_ignored_with_a_warning(render, tmp_path, caplog):
    """As in the public tools, whose scripts pass --class to any network."""
    _save(tmp_path / "plain.pkl")
    for command, name, option in (
        ("images", "seed0002.png", ("--class", 1)),
        ("grid", "grid.png", ("--class", 0)),
        ("sweep", "truncation.png", ("--label", "0.5,-1")),
    ):
        arguments = (command, "--network", tmp_path / "plain.pkl", "--seeds", 2, "--outdir")
        result = render(*arguments, tmp_path / "out", *option)
        assert result.exit_code == 0, result.output
        assert f"{option[0]} is ignored: {tmp_path / 'plain.pkl'} is unconditional" in caplog.text
        caplog.clear()
        assert render(*arguments, tmp_path / "expected").exit_code == 0
        assert not caplog.records
        contents = [(tmp_path / folder / name).read_bytes() for folder in ("out", "expected")]
        assert contents[0] == contents[1]


def test_a_network_trained_with_vectors_is_drawn_with_labels(render, tmp_path):
    vectors = {"label_kind": "vectors", "sample_labels": [[0.5, -1.0], [2.0, 0.25]]}
    network = tmp_path / "vectors.pkl"
    _save(network, 2, more=vectors)
    G = load_networks(network).G_ema
    arguments = ("images", "--network", network, "--seeds", 2, "--outdir", tmp_path)
    for option in (("--label", "-1,0.5"), ("--label=-1,0.5",)):
        result = render(*arguments, *option)
        assert result.exit_code == 0, result.output
        expected = render_image(G, 2, RenderOptions(), (-1.0, 0.5))
        np.testing.assert_array_equal(_pixels(tmp_path / "seed0002.png"), expected)
    for options, words in (
        ((), "give a label of 2 numbers, such as 0.5,-1"),
        (("--class", 0), "trained with labels that are vectors, not classes; give a label of 2"),
        (("--label", "1"), "must have 2 numbers, not 1"),
        (("--label", "1,x"), "finite numbers like 0.5,-1, not '1,x'"),
        (("--label", "1,2", "--class", 0), "not both"),
    ):
        result = render(*arguments, *options)
        assert result.exit_code == 1 and words in result.stderr, result.output
    shown = ("grid", "--network", network, "--seeds", "0,0,1", "--outdir", tmp_path)
    assert render(*shown).exit_code == 0
    drawn = [(0, (0.5, -1.0)), (0, (2.0, 0.25)), (1, (0.5, -1.0))]
    images = [render_image(G, seed, RenderOptions(), label) for seed, label in drawn]
    names = [f"seed {seed}, label {label[0]:g},{label[1]:g}" for seed, label in drawn]
    np.testing.assert_array_equal(_pixels(tmp_path / "grid.png"), seed_sheet(images, names, 16))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "3-1"), "is descending"),
        (("--seeds", "x"), "such as 0,3-7,2"),
        (("--seeds", "1"), "give a class from 0 to 1"),
        (("--seeds", "1", "--class", "2"), "class must be from 0 to 1"),
        (("--seeds", "1", "--class", "0", "--translate", "1"), "two numbers"),
        (("--seeds", "1", "--class", "0", "--translate", "1e300,0"), "from -1000 to 1000, not"),
        (("--seeds", "1", "--class", "0", "--translate", "nan,0"), "from -1000 to 1000, not"),
        (("--seeds", "1", "--class", "0", "--rotate", "1e300"), "rotate must be at most 36000"),
        (("--seeds", "1", "--class", "0", "--trunc", "7"), "at most 2"),
        (("--seeds", "1", "--class", "0", "--noise-mode", "cons"), "did you mean 'const'"),
        (("--seeds", "1", "--class", "0", "--network", "nowhere.pkl"), "nowhere.pkl"),
    ],
)
def test_bad_image_options_end_in_one_line(render, run, options, words):
    network = run / "run" / "network-snapshot-000010.pkl"
    result = render("images", "--network", network, "--outdir", "o", *options)
    assert result.exit_code == 1
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not Path("o").exists()


def test_stylegan2_cannot_be_moved(render, tmp_path):
    _save(tmp_path / "two.pkl", generator=StyleGAN2Generator)
    arguments = ("images", "--network", tmp_path / "two.pkl", "--seeds", 1, "--outdir", tmp_path)
    assert render(*arguments).exit_code == 0
    result = render(*arguments, "--rotate", 10)
    assert result.exit_code == 1 and "only StyleGAN3" in result.stderr


@pytest.mark.parametrize(
    ("command", "name", "options"),
    [
        ("images", "seed0001.png", ("--seeds", 1, "--class", 0)),
        ("grid", "grid.png", ("--seeds", "0-4")),
        ("sweep", "truncation.png", ("--seeds", "0,1", "--truncs", "0,1")),
        ("video", "interpolation.mp4", ("--seeds", "0,1", "--grid", "2x1", "--w-frames", 2)),
    ],
)
def test_our_pictures_are_replaced_and_foreign_ones_refused(render, run, command, name, options):
    network = run / "run" / "network-snapshot-000010.pkl"
    arguments = (command, "--network", network, "--outdir", "o", *options)
    assert render(*arguments).exit_code == 0
    first = Path("o", name).read_bytes()
    again = render(*arguments)
    assert again.exit_code == 0, again.output
    assert Path("o", name).read_bytes() == first
    # The last one is whole but for its mark.
    for foreign in (b"holiday", b"about sg3flow", first.replace(b"sg3flow", b"holiday")):
        Path("o", name).write_bytes(foreign)
        refused = render(*arguments)
        assert refused.exit_code == 1 and "not a render made by sg3flow" in refused.stderr
        assert Path("o", name).read_bytes() == foreign


def test_the_official_command_of_a_video(render, run, tmp_path):
    network = run / "run" / "network-snapshot-000010.pkl"
    path = tmp_path / "new folder" / "lerp.mp4"
    arguments = ["video", f"--output={path}", "--trunc=1", "--seeds=0-4", "--grid=2x1"]
    arguments += ["--num-keyframes=2", "--w-frames=3", "--shuffle-seed=1", f"--network={network}"]
    done = render(*arguments)
    assert done.exit_code == 0 and done.stdout.strip() == str(path), done.stderr
    assert [each.name for each in path.parent.iterdir()] == ["lerp.mp4"]
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (6, pytest.approx(0.1))
    assert render(*arguments).exit_code == 0  # ours is replaced
    path.write_bytes(b"holiday")
    refused = render(*arguments)
    assert refused.exit_code == 1 and "choose another --output" in refused.stderr
    assert path.read_bytes() == b"holiday"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--output FILE.mp4, or --outdir DIR"),
        (("--output", "a.mp4", "--outdir", "o"), "--output FILE.mp4, or --outdir DIR"),
        (("--output", "a.avi"), "--output must end in .mp4, the form of the video, not 'a.avi'"),
        (("--output", "a.mp4", "--num-keyframes", 10000, "--grid", "4x4"), "160000 keyframes"),
        (("--output", "a.mp4", "--num-keyframes", -1), "num_keyframes must be at least 0"),
        (("--output", "a.mp4", "--shuffle-seed", -2), "shuffle_seed must be at least -1"),
        (("--output", "a.mp4", "--seeds", "0-2", "--grid", "2x1"), "or --num-keyframes"),
    ],
)
def test_bad_video_options_end_in_one_line(render, run, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    result = render("video", "--network", run / "run" / "network-snapshot-000010.pkl", *options)
    assert result.exit_code == 1
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("images", ("--seeds", 1)),
        ("grid", ("--seeds", "0-4")),
        ("sweep", ("--seeds", "0,1")),
        ("video", ("--seeds", "0,1", "--w-frames", 2)),
    ],
)
def test_a_network_that_draws_no_finite_values_is_named(render, tmp_path, command, options):
    path = tmp_path / "broken.pkl"
    _save(path)
    content = torch.load(path, weights_only=True)
    content["G_ema"]["state_dict"]["mapping.w_avg"].fill_(math.nan)
    for name, tensor in content["G_ema"]["state_dict"].items():
        if name.startswith("synthesis") and name.endswith("bias"):
            tensor.fill_(math.nan)
    torch.save(content, path)
    result = render(command, "--network", path, "--outdir", tmp_path / "o", *options)
    assert result.exit_code == 1
    assert "broken.pkl: the network generates" in result.stderr and "not finite" in result.stderr
    assert not list((tmp_path / "o").glob("*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "0-14999"), "is too large"),
        (("--seeds", "0", "--columns", 1000, "--device", "gpu"), "did you mean"),
        (("--seeds", "0", "--columns", 1000), ""),
    ],
)
def test_a_sheet_is_as_large_as_its_pictures(render, run, options, words):
    network = run / "run" / "network-snapshot-000010.pkl"
    result = render("grid", "--network", network, "--outdir", "o", *options)
    if words:
        assert result.exit_code == 1 and words in result.stderr
        assert not Path("o").exists()
    else:
        assert result.exit_code == 0, result.output
        assert _pixels(Path("o/grid.png")).shape[1] < 200


@pytest.mark.medium
def test_best_fills_a_folder_from_the_best_snapshot(render, run):
    arguments = ("best", "--run", "run", "--metrics", "metrics.json", *_FAST, "--video-frames", 2)
    result = render(*arguments)
    assert result.exit_code == 0, result.output
    assert "not tracked" not in result.output
    names = {p.name for p in Path("renders").iterdir()}
    pictures = {f"seed000{i}.png" for i in range(4)}
    assert names == pictures | {"grid.png", "truncation.png", "interpolation.mp4", "renders.json"}
    marker = json.loads(Path("renders/renders.json").read_text())
    snapshot = Path("run/network-snapshot-000010.pkl")
    assert marker["snapshot"] == snapshot.name and marker["seeds"] == [0, 1, 2, 3]
    assert marker["snapshot_sha256"] == hashlib.sha256(snapshot.read_bytes()).hexdigest()
    assert str(run) not in json.dumps(marker)
    # A labeled network's classes come in turn.
    expected = render_image(load_networks(snapshot).G_ema, 3, RenderOptions(), 1)
    np.testing.assert_array_equal(_pixels(Path("renders/seed0003.png")), expected)
    contents = {p.name: p.read_bytes() for p in Path("renders").iterdir()}
    assert render(*arguments).exit_code == 0
    assert {p.name: p.read_bytes() for p in Path("renders").iterdir()} == contents


@pytest.mark.medium
def test_best_draws_training_labels_also_from_a_snapshot_that_does_not_record_them(render, run):
    """Versions 0.1 and 0.2 did not; the labels are in the set that the run names."""
    with zipfile.ZipFile("packed.zip", "w") as packed:
        labels = [[f"00000/img{i:08d}.png", [i / 2, -1]] for i in range(3)]
        packed.writestr("dataset.json", json.dumps({"labels": labels}))
    data = {"path": "packed.zip", "digest": "ab"}
    write_json(run / "run/provenance.json", {"format": "sg3flow-provenance-1", "data": data})
    few = ("--seeds", "0,1", "--sweep-seeds", "0", "--video-seeds", "0", "--video-frames", 1)
    arguments = ("best", "--run", "run", "--metrics", "metrics.json", *few)
    G = load_networks("run/network-snapshot-000010.pkl").G_ema
    for options, labels in (
        ((), [(0.0, -1.0), (0.5, -1.0)]),
        (("--label", "7,8"), [(7.0, 8.0)] * 2),
    ):
        result = render(*arguments, *options)
        assert result.exit_code == 0, result.output
        for seed, label in enumerate(labels):
            expected = render_image(G, seed, RenderOptions(), label)
            np.testing.assert_array_equal(_pixels(Path(f"renders/seed000{seed}.png")), expected)
    assert json.loads(Path("renders/renders.json").read_text())["label"] == "7,8"
    network = ("--network", "run/network-snapshot-000010.pkl", "--seeds", 1, "--outdir", "o")
    assert "label of 2 numbers, such as 0,-1" in render("images", *network).stderr
    result = render(*arguments, "--class-index", 1)
    assert result.exit_code == 1 and "vectors, not classes" in result.stderr


@pytest.mark.medium
def test_best_refuses_a_foreign_folder_and_missing_parts(render, run):
    foreign = run / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").write_bytes(b"x")
    arguments = ("best", "--run", "run", "--metrics", "metrics.json")
    result = render(*arguments, "--outdir", foreign)
    assert result.exit_code == 1 and "not a renders folder made by sg3flow" in result.stderr
    assert [p.name for p in foreign.iterdir()] == ["a.jpg"]
    for options, words in (
        (("--metrics", "no.json"), "run stages/evaluate.py first"),
        (("--run", "nowhere"), "which is not in nowhere"),
        (("--video-grid", "3x"), "like 3x2"),
        (("--video-seeds", "0-2", "--video-grid", "2x1", *_FAST[:6]), "multiple of 2"),
    ):
        result = render(*arguments, *options)
        assert result.exit_code == 1 and words in result.stderr, result.output
        assert not Path("renders").exists()


def _client():
    import mlflow

    return mlflow.MlflowClient(tracking_uri=mlflow.get_tracking_uri())


def _report() -> dict:
    return json.loads(Path("registered.json").read_text())


_EQT = "eqt1k_int"
_REGISTER = ("--run", "run", "--metrics", "metrics.json", "--report", "registered.json")


@pytest.mark.medium
def test_register_is_idempotent_and_gates_the_champion(register, run):
    result = register(*_REGISTER, "--name", "toy")
    assert result.exit_code == 0, result.output
    first = _report()
    assert (first["version"], first["aliases"]) == ("1", ["candidate", "champion"])
    assert first["snapshot"] == "network-snapshot-000010.pkl" and first["value"] == 4.0
    assert str(run) not in json.dumps(first)

    again = register(*_REGISTER, "--name", "toy")
    assert "already registered as version 1" in again.output
    assert len(_client().search_model_versions("name = 'toy'")) == 1

    # By another metric the first snapshot is best; the champion was measured by it, and is worse.
    result = register(*_REGISTER, "--name", "toy", "--metric", "eqt1k_int")
    assert "eqt1k_int 30 dB is better than the 20 dB of version 1" in result.output
    assert _report()["aliases"] == ["candidate", "champion"]

    # What was measured against other pictures is not compared, and nothing is registered.
    metrics = json.loads(Path("metrics.json").read_text())
    for row in metrics["results"]:
        row["reference_sha256"] = "other"
    write_json(Path("metrics.json"), metrics)
    result = register(*_REGISTER, "--name", "toy")
    assert result.exit_code == 1
    assert "cannot be compared with the champion, version 2: the reference set" in result.stderr

    version = _client().get_model_version("toy", "1")
    assert version.tags["sg3flow.weights_sha256"] == first["weights_sha256"]
    assert json.loads(version.tags["sg3flow.results"])["fd_random1k_full"]["value"] == 4.0
    assert "license" in version.description


def _measured(fd: dict[int, float], eqt: dict[int, float]) -> dict[str, np.ndarray]:
    """Measure both snapshots; the distances have large errors of which nearly all is common."""
    digests = {kimg: sha256_file(Path(f"run/network-snapshot-{kimg:06d}.pkl")) for kimg in fd}
    common, terms, rows = np.random.RandomState(0).randn(50), {}, []
    for kimg, value in fd.items():
        own = stored_form(common + 0.0005 * kimg * np.random.RandomState(1).randn(50))
        row = _row(kimg, value, digests[kimg]) | {"standard_error": float(np.linalg.norm(own))}
        rows += [row | {"error_terms": digest_of(own)}, _row(kimg, eqt[kimg], digests[kimg], _EQT)]
        terms[f"{row['snapshot']}/{row['metric']}"] = own
    _write_metrics(Path("metrics.json"), *rows)
    write_terms(Path("metrics.npz"), terms)
    return terms


@pytest.mark.medium
def test_a_gate_of_several_metrics_and_paired_verdicts(register, run):
    from sg3flow.cli.commands import app

    assert register(*_REGISTER, "--name", "toy").exit_code == 0

    # Better in one metric and worse in the other: the champion stays, and all of it is recorded.
    gate = ("--gate", "eqt_int=better", "--gate", "fd_random=not worse")
    result = register(*_REGISTER, "--name", "toy", "--metric", _EQT, *gate)
    assert result.exit_code == 0, result.output
    passed = "eqt1k_int 30 dB is better than the 20 dB of version 1 (difference 10, noise up to 0"
    failed = "fd_random1k_full 9 is worse than its 4 (difference 5, noise up to 0, unpaired)"
    assert f"passed: {passed}" in result.stdout and f"failed: {failed}" in result.stdout
    report = _report()
    assert report["decision"] == f"version 1 stays champion: {failed}; passed in {_EQT}"
    assert report["gate"] == {_EQT: "better", "fd_random1k_full": "not worse"}
    assert [each["passed"] for each in report["verdicts"]] == [True, False]
    version = _client().get_model_version("toy", "2")
    recorded = json.loads(version.tags["sg3flow.gate"])
    assert recorded == {"gate": report["gate"], "verdicts": report["verdicts"]}
    assert failed in version.description
    refused = CliRunner().invoke(app, ["promote", "toy", "2"])
    assert refused.exit_code == 1 and failed in refused.stderr, "promote has the same gate"

    # Measured again, with error terms: the champion first, then the other network by 0.1.
    _measured({0: 4.1, 10: 4.0}, {0: 9.0, 10: 20.0})
    assert "is the champion already" in register(*_REGISTER, "--name", "toy").output
    terms = _measured({0: 3.9, 10: 4.0}, {0: 9.0, 10: 20.0})
    result = register(*_REGISTER, "--name", "toy")
    assert "fd_random1k_full 3.9 is better than the 4 of version 1 (difference 0.1" in result.output
    assert ", paired)" in result.output and _report()["aliases"] == ["candidate", "champion"]
    for number, stored in zip("21", terms.values(), strict=True):
        assert list(read_version_terms(f"models:/toy/{number}")) == [digest_of(stored)]
    line = _client().get_model_version("toy", "2").tags["sg3flow.aliases"].splitlines()[-1]
    assert "champion 1 -> 2, register" in line and "paired" in line

    # Without the file, the errors one by one are larger than the difference.
    Path("metrics.npz").unlink()
    result = register(*_REGISTER, "--name", "other", "--metric", _EQT)
    assert result.exit_code == 0, result.output
    result = register(*_REGISTER, "--name", "other")
    assert "is not better than its 4 (difference 0.1, noise up to 2" in result.output
    assert ", unpaired)" in result.output
    [note] = [line for line in result.stderr.splitlines() if line.startswith("note: 1,000 images")]
    assert "more than 1,000,000 would be needed; count the two as equal" in note


@pytest.mark.medium
def test_directions_are_registered_as_a_version_of_their_own(register, run):
    import mlflow
    import pandas as pd

    def change(*arguments):
        result = register(*_REGISTER, "--name", "toy", *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    change()
    made = CliRunner().invoke(
        directions_app,
        ["--network", "models:/toy@champion", "--output", "own.npz", "--samples", "20"],
    )
    assert made.exit_code == 0, made.output
    output = change("--directions", "own.npz")
    assert "registered as version 2; champion: the network of version 1 with these" in output
    assert "made with another network" not in output
    assert _report()["aliases"] == ["candidate", "champion"]
    assert "already registered as version 2" in change("--directions", "own.npz")
    versions = {
        str(each.version): each.tags for each in _client().search_model_versions("name='toy'")
    }
    assert "sg3flow.directions_sha256" not in versions["1"]
    digest = hashlib.sha256(Path("own.npz").read_bytes()).hexdigest()
    assert versions["2"]["sg3flow.directions_sha256"] == digest
    assert versions["1"]["sg3flow.weights_sha256"] == versions["2"]["sg3flow.weights_sha256"]
    card = _client().get_model_version("toy", "2").description
    assert "Directions for `edits`" in card and "| sefa0 |" in card

    # The version draws with its own directions, in Python and behind MLflow.
    edits = {"sefa0": 3.0}
    G = sg3flow.load("models:/toy@champion", device="cpu")
    image = np.asarray(G.image(1, class_=0, edits=edits))
    same = G.image(1, class_=0, edits=edits, directions="own.npz")
    np.testing.assert_array_equal(image, np.asarray(same))
    assert (image != np.asarray(G.image(1, class_=0))).any()
    row = {"seed": 1, "class": 0, "edits": edits}
    [answer] = mlflow.pyfunc.load_model("models:/toy/2").predict(pd.DataFrame([row]))
    served = Image.open(io.BytesIO(base64.b64decode(answer["png"])))
    np.testing.assert_array_equal(np.asarray(served), image)
    with pytest.raises(mlflow.MlflowException, match="no direction 'sefa'"):
        mlflow.pyfunc.load_model("models:/toy/2").predict(
            pd.DataFrame([row | {"edits": {"sefa": 1}}])
        )
    with pytest.raises(mlflow.MlflowException, match="registered without directions"):
        mlflow.pyfunc.load_model("models:/toy/1").predict(pd.DataFrame([row]))

    # Without the setting it is the first version again, and the champion stays.
    assert "already registered as version 1; version 2 stays champion" in change()


@pytest.mark.medium
def test_wrong_directions_are_not_registered(register, run):
    from sg3flow.rendering.edits import Directions, write_directions

    Path("own.npz").write_bytes(b"no file of directions")
    result = register(*_REGISTER, "--name", "toy", "--directions", "own.npz")
    assert result.exit_code == 1
    assert "own.npz is not a directions file" in result.stderr.splitlines()[-1]
    one = np.ones(1)
    other = Directions(np.ones((1, 2, 3), np.float32), ("a",), one, one, "own", (0,), "")
    write_directions(Path("own.npz"), other)
    result = register(*_REGISTER, "--name", "toy", "--directions", "own.npz")
    assert "register.directions: own.npz is for a network with w of [2, 3]" in result.stderr
    assert not _client().search_registered_models()


@pytest.mark.medium
def test_the_model_is_logged_onto_the_training_run(register, run):
    import mlflow

    from sg3flow.tracking.mlflow_store import connect, training_run_id

    store = connect()
    training = store.client.create_run(store.experiment_id, tags={"sg3flow.uid": "u1"})
    store.client.set_terminated(training.info.run_id)
    assert register(*_REGISTER).exit_code == 0
    assert training_run_id(run / "run") == training.info.run_id
    models = store.client.search_logged_models(
        [store.experiment_id], f"source_run_id = '{training.info.run_id}'"
    )
    assert [model.name for model in models] == ["generator"]
    assert store.client.get_run(training.info.run_id).info.status == "FINISHED"
    files = {p.name for p in Path("mlruns").rglob("*") if p.is_file()}
    assert {"generator.safetensors", "generator.json", "pyfunc_model.py"} <= files
    assert not [name for name in files if name.endswith(".pkl")]
    # The version shows what it draws and tells where it comes from.
    version = store.client.get_model_version("sg3flow-generator", "1")
    for words in (
        "fd_random1k_full | 4",
        "**license** | unknown",
        training.info.run_id,
        "digest `ab`",
    ):
        assert words in version.description
    assert f"{version.source.removeprefix('models:/')}/artifacts/files" in version.description
    sheet = mlflow.artifacts.download_artifacts("models:/sg3flow-generator/1/artifacts/samples.png")
    assert _pixels(Path(sheet)).shape[2] == 3
    # A registered model is a network like any other.
    G = load_networks("models:/sg3flow-generator@champion").G_ema
    expected = load_networks(run / "run" / "network-snapshot-000010.pkl").G_ema
    for name, tensor in expected.state_dict().items():
        assert torch.equal(G.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "fd_random"), "it has eqt1k_int, fd_random1k_full"),
        (("--metrics", "no.json"), "run stages/evaluate.py first"),
        (("--name", "a/b"), "register.name must be"),
        (("--gate", "density=better"), "register.gate: 'density' was not measured"),
        (("--gate", "fd_random=bettr"), "fd_random must be one of better, not worse, not 'bettr'"),
        (("--run", "nowhere"), "which is not in nowhere"),
        (("--report", "metrics.json"), "not a registration report"),
    ],
)
def test_bad_register_options_end_in_one_line(register, run, options, words):
    result = register(*_REGISTER, *options)
    assert result.exit_code == 1
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not Path("registered.json").exists()


@pytest.mark.medium
def test_metrics_of_another_snapshot_are_noticed(register, render, run):
    _save(run / "run" / "network-snapshot-000010.pkl", 2, seed=99)
    rendering = ("best", "--run", "run", "--metrics", "metrics.json", *_FAST)
    for result in (register(*_REGISTER), render(*rendering)):
        assert result.exit_code == 1 and "run stages/evaluate.py again" in result.stderr
    assert not Path("renders").exists() and not Path("registered.json").exists()


def test_an_unreachable_server_is_told_in_one_line(register, run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = register(*_REGISTER)
    assert result.exit_code == 1 and "http://127.0.0.1:9" in result.stderr
    assert result.stderr.endswith("; then run the same command again\n")
    assert len(result.stderr.splitlines()) == 1
    assert not Path("registered.json").exists()
