"""Protocols of other tools: equal to the numbers that the tools gave, and kept apart."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.config import EvaluateImagesConfig
from sg3flow.errors import MetricError
from sg3flow.metrics import Evaluator, image_metrics, parse_metric
from sg3flow.metrics.distances import RunningStats, frechet_estimate
from sg3flow.metrics.evaluation_run import evaluate_images
from sg3flow.metrics.features import inception
from sg3flow.metrics.features.input_rules import INPUT_RULES, pillow_bicubic
from sg3flow.metrics.image_metrics import MetricInputs, compute_metric, covariance_divisor
from sg3flow.metrics.names import KINDS
from sg3flow.metrics.polynomial_mmd import kernel_estimate
from sg3flow.metrics.reference_set import stats_folder
from sg3flow.registry.gate import require_comparable
from sg3flow.runs.best_snapshot import differing_conditions, differing_meaning

sys.path.insert(0, str(Path(__file__).parent))

import fixed_cases

PEERS = json.loads((Path(__file__).parent / "peer_values.json").read_text())
CPU = torch.device("cpu")
FRECHET = ("fid", "clean_fid", "pytorch_fid", "torch_fidelity_fid", "torchmetrics_fid")


class GivenReference:
    """Features in the place of a reference set."""

    def __init__(self, features):
        self._features = features

    def stats(self, limit):
        running = RunningStats(self._features.shape[1])
        running.add(self._features)
        return running.result()

    def features(self, limit):
        return torch.from_numpy(self._features)


def of_formula(name):
    """The value of a metric of the features of the fixed case."""
    generated, real = fixed_cases.formula_features(0, 60), fixed_cases.formula_features(1, 50)
    inputs = MetricInputs(generated, GivenReference(real), None, fixed_cases.SEED, CPU)
    (estimate,) = compute_metric(parse_metric(name), inputs).estimates
    return estimate


@pytest.mark.parametrize("name", sorted(PEERS["values"]))
def test_values_of_the_peers(monkeypatch, name):
    monkeypatch.setattr(image_metrics, "_KID_SUBSETS", fixed_cases.SUBSETS)
    monkeypatch.setattr(image_metrics, "_KID_SIZE", fixed_cases.SIZE)
    found = of_formula(f"{name}60_full")
    assert found.value == pytest.approx(PEERS["values"][name], rel=1e-6)
    assert 0 < found.standard_error < 1


def test_torch_fidelity_has_its_own_seed_and_no_smaller_subsets(monkeypatch):
    with pytest.raises(MetricError, match="subsets of 1000 images, and one side has 50"):
        of_formula("torch_fidelity_kid60_full")
    monkeypatch.setattr(image_metrics, "_KID_SIZE", fixed_cases.SIZE)
    monkeypatch.setattr(fixed_cases, "SEED", 5)
    own = of_formula("torch_fidelity_kid60_full").value
    monkeypatch.setattr(fixed_cases, "SEED", 6)
    assert of_formula("torch_fidelity_kid60_full").value == own
    assert of_formula("clean_kid60_full").value != own


def test_order_of_the_draws_changes_no_error():
    """Of subsets of everything the order decides nothing: the error is still that of ``b``."""
    a, b = (fixed_cases.formula_features(offset, 40) for offset in (0, 1))
    first, second = (kernel_estimate(a, b, 2, 40, 0, draw_b_first=flag) for flag in (False, True))
    assert first.standard_error == pytest.approx(second.standard_error, rel=1e-9)
    assert first.standard_error != pytest.approx(kernel_estimate(b, a, 2, 40, 0).standard_error)


@pytest.mark.parametrize("detector", sorted(PEERS["inputs"]))
def test_inputs_of_the_peers(detector):
    kept = PEERS["inputs"][detector]
    assert len(kept) == len(fixed_cases.IMAGE_SIZES) == 12
    for number, expected in enumerate(kept):
        image = torch.from_numpy(fixed_cases.formula_image(number)).permute(2, 0, 1)[None]
        prepared = INPUT_RULES[detector].prepare(image)[0].numpy()
        assert fixed_cases.kept_values(prepared) == pytest.approx(expected, abs=2e-6)


def test_bicubic_is_that_of_pillow():
    random = np.random.RandomState(0)
    for height, width in ((40, 31), (7, 13), (1, 5), (13, 7)):
        channel = random.rand(height, width).astype(np.float32) * 255
        expected = np.asarray(Image.fromarray(channel).resize((13, 7), Image.Resampling.BICUBIC))
        found = pillow_bicubic(torch.from_numpy(channel)[None, None], 7, 13)[0, 0].numpy()
        assert found == pytest.approx(expected, abs=1e-4)
    assert found == pytest.approx(expected, rel=1e-5)


def test_clean_input_is_cut_and_not_rounded():
    image = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    image[:, :, :, 10:] = 255  # bicubic resizing overshoots at an edge
    values = INPUT_RULES["inception_clean"].prepare(image) * 128 + 128
    assert values.min() == 0 and values.max() == 255
    assert (values - values.round()).abs().max() > 0.1


def test_divisor_is_all_that_separates_torch_fidelity():
    """|mean_a - mean_b|^2 stays, and the rest grows by N / (N - 1)."""
    a, b = (fixed_cases.formula_features(offset, 20) for offset in (0, 1))
    running = RunningStats(12)
    running.add(b)
    reference = running.result()
    by_n, by_less = (frechet_estimate(a, reference, ddof) for ddof in (0, 1))
    means = np.square(a.astype(float).mean(axis=0) - reference.mean).sum()
    assert by_less.value - means == pytest.approx((by_n.value - means) * 20 / 19, rel=1e-9)
    assert by_n.standard_error != by_less.standard_error


def test_divisor_needs_two_images():
    running = RunningStats(12)
    running.add(fixed_cases.formula_features(1, 9))
    with pytest.raises(MetricError, match="divided by N - 1 needs at least 2 images"):
        frechet_estimate(fixed_cases.formula_features(0, 1), running.result(), 1)


def test_names_and_divisors():
    names = [f"{kind}9_full" for kind in KINDS if kind.endswith(("fid", "kid"))]
    divisors = {name: covariance_divisor(parse_metric(name)) for name in names}
    assert divisors == {
        "fid9_full": "N",
        "kid9_full": None,
        "clean_fid9_full": "N - 1",
        "clean_kid9_full": None,
        "pytorch_fid9_full": "N - 1",
        "torch_fidelity_fid9_full": "N - 1",
        "torch_fidelity_kid9_full": None,
        "torchmetrics_fid9_full": "N - 1",
    }
    assert covariance_divisor(parse_metric("fd_random9_full")) == "N"
    with pytest.raises(MetricError, match="did you mean 'clean_fid50k_full'"):
        parse_metric("clean_fid9")


class StubInception(torch.nn.Module):
    """Some values of the input as features: enough to see how images were resized."""

    def layers(self, x):
        return {"f2048": x.flatten(1)[:, ::4201].contiguous()}


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(inception, "load_inception", StubInception)
    monkeypatch.setattr(inception.InceptionFeatures, "num_features", 64)


def test_protocols_of_a_network_share_neither_caches_nor_rows(
    stub, pack, draw_faces, tiny_generator
):
    packed, names = pack(draw_faces(8, seed=0, size=32)), [f"{kind}8_full" for kind in FRECHET]
    evaluator = Evaluator(packed, names, seed=0, batch=8, device=CPU)
    rows = {row.metric: row for row in evaluator.measure(tiny_generator(), "G", 1, "0" * 64)}
    assert len(list(stats_folder().iterdir())) == len(names)
    assert len({row.value for row in rows.values()}) == len(names)
    assert len({row.resize for row in rows.values()}) == len(names)
    assert {row.detector_sha256 for row in rows.values()} == {inception.WEIGHTS_SHA256}
    assert [rows[name].covariance_divisor for name in names] == ["N"] + ["N - 1"] * 4
    again = Evaluator(packed, names[3:4], seed=0, batch=8, device=CPU)
    (row,) = again.measure(tiny_generator(), "G", 1, "0" * 64)
    assert row.value == rows[names[3]].value  # from its own cache
    assert len(list(stats_folder().iterdir())) == len(names)


def test_protocols_between_folders(stub, draw_faces, tmp_path):
    sides = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(sides):
        folder.mkdir()
        for number, image in enumerate(draw_faces(6, seed=seed)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    names = (*FRECHET, "clean_kid", "kid")
    config = EvaluateImagesConfig(metrics=names, seed=0, batch=4, device="cpu")
    shown = evaluate_images(config, *sides, tmp_path / "report.json")
    rows = {
        row["metric"]: row for row in json.loads((tmp_path / "report.json").read_text())["results"]
    }
    assert list(rows) == list(names) and all(name in shown for name in names)
    assert rows["clean_fid"]["value"] != rows["pytorch_fid"]["value"]
    assert "clean_fid: 6 and 6 images for 64 features" in shown
    assert rows["clean_fid"]["resize"].startswith("299x299, clean-fid 0.1.35")


@pytest.mark.parametrize(
    ("key", "words"),
    [("resize", "the resizing"), ("covariance_divisor", "the divisor of the covariance")],
)
def test_rows_of_other_rules_are_not_compared(key, words):
    row = {"metric": "clean_fid9_full", "reference_sha256": "f", "detector_sha256": "d", key: "x"}
    other = row | {key: "y"}
    assert differing_meaning(row, other) == differing_conditions(row, other) == [words]
    with pytest.raises(MetricError, match=f"version 3: {words} differ"):
        require_comparable(
            {"clean_fid9_full": "better"},
            {"clean_fid9_full": row},
            "3",
            {"clean_fid9_full": other},
        )
    del other[key]  # a row of an earlier version, which had one rule
    assert differing_meaning(row, other) == []
