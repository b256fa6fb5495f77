"""The schema of a run folder: one place for it; records without gap, duplicate or torn line."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import DataError
from sg3flow.runs import run_folder
from sg3flow.runs.run_folder import (
    JsonlReporter,
    Stat,
    append_row,
    fakes_name,
    is_run_folder,
    kimg_of,
    list_snapshots,
    parse_row,
    read_provenance,
    read_run,
    read_whole_lines,
    snapshot_kimg,
    snapshot_name,
    whole_lines,
)

ROOT = Path(__file__).parents[1]

ONE = {"Loss/G/loss": Stat(1, 0.5, 0.0)}


def test_a_resumed_run_repeats_nothing(tmp_path):
    first = JsonlReporter(tmp_path)
    for nimg in (0, 1000, 2000):
        first.stats(ONE, nimg)
        first.image(Path("fakes.png"), "samples", nimg)
    again = JsonlReporter(tmp_path)
    for nimg in (1000, 2000, 3000):
        again.stats(ONE, nimg)
        again.image(Path("fakes.png"), "samples", nimg)
    assert [r["nimg"] for r in read_whole_lines(tmp_path / "stats.jsonl")] == [0, 1000, 2000, 3000]
    assert len(read_whole_lines(tmp_path / "events.jsonl")) == 4


def test_a_metric_is_recorded_under_its_whole_name(tmp_path):
    snapshot = tmp_path / snapshot_name(1000)
    reporter = JsonlReporter(tmp_path)
    reporter.metric(snapshot, "fid50k_full", 7.0, 1000)
    reporter.metric(snapshot, "pr50k3_precision", 0.5, 1000)
    for again in (reporter, JsonlReporter(tmp_path)):
        assert again.has_metric(snapshot, "fid50k_full")
        assert again.has_metric(snapshot, "pr50k3_precision")
        # fid50k is another metric than fid50k_full, and one value is not both.
        assert not again.has_metric(snapshot, "fid50k")
        assert not again.has_metric(snapshot, "pr50k3_recall")
        assert not again.has_metric(tmp_path / snapshot_name(2000), "fid50k_full")


@given(cut=st.integers(0, 400), name=st.sampled_from(["stats.jsonl", "events.jsonl"]))
@pytest.mark.medium
def test_a_kill_at_any_byte_leaves_no_gap(tmp_path_factory, cut, name):
    folder = tmp_path_factory.mktemp("run")

    def report(end: int) -> None:
        reporter = JsonlReporter(folder)
        for nimg in range(0, end, 1000):
            reporter.stats(ONE, nimg)
            reporter.image(Path("fakes.png"), "samples", nimg)

    report(4000)
    path = folder / name
    path.write_bytes(path.read_bytes()[:cut])
    report(5000)
    assert [row["nimg"] for row in read_whole_lines(path)] == [0, 1000, 2000, 3000, 4000]


def test_a_line_torn_by_a_full_disk_is_not_glued_to_the_next(tmp_path):
    """The same writer continues: it does not open the file again in between."""
    path = tmp_path / "events.jsonl"
    for torn in (b"", b'{"kind": "ima', b'{"kind": "image"}'):
        append_row(path, {"kind": "begin"})
        with path.open("ab") as stream:
            stream.write(torn)
    append_row(path, {"kind": "end"})
    assert [row["kind"] for row in read_whole_lines(path)] == ["begin"] * 3 + ["end"]


@pytest.mark.parametrize(
    "damage", ['{"nimg": 1{"nimg": 2}', "7", "\0\0", pytest.param("[" * 100_000, id="deep")]
)
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"nimg": 0}\n' + damage + '\n{"nimg": 3}\n')
    with pytest.raises(DataError, match=r"stats\.jsonl, line 2 is damaged: delete that line"):
        JsonlReporter(tmp_path)


def test_a_snapshot_written_again_with_other_bytes_is_recorded_again(tmp_path):
    for digest in ("ab", "ab", "cd"):
        JsonlReporter(tmp_path).snapshot(tmp_path / "network-snapshot-000001.pkl", 1000, digest)
    assert [row["sha256"] for row in read_whole_lines(tmp_path / "events.jsonl")] == ["ab", "cd"]


def test_the_schema_is_written_once():
    names = {v for n, v in vars(run_folder).items() if n.isupper() and isinstance(v, str)}
    assert {"run.json", "stats.jsonl", "provenance.json", "sg3flow-run-1"} <= names
    parts = re.compile(r"network-snapshot-|^metric-|^fakes.*png|^reals\.png")
    elsewhere = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        texts = [
            n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings
        ]
        elsewhere += [
            f"{path.relative_to(ROOT)}:{text.lineno}: {text.value}"
            for text in texts
            if isinstance(text.value, str)
            and path.name != "run_folder.py"
            and (text.value in names or (len(text.value) < 40 and parts.search(text.value)))
        ]
    assert elsewhere == []


@given(nimg=st.integers(0, 10**10))
def test_names_of_snapshots_and_grids_are_read_back(nimg):
    assert snapshot_kimg(snapshot_name(nimg)) == kimg_of(snapshot_name(nimg)) == nimg // 1000
    assert kimg_of(fakes_name(nimg)) == (nimg // 1000 if nimg else None)
    assert snapshot_kimg(fakes_name(nimg)) is None


@pytest.mark.parametrize(
    "name", ["network-snapshot-1.pkl", ".network-snapshot-000001.pkl.tmp", "a"]
)
def test_other_names_are_no_snapshots(name):
    assert snapshot_kimg(name) is None and kimg_of(name) is None


def test_snapshots_are_listed_by_age_and_not_by_name(tmp_path):
    for kimg in (999_999, 1_000_000, 4):
        (tmp_path / snapshot_name(kimg * 1000)).touch()
    (tmp_path / ".network-snapshot-000009.pkl.12345678.tmp").touch()
    found = [snapshot_kimg(path.name) for path in list_snapshots(tmp_path)]
    assert found == [4, 999_999, 1_000_000]
    assert list_snapshots(tmp_path / "none") == []


def test_only_a_file_with_our_format_is_ours(tmp_path):
    assert not is_run_folder(tmp_path) and read_run(tmp_path) is None
    for content in ("[]", "{", '{"format": "another"}'):
        (tmp_path / "run.json").write_text(content)
        (tmp_path / "provenance.json").write_text(content)
        assert read_run(tmp_path) is None and read_provenance(tmp_path) is None
    assert is_run_folder(tmp_path)


def test_an_incomplete_last_line_is_not_read(tmp_path):
    path = tmp_path / "stats.jsonl"
    assert whole_lines(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3')
    assert whole_lines(path) == [b'{"a": 1}\n', b'{"a": 2}\n']
    assert whole_lines(path, 9) == [b'{"a": 2}\n']
    assert parse_row(b"[1]\n") is None and parse_row(b"\xff\n") is None
