"""How long a training takes: the mix of steps, the words, the warning."""

import pytest

from sg3flow.training.time_estimate import WEEK_SEC, StepTimes, TimeEstimate

PLAIN, G_REG, D_REG = 1.0, 0.5, 4.0  # seconds
GAN = {"Gmain": 1, "Dmain": 1, "Dreg": 16}
PATH_LENGTH = {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}


def seconds_of(index, intervals):
    extra = {"Greg": G_REG, "Dreg": D_REG}
    due = (name for name, n in intervals.items() if n > 1 and index % n == 0)
    return PLAIN + sum(extra[name] for name in due)


def timed(intervals, start, count, building=100.0):
    """The times of ``count`` steps; the first of a kind also builds kernels."""
    times, seen = StepTimes(intervals), set()
    for index in range(start, start + count):
        kind = times.kind(index)
        is_new = index == start or not kind <= seen
        seen |= kind
        times.add(index, seconds_of(index, intervals) + building * is_new)
    return times


@pytest.mark.parametrize("start", [0, 1, 7, 16, 37])
@pytest.mark.parametrize("intervals", [GAN, PATH_LENGTH, {"Gmain": 1, "Dmain": 1}])
def test_a_whole_cycle_gives_the_mean_step_without_the_first_ones(intervals, start):
    times = timed(intervals, start, 49)
    assert times.are_enough()
    expected = sum(seconds_of(i, intervals) for i in range(16)) / 16
    assert times.mean_step() == pytest.approx(expected)


def test_it_speaks_after_a_cycle_or_after_twenty_seconds():
    assert not timed(GAN, 0, 16, 0).are_enough()
    assert timed(GAN, 0, 17, 0).are_enough()
    for count, is_enough in ((3, False), (21, True)):  # the first step does not count
        times = StepTimes({"Gmain": 1, "Dreg": 64})
        for index in range(1, count + 1):
            times.add(index, 1.0)
        assert times.are_enough() == is_enough
    slow = StepTimes(GAN)
    slow.add(0, 500.0)
    assert not slow.are_enough()
    slow.add(1, 21.0)
    assert slow.are_enough()


def test_an_unknown_phase_counts_as_a_plain_step():
    times = StepTimes(PATH_LENGTH)
    for index in range(4):
        times.add(index, 2.0)
    assert times.mean_step() == pytest.approx(2.0 * (1 + 1 / 4 + 1 / 16))
    times.add(4, 3.0)  # the first with path lengths was step 0
    # 12 plain ones, 3 with path lengths, and one with R1 too
    assert times.mean_step() == pytest.approx((12 * 2.0 + 3 * 3.0 + 5.0) / 16)


def test_the_line_and_what_it_counts():
    estimate = TimeEstimate(0.36, 32, 25_000, 25)
    assert estimate.words() == (
        "time: 0.36 s per step of 32 images; about 4 min 42 s here for 25 kimg; "
        "3 days 6 h for 25,000 kimg"
    )
    assert estimate.sec_per_kimg == pytest.approx(11.25)
    resumed = TimeEstimate(0.36, 32, 5_000_000, 30_000, is_resumed=True)
    assert resumed.words() == (
        "time: 0.36 s per step of 32 images; about 15 h 38 min here for the remaining 5,000 kimg"
    )
    almost_done = TimeEstimate(1.0, 10, 400, 5, is_resumed=True, snapshots=1, snapshot_sec=2.0)
    assert "about 42 s here for the remaining 0.4 kimg with 1 snapshot; " in almost_done.words()
    with_snapshots = TimeEstimate(1.0, 10, 995, 1, snapshots=3, snapshot_sec=60.0)
    assert with_snapshots.remaining_sec == 100 + 180
    assert "about 4 min 40 s here for 1 kimg with 3 snapshots; " in with_snapshots.words()


def test_more_than_a_week_is_a_warning_that_says_what_to_lower(capsys):
    fine = TimeEstimate(WEEK_SEC / 100, 10, 1000, 1)
    assert fine.warning(on_cpu=True) == ""
    slow = TimeEstimate(12.0, 16, 5_000_000, 5000)
    slow.say(on_cpu=True)
    output = capsys.readouterr()
    assert output.out.startswith("time: 12 s per step of 16 images; about 43 days here for 5,000")
    assert output.err.startswith(
        "warning: this training takes 43 days here, and a week is enough for 806 kimg: lower "
        "train.kimg, "
    )
    assert "train on a GPU" in output.err and output.err.count("\n") == 1
    assert "train on a GPU" not in slow.warning(on_cpu=False)
    assert "too short for 1 kimg" in TimeEstimate(1e6, 1, 10, 5).warning(on_cpu=False)
