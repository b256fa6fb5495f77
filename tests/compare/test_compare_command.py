"""`sg3flow compare` on real runs: folders, MLflow runs, registered versions."""

import json
import math
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.compare.tracked_source import read_tracked
from sg3flow.files import write_json
from sg3flow.metrics.error_terms import digest_of, stored_form, write_terms
from sg3flow.runs.run_folder import JsonlReporter
from sg3flow.tracking.mlflow_store import connect, training_run_id
from sg3flow.tracking.outbox import Outbox, StageRun, open_outbox
from sg3flow.tracking.upload_process import recorded
from sg3flow.tracking.uploader import Uploader

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def page_of(project, name="reports/compare.html"):
    return (project / name).read_text()


@pytest.mark.medium
def test_two_folders_side_by_side(project, run_folder):
    first, second = run_folder("first"), run_folder("second", value=4.0, gamma=0.4)
    result = compare(first, second, "--seeds", "0-1,1", "--psi", "0.7")
    assert result.exit_code == 0, result.output
    assert "By fid9_full, B is better than A." in result.stdout
    assert "train.gamma" in result.stdout and "train.kimg" not in result.stdout
    assert "page: reports/compare.html" in result.stdout
    page = page_of(project)
    assert page.count('src="data:image/png;base64,') == 4  # two runs, two seeds
    assert "seed 0, cat" in page and "seed 1, dog" in page and "psi 0.7" in page
    one = compare(first, second, "--seeds", "3", "--class", "1", "--out", "c.html")
    assert one.exit_code == 0 and "seed 3, dog" in page_of(project, "c.html")


def test_runs_with_error_terms_are_compared_image_by_image(project, run_folder):
    """In the terminal and on the page; without the file of one side, by their single errors."""
    common = np.random.RandomState(0).randn(30)
    first, second = run_folder("first"), run_folder("second", value=4.9)
    for folder, own in ((first, 0.0), (second, 0.001)):
        terms = stored_form(common + own * np.arange(30))
        write_terms(folder / "metrics.npz", {"4/fid9_full": terms})
        report = json.loads((folder / "metrics.json").read_text())
        report["results"][1] |= {"error_terms": digest_of(terms), "num_reference": 90_000}
        write_json(folder / "metrics.json", report)
    result = compare(first, second, "--seeds", "")
    assert result.exit_code == 0, result.output
    assert "By fid9_full, B is within noise of A." in result.stdout
    words = (
        "B and A: 9 images are too few for a difference of 0.1 in fid9_full: about 31 would show"
    )
    assert result.stdout.count(words) == 1 and page_of(project).count(words) == 1
    assert "difference 0.1, noise up to 0.18, paired" in page_of(project)
    assert "paired" in result.stdout and "unpaired" not in result.stdout
    (second / "metrics.npz").unlink()
    apart = compare(first, second, "--seeds", "")
    assert "unpaired" in apart.stdout
    assert "difference 0.1, noise up to 0.28, unpaired" in page_of(project)


def test_broken_runs_are_shown_with_what_is_wrong(project, run_folder):
    whole = run_folder("whole")
    unfinished = run_folder("unfinished", kimg=2)
    (unfinished / "metrics.json").unlink()
    (unfinished / "network-snapshot-000004.pkl").write_bytes(b"PK\x03\x04 torn")
    with (unfinished / "stats.jsonl").open("a") as stream:
        stream.write('no json\n{"torn')
    old = run_folder("old")
    for name in ("run.json", "metrics.json", "networks.txt"):
        (old / name).unlink()
    for path in old.glob("*.pkl"):
        path.unlink()
    foreign = run_folder("foreign")
    (foreign / "network-snapshot-000004.pkl").write_bytes(b"another")
    result = compare(whole, unfinished, old, foreign)
    assert result.exit_code == 0, result.output
    page = page_of(project)
    for words in (
        "unfinished: 2 of 4 kimg",
        "not measured: there is no reports/evaluation.json; run stages/evaluate.py",
        "1 lines of stats.jsonl are damaged",
        "the report here is about other snapshots",
        "no snapshot found",
    ):
        assert words in page
    assert "network-snapshot-000004.pkl" in page  # the error of the one that cannot be loaded
    assert page.count('src="data:image/png;base64,') == 6


