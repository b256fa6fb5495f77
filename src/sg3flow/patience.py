"""How long a transfer may take: waits, tries, and a least speed."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to try again."""

    connect_sec: float = 10.0
    read_sec: float = 60.0
    tries: int = 5  # in a row without getting further
    pause_sec: float = 1.0  # before the second try; doubles each time
    most_wait_sec: float = 120.0  # where a busy server asks for a pause
    slow_bytes_sec: float = 1024.0  # fewer bytes a second than this, over ``slow_sec``, are a stall
    slow_sec: float = 30.0


class TransferError(Exception):
    """The transfer broke off, and another try may go on with it, after ``wait_sec`` at least."""

    def __init__(self, message: str, wait_sec: float = 0.0) -> None:
        super().__init__(message)
        self.wait_sec = wait_sec


class TooSlow(TransferError):
    """The server sends, but so little that the file would never be there."""


class Pace:
    """Watches the speed of a transfer, from one stretch of ``slow_sec`` to the next."""

    def __init__(self, patience: Patience) -> None:
        self.patience, self.start, self.came = patience, time.monotonic(), 0

    def take(self, count: int) -> None:
        """Count bytes that came; TooSlow where they are too few for the time they took."""
        self.came += count
        passed = time.monotonic() - self.start
        if passed < self.patience.slow_sec:
            return
        if self.came < passed * self.patience.slow_bytes_sec:
            raise TooSlow(f"only {self.came:,} bytes came in {passed:.0f} seconds")
        self.start, self.came = time.monotonic(), 0
