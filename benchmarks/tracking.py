"""The cost of tracking: the same small training with tracking off and on, by turns.

    python benchmarks/tracking.py --data data/packed.zip --kimg 8 --repeats 5

The script starts an MLflow server on this machine (in practice it has its own). Every tick is one
kimg with a snapshot, so it uploads more per second than any real training. It prints the seconds
from the first report to the last, untracked and tracked, and their ratio; the additional time of
the whole command, which ends after the last upload (medians); and the CPU time of the uploader, at
its start and per tick. That CPU time is all that tracking takes from a training, and it can be
measured where the seconds are too noisy.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

STAGE = Path(__file__).parents[1] / "stages" / "train.py"
SETTINGS = (
    "--cfg=stylegan3-t --gpus=1 --batch=20 --gamma=0.2 --cbase=256 --cmax=4 --map-depth=1 --tick=1 "
    "--snap=1 --workers=1 --grid=4x4 --device=cpu"
).split()


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A tracking server; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "-w", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Cost(NamedTuple):
    """Seconds between the first and the last report, of the whole command, and CPU seconds of the
    uploader."""

    reports: float
    whole: float
    sending: float


def train(data: Path, kimg: int, **environment: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        own = {"SG3FLOW_STATE_DIR": f"{folder}/state", "DVC_ROOT": folder}
        paths = ["--data", str(data), "--run-dir", f"{folder}/out", f"--kimg={kimg}"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(STAGE), *SETTINGS, *paths],
            env=os.environ | own | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        sending = 0.0
        while process.poll() is None:
            sending = max(sending, sender_sec(process.pid))
            time.sleep(0.1)
        whole = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"the training ended with exit code {process.returncode}")
        rows = (Path(folder) / "out" / "stats.jsonl").read_text().splitlines()
        first, last = (json.loads(row)["timestamp"] for row in (rows[0], rows[-1]))
        return Cost(last - first, whole, sending)


def sender_sec(trainer: int) -> float:
    """CPU seconds of the uploader of a training up to now."""
    try:
        for child in psutil.Process(trainer).children():
            if "sg3flow.tracking.upload_process" in child.cmdline():
                times = child.cpu_times()
                return times.user + times.system
    except psutil.Error:  # it has just ended
        pass
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="packed set")
    parser.add_argument("--kimg", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as uri:
        tracked = {"SG3FLOW_TRACKING": "", "MLFLOW_TRACKING_URI": uri}
        pairs = []
        for _ in range(given.repeats):
            off = train(given.data, given.kimg, SG3FLOW_TRACKING="off")
            on = train(given.data, given.kimg, **tracked)
            print(f"untracked {off.reports:.2f} s, tracked {on.reports:.2f} s", flush=True)
            pairs.append((off, on))
        shortest = train(given.data, 1, **tracked)
    ratios = [on.reports / off.reports for off, on in pairs]
    middle = statistics.median(ratios)
    print(f"ratio: median {middle:.4f}, of {min(ratios):.4f} to {max(ratios):.4f}")
    longer = statistics.median(on.whole - off.whole for off, on in pairs)
    print(f"the whole command takes {longer:.2f} s longer")
    sending = statistics.median(on.sending for _, on in pairs)
    tick = (sending - shortest.sending) / (given.kimg - 1)
    print(f"sending: {shortest.sending - tick:.2f} s of processor time, and {tick:.3f} s a tick")


if __name__ == "__main__":
    main()