def test_what_was_recorded_of_code_and_machine_is_compared(project, run_folder):
    first, second, older = run_folder("first"), run_folder("second"), run_folder("older")
    for folder, gpu in ((first, "H200"), (second, "A100")):
        known = {
            "code": {"commit": "ab" * 20, "dirty": gpu == "A100", "version": f"0.2.{gpu[1:3]}"},
            "compute": {"torch": "2.13.0", "ops": "cuda"},
            "machine": {"system": "Linux 6.1", "architecture": "x86_64", "gpus": [{"name": gpu}]},
            "network": {"source": "starter", "sha256": gpu * 16},  # of two versions of the package
        }
        write_json(folder / "provenance.json", known)
    write_json(older / "provenance.json", {"code": None, "machine": {"gpus": 7}, "network": 5})
    result = compare(first, second, older, "--seeds", "")
    assert result.exit_code == 0, result.output
    page = page_of(project)
    for words in (
        "H200",
        "A100",
        "abababababab",
        "abababababab with changes",
        "not recorded",
        "0.2.20",
        "0.2.10",
        "starter, H200H200H200",
        "starter, A100A100A100",
    ):
        assert f"<td>{words}</td>" in page or f'">{words}</td>' in page, words
    assert "Linux 6.1" not in page  # the same for both, and not known of the third


def test_an_unknown_metric_leaves_the_measurements_and_is_told(project, run_folder):
    first, second = run_folder("first"), run_folder("second")
    result = compare(first, second, "--best-by", "fid8_full", "--seeds", "")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("did you mean 'fid9_full'") == 2
    assert "fid9_full (lower is better" in page_of(project)  # its curve


def test_without_pictures_no_network_is_read(project, run_folder):
    first = run_folder("first")
    (first / "network-snapshot-000004.pkl").unlink()
    result = compare(first, run_folder("second"), "--seeds", "")
    assert result.exit_code == 0 and "The same seeds" not in page_of(project)


@pytest.fixture
def tracked(project, run_folder):
    """Two runs in MLflow with their evaluations, the second registered as champion."""
    ids = []
    for name, value in (("plain", 5.0), ("better", 4.0)):
        folder = run_folder(name, value=value, gamma=value)
        with recorded(Outbox(folder)):
            reporter = JsonlReporter(folder)
            reporter.snapshot(folder / "network-snapshot-000000.pkl", 0, "0" * 64)
            reporter.snapshot(folder / "network-snapshot-000004.pkl", 4000, "1" * 64)
            reporter.metric(folder / "network-snapshot-000004.pkl", "fid9_full", value, 4000)
        Uploader(folder).send()
        outbox = open_outbox("evaluate", {}, folder)
        with recorded(outbox):
            # The second run is one of today; up to version 0.2 metrics.json was the report.
            report = folder / ("metrics.json" if name == "plain" else "evaluation.json")
            if name == "better":
                (folder / "metrics.json").rename(report)
                terms = stored_form([0.1, 0.2])
                write_terms(folder / "evaluation.npz", {"4/fid9_full": terms})
                StageRun(outbox).artifact(folder / "evaluation.npz")
            StageRun(outbox).artifact(report)
        Uploader(outbox.folder).send()
        ids.append(training_run_id(folder))
    return ids


@pytest.mark.medium
def test_mlflow_runs_say_what_their_folders_say(project, tracked, tmp_path):
    first, second = tracked
    for step, value in enumerate((1.0, math.inf, 2.0)):  # MLflow keeps the greatest number instead
        connect().client.log_metric(first, "Loss/r1_penalty", value, step=step)
    result = compare("plain-run", f"runs:/{second}", "--out", "m.html")
    assert result.exit_code == 0, result.output
    assert "B is better than A" in result.stdout
    page = page_of(project, "m.html")
    assert page.count('src="data:image/png;base64,') == 12 and "Loss/G/loss" in page
    assert "R1 penalty" in page and "e+308" not in page
    shutil.rmtree(project / "plain")  # the tracking store alone is enough
    known = {digest_of(stored_form([0.1, 0.2]))}
    kept = [read_tracked(run, "", tmp_path).terms for run in tracked]
    assert [set(terms) for terms in kept] == [set(), known], "the error terms of the evaluation"
    short = compare(first[:8], second[:8], project / "better", "--seeds", "")
    assert short.exit_code == 0, short.output
    assert "B and C are better than A" in short.stdout
    page = page_of(project)
    assert "MLflow run" in page and "run folder" in page
    assert f"MLflow run <code>{second}</code>" in page  # of the folder, by what was sent of it
    # The same data set, though MLflow keeps less of its digest: no difference.
    assert "train.gamma" in page and "set, 3 images" not in page


