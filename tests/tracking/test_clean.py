"""`sg3flow clean`: what it removes, what it keeps, and the bytes that it names."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.files import sha256_file, write_json
from sg3flow.runs.run_folder import JsonlReporter
from sg3flow.runs.snapshot_retention import note_registered
from sg3flow.tracking.mlflow_store import connect, tracking_uri
from sg3flow.tracking.outbox import StageRun, load_offset, open_outbox
from sg3flow.tracking.upload_process import recorded
from sg3flow.tracking.uploader import Uploader

MONTHS = 40 * 24 * 3600


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def clean(*options: str):
    return CliRunner().invoke(app, ["clean", *options])


def age(*places: Path, seconds: float = MONTHS) -> None:
    """As if nothing had touched these places for so long."""
    then = time.time() - seconds
    for place in places:
        for path in [place, *place.rglob("*")]:
            os.utime(path, (then, then), follow_symlinks=False)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def blocks(*places: Path) -> int:
    files = {
        (s.st_dev, s.st_ino): s.st_blocks * 512
        for place in places
        for path in place.rglob("*")
        if path.is_file() and not path.is_symlink()
        for s in [path.stat()]
    }
    return sum(files.values())


pytestmark = pytest.mark.medium  # many, and some start servers or processes


def count_as_sent(folder: Path) -> None:
    """As if MLflow had all of it."""
    offset = load_offset(folder, tracking_uri())
    offset.run_id = "0" * 32
    offset.events, offset.stats = (
        (folder / name).stat().st_size if (folder / name).exists() else 0
        for name in ("events.jsonl", "stats.jsonl")
    )
    offset.save()


@pytest.fixture
def uploaded(training) -> Path:
    """The same, really in MLflow's default store."""
    shutil.rmtree("state/sent")
    Uploader(training / "run").send()
    age(training)
    return training


@pytest.fixture
def training(run_folder) -> Path:
    """The state of a finished training that MLflow has: 3 of 3 kimg."""
    states = run_folder.parent / "states"
    states.mkdir()
    for nimg in (2000, 3000):
        (states / f"state-{nimg:010d}.pt").write_bytes(os.urandom(9000))
        write_json(states / f"state-{nimg:010d}.json", {"nimg": nimg, "sha256": "0" * 64})
    count_as_sent(run_folder)
    age(run_folder.parent)
    return run_folder.parent


def test_an_old_finished_training_goes_and_a_dry_run_says_what_that_frees(uploaded):
    training = uploaded
    before = names(Path.cwd())
    shown = clean("--dry-run")
    assert shown.exit_code == 0, shown.output
    assert names(Path.cwd()) == before
    assert f"state/{training.name}: a finished training" in shown.stdout
    size = blocks(Path.cwd())
    done = clean()
    assert done.exit_code == 0, done.output
    assert not training.exists() and [*Path("state").glob(".*")] == []
    freed = size - blocks(Path.cwd())
    assert f"{freed:,} bytes" in done.stdout.splitlines()[-2]
    assert done.stdout.splitlines()[0].split() == shown.stdout.splitlines()[0].split()
    # Its snapshot and its grids are in the local store, too: they free nothing.
    assert "have other names and stay" in done.stdout
    assert next(Path("mlruns").rglob("network-snapshot-*.pkl")).read_bytes()
    assert clean().stdout.split() == ["freed", "0", "bytes"]


def kept_because(training, reason, *options):
    before = names(training)
    for given in (("--dry-run", *options), options):
        done = clean(*given)
        assert done.exit_code == 0 and reason in done.stdout, done.output
        assert names(training) == before


def test_a_young_one_stays(training):
    (training / "run" / "stats.jsonl").touch()
    assert clean().stdout.split() == ["freed", "0", "bytes"]
    assert (training / "states").is_dir()
    assert clean("--days", "0").exit_code == 0 and not training.exists()


