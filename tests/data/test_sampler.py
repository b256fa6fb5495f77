"""The order of training images."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from sg3flow.data.dataset import ClassBatches, WindowedShuffle


def take(count, **kwargs):
    return list(islice(WindowedShuffle(**kwargs), count))


@given(n=st.integers(1, 40), seed=st.integers(0, 5), start=st.integers(0, 200))
def test_any_position_is_reached_again(n, seed, start):
    whole = take(start + 50, num_items=n, seed=seed)
    assert take(50, num_items=n, seed=seed, start=start) == whole[start:]


def test_every_item_comes_about_as_often_and_not_too_soon_again():
    n = 100
    items = take(50 * n, num_items=n, seed=1)
    last: dict[int, int] = {}
    gaps = set()
    for position, item in enumerate(items):
        gaps.add(position - last.get(item, -n))
        last[item] = position
    # A place is swapped with one at most n/2 - 1 behind it, which is next n places later.
    assert min(gaps) == n // 2 + 1
    counts = [items.count(i) for i in range(n)]
    assert min(counts) > 35 and max(counts) < 65
    assert items[:n] != items[n : 2 * n] and take(10, num_items=n, seed=2) != items[:10]


def test_processes_share_the_items_in_turn():
    whole = take(60, num_items=17, seed=3)
    shares = [take(20, num_items=17, seed=3, rank=k, num_processes=3) for k in range(3)]
    assert [item for group in zip(*shares, strict=True) for item in group] == whole


CLASSES = [0, 1, 1, 2, 0, 1, 1, 0, 1, 1, 1, 0, 2]


def take_class_batches(count, seed=0, batch=4, **kwargs):
    return list(islice(ClassBatches(CLASSES, seed, batch, **kwargs), count))


@given(seed=st.integers(0, 5), batch=st.integers(1, 6), skipped=st.integers(0, 20))
def test_a_batch_has_one_class_wherever_it_is_reached(seed, batch, skipped):
    whole = take_class_batches(batch * (skipped + 10), seed, batch)
    for first in range(0, len(whole), batch):
        assert len({CLASSES[item] for item in whole[first : first + batch]}) == 1
    start = batch * skipped
    assert take_class_batches(batch * 10, seed, batch, start=start) == whole[start:]


def test_class_batches_show_every_item_about_as_often():
    items = take_class_batches(400 * len(CLASSES))
    counts = [items.count(i) for i in range(len(CLASSES))]
    assert min(counts) > 360 and max(counts) < 440


def test_processes_share_each_batch_of_a_class():
    whole = take_class_batches(60, batch=6)
    shares = [take_class_batches(20, batch=6, rank=k, num_processes=3) for k in range(3)]
    assert [item for group in zip(*shares, strict=True) for item in group] == whole
