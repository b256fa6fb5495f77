#!/usr/bin/env bash
# Python 3.11.7: starting multiprocessing's resource tracker unblocks SIGINT and SIGTERM for the caller.
#
# A program that blocks SIGINT with signal.pthread_sigmask, to start worker processes without being
# interrupted, finds it unblocked after the first use of the "spawn" context: the tracker blocks the
# two signals while it starts its process, and then unblocks them instead of restoring the mask that it
# found. From the second start on the mask stays, because the tracker runs.
# Expected: pthread_sigmask gives the same mask before and after.
# What to do: call multiprocessing.resource_tracker.ensure_running() before blocking signals.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > program.py <<'PY'
import multiprocessing
import signal
import sys


def blocked():
    return sorted(s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, ()))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    seen = []
    for _ in range(2):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        process = context.Process(target=len, args=((),))
        process.start()
        seen.append(blocked())
        process.join()
    print("Python", sys.version.split()[0])
    print("blocked after the first start:", seen[0])
    print("blocked after the second start:", seen[1])
    if seen != [[], ["SIGINT", "SIGTERM"]]:
        sys.exit("the behavior has changed")
PY
python3 program.py