def test_what_mlflow_does_not_have_stays(training):
    shutil.rmtree("state/sent")
    age(training)
    kept_because(training, "MLflow does not have all of it: run `sg3flow sync` first")
    count_as_sent(training / "run")
    with (training / "run" / "events.jsonl").open("a") as events:
        events.write('{"kind": "metric", "file": "", "key": "a", "nimg": 0, "value": 1}\n')
    age(training)
    kept_because(training, "MLflow does not have all of it: run `sg3flow sync` first")


def test_one_that_was_sent_to_another_server_goes(training, monkeypatch, empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert clean().exit_code == 0 and not training.exists()


def test_an_unfinished_one_goes_only_on_request(training):
    described = json.loads((training / "run" / "run.json").read_text())
    described["params"]["kimg"] = 25
    write_json(training / "run" / "run.json", described)
    age(training)
    kept_because(training, "unfinished at 3 of 25 kimg; --unfinished removes it")
    assert clean("--unfinished").exit_code == 0 and not training.exists()


def test_one_that_a_process_holds_stays(training):
    program = (
        "import sys; from pathlib import Path; from sg3flow.training.work_folder import *\n"
        "folder = open_run_folder(Path('state'), sys.argv[1], 3000)\n"
        "print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, training.name]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "has it\n"
        age(training)
        kept_because(training, "another process uses it", *[])
        process.communicate()
    age(training)
    assert clean().exit_code == 0 and not training.exists()


def test_a_registered_snapshot_keeps_its_run_and_loses_the_states(training):
    snapshot = next((training / "run").glob("*.pkl"))
    note_registered(
        training / "run",
        {"snapshot": snapshot.name, "snapshot_sha256": digest_of(training, snapshot)},
    )
    done = clean()
    assert f"{snapshot.name} is best, registered or the start of another" in done.stdout
    assert not (training / "states").exists() and snapshot.is_file()
    age(training)
    again = clean("--dry-run")  # without states it is still a finished one
    assert again.exit_code == 0 and "unfinished" not in again.stdout
    snapshot.rename(snapshot.with_name("network-snapshot-000002.pkl"))
    age(training)
    assert "unfinished at 2 of 3 kimg" in clean("--dry-run").stdout


def digest_of(training: Path, snapshot: Path) -> str:
    rows = map(json.loads, (training / "run" / "digests.jsonl").read_text().splitlines())
    return {row["snapshot_pkl"]: row["sha256"] for row in rows}[snapshot.name]


@pytest.mark.parametrize(
    "report", ["evaluation.json", "metrics.json", "registered.json", "the registry"]
)
def test_reports_and_the_registry_say_what_is_needed_too(training, report):
    snapshot = next((training / "run").glob("*.pkl"))
    digest = digest_of(training, snapshot)
    if report == "the registry":
        client = connect().client
        client.create_registered_model("m")
        version = client.create_model_version("m", "file:///models/m")
        client.set_model_version_tag("m", version.version, "sg3flow.snapshot_sha256", digest)
    row = {"snapshot": snapshot.name, "network_sha256": digest}
    content = {"best": row, "results": [row], "snapshot_sha256": digest}
    if report != "the registry":
        write_json(Path("reports") / report, content)
    assert clean().exit_code == 0
    assert snapshot.is_file() and not (training / "states").exists()


def test_the_training_that_the_project_shows_stays(training):
    shutil.copytree(training / "run", "runs/train")
    kept_because(training, "runs/train shows this training")


def test_what_is_no_state_and_what_is_linked_from_elsewhere_stays(training, tmp_path):
    outside = tmp_path / "outside" / "run"
    shutil.copytree(training / "run", outside)
    age(outside)
    Path("state/abcdefabcdef").symlink_to(outside.parent)
    for folder in ("state/mine", "state/0123456789aa"):
        Path(folder).mkdir()
        (Path(folder) / "thesis.txt").write_text("mine")
        age(Path(folder))
    (training / "states" / "elsewhere").symlink_to(outside)
    age(training)
    done = clean()
    assert done.exit_code == 0, done.output
    assert "0123456789aa: no run.json that can be read" in done.stdout
    assert not training.exists() and len(names(outside)) > 3
    assert Path("state/abcdefabcdef").is_symlink() and Path("state/mine/thesis.txt").exists()


def stage_record(file: Path) -> Path:
    outbox = open_outbox("pack", {}, None)
    with recorded(outbox):
        StageRun(outbox).artifact(file)
    return outbox.folder


def test_records_of_stages_go_when_they_were_sent(own_project):
    Path("report.json").write_text("{}")
    sent, unsent = (stage_record(Path("report.json")) for _ in range(2))
    count_as_sent(sent)
    age(Path("state"))
    done = clean("--records")
    assert "MLflow does not have all of it" in done.stdout
    assert not sent.exists() and (unsent / "files" / "report.json").is_file()
    assert Path("report.json").read_text() == "{}"
    age(Path("state/sent"))
    assert "how far a removed folder was sent" in clean("--records").stdout
    assert names(Path("state/sent")) == []


def test_artifacts_without_an_owner_and_of_deleted_runs_go(uploaded):
    client = connect().client
    [run] = client.search_runs(["1"])
    own = Path("mlruns") / run.info.run_id
    orphans = [Path("mlruns") / ("0" * 32), Path("mlruns/models") / ("m-" + "0" * 32)]
    orphans.append(Path("mlruns/7") / ("1" * 32))
    for folder in orphans:
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts" / "a.bin").write_bytes(b"1")
    mine = Path("mlruns/my notes")
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    age(Path("mlruns"))
    done = clean("--artifacts")
    assert done.exit_code == 0 and done.stdout.count("not in mlflow.db") == 3, done.output
    assert not any(folder.exists() for folder in orphans) and (mine / "a.txt").exists()
    assert own.is_dir()
    client.delete_run(run.info.run_id)
    assert clean("--artifacts").stdout.split() == ["freed", "0", "bytes"]  # deleted just now
    client.search_runs(["1"], run_view_type=ViewType.DELETED_ONLY)
    assert "that was deleted in MLflow" in clean("--artifacts", "--days", "0").stdout
    assert not own.exists()


def test_a_model_that_a_version_names_stays_even_if_it_was_deleted(uploaded):
    client = connect().client
    [model] = client.search_logged_models(["1"])
    client.create_registered_model("m")
    client.create_model_version("m", f"models:/{model.model_id}")
    client.delete_logged_model(model.model_id)
    folder = Path("mlruns/models") / model.model_id
    assert clean("--artifacts", "--days", "0").exit_code == 0
    assert next(folder.rglob("*.pkl")).is_file()


@pytest.mark.parametrize("content", [None, b"", b"no database at all"])
def test_without_a_database_the_owners_are_unknown_and_all_stays(content):
    Path("mlruns", "0" * 32).mkdir(parents=True)
    os.unlink("mlflow.db")
    if content is not None:
        Path("mlflow.db").write_bytes(content)
    age(Path("mlruns"))
    before = names(Path("mlruns"))
    done = clean("--artifacts")
    assert done.exit_code == 0 and "mlflow.db cannot be read" in done.stdout, done.output
    assert names(Path("mlruns")) == before


def test_kernels_of_other_versions_go_and_those_in_use_stay(monkeypatch, tmp_path):
    from sg3flow.kernels import build

    folder = tmp_path / "kernels"
    monkeypatch.setenv("SG3FLOW_KERNELS", str(folder))
    for name in ("cpu-000000000000-1", f"{build._stem()}-1"):
        (folder / name).mkdir(parents=True)
        (folder / name / build.LIBRARY).write_bytes(b"1")
        digest = sha256_file(folder / name / build.LIBRARY)
        write_json(folder / name / build.RECORD, {"sha256": digest})
    (folder / "cuda-a-sm_90-1.bin").write_bytes(b"1")
    (folder / "my notes.txt").write_text("mine")
    assert clean("--kernels").stdout.split() == ["freed", "0", "bytes"]
    age(folder)
    done = clean("--kernels")
    assert "of another version" in done.stdout and "compiled for a GPU" in done.stdout
    assert sorted(os.listdir(folder)) == sorted([f"{build._stem()}-1", "my notes.txt"])


def test_caches_go_on_request_and_what_the_user_put_there_stays(own_caches):
    (own_caches / "stats").mkdir(parents=True)
    for name in ("a.pkl", "a.pkl.json", "mine.pkl", "b.zip.part", "stats/c.npz"):
        (own_caches / name).write_bytes(b"1")
    age(own_caches)
    assert clean().stdout.split() == ["freed", "0", "bytes"]
    for option in ("--caches", "--all"):
        assert clean(option).exit_code == 0
        assert names(own_caches) == ["mine.pkl", "stats"]


def test_what_killed_processes_left_goes_after_a_day():
    Path("runs/train").mkdir(parents=True)
    left = [f"runs/train/.{name}" for name in ("a.pkl.0123abcd.tmp", "b.0123abcd.removed")]
    spared = ["runs/train/.a.0123abcd.old", "runs/train/a.tmp", "runs/train/.b.0123abce.tmp"]
    for name in (*left, *spared):
        Path(name).write_bytes(b"1")
    age(*map(Path, [*left, *spared[:2]]), seconds=2 * 24 * 3600)
    assert clean("--temporary").exit_code == 0
    assert names(Path("runs")) == ["train", *sorted(name.removeprefix("runs/") for name in spared)]


def test_old_reproductions_go_and_git_forgets_them():
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "1"]):
        subprocess.run([*git, *command], check=True)
    tree = "reproductions/0123/tree"
    subprocess.run([*git, "worktree", "add", "-q", "--detach", tree], check=True)
    write_json(Path("reproductions/0123/reproduction.json"), {"format": "sg3flow-reproduction-1"})
    Path("reproductions/mine").mkdir()
    age(Path("reproductions"))
    done = clean("--reproductions")
    assert done.exit_code == 0, done.output
    assert os.listdir("reproductions") == ["mine"]
    listed = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


