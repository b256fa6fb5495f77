import csv
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.stage_commands import evaluate_app
from sg3flow.metrics.error_terms import digest_of, read_terms

STAGE = Path(__file__).parents[2] / "stages" / "evaluate.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a packed set of noise and a run of two snapshots."""
    import torch

    from sg3flow.checkpoints import save_snapshot
    from sg3flow.data.archive import PackedSet
    from sg3flow.networks import Discriminator, StyleGAN3Generator

    root = tmp_path_factory.mktemp("pro ject")
    pictures = root / "packed" / "00000"
    pictures.mkdir(parents=True)
    random = np.random.RandomState(0)
    for index in range(20):
        pixels = random.randint(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"img{index:08d}.png")
    torch.manual_seed(0)
    arguments = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
    G = StyleGAN3Generator(**arguments, channel_base=64, channel_max=4, num_layers=4)
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=32, channel_max=4)
    training_set = {"name": "noise", "resolution": 16, "channels": 3, "label_dim": 0}
    training_set |= {"num_images": 20, "digest": PackedSet(root / "packed").digest}
    training_set |= {"mirror": False}
    for kimg in (1, 3):
        with torch.no_grad():
            G.mapping.fc0.weight.mul_(0.9)
        save_snapshot(
            root / "run" / f"network-snapshot-{kimg:06d}.pkl",
            G=G,
            D=D,
            G_ema=G,
            augment_p=0.0,
            training_set=training_set,
            progress={"nimg": kimg * 1000},
        )
    record = {"format": "sg3flow-provenance-1", "folder": ".", "data": {"path": "packed"}}
    (root / "run" / "provenance.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def environment(project, tmp_path, monkeypatch):
    for name in ("DVC_ROOT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def app():
    return evaluate_app


def snapshot_arguments(project, *extra):
    paths = ["--run", project / "run", "--data", project / "packed"]
    outputs = ["--report", "m.json", "--table", "m.csv", "--chart", "m.png"]
    return [str(argument) for argument in ("snapshots", *paths, *outputs, *extra)]


@pytest.mark.usefixtures("environment")
@pytest.mark.medium
def test_snapshots_from_params(project, tmp_path):
    (tmp_path / "params.yaml").write_text(
        "evaluate:\n  metrics: [fd_random20_full, eqt4_int, mem_random20_full]\n"
        "  best_by: eqt4_int\n  seed: 3\n"
    )
    arguments = snapshot_arguments(project, "--params", "params.yaml", "--batch", "8")
    # A process of its own: this one meets MLflow.
    done = subprocess.run(
        [sys.executable, str(STAGE), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["format"] == "sg3flow-metrics-1"
    assert list(report["snapshots"]) == ["000001", "000003"]
    assert report["best"]["metric"] == "eqt4_int"
    assert report["reference"]["num_images"] == 20
    assert {row["seed"] for row in report["results"]} == {3}
    kept = {row["error_terms"]: row["standard_error"] for row in report["results"]}
    terms = read_terms(tmp_path / "m.npz")
    assert set(terms) == set(kept) - {None} and len(terms) > 3
    with np.load(tmp_path / "m.npz") as arrays:
        copies = arrays["network-snapshot-000003.pkl/mem_random20_full_distance"]
    assert np.linalg.norm(copies) == pytest.approx(kept[digest_of(copies)], rel=1e-5)
    rows = list(csv.reader((tmp_path / "m.csv").read_text().splitlines()))
    assert rows[0][:3] == ["kimg", "fd_random20_full_error", "fd_random20_full"]
    assert rows[0][-1] == "eqt4_int"  # what the best is chosen by
    assert [row[0] for row in rows[1:]] == ["1", "3"]
    assert float(rows[1][2]) == report["snapshots"]["000001"]["fd_random20_full"]
    assert float(rows[1][1]) == report["results"][0]["standard_error"] > 0
    assert done.stdout.count("*") == 1 and "fd_random20_full" in done.stdout
    for name, size in (("m.png", (720, 4 * 220)), ("closest-mem_random20_full.png", (164, 44))):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size


@pytest.fixture
def evaluated(app, project, tmp_path, monkeypatch):
    """Evaluates the run with the options given; what a pipeline writes, then."""
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")

    def evaluate(*options: str):
        paths = ["--run", project / "run", "--data", project / "packed"]
        arguments = [*paths, "--metrics", "fd_random9_full,eqr4", *options]
        return CliRunner().invoke(app, ["snapshots", *map(str, arguments)])

    return evaluate


@pytest.mark.usefixtures("environment")
def test_by_default_the_report_has_everything_and_the_summary_the_best(evaluated, project):
    done = evaluated("--best", "runs/best.pkl")
    assert done.exit_code == 0, done.output
    report = json.loads(Path("reports/evaluation.json").read_text())
    summary = json.loads(Path("reports/metrics.json").read_text())
    assert list(summary) == ["kimg", "fd_random9_full", "eqr4"]
    best = report["best"]
    assert summary == {"kimg": best["kimg"]} | report["snapshots"][f"{best['kimg']:06d}"]
    assert summary["fd_random9_full"] == best["value"]
    assert Path("runs/best.pkl").samefile(project / "run" / best["snapshot"])
    # Again over its own outputs; the link is replaced, not written into.
    kept = (project / "run" / best["snapshot"]).read_bytes()
    assert evaluated("--best", "runs/best.pkl", "--best-by", "eqr4").exit_code == 0
    assert (project / "run" / best["snapshot"]).read_bytes() == kept
    assert list(json.loads(Path("reports/metrics.json").read_text()))[1] == "eqr4"


@pytest.mark.usefixtures("environment")
def test_a_named_report_comes_alone(evaluated):
    """As in version 0.2, in whose pipelines the report has the name of today's summary."""
    done = evaluated("--report", "reports/metrics.json")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("reports/metrics.json").read_text())["format"] == "sg3flow-metrics-1"
    assert {path.name for path in Path("reports").glob("*.json")} == {"metrics.json"}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--summary", "reports/evaluation.json"), "--report and --summary are both reports/eval"),
        (("--report", "mine.json"), "the file mine.npz is not a file of error terms made by"),
        (("--best", "mine.pkl"), "mine.pkl is not a snapshot made by sg3flow and is not replaced"),
        (("--best", "{run}/best.pkl"), "best.pkl is in the run folder; choose another folder"),
        (("--summary", "mine.pkl"), "mine.pkl is not a metrics summary made by sg3flow"),
    ],
)
def test_no_output_takes_the_place_of_another_or_of_a_foreign_file(
    evaluated, project, options, message
):
    Path("mine.pkl").write_bytes(b"PK but not ours")
    Path("mine.npz").write_bytes(b"PK but not ours")
    done = evaluated(*(option.format(run=project / "run") for option in options))
    assert done.exit_code == 1 and message in done.stderr
    assert not Path("reports").exists() and Path("mine.pkl").read_bytes() == b"PK but not ours"


@pytest.mark.usefixtures("environment")
def test_one_network_with_a_report(app, project, tmp_path):
    source = project / "run" / "network-snapshot-000003.pkl"
    arguments = ["--network", source, "--data", project / "packed", "--metrics", "fd_random16_full"]
    arguments = ["network", *map(str, arguments), "--report", "one.json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "fd_random16_full" in done.stdout
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["best"]["snapshot"] == str(source)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metrics", "pr_random9_3_full", "--best-by", "pr_random9_3_full"], "_recall'?)"),
        (
            ["--metrics", "fd_random9_full", "--chart", "mine.csv"],
            "is not a metrics chart made by sg3flow",
        ),
        (["--metrics", "fid50kfull"], "unknown metric 'fid50kfull' (did you mean 'fid50k_full'?)"),
        (["--metrics", "fd_random9_full", "--best-by", "eqr9"], "best_by 'eqr9' is not among"),
        (["--metrics", "fd_random9_full", "--data", "no.zip"], "no.zip"),
        (["--metrics", "fd_random9_full", "--run", "no"], "no training run at no"),
        (
            ["--metrics", "fd_random9_full", "--table", "mine.csv"],
            "mine.csv is not a metrics table made by sg3flow",
        ),
        (["--metrics", "kid_random9_full", "--seed", "4294967296"], "seed must be at most 429496"),
        (["--metrics", "fd_random9_full", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(app, project, tmp_path, extra, message):
    (tmp_path / "mine.csv").write_text("name,price\n")
    done = CliRunner().invoke(app, snapshot_arguments(project, *extra))
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.json").exists() and not (tmp_path / "m.csv").exists()
    assert (tmp_path / "mine.csv").read_text() == "name,price\n"


def single(app, project, *extra, source="network-snapshot-000003.pkl"):
    """The rows of a report of one network, and what the command printed to standard error."""
    arguments = ["network", "--network", str(project / "run" / source), "--report", "one.json"]
    done = CliRunner().invoke(app, [*arguments, *extra])
    assert done.exit_code == 0, done.stderr
    return json.loads(Path("one.json").read_text())["results"], done.stderr


@pytest.mark.usefixtures("environment")
def test_without_data_it_is_the_set_of_the_training(app, project):
    found, _ = single(app, project, "--metrics", "fd_random16_full")
    named, _ = single(
        app, project, "--metrics", "fd_random16_full", "--data", str(project / "packed")
    )
    assert found == named and found[0]["num_reference"] == 20


@pytest.mark.usefixtures("environment")
@pytest.mark.medium
def test_snapshots_without_data_take_the_set_of_the_run(app, project, tmp_path):
    outputs = ["--report", "m.json", "--table", "m.csv", "--chart", "m.png"]
    arguments = [sys.executable, str(STAGE), "snapshots", "--run", str(project / "run"), *outputs]
    arguments += ["--metrics", "fd_random16_full", "--verbose=0"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["reference"]["num_images"] == 20 and "evaluating" not in done.stderr


@pytest.mark.usefixtures("environment")
def test_a_set_that_is_not_found_is_asked_for(app, project, tmp_path):
    moved = tmp_path / "net.pkl"
    moved.write_bytes((project / "run" / "network-snapshot-000003.pkl").read_bytes())
    done = CliRunner().invoke(app, ["network", "--network", str(moved), "--metrics", "eqr4"])
    assert done.exit_code == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "there is no data/packed.zip; give --data PATH" in done.stderr


@pytest.mark.usefixtures("environment")
@pytest.mark.medium
def test_mirror_says_otherwise_and_quiet_is_quiet(app, project):
    quiet = ("--metrics", "fd_random16", "--verbose=0")
    (plain,), told = single(app, project, *quiet)
    assert (plain["num_reference"], plain["reference_flips"]) == (20, False)
    assert plain["reference_limit"] == 50_000 and told == ""
    for spelling in (["--mirror=1"], ["--mirror", "true"], ["--mirror"]):
        (mirrored,), _ = single(app, project, *quiet, *spelling)
        assert (mirrored["num_reference"], mirrored["reference_flips"]) == (40, True)
        assert mirrored["value"] != plain["value"]
    assert single(app, project, *quiet, "--no-mirror")[0] == [plain]
    full = ("--metrics", "fd_random16_full", "--mirror=1")
    (unchanged,), told = single(app, project, *full)
    assert (unchanged["num_reference"], unchanged["reference_flips"]) == (20, False)
    assert "note: mirror changes none of these metrics" in told and "evaluating" in told


@pytest.mark.usefixtures("environment")
@pytest.mark.medium
def test_gpus_starts_processes_that_give_one_report(project, tmp_path):
    """Two chunks of 1024, so that both processes work; without a GPU, both use the CPU."""
    source = str(project / "run" / "network-snapshot-000003.pkl")
    arguments = [sys.executable, str(STAGE), "network", "--network", source, "--report", "one.json"]
    arguments += ["--metrics", "fd_random1030,eqr4", "--mirror=1", "--device", "cpu"]
    reports, outputs = [], []
    for number in (1, 2):
        done = subprocess.run(
            [*arguments, "--gpus", str(number)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        reports.append((tmp_path / "one.json").read_text())
        outputs.append(done.stdout)
    assert reports[0] == reports[1] and outputs[0] == outputs[1] != ""
    done = subprocess.run(
        [*arguments, "--gpus", "2", "--data", "no.zip"], capture_output=True, text=True, timeout=300
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1 and "no.zip" in errors[0]


@pytest.fixture
def two_sets(tmp_path):
    """Twelve noisy pictures of several sizes and modes, and a zip of other ones."""
    random = np.random.RandomState(1)
    (tmp_path / "a" / "sub").mkdir(parents=True)
    for index in range(12):
        size = (20, 24, 3) if index % 3 else (16, 16, 3)
        image = Image.fromarray(random.randint(0, 256, size, dtype=np.uint8))
        modes = {1: "L", 2: "P", 3: "RGBA"}
        image.convert(modes.get(index, "RGB")).save(tmp_path / "a" / "sub" / f"{index:02d}.png")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for index in range(15):
            stream = io.BytesIO()
            pixels = random.randint(0, 200, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            archive.writestr(f"{index}.png", stream.getvalue())
    return tmp_path / "a", tmp_path / "b.zip"


@pytest.mark.usefixtures("environment")
def test_two_sets_of_pictures(app, two_sets, tmp_path):
    a, b = map(str, two_sets)
    names = "fd_random,kid_random,pr_random3,dc_random3,mem_random"
    arguments = ["images", "--a", a, "--b", b, "--metrics", names, "--report", "two.json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "two.json").read_text())
    assert [row["metric"] for row in report["results"]] == [
        "fd_random",
        "kid_random",
        "pr_random3_precision",
        "pr_random3_recall",
        "dc_random3_density",
        "dc_random3_coverage",
        "mem_random_authentic",
        "mem_random_distance",
    ]
    counts = {(row["num_generated"], row["num_reference"]) for row in report["results"]}
    assert counts == {(12, 15)} and report["reference"]["num_images"] == 15
    assert (tmp_path / "closest-mem_random.png").is_file()
    again = CliRunner().invoke(app, [*arguments, "--batch", "1"])
    for row, other in zip(
        report["results"], json.loads((tmp_path / "two.json").read_text())["results"], strict=True
    ):
        assert row["value"] == pytest.approx(other["value"], rel=1e-3, abs=1e-6)
    assert again.stdout == done.stdout


@pytest.mark.usefixtures("environment")
def test_two_sets_of_one_content_are_at_zero_and_share_their_digest(app, project, tmp_path):
    packed = str(project / "packed")
    arguments = ["images", "--a", packed, "--b", packed, "--metrics", "fd_random,swd"]
    done = CliRunner().invoke(app, [*arguments, "--report", "two.json"])
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "two.json").read_text())["results"]
    assert rows[0]["value"] == pytest.approx(0, abs=1e-6) and rows[1]["value"] == 0
    from sg3flow.data.archive import PackedSet

    digest = PackedSet(project / "packed").digest
    assert {row["network_sha256"] for row in rows} == {digest}
    assert {row["reference_sha256"] for row in rows} == {digest}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metrics", "fid50k_full"], "no metric 'fid50k_full' between two sets of images"),
        (["--metrics", "pr_random15"], "neighbor 15 needs more than 15 images"),
        (["--metrics", "swd"], "swd needs images of 16x16, not 24x20"),
        (["--metrics", "fd_random", "--b", "no"], "there is no file or folder no"),
        (["--metrics", "fd_random", "--report", "a/sub/00.png"], "is not a metrics report made by"),
    ],
)
def test_errors_of_two_sets_are_one_line(app, two_sets, extra, message):
    a, b = map(str, two_sets)
    done = CliRunner().invoke(app, ["images", "--a", a, "--b", b, *extra])
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.usefixtures("environment")
def test_a_damaged_picture_is_named(app, two_sets):
    a, b = two_sets
    path = a / "sub" / "05.png"
    path.write_bytes(path.read_bytes()[:60])
    done = CliRunner().invoke(
        app, ["images", "--a", str(a), "--b", str(b), "--metrics", "fd_random"]
    )
    assert done.exit_code == 1 and "sub/05.png" in done.stderr


_IN_SMALL_CHUNKS = """
import runpy, sys
from sg3flow.metrics import generation, reference_set as reference, feature_collector as collector
for module in (generation, reference, collector):
    module.CHUNK = 8
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("command", ["network", pytest.param("snapshots", marks=pytest.mark.slow)])
@pytest.mark.medium
def test_processes_share_the_work_and_change_nothing(project, tmp_path, monkeypatch, command):
    script = tmp_path / "small chunks.py"
    script.write_text(_IN_SMALL_CHUNKS)
    names = "fd_random21_full,kid_random30_full,pr_random20_3_full,swd12_full,eqt12_frac,eqr20"
    arguments = snapshot_arguments(project)
    if command == "network":
        source = str(project / "run" / "network-snapshot-000003.pkl")
        arguments = ["network", "--network", source, "--data", str(project / "packed")]
        arguments += ["--report", "m.json"]
    arguments += ["--metrics", names, "--batch", "4"]
    shared = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    reports, outputs = [], []
    for number, launcher in enumerate(([], shared)):
        # Other caches, so that both compute the references.
        monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / f"cache{number}"))
        process = [sys.executable, *launcher, str(script), str(STAGE), *arguments]
        done = subprocess.run(process, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        reports.append((tmp_path / "m.json").read_text())
        outputs.append(done.stdout)
    assert reports[0] == reports[1]
    assert outputs[0] == outputs[1]  # once, not once a process
    caches = [{p.name for p in (tmp_path / f"cache{n}" / "stats").iterdir()} for n in (0, 1)]
    assert caches[0] == caches[1] and len(caches[0]) == 3
