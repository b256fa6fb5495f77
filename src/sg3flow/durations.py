"""Durations and rates in words, and the rate of recent work.

Short: a leaf that progress lines and the estimate of a training share.
"""

from collections import deque

_MIN_WINDOW_SEC, _MAX_WINDOW_SEC = 60.0, 600.0
_POINTS = 60  # kept within a window
_MIN_PAUSE_SEC, _PAUSE_FACTOR, _GAPS_KNOWN = 60.0, 10.0, 10


def duration_words(seconds: float) -> str:
    """``40 s``, ``4 min 20 s``, ``12 min``, ``3 h 10 min``, ``2 days 4 h`` or ``9 days``."""
    whole, minutes, hours = (round(seconds / unit) for unit in (1, 60, 3600))
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return _two_units(whole, 60, "min", "s")
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return _two_units(minutes, 60, "h", "min")
    if hours < 4 * 24:
        return _two_units(hours, 24, "days", "h")
    return f"{round(seconds / 86400):,} days"


def _two_units(count: int, per_large: int, large: str, small: str) -> str:
    quotient, rest = divmod(count, per_large)
    return f"{quotient} {large} {rest} {small}" if rest else f"{quotient} {large}"


def step_words(seconds: float) -> str:
    """The duration of a short step: ``45 ms``, ``0.83 s``, then as ``duration_words``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 9.95 else duration_words(seconds)


def rate_words(per_second: float) -> str:
    """``1,234/s``, ``2.6/s``, ``12.0/min`` or ``7.5/h``."""
    if per_second >= 9.95:
        return f"{per_second:,.0f}/s"
    if per_second >= 1:
        return f"{per_second:.1f}/s"
    if per_second * 60 >= 1:
        return f"{per_second * 60:.1f}/min"
    return f"{per_second * 3600:.1f}/h"


class RecentRate:
    """The rate of the last quarter of the work, between one minute and ten.

    So a part that went faster is forgotten, and a slow step is still seen. A pause does not count:
    a gap far longer than all gaps before it. If another one as long follows, that is the work.
    """

    def __init__(self, start: float, done: float) -> None:
        """``done`` of the work was done before the time ``start``, in seconds."""
        self._start = self._last_time = start
        self._points = deque([(start, done)])
        self._last = (start, done)
        self._paused = self._longest_gap = 0.0
        self._gaps = 0

    def add(self, now: float, done: float) -> None:
        """``done`` of the work is done at the time ``now``."""
        active = self._active_time(now)
        window = min(max((active - self._start) / 4, _MIN_WINDOW_SEC), _MAX_WINDOW_SEC)
        self._last = (active, done)
        if active - self._points[-1][0] >= window / _POINTS:
            self._points.append(self._last)
        # The oldest one stays while the next is inside the window: one interval at least.
        while len(self._points) > 1 and self._points[1][0] <= active - window:
            self._points.popleft()

    def _active_time(self, now: float) -> float:
        """The time without pauses."""
        gap = now - self._last_time
        usual = max(_MIN_PAUSE_SEC, _PAUSE_FACTOR * self._longest_gap)
        if self._gaps >= _GAPS_KNOWN and gap > usual:
            self._paused += gap
        self._last_time, self._longest_gap = now, max(self._longest_gap, gap)
        self._gaps += 1
        return now - self._paused

    def per_second(self) -> float:
        """The rate; 0 before anything is done."""
        (then, before), (now, done) = self._points[0], self._last
        return (done - before) / (now - then) if now > then else 0.0