def test_what_cannot_be_removed_is_named_and_the_rest_goes(training, monkeypatch):
    def refused(path, *given):
        raise PermissionError(13, "Permission denied", str(path))

    Path("runs").mkdir()
    left = Path("runs/.a.0123abcd.tmp")
    left.write_bytes(b"1")
    age(left)
    monkeypatch.setattr("sg3flow.runs.removal.os.rename", refused)
    done = clean()
    assert done.exit_code == 1 and training.exists() and not left.exists()
    assert done.stderr.splitlines() == [
        f"error: state/{training.name}: Permission denied: {training.absolute()}"
    ]


def test_a_group_that_cannot_be_read_is_named_and_the_others_are_cleaned(training, monkeypatch):
    def refused(*given, **more):
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr("sg3flow.runs.leftovers.find_temporary", refused)
    done = clean()
    assert done.exit_code == 1 and not training.exists()
    assert done.stderr == "error: temporary: Permission denied: runs\n"


@pytest.mark.parametrize("value", ["-1", "x", "nan", "1e9"])
def test_impossible_days_are_refused(value, training):
    done = clean("--days", value)
    assert done.exit_code != 0 and training.exists()


@pytest.fixture
def run(measured, run_folder) -> Path:
    """The same, in MLflow."""
    Uploader(run_folder).send()
    return measured


