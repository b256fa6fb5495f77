"""Every configuration trains on a GPU, and its precisions agree. `make smoke-gpu` runs it.

`SG3FLOW_SMOKE_DEVICE=cpu` and `SG3FLOW_SMOKE_KIMG` run the test itself without a GPU.
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from sg3flow.config import TrainConfig

# A training writes a whole run folder, for which a machine without the requirements lacks parts.
training_run = pytest.importorskip("sg3flow.training.training_run")

DEVICE = os.environ.get("SG3FLOW_SMOKE_DEVICE", "cuda")
KIMG = int(os.environ.get("SG3FLOW_SMOKE_KIMG", "2"))
# R1 keeps D's loss from falling far in 2 kimg; it begins at 2 ln 2 = 1.386.
FIRST_LOSS = 1.386

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device is visible"
    ),
]


@pytest.fixture(scope="module")
def smoke_set(write_packed, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("smoke") / "discs.zip"
    return write_packed(path, resolution=64, num_images=600)


def run(cfg: str, data: Path, folder: Path, **precision) -> list[dict]:
    config = TrainConfig(
        cfg=cfg, gpus=1, batch=16, gamma=0.25, cbase=8192, cmax=128, map_depth=2, aug="noaug",
        kimg=KIMG, tick=1, snap=KIMG, workers=2, grid="4x4", device=DEVICE,
    )  # fmt: skip
    out = training_run.train(dataclasses.replace(config, **precision), data, run_dir=folder)
    assert out is not None
    if DEVICE == "cuda":  # the reference has neither half precision nor TF32
        is_exact = "precision exact float32\n" in (out / "networks.txt").read_text()
        assert is_exact is bool(precision.get("fp32"))
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
def test_losses_fall_and_precisions_agree(cfg, smoke_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # there is no params.yaml, which ruamel.yaml would read
    if DEVICE == "cuda" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    precisions: dict[str, dict] = {"fp32": {"fp32": True}, "fp16": {}, "bf16": {"bf16": True}}
    losses = {}
    for name, settings in precisions.items():
        rows = run(cfg, smoke_set, tmp_path / name, **settings)
        losses[name] = [row["Loss/D/loss"]["mean"] for row in rows if "Loss/D/loss" in row]
        last = rows[-1]
        peak = last.get("Resources/peak_gpu_mem_gb", {"mean": 0.0})["mean"]
        pace = last["Timing/sec_per_kimg"]["mean"]
        print(f"{cfg} {name}: D loss {losses[name]}, {pace:.1f} s/kimg, peak {peak:.2f} GiB")
        assert losses[name][-1] < FIRST_LOSS
        assert sum(s["mean"] for n, s in last.items() if n.startswith("Repairs/")) == 0
    # Trainings drift apart, as any two that differ in rounding do; their first kimg do not far.
    for name in ("fp16", "bf16"):
        assert losses[name][0] == pytest.approx(losses["fp32"][0], rel=0.1), name
