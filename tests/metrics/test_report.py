import csv
import dataclasses
import json

import pytest
from PIL import Image

from sg3flow.errors import DataError, MetricError
from sg3flow.metrics.report import (
    MetricResult,
    best_metric,
    build_report,
    build_summary,
    check_outputs,
    find_best,
    format_table,
    write_picture,
    write_report,
    write_table,
)


def result(kimg, metric, value):
    return MetricResult(
        snapshot=f"network-snapshot-{kimg:06d}.pkl",
        kimg=kimg,
        metric=metric,
        value=value,
        standard_error=None if kimg == 20 else value / 10,
        error_rule=None if kimg == 20 else "rule",
        num_generated=9,
        num_reference=8,
        detector="d",
        detector_sha256="e",
        reference_sha256="f",
        network_sha256="0",
        resize="r",
        seed=0,
        higher_is_better=metric.startswith("eq"),
        torch="2",
    )


RESULTS = [
    result(2, "fid9_full", 7.0),
    result(2, "eqr9", 30.0),
    result(10, "fid9_full", 5.0),
    result(10, "eqr9", 20.0),
    result(20, "fid9_full", 5.0),
    result(20, "eqr9", 10.0),
]


def report_by(metric):
    return build_report(RESULTS, reference_sha256="f", num_images=8, best_by=metric)


def test_report_has_the_best_a_table_and_everything():
    report = report_by("fid9_full")
    assert report["format"] == "sg3flow-metrics-1"
    assert report["reference"] == {"sha256": "f", "num_images": 8}
    assert report["snapshots"]["000010"] == {"fid9_full": 5.0, "eqr9": 20.0}
    assert list(report["snapshots"]) == ["000002", "000010", "000020"]
    assert len(report["results"]) == 6 and len(report["results"][0]) == 21


def test_summary_is_flat_and_begins_with_what_selected_the_best():
    summary = build_summary(RESULTS, find_best(RESULTS, "eqr9"))
    assert summary == {"kimg": 2, "eqr9": 30.0, "fid9_full": 7.0}
    assert list(summary) == ["kimg", "eqr9", "fid9_full"]


def test_best_is_the_smallest_distance_or_the_largest_ratio():
    assert report_by("fid9_full")["best"] == {
        "snapshot": "network-snapshot-000010.pkl",
        "kimg": 10,
        "metric": "fid9_full",
        "value": 5.0,
    }
    assert report_by("eqr9")["best"]["kimg"] == 2


def test_best_metric_is_the_first_unless_named():
    assert best_metric(("a", "b"), "") == "a"
    assert best_metric(("a", "b"), "b") == "b"
    with pytest.raises(MetricError, match="best_by 'fid9' is not among the metrics fid9_full"):
        best_metric(("fid9_full",), "fid9")


def test_files_are_written_and_replaced(tmp_path):
    report, table = tmp_path / "r" / "metrics.json", tmp_path / "r" / "metrics.csv"
    for _ in range(2):
        check_outputs(report, table)
        write_report(report, report_by("eqr9"))
        write_table(table, RESULTS, "fid9_full")
    assert json.loads(report.read_text())["best"]["value"] == 30
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["kimg", "eqr9_error", "eqr9", "fid9_full_error", "fid9_full"]
    assert rows[2] == ["10", "2.0", "20.0", "0.5", "5.0"] and rows[3][1] == ""
    assert len(rows) == 4


def test_report_and_summary_may_take_the_place_of_each_other(tmp_path):
    """A report of version 0.2 has the name of today's summary."""
    report, summary = tmp_path / "evaluation.json", tmp_path / "metrics.json"
    summary.write_text(json.dumps(report_by("eqr9")))
    report.write_text('{"kimg": 2, "eqr9": 30, "pr9_3_full_recall": 0.5}')
    check_outputs(report, summary=summary)
    summary.write_text("{}")
    with pytest.raises(DataError, match=r"is not a metrics summary made by sg3flow.* --summary"):
        check_outputs(report, summary=summary)


@pytest.mark.parametrize(
    "content",
    [
        "a letter",
        '{"format": "other"}',
        "[1]",
        '{"kimg": 1}',
        '{"kimg": 1, "loss": 2}',
        '{"kimg": 1.5, "eqr9": 2}',
        '{"kimg": true, "eqr9": 2}',
        '{"kimg": 1, "eqr9": true}',
    ],
)
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match="not a metrics report made by sg3flow"):
        check_outputs(path)
    with pytest.raises(DataError, match="not a metrics table made by sg3flow"):
        check_outputs(tmp_path / "new.json", path)
    with pytest.raises(DataError, match="not a metrics report made by sg3flow"):
        check_outputs(tmp_path)


def test_terminal_table_marks_the_best():
    lines = format_table(RESULTS, "fid9_full").splitlines()
    assert lines[2] == "000010  fid9_full  5.0000 ± 0.5  *"
    assert lines[1] == "000002  eqr9       30.0000 ± 3 dB"
    assert lines[4] == "000020  fid9_full  5.0000"
    assert sum("*" in line for line in lines) == 1


def test_what_compares_with_other_pictures_is_marked_and_never_the_best():
    other = dataclasses.replace(RESULTS[4], value=0.1, reference_sha256="another")
    lines = format_table([*RESULTS[:4], other], "fid9_full").splitlines()
    assert lines[4] == "000020  fid9_full  0.1000  !"
    assert lines[2].endswith("*")
    assert lines[5] == "! 000020 fid9_full: not comparable, the reference set differ"
    with pytest.raises(MetricError, match=r"000020.*cannot be compared.*the reference set differ"):
        build_report([*RESULTS[:4], other], reference_sha256="f", num_images=8, best_by="fid9_full")


def test_pictures_are_replaced_and_foreign_ones_refused(tmp_path):
    path = tmp_path / "metrics.png"
    for _ in range(2):
        check_outputs(tmp_path / "m.json", chart=path, pairs=[path])
        write_picture(path, Image.new("RGB", (8, 8)))
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(DataError, match=r"not a metrics chart made by sg3flow.* --chart"):
        check_outputs(tmp_path / "m.json", chart=path)
    with pytest.raises(DataError, match=r"not a picture of closest pairs made by.* --report"):
        check_outputs(tmp_path / "m.json", pairs=[path])
