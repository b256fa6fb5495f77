"""The counted traffic of a training step: upper bounds, and what the counter counts."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import traffic

META = torch.device("meta")


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["traffic.py"])


def counted(monkeypatch, tmp_path, *options):
    path = tmp_path / "counts.json"
    monkeypatch.setattr(sys, "argv", ["traffic.py", *options, "--json", str(path)])
    traffic.main()
    return json.loads(path.read_text())


def test_bytes_and_launches_of_operations():
    a, b = torch.empty(256, 256, device=META), torch.empty(256, 256, device=META)
    weights = [torch.empty(1000, device=META) for _ in range(100)]
    with traffic.Count() as count:
        (a @ b).t()[:5]  # views cost nothing
        a.half()
        torch._foreach_add_(weights, 1)
        torch._foreach_copy_(weights, weights)
        torch.zeros(3) + 1
    assert count.bytes == {
        ("matrix products", "float32"): 3 * 256 * 256 * 4,
        ("elementwise, reductions", "float16"): 256 * 256 * 6,
        ("updates of all weights", "float32"): 100 * 1000 * 4 * (1 + 2),
    }
    assert count.launches["updates of all weights", "float32"] == 1 + 2  # of 110 and of 64 tensors
    assert count.flops == {"float32": 2 * 256**3} and count.host_ops == {"zeros": 1, "add": 1}
    many = [torch.empty(traffic._CHUNK * 400, device=META)]
    assert traffic.launches("_foreach_add_", (many, 1)) == 2  # of 320 chunks


def test_steps_are_weighted_by_the_phases_that_are_due():
    kinds = traffic.kinds_of_steps([1, 4, 1, 16])
    assert {step: float(share) for step, share in kinds.items()} == {
        1: 12 / 16,
        4: 3 / 16,
        16: 1 / 16,
    }


@pytest.mark.medium
def test_a_small_step_by_group_and_by_caller(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(traffic, "TrainConfig", small(traffic.TrainConfig))
    sizes = ["--resolution", "16", "--batch", "4"]
    groups = counted(monkeypatch, tmp_path, *sizes)
    callers = counted(monkeypatch, tmp_path, *sizes, "--where")
    plain = counted(monkeypatch, tmp_path, *sizes, "--plain")
    for name in ("GB", "launches", "host operations"):
        assert groups["totals"][name] == pytest.approx(callers["totals"][name])
    found = {row["group"] for row in groups["rows"]}
    assert {"convolutions", "filtered_lrelu", "sample weights"} <= found
    assert plain["totals"]["GB"] > 1.5 * groups["totals"]["GB"]
    assert any("modulation.py" in row["caller"] for row in callers["rows"])
    assert "host operations: augment_random.py" in capsys.readouterr().out


def small(config):
    return lambda **settings: config(cbase=256, cmax=8, **settings)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("cfg", "gigabytes", "launches"),
    [("stylegan3-t", 220, 1400), ("stylegan3-r", 312, 1400), ("stylegan2", 206, 2050)],
)
def test_a_step_at_256_pixels_stays_below_its_bounds(
    monkeypatch, tmp_path, cfg, gigabytes, launches
):
    """Batch 32 in half precision, with augmentations."""
    totals = counted(monkeypatch, tmp_path, "--cfg", cfg)["totals"]
    assert totals["GB"] <= gigabytes
    assert totals["launches"] <= launches
    assert totals["host operations"] <= 200
