"""Latency and throughput of a served generator: p50, p95, p99 in ms, images per second.

A generator with random weights is packaged and served by the program that `mlflow models serve`
starts. Clients in threads of this process send requests, each after the answer to its last one.

python benchmarks/serving.py [--resolution 64] [--requests 300] [--together 1,2] [--json FILE]
"""

import argparse
import asyncio
import http.client
import json
import os
import socket
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from sg3flow.checkpoints.loading import package_generator
from sg3flow.networks import StyleGAN3Generator
from sg3flow.serving.model_worker import Worker

_CLIENTS = (1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--together", default="1,2", help="values of SG3FLOW_SERVE_TOGETHER")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = packaged_model(Path(folder), options.resolution)
        for together in map(int, options.together.split(",")):
            os.environ["SG3FLOW_SERVE_TOGETHER"] = str(together)
            rows += asyncio.run(measured(model, together, options.requests))
    for row in rows:
        print(json.dumps(row | {"resolution": options.resolution}))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def packaged_model(folder: Path, resolution: int) -> Path:
    """An MLflow model of a generator with random weights, as register would make it."""
    import mlflow

    import sg3flow
    from sg3flow.serving import pyfunc_model

    torch.manual_seed(0)
    size = {"channel_base": 64 * resolution, "channel_max": 64}
    G = StyleGAN3Generator(64, 0, 64, resolution, 3, **size).eval()
    package = package_generator(
        G, folder / "package", training_set={}, metrics={}, snapshot_sha256=""
    )
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=pyfunc_model.__file__,
        artifacts={"weights": str(package.weights), "description": str(package.description)},
        code_paths=[str(Path(sg3flow.__file__).parent)],
        signature=pyfunc_model.signature(),
        pip_requirements=["mlflow"],
    )
    return folder / "model"


async def measured(model: Path, together: int, requests: int) -> list[dict[str, object]]:
    """A row for each number of clients."""
    worker = await Worker.start("0", model, 300)
    try:
        rows = []
        for clients in _CLIENTS:
            seconds, latencies = await asyncio.to_thread(load, worker.socket, clients, requests)
            cuts = statistics.quantiles(latencies, n=100)
            row: dict[str, object] = {"together": together, "clients": clients}
            row |= {f"p{p} ms": round(cuts[p - 1] * 1000, 1) for p in (50, 95, 99)}
            rows.append(row | {"images/s": round(requests / seconds, 1)})
        return rows
    finally:
        await worker.stop()


def load(address: Path, clients: int, requests: int) -> tuple[float, list[float]]:
    """Total seconds, and the seconds of each request."""

    def ask(seed: int) -> float:
        start = time.perf_counter()
        body = json.dumps({"dataframe_records": [{"seed": seed}]})
        link = UnixConnection(address)
        link.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        content = answer.read()
        link.close()
        if answer.status != 200:
            raise RuntimeError(content.decode())
        return time.perf_counter() - start

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients * 2)))
        start = time.perf_counter()
        latencies = list(pool.map(ask, range(requests)))
    return time.perf_counter() - start, latencies


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


if __name__ == "__main__":
    main()
