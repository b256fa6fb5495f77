"""With this folder on PYTHONPATH an event happens within a step of a training.

The variable TEST_WITHIN_A_STEP is `STEP RANK EVENT`: the step, the process and one of the events

killed: the process is killed;
stopped: it gets a SIGTERM;
interrupted: it gets a SIGINT;
computes: it computes for an hour without running Python code;
stops-launcher: its launcher gets a SIGTERM;
waits: it waits for a signal from the reader of its output.

After each other event, the step continues when the signal has arrived (with `waits`, a SIGTERM), so
the test knows how far the training gets.
"""

import hashlib
import os
import signal
import sys
import time

WHEN, RANK, EVENT = os.environ.get("TEST_WITHIN_A_STEP", "0 0 none").split()


def _watch_steps() -> None:
    from sg3flow.training import step

    run_step, count = step.run_step, 0

    def watched(*arguments):
        nonlocal count
        run_step(*arguments)
        count += 1
        if count == int(WHEN):
            _happen()

    step.run_step = watched


def _happen() -> None:
    if EVENT == "computes":
        print(f"within step {WHEN}: {EVENT}", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    awaited = signal.SIGINT if EVENT == "interrupted" else signal.SIGTERM
    heed, came = signal.getsignal(awaited), False

    def note(number, frame):
        nonlocal came
        heed(number, frame)
        came = True

    signal.signal(awaited, note)
    print(f"within step {WHEN}: {EVENT}", flush=True)
    if EVENT != "waits":
        number = signal.SIGKILL if EVENT == "killed" else awaited
        os.kill(os.getppid() if EVENT == "stops-launcher" else os.getpid(), number)
    while not came:
        time.sleep(0.01)


# A training is started by its script; with several processes, each one as `-m sg3flow train`.
if EVENT != "none" and any(each.endswith(("train.py", "train")) for each in sys.orig_argv[1:4]):
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"  # torchrun starts it again
    if first and os.environ.get("RANK", "0") == RANK:
        _watch_steps()
