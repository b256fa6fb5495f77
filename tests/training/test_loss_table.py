"""The table of losses that ``dvc plots`` draws."""

import csv
import json

import pytest

from sg3flow.runs.loss_curves import CURVES, MOST_ROWS, write_losses

COLUMNS = ["kimg", *CURVES]


def _tick(nimg, value=1.0, num=4.0, **others):
    stat = {"num": num, "mean": value, "std": 0.0}
    tick = {name: stat for name in CURVES.values()} | others
    return {"nimg": nimg} | tick


def _written(folder, ticks):
    text = "".join(json.dumps(tick) + "\n" for tick in ticks)
    (folder / "stats.jsonl").write_text(text)
    write_losses(folder)
    rows = list(csv.reader((folder / "losses.csv").read_text().splitlines()))
    assert rows[0] == COLUMNS
    return rows[1:]


def test_a_tick_is_a_row_and_one_without_a_step_is_none(tmp_path):
    start = {"nimg": 0, "Progress/augment": {"num": 1.0, "mean": 0.0, "std": 0.0}}
    no_reg = _tick(1500, 2.5) | {"Loss/r1_penalty": {"num": 0.0, "mean": 0.0, "std": 0.0}}
    rows = _written(tmp_path, [start, _tick(1000, 1 / 3), no_reg])
    assert rows[0] == ["1", *["0.333333"] * 6]
    assert rows[1] == ["1.5", "2.5", "2.5", "", "2.5", "2.5", "2.5"] and len(rows) == 2


def test_a_long_training_stays_small_and_keeps_its_means(tmp_path):
    """25,000 kimg with a tick of 4: the mean of a group counts every value once."""
    ticks = [_tick(4000 * (i + 1), float(i), num=1.0 + (i > 9)) for i in range(6250)]
    rows = _written(tmp_path, ticks)
    assert MOST_ROWS / 2 < len(rows) <= MOST_ROWS
    assert (tmp_path / "losses.csv").stat().st_size < 50_000
    assert rows[-1][0] == "25000" and rows[0][0] == "52"  # 13 ticks of 4 kimg
    # Ticks 10 to 12 have twice as many values: not 6, the mean of the thirteen means.
    assert float(rows[0][1]) == pytest.approx((45 + 2 * 33) / (10 + 2 * 3), rel=1e-5)


def test_no_statistics_no_table(tmp_path):
    (tmp_path / "stats.jsonl").write_text("")
    write_losses(tmp_path)
    assert not (tmp_path / "losses.csv").exists()
