"""What this process may take of its machine: containers and batch systems give less than it has."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that may still be taken: of the machine, or of the container that this runs in."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return free if limit is None else max(min(free, limit - _container_used()), 0)


def total_memory() -> int:
    """Bytes there are in all: of the machine, or of the container."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, _container_limit() or total)


def _container_limit() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None


def _container_used() -> int:
    """Bytes that cannot be had back: files that were read long ago are dropped when need be."""
    try:
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return used - int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
