"""Time and memory of the same work in sg3flow and in other tools, by turns, on this machine.

    make peers-speed

writes `benchmarks/peers/speed.json` and the table in docs/metrics.md. `speed.py kid-2000` measures
one kind of work and keeps the rows of the others; `--images 200 --rounds 1` is a quick try, which
writes nothing. Each measurement is a process of its own: it
imports, loads the weights, reads the images, and ends with the number. Weights are made up, by the
rule of `made_up.py`; batch and images are the same for all. About an hour on two cores.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table import SPEED_MARKS, fill_in, format_speed

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
RESULTS = _HERE / "speed.json"
sys.path.insert(0, str(_ROOT / "src"))
BATCH, SIDE = 50, 256
OURS = "sg3flow"
IMAGES = 2000
# The tools of each kind of work; a number is that of the features of each side.
TOOLS = {
    "fid": (OURS, "pytorch-fid", "torch-fidelity"),
    "kid-2000": (OURS, "torch-fidelity"),
    "kid-5000": (OURS, "torch-fidelity"),
}


def main() -> None:
    """Measure everything, or one process of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--images", type=int, default=IMAGES, help="of both sides together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "TOOL", "FOLDER"), help="internal")
    options = parser.parse_args()
    if options.one:
        task, tool, folder = options.one
        print(json.dumps(_timed(_WORK[task.partition("-")[0], tool], Path(folder) / task)))
        return
    tasks = options.tasks or list(TOOLS)
    if unknown := [task for task in tasks if task not in TOOLS]:
        sys.exit(f"error: no work '{unknown[0]}'; there are {', '.join(TOOLS)}")
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            _make_inputs(Path(folder), task, options.images)
        found = _by_turns(Path(folder), tasks, options.rounds)
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    kept = [row for row in kept if row["task"] not in tasks]
    rows = sorted(kept + found, key=lambda row: (row["task"], row["tool"]))
    content = {"machine": _machine(), "batch": BATCH, "side": SIDE, "results": rows}
    text = format_speed(content)
    print(text)
    if options.images == IMAGES and options.rounds > 1:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
        document = _ROOT / "docs" / "metrics.md"
        document.write_text(fill_in(document.read_text(), text, SPEED_MARKS))


def _make_inputs(folder: Path, task: str, images: int) -> None:
    """Images of both sides and weights, or features, once for all tools."""
    import numpy as np
    import torch
    from made_up import draw_images, inception_weights

    (folder / task).mkdir()
    kind, _, count = task.partition("-")
    if kind == "kid":
        random = np.random.RandomState(0)
        for name in "ab":
            features = random.standard_normal((int(count), 2048)).astype("f4")
            np.save(folder / task / f"{name}.npy", features)
        return
    for seed in (1, 2):
        draw_images(folder / task / str(seed), images // 2, seed, SIDE)
    torch.save(inception_weights(), folder / task / "inception.pth")


def _by_turns(folder: Path, tasks: list[str], rounds: int) -> list[dict[str, Any]]:
    """One row per task and tool: the median of the rounds, and the largest peak memory."""
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        for task in tasks:
            tools = TOOLS[task]
            for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
                runs.setdefault((task, tool), []).append(_process(task, tool, folder))
                print(task, tool, runs[task, tool][-1], file=sys.stderr)
    return [
        {
            "task": task,
            "tool": tool,
            "seconds": round(statistics.median(run["seconds"] for run in found), 3),
            "all_seconds": [round(run["seconds"], 3) for run in found],
            "peak_mib": max(run["peak_mib"] for run in found),
            "value": found[0]["value"],
        }
        for (task, tool), found in runs.items()
    ]


def _process(task: str, tool: str, folder: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        environ = os.environ | {"PYTHONPATH": str(_ROOT / "src"), "SG3FLOW_CACHE": cache}
        command = [sys.executable, __file__, "--one", task, tool, str(folder)]
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _timed(work: Callable[[Path], float], folder: Path) -> dict[str, float]:
    """Seconds from the start of the process, its peak memory, and the number."""
    value = work(folder)
    seconds = time.time() - _started()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"seconds": seconds, "peak_mib": peak, "value": value}


def _started() -> float:
    """When this process started, by the kernel's clock."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def _machine() -> dict[str, str]:
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "pytorch-fid", "torch-fidelity")}
    return found | {"cores": str(os.cpu_count()), "python": platform.python_version()}


def _our_fid(folder: Path) -> float:
    import torch

    from sg3flow.files import sha256_file
    from sg3flow.metrics.evaluation import ImageSet, compare_sets
    from sg3flow.metrics.features import inception

    made_up = folder / "inception.pth"
    inception.WEIGHTS_SHA256 = sha256_file(made_up)
    shutil.copyfile(made_up, Path(os.environ["SG3FLOW_CACHE"]) / inception.WEIGHTS_NAME)
    sets = ImageSet(folder / "1"), ImageSet(folder / "2")
    cpu = torch.device("cpu")
    return compare_sets(*sets, ["pytorch_fid"], seed=0, batch=BATCH, device=cpu)[0].value


def _pytorch_fid(folder: Path) -> float:
    import outside  # noqa: F401
    import torch
    from peer_inceptions import pytorch_network
    from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance

    network = pytorch_network(torch.load(folder / "inception.pth", weights_only=True))
    stats = [
        calculate_activation_statistics(
            sorted((folder / side).glob("*.png")), network, BATCH, num_workers=1
        )
        for side in "12"
    ]
    return float(calculate_frechet_distance(*stats[0], *stats[1]))


def _torch_fidelity(folder: Path) -> float:
    import outside  # noqa: F401
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=str(folder / "1"),
        input2=str(folder / "2"),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=BATCH,
        feature_extractor_weights_path=str(folder / "inception.pth"),
    )
    return float(found["frechet_inception_distance"])


def _our_kid(folder: Path) -> float:
    import numpy as np

    from sg3flow.metrics.polynomial_mmd import kernel_estimate

    a, b = (np.load(folder / f"{name}.npy") for name in "ab")
    return kernel_estimate(a, b, 100, 1000, 2020, draw_b_first=True).value


def _torch_fidelity_kid(folder: Path) -> float:
    import numpy as np
    import outside  # noqa: F401
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in "ba")
    settings = {"kid_subsets": 100, "kid_subset_size": 1000, "verbose": False}
    return float(kid_features_to_metric(a, b, **settings)["kernel_inception_distance_mean"])


_WORK: dict[tuple[str, str], Callable[[Path], float]] = {
    ("fid", OURS): _our_fid,
    ("fid", "pytorch-fid"): _pytorch_fid,
    ("fid", "torch-fidelity"): _torch_fidelity,
    ("kid", OURS): _our_kid,
    ("kid", "torch-fidelity"): _torch_fidelity_kid,
}


if __name__ == "__main__":
    main()
