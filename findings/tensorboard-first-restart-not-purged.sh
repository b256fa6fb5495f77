#!/usr/bin/env bash
# TensorBoard 2.21.0: its two readers in Python disagree about the first restart in a folder. The one
# that `tensorboard --load_fast=false` shows keeps the steps that the restart should replace.
#
# A restarted training writes a SessionLog.START event with the step from which on earlier events are
# void; torch.utils.tensorboard.SummaryWriter(folder, purge_step=N) does. A SummaryWriter without
# purge_step, as the first one of a training is, writes no such event. event_accumulator then purges
# at the restart. plugin_event_accumulator takes the first START of a folder for the beginning of the
# training and purges nothing, so every curve has these steps twice.
# Expected: the same steps from both.
# What to do: give the first writer purge_step=0, so that it writes a START, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "tensorboard==2.21.0" "setuptools<81"
cd "$work"
"$work/venv/bin/python" - 2>messages.txt <<'PY'
import sys

import tensorboard
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write(folder, steps, purge_step, suffix):
    """The events of SummaryWriter(folder, purge_step=purge_step)."""
    writer = EventFileWriter(folder, filename_suffix=suffix)
    if purge_step is not None:
        writer.add_event(Event(step=purge_step, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(step=purge_step, session_log=start))
    for step in steps:
        value = Summary.Value(tag="loss", simple_value=step)
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()


def read(folder):
    old = event_accumulator.EventAccumulator(folder).Reload()
    new = plugin_event_accumulator.EventAccumulator(folder).Reload()
    return [each.step for each in old.Scalars("loss")], [each.step for each in new.Tensors("loss")]


print("tensorboard", tensorboard.__version__)
found = []
for first in (None, 0):
    folder = f"first-{first}"
    write(folder, range(5), first, ".1")
    write(folder, range(3, 7), 3, ".2")  # restarted from step 3
    found.append(read(folder))
    print(f"first purge_step {first}: event_accumulator {found[-1][0]}")
    print(f"first purge_step {first}: plugin_event_accumulator {found[-1][1]}")
once = list(range(7))
twice = [*range(5), *range(3, 7)]
if found != [(once, twice), (once, once)]:
    print("the behavior has changed")
    sys.exit(1)
PY
