"""The run folder's own records: no gap, no double, no torn line."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sg3flow.reporting import JsonlReporter, Stat, read_whole_lines

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


@given(cut=st.integers(0, 400))
def test_a_kill_at_any_byte_leaves_no_gap(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    reporter = JsonlReporter(folder)
    for nimg in range(0, 4000, 1000):
        reporter.stats(ONE, nimg)
    path = folder / "stats.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    again = JsonlReporter(folder)
    for nimg in range(0, 5000, 1000):
        again.stats(ONE, nimg)
    assert [row["nimg"] for row in read_whole_lines(path)] == [0, 1000, 2000, 3000, 4000]
