#!/usr/bin/env bash
# loky 3.5.6 (the processes of joblib): starting its resource tracker unblocks SIGINT and SIGTERM.
#
# A program that blocks SIGINT with signal.pthread_sigmask, to start worker processes without being
# interrupted, finds it unblocked after the first start of a process of loky's context: the tracker
# blocks the two signals while it starts its own process, and then unblocks them instead of restoring
# the mask that it found. From the second start on the mask stays, because the tracker runs. The
# tracker of Python's multiprocessing, which loky's is made after, does the same in Python 3.11.7.
# Expected: pthread_sigmask gives the same mask before and after.
# What to do: call resource_tracker.ensure_running() before blocking signals.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "loky==3.5.6" "cloudpickle==3.1.3"
cd "$work"
cat > program.py <<'PY'
import signal
import sys

import loky
from loky.backend import get_context


def blocked():
    return sorted(s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, ()))


if __name__ == "__main__":
    seen = []
    for _ in range(2):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        process = get_context("loky").Process(target=len, args=((),))
        process.start()
        seen.append(blocked())
        process.join()
    print("loky", loky.__version__, "Python", sys.version.split()[0])
    print("blocked after the first start:", seen[0])
    print("blocked after the second start:", seen[1])
    if seen != [[], ["SIGINT", "SIGTERM"]]:
        sys.exit("the behavior has changed")
PY
"$work/venv/bin/python" program.py