@pytest.fixture
def measured(run_folder) -> Path:
    """The output folder of a training with four snapshots, of which 1 is best."""
    reporter, rows = JsonlReporter(run_folder), []
    for kimg, value in enumerate([4.0, 1.0, 3.0, 2.0]):
        path = run_folder / f"network-snapshot-{kimg:06d}.pkl"
        path.write_bytes(os.urandom(9000))
        digest = sha256_file(path)
        reporter.snapshot(path, kimg * 1000, digest)
        row = {"snapshot": path.name, "kimg": kimg, "metric": "fid9_full", "value": value}
        rows.append(row | {"network_sha256": digest, "higher_is_better": False})
    best = {"metric": "fid9_full", "snapshot": rows[1]["snapshot"], "kimg": 1}
    content = {"format": "sg3flow-metrics-1", "best": best, "results": rows}
    write_json(Path("reports/evaluation.json"), content)
    write_json(Path("reports/metrics.json"), {"kimg": 1, "fid9_full": 1.0})
    out = Path("runs/train")
    out.mkdir(parents=True)
    for path in run_folder.iterdir():
        os.link(path, out / path.name)
    return out


def kimgs(folder: Path) -> list[int]:
    return sorted(int(path.stem[-6:]) for path in folder.rglob("network-snapshot-*.pkl"))


