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


def test_adam_writes_the_weights_and_both_averages():
    weights, gradients, first, second = (
        [torch.empty(1000, device=META) for _ in range(3)] for _ in range(4)
    )
    steps = [torch.empty((), device=META) for _ in range(3)]
    settings = {"lr": 1e-3, "beta1": 0.0, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8}
    with traffic.Count() as count:
        torch.ops.aten._fused_adam_(
            weights, gradients, first, second, [], steps, **settings, amsgrad=False, maximize=False
        )
    assert sum(count.bytes.values()) == 4 * 3 * (1000 * (4 + 3) + 1)


def test_partial_sums_count_with_the_ops_that_write_them():
    """Written and read: of each tile, or of each of its warps, four bytes."""
    x, f, flags = torch.empty(2, 3, 148, 148, device=META), torch.ones(12, device=META), None
    options = ((2, 2), (2, 2), (9, 8, 9, 8), False, 1.0, 0.2, -1.0, False)
    radial = torch.empty(12, 12, device=META)
    for dtype, down, tiles in (
        (torch.float32, f, 5 * 5),  # of 32 x 32
        (torch.float16, f, 2 * 3 * 7),  # of 76 x 49, 7 warps
        (torch.float16, radial, 3 * 3 * 7),
        (torch.float16, f[:7], 0),
    ):
        with traffic.Count() as count:
            y, flags, _ = torch.ops.sg3flow.filtered_lrelu_squares(
                x.to(dtype), f, down, None, *options
            )
        beside = count.bytes["filtered_lrelu", str(dtype).removeprefix("torch.")]
        beside -= traffic.num_bytes([x.to(dtype), f, down, y]) + 4
        assert beside == 2 * 4 * 6 * tiles
    g, flags = torch.empty(2, 3, 37, 64, device=META), torch.empty(2, 3, 37, 16, device=META)
    given = (g, flags.to(torch.uint8), None, (37, 64), (0,) * 4)
    out = torch.ops.sg3flow.act_filter_grad(*given, 0.2, 1.0)
    assert traffic.partial_sum_bytes("act_filter_grad", given, out) == 2 * 4 * 6 * 2 * 2
    w, a, b = (torch.empty(*shape, device=META) for shape in ((9, 40, 3, 3), (2, 9), (2, 40)))
    sums = 3 * 2 * 40 + 2 * 2 * 9  # of 4 outputs and of 32 inputs
    found = traffic.partial_sum_bytes("scaled_weights_grad", (w, w, a, b), None)
    assert found == 2 * 4 * sums
    assert traffic.partial_sum_bytes("mm", (w,), None) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "argument --batch: must be a whole number from 1 to 65536, not '0'"),
        (["--batch", "x" * 9000], "argument --batch: must be a whole number"),
        (["--batch-gpu", "-4"], "argument --batch-gpu: must be a whole number"),
        (["--batch", "3"], "train.batch_gpu (3) must be a multiple of mbstd_group (4)"),
        (["--batch-gpu", "5"], "train.batch (32) must be a multiple of gpus * batch_gpu (1 * 5)"),
        (["--resolution", "100"], "img_resolution must be a power of two of at least 16, not 100"),
        (["--resolution", "9" * 30], "argument --resolution: must be a whole number from 1 to"),
        (["--p", "2"], "argument --p: must be a number from 0 to 1, not '2'"),
        (["--p", "nan"], "argument --p: must be a number from 0 to 1, not 'nan'"),
        (["--p", "half"], "argument --p: must be a number from 0 to 1, not 'half'"),
        (["--cfg", "stylegan4"], "invalid choice: 'stylegan4'"),
    ],
)
def test_bad_options_are_errors_of_one_line(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["traffic.py", *options])
    with pytest.raises(SystemExit) as stopped:
        traffic.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and len(said) < 700
    assert message in said.splitlines()[-1] and "error: " in said.splitlines()[-1]


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
    [("stylegan3-t", 186, 1400), ("stylegan3-r", 267, 1400), ("stylegan2", 182, 2050)],
)
def test_a_step_at_256_pixels_stays_below_its_bounds(
    monkeypatch, tmp_path, cfg, gigabytes, launches
):
    """Batch 32 in half precision, with augmentations."""
    totals = counted(monkeypatch, tmp_path, "--cfg", cfg)["totals"]
    assert totals["GB"] <= gigabytes
    assert totals["launches"] <= launches
    assert totals["host operations"] <= 200
