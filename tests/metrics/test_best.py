"""Choosing the best snapshot from the report of evaluate."""

import json

import pytest

from sg3flow.errors import CheckpointError, MetricError
from sg3flow.files import sha256_file
from sg3flow.runs.best_snapshot import best_of_run, best_snapshot


def _row(kimg, value, metric="fd_random1k_full", higher=False):
    name = f"network-snapshot-{kimg:06d}.pkl"
    return {
        "snapshot": name,
        "kimg": kimg,
        "metric": metric,
        "value": value,
        "higher_is_better": higher,
        "network_sha256": "ab",
    }


@pytest.fixture
def report(tmp_path):
    rows = [_row(10, 3.0), _row(20, 2.0), _row(30, 2.0)]
    rows += [_row(kimg, 1.0 * kimg, "eqt1k_int", higher=True) for kimg in (10, 20, 30)]
    path = tmp_path / "metrics.json"
    best = {"metric": "fd_random1k_full"}
    content = {"format": "sg3flow-metrics-1", "best": best, "results": rows[::-1]}
    path.write_text(json.dumps(content))
    return path


def test_the_lowest_distance_wins_and_of_equals_the_earlier(report):
    best = best_snapshot(report)
    assert (best.snapshot, best.kimg, best.value) == ("network-snapshot-000020.pkl", 20, 2.0)
    assert {name: row["value"] for name, row in best.results.items()} == {
        "fd_random1k_full": 2.0,
        "eqt1k_int": 20.0,
    }


def _summarized(report, summary):
    """The report under its name of today, and a summary beside it."""
    beside = report.with_name("evaluation.json")
    content = json.loads(report.read_text())
    content["best"] = {"metric": "fd_random1k_full", "kimg": 20}
    content["best"]["snapshot"] = "network-snapshot-000020.pkl"
    beside.write_text(json.dumps(content))
    report.write_text(json.dumps(summary))
    return beside


def test_a_summary_leads_to_the_report_beside_it(report):
    before = best_snapshot(report)
    summary = {"kimg": 20, "fd_random1k_full": 2.0, "eqt1k_int": 20.0}
    beside = _summarized(report, summary)
    assert best_snapshot(report) == best_snapshot(beside) == before
    assert best_snapshot(report, "eqt1k_int").kimg == 30
    beside.write_text('{"format": "sg3flow-metrics-1"}')
    with pytest.raises(MetricError, match=r"evaluation\.json is damaged"):
        best_snapshot(report)
    beside.unlink()
    with pytest.raises(MetricError, match=r"there is no evaluation\.json beside it; run stages"):
        best_snapshot(report)


@pytest.mark.parametrize("changes", [{"kimg": 30}, {"eqt1k_int": 20.5}, {"fid50k_full": 1.0}])
def test_a_summary_of_another_evaluation_is_refused(report, changes):
    summary = {"kimg": 20, "fd_random1k_full": 2.0, "eqt1k_int": 20.0} | changes
    _summarized(report, summary)
    with pytest.raises(MetricError, match=r"metrics\.json and .* are of different evaluations"):
        best_snapshot(report)


def test_another_metric_may_choose_another_snapshot(report):
    assert best_snapshot(report, "eqt1k_int").kimg == 30


def test_what_is_no_report_is_refused(report, tmp_path):
    with pytest.raises(MetricError, match=r"did you mean 'eqt1k_int'"):
        best_snapshot(report, "eqt1k")
    with pytest.raises(MetricError, match=r"run stages/evaluate\.py first"):
        best_snapshot(tmp_path / "no.json")
    for content, words in (
        ("{", "cannot read"),
        ("[]", "not a report of evaluate"),
        ('{"format": "sg3flow-metrics-1"}', "damaged"),
        ('{"format": "sg3flow-metrics-1", "results": [{"metric": "a"}]}', "damaged"),
    ):
        report.write_text(content)
        with pytest.raises(MetricError, match=words):
            best_snapshot(report, "a")


def _change_rows(report, **changes):
    content = json.loads(report.read_text())
    for row in content["results"]:
        row.update(changes)
    report.write_text(json.dumps(content))


def test_rows_of_different_meaning_are_not_compared(report):
    content = json.loads(report.read_text())
    content["results"][-1]["detector_sha256"] = "another"
    report.write_text(json.dumps(content))
    with pytest.raises(MetricError, match=r"cannot be compared: the detector differ; run stages"):
        best_snapshot(report)
    assert best_snapshot(report, "eqt1k_int").kimg == 30


@pytest.mark.parametrize(
    "changes", [{"kimg": None}, {"snapshot": "runs/network-snapshot-000020.pkl"}]
)
def test_a_report_of_one_network_is_not_one_of_a_run(report, changes):
    _change_rows(report, **changes)
    with pytest.raises(MetricError, match="this report is of a single network, not of a run"):
        best_snapshot(report)


def test_the_file_must_be_the_one_that_was_measured(report, tmp_path):
    with pytest.raises(CheckpointError, match="which is not in"):
        best_of_run(tmp_path, report)
    path = tmp_path / "network-snapshot-000020.pkl"
    path.write_bytes(b"weights")
    with pytest.raises(MetricError, match="measured on another network-snapshot-000020"):
        best_of_run(tmp_path, report)
    _change_rows(report, network_sha256=sha256_file(path))
    best, found, digest = best_of_run(tmp_path, report)
    assert (best.kimg, found, digest) == (20, path, sha256_file(path))
    _change_rows(report, network_sha256=None)
    with pytest.raises(MetricError, match="damaged"):
        best_of_run(tmp_path, report)