@pytest.mark.parametrize(
    ("rule", "kept"), [("all", [0, 1, 2, 3]), ("last 1", [1, 3]), ("best 2", [1, 3])]
)
def test_snapshots_that_a_rule_does_not_keep_leave_every_place(run, run_folder, rule, kept):
    size, places = blocks(Path.cwd()), (run, run_folder, Path("mlruns"))
    shown = clean("--snapshots", rule, "--dry-run")
    assert shown.exit_code == 0 and all(kimgs(place) == [0, 1, 2, 3] for place in places)
    done = clean("--snapshots", rule)
    assert done.exit_code == 0, done.output
    keeps, removes = shown.stdout.splitlines()[0].removeprefix("keeps ").split("; removes ")
    assert [int(name[-10:-4]) for name in keeps.split(", ")] == kept
    assert removes.count("network-snapshot-") == 4 - len(kept) and ("nothing" in removes) == (
        kept == [0, 1, 2, 3]
    )
    assert done.stdout.startswith(shown.stdout.splitlines()[0])
    assert [kimgs(place) for place in places] == [kept] * 3
    models = connect().client.search_logged_models(["1"])
    pruned = [model for model in models if "sg3flow.pruned" in model.tags]
    assert len(models) == 4 and len(pruned) == 4 - len(kept)
    freed = int(done.stdout.split("freed")[1].split()[0].replace(",", ""))
    assert freed == (4 - len(kept)) * 12288  # whole blocks of the disk
    assert freed >= size - blocks(Path.cwd())  # less the lines that were written


def test_a_registered_snapshot_stays_in_every_place(run, run_folder):
    digest = sha256_file(run / "network-snapshot-000000.pkl")
    note_registered(run, {"snapshot": "network-snapshot-000000.pkl", "snapshot_sha256": digest})
    assert clean("--snapshots", "last 1").exit_code == 0
    assert kimgs(run) == kimgs(run_folder) == kimgs(Path("mlruns")) == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--snapshots", "last 0"], "--snapshots must be all, last N or best N"),
        (["--snapshots", "last 1", "--states"], "goes with --run-dir, --metrics and --dry-run"),
        (["--snapshots", "last 1", "--days", "3"], "goes with --run-dir, --metrics and --dry-run"),
        (["--run-dir", "x"], "go with --snapshots RULE"),
        (["--snapshots", "last 1", "--run-dir", "x"], "x contains no training"),
        (["--snapshots", "best 1", "--metrics", "x.json"], "no report x.json"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_removes_nothing(measured, options, words):
    done = clean(*options)
    assert done.exit_code == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert kimgs(measured) == [0, 1, 2, 3]


def test_a_report_of_other_snapshots_does_not_say_what_is_best(measured):
    report = json.loads(Path("reports/evaluation.json").read_text())
    for row in report["results"]:
        row["network_sha256"] = "0" * 64
    write_json(Path("reports/evaluation.json"), report)
    done = clean("--snapshots", "best 1")
    assert "is of another training; run stages/evaluate.py first" in done.stderr
    assert kimgs(measured) == [0, 1, 2, 3]
