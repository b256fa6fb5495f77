"""Which snapshots stay: the rule, and what is never removed whatever the rule says."""

import json

import pytest

from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import JsonlReporter, describe_run, snapshot_name
from sg3flow.runs.snapshot_retention import (
    ALL,
    BEST,
    LAST,
    Retention,
    check_retention,
    needed_snapshots,
    note_best,
    note_registered,
    parse_retention,
    rank_measured,
    surplus,
)

NAMES = ["a", "b", "c", "d", "e"]  # the oldest first


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("all", Retention(ALL)),
        ("last 1", Retention(LAST, 1)),
        (" last  12 ", Retention(LAST, 12)),
        ("best 3", Retention(BEST, 3)),
    ],
)
def test_the_three_rules(text, rule):
    assert parse_retention(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "last", "last 0", "last -1", "best 1.5", "last 3 best 2", "none", "3", "last ten"),
        *("ALL", "last 1\n2", "best " + "9" * 5000),
    ],
)
def test_other_texts_are_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="must be all, last N or best N") as refused:
        parse_retention(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_best_needs_a_metric_and_says_what_else_there_is():
    with pytest.raises(
        ConfigError, match=r"set train\.metrics.*sg3flow clean --snapshots 'best 2'"
    ):
        check_retention("best 2", None)
    assert check_retention("best 2", ("fid", False)) == Retention(BEST, 2)
    assert check_retention("last 2", None) == Retention(LAST, 2)


@pytest.mark.parametrize(
    ("rule", "ranking", "needed", "removed"),
    [
        ("all", ["a"], set(), []),
        ("last 2", [], set(), ["a", "b", "c"]),
        ("last 9", [], set(), []),
        ("last 1", ["b", "e", "a", "c", "d"], set(), ["a", "c", "d"]),  # the best one stays
        ("last 1", [], {"c"}, ["a", "b", "d"]),
        ("best 2", ["b", "c", "a", "e", "d"], set(), ["a", "d"]),  # and the newest
        ("best 1", ["e", "a", "b", "c", "d"], {"a"}, ["b", "c", "d"]),
        ("best 1", ["b", "e"], set(), []),  # of three nothing is known
    ],
)
def test_what_a_rule_removes(rule, ranking, needed, removed):
    assert surplus(parse_retention(rule), NAMES, ranking, needed) == removed


def test_a_rule_removes_nothing_from_nothing():
    assert surplus(Retention(LAST, 1), [], [], {"a"}) == []


def run_folder(folder, values):
    """A run folder with a snapshot for each value of a metric."""
    folder.mkdir(parents=True)
    describe_run(folder, {"fingerprint": "f", "name": "n", "params": {}})
    reporter = JsonlReporter(folder)
    for kimg, value in enumerate(values):
        path = folder / snapshot_name(kimg * 1000)
        path.write_bytes(bytes([kimg]))
        reporter.snapshot(path, kimg * 1000, sha256_file(path))
        reporter.metric(path, "fid", value, kimg * 1000)
    return folder


def names(*kimgs):
    return [snapshot_name(kimg * 1000) for kimg in kimgs]


def test_the_ranking_knows_the_direction_and_prefers_the_earlier_of_equals(tmp_path):
    folder = run_folder(tmp_path / "run", [3.0, 1.0, 2.0, 1.0])
    assert rank_measured(folder, "fid", False) == names(1, 3, 2, 0)
    assert rank_measured(folder, "fid", True) == names(0, 2, 1, 3)
    (folder / snapshot_name(1000)).unlink()
    assert rank_measured(folder, "fid", False) == names(3, 2, 0)
    assert rank_measured(folder, "other", False) == []


def report_of(folder, kimg):
    path = folder / snapshot_name(kimg * 1000)
    row = {"snapshot": path.name, "network_sha256": sha256_file(path)}
    return {"best": {"snapshot": path.name}, "results": [row]}


def test_the_best_of_the_last_evaluation_and_every_registered_one_are_needed(tmp_path):
    folder = run_folder(tmp_path / "run", [0.0] * 5)
    other = run_folder(tmp_path / "other", [0.0] * 5)
    assert needed_snapshots(folder) == set()
    note_best(folder, report_of(folder, 1))
    note_best(folder, report_of(folder, 2))
    for kimg in (3, 4):
        path = folder / snapshot_name(kimg * 1000)
        note_registered(folder, {"snapshot": path.name, "snapshot_sha256": sha256_file(path)})
    assert needed_snapshots(folder) == set(names(2, 3, 4))
    assert needed_snapshots(other) == set(names(2, 3, 4))  # the same bytes
    note_best(other, report_of(other, 0))  # the best one of another run replaces none
    assert needed_snapshots(folder) == set(names(0, 2, 3, 4))


def test_the_reports_of_the_project_count_too(tmp_path, monkeypatch):
    """Of an evaluation or a registration by an earlier version, which noted nothing."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = run_folder(tmp_path / "run", [0.0] * 4)
    (tmp_path / "reports/metrics.json").write_text(json.dumps(report_of(folder, 1)))
    registered = {"snapshot_sha256": sha256_file(folder / snapshot_name(2000))}
    (tmp_path / "reports/registered.json").write_text(json.dumps(registered))
    assert needed_snapshots(folder) == set(names(1, 2))
    for text in ("{", "[]", '{"best": 3}', "null", '{"best": {"snapshot": "a"}, "results": [{}]}'):
        (tmp_path / "reports/metrics.json").write_text(text)
        assert needed_snapshots(folder) == set(names(2))


def test_noting_twice_adds_nothing_and_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path, state, capsys
):
    folder = run_folder(tmp_path / "run", [0.0])
    for _ in range(2):
        note_best(folder, report_of(folder, 0))
    assert len((state / "kept-snapshots.jsonl").read_text().splitlines()) == 1
    (state / "kept-snapshots.jsonl").unlink()
    (state / "kept-snapshots.jsonl").mkdir()
    with pytest.raises(OSError):  # what cannot be read is not taken for empty
        needed_snapshots(folder)


def test_what_another_training_started_from_is_needed(tmp_path, state):
    folder = run_folder(state / "aaaa" / "run", [0.0] * 3)
    start = folder / snapshot_name(1000)
    for number, resume in enumerate((str(start), "models:/a/1", "", None, 7, "a\0b")):
        other = state / f"b{number}" / "run"
        other.mkdir(parents=True)
        (other / "run.json").write_text(
            json.dumps({"format": "sg3flow-run-1", "params": {"resume": resume}})
        )
    (state / "broken" / "run").mkdir(parents=True)
    (state / "broken" / "run" / "run.json").write_text("{")
    assert needed_snapshots(folder) == {start.name}
