"""Progress without a terminal: rate, time left, and lines that grow rarer."""

import re

import pytest

from sg3flow.durations import RecentRate, duration_words, rate_words, step_words
from sg3flow.progress import PlainLines, progress, progress_shown, tracked


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def lines_of(total, done=0):
    clock, written = Clock(), []
    return clock, written, PlainLines("train", total, done, clock=clock, write=written.append)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (260, "4 min 20 s"),
        (599.6, "10 min"),
        (750, "12 min"),
        (3599, "1 h"),
        (11400, "3 h 10 min"),
        (47.99 * 3600, "47 h 59 min"),
        (52 * 3600, "2 days 4 h"),
        (9.2 * 86400, "9 days"),
        (1234.4 * 86400, "1,234 days"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration_words(seconds) == words


def test_steps_and_rates_in_words():
    assert [step_words(s) for s in (0.0451, 0.83, 9.94, 9.96, 70)] == [
        *("45 ms", "0.83 s", "9.9 s", "10 s", "1 min 10 s")
    ]
    rates = [rate_words(r) for r in (1234.4, 10, 2.62, 0.2, 0.001)]
    assert rates == ["1,234/s", "10/s", "2.6/s", "12.0/min", "3.6/h"]


def test_a_line_has_count_time_rate_and_time_left():
    clock, written, lines = lines_of(400_000)
    for _ in range(3):
        clock.now += 5
        lines.advance(20)
    assert written == ["train: 40/400,000 in 10 s, 4.0/s, 27 h 46 min left"]
    clock.now += 5
    lines.advance(400_000)
    assert written[1] == "train: 400,060/400,000 in 20 s, 20,003/s"
    lines.advance(1)  # more than was promised: the end is said once
    assert len(written) == 2


def test_work_of_an_earlier_start_does_not_count_for_the_rate():
    clock, written, lines = lines_of(2000, done=1000)
    clock.now += 10
    lines.advance(10)
    assert written == ["train: 1,010/2,000 in 10 s, 1.0/s, 16 min left"]
    clock.now += 10
    lines.advance(990)
    assert written[1] == "train: 2,000/2,000 in 20 s, 50/s"


def test_a_pause_does_not_count_and_a_second_one_as_long_does():
    clock, written, lines = lines_of(100_000)
    for _ in range(100):
        clock.now += 1
        lines.advance(10)
    clock.now += 3600
    lines.advance(10)
    assert written[-1] == "train: 1,010/100,000 in 1 h 2 min, 10/s, 2 h 42 min left"
    clock.now += 3600
    lines.advance(10)
    assert written[-1].startswith("train: 1,020/100,000 in 2 h 2 min, 20.0/h, ")
    for _ in range(900):
        clock.now += 1
        lines.advance(10)
    assert re.fullmatch(r"train: .* in 2 h 1. min, 10/s, 2 h 3. min left", written[-1])


def test_a_step_of_minutes_has_a_rate():
    clock, written, lines = lines_of(100)
    for _ in range(3):
        clock.now += 400
        lines.advance(1)
    assert written[-1] == "train: 3/100 in 20 min, 9.0/h, 10 h 47 min left"


def test_lines_grow_rarer_and_are_never_closer_than_ten_seconds():
    clock, moments = Clock(), []
    lines = PlainLines("x", 10**9, clock=clock, write=lambda line: moments.append(clock.now - 1000))
    for _ in range(24 * 3600):
        clock.now += 1
        lines.advance(1)
    gaps = [b - a for a, b in zip([0, *moments], moments, strict=False)]
    assert gaps[:5] == [10] * 5 and min(gaps) == 10
    assert gaps == sorted(gaps) and gaps[-1] == 300
    assert len(moments) < 24 * 12 + 80


def test_the_oldest_interval_stays_until_the_next_one_is_in_the_window():
    rate = RecentRate(0, 0)
    assert rate.per_second() == 0
    rate.add(500, 50)
    assert rate.per_second() == 0.1
    rate.add(510, 60)
    assert rate.per_second() == 60 / 510
    rate.add(700, 79)  # the window of 175 s begins at 525: the interval from 510 on counts
    assert rate.per_second() == 19 / 190


def test_a_short_loop_is_one_line_on_standard_error(capsys):
    assert list(tracked("abc", "reading", 3)) == ["a", "b", "c"]
    output = capsys.readouterr()
    assert output.out == "" and re.fullmatch(r"reading: 3/3 in 0 s\n", output.err)
    with progress_shown(False), progress("hidden", 2) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_the_last_quarter_counts():
    rate, done = RecentRate(0, 0), 0
    for now in range(1, 1001):
        done += 1 if now <= 850 else 2
        rate.add(now, done)
    assert rate.per_second() == pytest.approx((100 * 1 + 150 * 2) / 250, rel=0.02)
