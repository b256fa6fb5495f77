"""What tracking costs a training: the same small one with tracking off and on, by turns.

    python benchmarks/tracking.py --data data/packed.zip --kimg 8 --repeats 5

An MLflow server of its own runs on this machine (in earnest it has a machine to itself). Every tick
is a kimg and has a snapshot, so more is sent a second than any real training sends. Prints the
seconds from the first report to the last, untracked and tracked; the ratio of the two; and what the
whole command takes longer, with its end, when the last snapshot goes out (medians).
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


def train(data: Path, kimg: int, **environment: str) -> tuple[float, float]:
    """Seconds between the first and the last report, and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"SG3FLOW_STATE_DIR": f"{folder}/state", "DVC_ROOT": folder}
        paths = ["--data", str(data), "--run-dir", f"{folder}/out", f"--kimg={kimg}"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(STAGE), *SETTINGS, *paths],
            env=os.environ | own | environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        whole = time.perf_counter() - start
        rows = (Path(folder) / "out" / "stats.jsonl").read_text().splitlines()
        first, last = (json.loads(row)["timestamp"] for row in (rows[0], rows[-1]))
        return last - first, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="packed set")
    parser.add_argument("--kimg", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as uri:
        pairs = []
        for _ in range(given.repeats):
            off = train(given.data, given.kimg, SG3FLOW_TRACKING="off")
            on = train(given.data, given.kimg, SG3FLOW_TRACKING="", MLFLOW_TRACKING_URI=uri)
            print(f"untracked {off[0]:.2f} s, tracked {on[0]:.2f} s", flush=True)
            pairs.append((off, on))
    ratios = [tracked[0] / untracked[0] for untracked, tracked in pairs]
    longer = statistics.median(tracked[1] - untracked[1] for untracked, tracked in pairs)
    middle = statistics.median(ratios)
    print(f"ratio: median {middle:.4f}, of {min(ratios):.4f} to {max(ratios):.4f}")
    print(f"the whole command takes {longer:.2f} s longer")


if __name__ == "__main__":
    main()
