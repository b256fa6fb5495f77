"""Choosing the best snapshot from the report of evaluate."""

import json

import pytest

from sg3flow.errors import MetricError
from sg3flow.metrics.best import best_snapshot


def _row(kimg, value, metric="fd_random1k_full", higher=False):
    name = f"network-snapshot-{kimg:06d}.pkl"
    return {
        "snapshot": name,
        "kimg": kimg,
        "metric": metric,
        "value": value,
        "higher_is_better": higher,
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


def test_another_metric_may_choose_another_snapshot(report):
    assert best_snapshot(report, "eqt1k_int").kimg == 30


def test_what_is_no_report_is_refused(report, tmp_path):
    with pytest.raises(MetricError, match=r"did you mean 'eqt1k_int'"):
        best_snapshot(report, "eqt1k")
    with pytest.raises(MetricError, match=r"run stages/evaluate\.py first"):
        best_snapshot(tmp_path / "no.json")
    for content, words in (
        ("{", "cannot read"),
        ("[]", "no report of evaluate"),
        ('{"format": "sg3flow-metrics-1"}', "damaged"),
        ('{"format": "sg3flow-metrics-1", "results": [{"metric": "a"}]}', "damaged"),
    ):
        report.write_text(content)
        with pytest.raises(MetricError, match=words):
            best_snapshot(report, "a")