@pytest.mark.medium
def test_registered_versions_are_judged_as_registered(project, tracked):
    store, model = connect(), "toy"
    report = json.loads((project / "better/evaluation.json").read_text())
    [best] = [row for row in report["results"] if row["kimg"] == 4]
    tags = {"sg3flow.kimg": "4", "sg3flow.metric": "fid9_full"}
    tags["sg3flow.result.fid9_full"] = json.dumps(best | {"value": 3.0})
    store.client.create_registered_model(model)
    version = store.client.create_model_version(
        model, str(project / "better"), run_id=tracked[1], tags=tags
    )
    store.client.set_registered_model_alias(model, "champion", version.version)
    write_json(project / "params.yaml", {"register": {"name": model}})
    result = compare("plain-run", "toy@champion", "@champion", "models:/toy/1", "--seeds", "")
    assert result.exit_code == 0, result.output
    assert "B, C and D are better than A" in result.stdout
    assert page_of(project).count("as registered") == 3
    other = compare("plain-run", "toy@champion", "--best-by", "kid9_full", "--seeds", "")
    assert "B: compared at the registered snapshot, not at the best by" in other.stdout
    store.client.update_run(tracked[0], name="toy@champion")  # runs are called as people like
    named = compare("better-run", "toy@champion", "--seeds", "")
    assert f"B  toy@champion (MLflow run {tracked[0]})" in named.stdout
    store.client.update_run(tracked[0], name="plain-run")
    missing = compare("plain-run", "toy@nobody")
    assert missing.exit_code == 1 and "one of champion, not '@nobody'" in missing.stderr


@pytest.mark.medium
def test_what_is_not_found_is_one_line(project, tracked, run_folder):
    folder = run_folder("folder")
    for asked, words in {
        "plain-rum": "MLflow has no training 'plain-rum' (did you mean 'plain-run'?)",
        "0" * 32: "MLflow has no run 0000",
        str(project): "is not a run folder: it has none of run.json",
        "": "a RUN is empty",
        "~nobody-here/x": "is no folder, no DVC",
        ".dvc": "'.dvc' is no folder of a run, no DVC",
        "--upload-pack=x": "is no folder, no DVC experiment and no git revision",
    }.items():
        result = compare("--", folder, asked)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert words in result.stderr, asked
    assert not (project / "reports").exists()


@pytest.mark.medium
def test_two_runs_of_one_name_are_told_apart_by_their_ids(project, tracked):
    store = connect()
    store.client.update_run(tracked[1], name="plain-run")
    result = compare("plain-run", tracked[1])
    assert result.exit_code == 1
    assert "2 trainings are called plain-run; name one by its id" in result.stderr
    assert tracked[0][:12] in result.stderr and tracked[1][:12] in result.stderr


def test_a_server_that_is_away_is_one_line(project, run_folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = compare(run_folder("folder"), "some-run")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "check MLFLOW_TRACKING_URI" in result.stderr
    assert compare(project / "folder", project / "folder", "--seeds", "").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "name 2 to 21 runs"),
        (["a", "b", "--seeds", "x"], "seeds must be whole numbers"),
        (["a", "b", "--seeds", "0-99"], "at most 64 seeds"),
    ],
)
def test_bad_requests_are_refused_before_any_work(project, arguments, words):
    result = compare(*arguments)
    assert result.exit_code == 1 and words in result.stderr


def test_a_bad_look_stops_and_a_foreign_page_stays(project, run_folder):
    folder = run_folder("folder")
    psi = compare(folder, folder, "--psi", "nan")
    assert psi.exit_code == 2 and "Invalid value for '--psi'" in psi.stderr
    (project / "mine.html").write_text("mine")
    foreign = compare(folder, folder, "--out", "mine.html")
    assert foreign.exit_code == 1 and "not a comparison page made by" in foreign.stderr
    assert (project / "mine.html").read_text() == "mine"
