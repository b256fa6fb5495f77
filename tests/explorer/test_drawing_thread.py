"""The newest picture wins, the large one goes first, and nothing is lost or waits for ever."""

import threading

import pytest

from sg3flow.explorer.drawing_thread import (
    MAX_WAITING,
    DrawingThread,
    SupersededError,
    TooBusyError,
)


class Held:
    """A thread that is busy until ``release``, so that what waits can be looked at."""

    def __init__(self) -> None:
        self.thread, self.done = DrawingThread(), []
        self._gate, started = threading.Event(), threading.Event()
        self._first = self.thread.submit("first", 0, lambda: started.set() or self._gate.wait())
        assert started.wait(60)
        assert not self.thread.wait_until_idle(0)

    def add(self, slot: str, rank: int, name: str):
        return self.thread.submit(slot, rank, lambda: self.done.append(name) or name)

    def release(self) -> list[str]:
        self._gate.set()
        assert self.thread.wait_until_idle(60)
        self.thread.close()
        return self.done


def test_newer_work_of_a_slot_replaces_what_waits():
    held = Held()
    old, new = held.add("large", 0, "old"), held.add("large", 0, "new")
    with pytest.raises(SupersededError):
        old.result(0)
    assert held.release() == ["new"] and new.result() == "new"


def test_lower_ranks_go_first_and_then_the_older():
    held = Held()
    held.add("wall 1", 1, "wall 1")
    held.add("wall 2", 1, "wall 2")
    held.add("large", 0, "large")
    assert held.release() == ["large", "wall 1", "wall 2"]


def test_errors_go_to_who_asked_and_the_thread_goes_on():
    held = Held()
    failed = held.thread.submit("a", 0, lambda: 1 // 0)
    held.add("b", 0, "b")
    assert held.release() == ["b"]
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_too_much_work_is_refused_and_the_end_drops_the_rest():
    held = Held()
    waiting = [held.add(f"slot {i}", 1, "x") for i in range(MAX_WAITING)]
    with pytest.raises(TooBusyError, match="too many pictures are waiting"):
        held.add("one more", 0, "x")
    held.add("slot 0", 1, "y")  # takes the place of another
    closing = threading.Thread(target=held.thread.close)
    closing.start()
    with pytest.raises(TooBusyError):
        waiting[5].result(60)
    held._gate.set()
    closing.join(60)
    assert not closing.is_alive() and held.done == []
    with pytest.raises(TooBusyError):
        held.add("late", 0, "x")
