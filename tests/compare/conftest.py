"""Small runs to compare: folders with real snapshots and reports, and MLflow runs of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sg3flow.checkpoints import save_snapshot
from sg3flow.compare.run_data import Point, RunData
from sg3flow.files import write_json
from sg3flow.networks import Discriminator, StyleGAN3Generator

_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}


def make_row(kimg: int, value: float, metric: str = "fid9_full", **changes: Any) -> dict[str, Any]:
    """A row of reports/metrics.json."""
    return {
        "snapshot": f"network-snapshot-{kimg:06d}.pkl",
        "kimg": kimg,
        "metric": metric,
        "value": value,
        "standard_error": 0.1,
        "num_generated": 9,
        "num_reference": 8,
        "detector": "d",
        "detector_sha256": "e",
        "reference_sha256": "f",
        "network_sha256": "0",
        "resize": "r",
        "seed": 0,
        "higher_is_better": metric.startswith("eq"),
        "torch": "2.13.0",
    } | changes


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    return make_row


@pytest.fixture
def facts(row) -> Callable[..., RunData]:
    """Makes facts of a run; what is not given is as in any other."""

    def make(name: str = "run", value: float = 5.0, **changes: Any) -> RunData:
        rows = [row(0, 9.0), row(4, value)]
        known: dict[str, Any] = {
            "kind": "run folder",
            "name": name,
            "address": f"runs/{name}",
            "state": "finished at 4 kimg",
            "params": {"train.gamma": "0.2", "train.batch": "4"},
            "environment": {"torch": "2.13.0"},
            "curves": {"Loss/G/loss": [Point(i, 0.1 * i) for i in range(5)]},
            "results": rows,
            "best": {"fid9_full": rows[1]},
        }
        return RunData(**known | changes)

    return make


@pytest.fixture(scope="session")
def snapshot_bytes(tmp_path_factory) -> bytes:
    """A snapshot of tiny networks with two classes."""
    path = tmp_path_factory.mktemp("snapshot") / "network.pkl"
    torch.manual_seed(0)
    G = StyleGAN3Generator(z_dim=16, c_dim=2, w_dim=16, **_SIZES)
    D = Discriminator(c_dim=2, **_SIZES)
    training_set = {"name": "toy", "resolution": 16, "label_dim": 2, "class_names": ["cat", "dog"]}
    save_snapshot(
        path,
        G=G,
        D=D,
        G_ema=G,
        augment_p=0.0,
        training_set=training_set,
        progress={"nimg": 4000},
    )
    return path.read_bytes()


@pytest.fixture
def run_folder(tmp_path, snapshot_bytes, row) -> Callable[..., Path]:
    """Makes a run folder with two snapshots and the report of their evaluation."""
    import hashlib

    digest = hashlib.sha256(snapshot_bytes).hexdigest()

    def make(name: str, value: float = 5.0, gamma: float = 0.2, kimg: int = 4) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        params = {"cfg": "stylegan3-t", "gamma": gamma, "kimg": 4, "cond": True}
        data = {"name": "set", "digest": "ab" * 32, "num_images": 3, "resolution": 16}
        described = {
            "uid": name,
            "fingerprint": "f" * 12,
            "name": f"{name}-run",
            "command": "python",
        }
        described |= {"format": "sg3flow-run-1", "params": params, "training_set": data}
        write_json(folder / "run.json", described)
        stats = [
            {"Loss/G/loss": {"num": 1, "mean": gamma * i, "std": 0}, "nimg": 1000 * i}
            | {"timestamp": 1.0 + i}
            for i in range(kimg + 1)
        ]
        (folder / "stats.jsonl").write_text("".join(json.dumps(each) + "\n" for each in stats))
        (folder / "networks.txt").write_text("tables\ndevice cpu, ops cpu\n")
        for each in (0, 4):
            (folder / f"network-snapshot-{each:06d}.pkl").write_bytes(snapshot_bytes)
        rows = [row(0, 9.0, network_sha256=digest), row(4, value, network_sha256=digest)]
        report = {"format": "sg3flow-metrics-1", "best": {"metric": "fid9_full"}, "results": rows}
        write_json(folder / "metrics.json", report)
        return folder

    return make


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project with a tracking store of its own."""
    (tmp_path / ".dvc").mkdir()
    for name in ("DVC_ROOT", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    return tmp_path
