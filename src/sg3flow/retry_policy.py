"""How long a transfer may take: timeouts, retries with growing pauses, and a least speed."""

import time
from dataclasses import dataclass

from urllib3.util import Retry

_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to try again."""

    connect_sec: float = 10.0
    read_sec: float = 60.0
    tries: int = 5  # in a row without progress
    pause_sec: float = 1.0  # before the second try; doubles each time
    max_pause_sec: float = 120.0  # also where a busy server asks for a longer pause
    stall_bytes_sec: float = 1024.0  # fewer bytes per second than this, over stall_sec, are a stall
    stall_sec: float = 30.0

    def retries(self) -> Retry:
        """Counts the tries without progress, and knows the pause after each.

        A transfer increments it itself, for urllib3 retries a request only up to its headers: that
        does not resume a part file, counts no progress, and reads the body of a refused answer to
        its end, however long that is.
        """
        return Retry(
            total=self.tries - 1,
            backoff_factor=self.pause_sec,
            backoff_max=self.max_pause_sec,
            retry_after_max=int(self.max_pause_sec),
            status_forcelist=_RETRIED_STATUS,
        )


class TransferError(Exception):
    """The transfer broke off, and another try may resume it, after ``wait_sec`` at least."""

    def __init__(self, message: str, wait_sec: float = 0.0) -> None:
        super().__init__(message)
        self.wait_sec = wait_sec


class StalledError(TransferError):
    """The server sends, but so little that the transfer would never end."""


class StallTimeout:
    """Watches the speed of a transfer, from one stretch of ``stall_sec`` to the next."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy, self.start, self.received = policy, time.monotonic(), 0

    def count(self, received: int) -> None:
        """Count received bytes.

        Raises:
            StalledError: they are too few for the time they took.
        """
        self.received += received
        passed = time.monotonic() - self.start
        if passed < self.policy.stall_sec:
            return
        if self.received < passed * self.policy.stall_bytes_sec:
            raise StalledError(f"only {self.received:,} bytes came in {passed:.0f} seconds")
        self.start, self.received = time.monotonic(), 0
