"""The run folder's own records: no gap, no double, no torn line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import DataError
from sg3flow.runs.run_folder import JsonlReporter, Stat, append_row, read_whole_lines

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


@given(cut=st.integers(0, 400), name=st.sampled_from(["stats.jsonl", "events.jsonl"]))
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
    """Nobody opens the file anew in between: the one whose line was torn notes its end."""
    path = tmp_path / "events.jsonl"
    for torn in (b"", b'{"kind": "ima', b'{"kind": "image"}'):
        append_row(path, {"kind": "begin"})
        with path.open("ab") as stream:
            stream.write(torn)
    append_row(path, {"kind": "end"})
    assert [row["kind"] for row in read_whole_lines(path)] == ["begin"] * 3 + ["end"]


@pytest.mark.parametrize("damage", ['{"nimg": 1{"nimg": 2}', "7", "\0\0"])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"nimg": 0}\n' + damage + '\n{"nimg": 3}\n')
    with pytest.raises(DataError, match=r"stats\.jsonl, line 2 is damaged: delete that line"):
        JsonlReporter(tmp_path)


def test_a_snapshot_written_again_with_other_bytes_is_told_again(tmp_path):
    for digest in ("ab", "ab", "cd"):
        JsonlReporter(tmp_path).snapshot(tmp_path / "network-snapshot-000001.pkl", 1000, digest)
    assert [row["sha256"] for row in read_whole_lines(tmp_path / "events.jsonl")] == ["ab", "cd"]
