"""Power-function averages: their weights, and what a training stores of them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sg3flow.config import TrainConfig
from sg3flow.errors import ConfigError
from sg3flow.params_file import load_settings
from sg3flow.runs.code_state import given_values
from sg3flow.runs.run_folder import averages_name, kimg_of, list_averages, snapshot_digests
from sg3flow.training import step
from sg3flow.training.job import deciding_settings
from sg3flow.training.power_averages import (
    PowerAverages,
    compact,
    exponent,
    parse_widths,
    step_weight,
)
from sg3flow.training.training_run import train


def test_exponents_of_the_paper():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_a_width_is_the_relative_standard_deviation_of_the_weights(width):
    gamma = exponent(width)
    tau = np.linspace(0, 1, 200_001)[1:]
    weights = tau**gamma
    weights /= weights.sum()
    mean = (weights * tau).sum()
    assert np.sqrt((weights * (tau - mean) ** 2).sum()) == pytest.approx(width, rel=1e-3)


class Numbers(torch.nn.Module):
    """One parameter and one buffer that a test sets."""

    def __init__(self, value=0.0):
        super().__init__()
        self.x = torch.nn.Parameter(torch.full([2], value))
        self.register_buffer("seen", torch.tensor(value))

    def set(self, value):
        self.x.data.fill_(value)
        self.seen.fill_(value)


def test_a_step_has_the_weight_of_its_power():
    """Step i has i^(gamma + 1) - (i - 1)^(gamma + 1), the integral of the power over it."""
    gamma, steps, batch = exponent(0.1), 40, 8
    powers = np.arange(steps + 1) ** (gamma + 1)
    expected = np.diff(powers) / powers[-1]
    for i in (1, 2, 17, 40):
        G = Numbers()
        averages = PowerAverages([0.1], G, batch)
        for t in range(1, steps + 1):
            G.set(float(t == i))
            averages.update(G, t * batch)
        [tensor] = averages.state()["power_averages"]["0.100"]
        assert tensor.tolist() == pytest.approx([expected[i - 1]] * 2, rel=1e-9)


def test_late_steps_still_count():
    gamma = exponent(0.1)
    assert step_weight(gamma, 1) == 1 and step_weight(gamma, 0.5) == 1
    assert step_weight(gamma, 1e6) == pytest.approx((gamma + 1) / 1e6, rel=1e-5)


@pytest.mark.parametrize(
    "texts", [["x"], ["0"], ["-0.1"], ["0.3"], ["nan"], ["0.05", "0.0501"], ["0.05", "0.05"]]
)
def test_other_widths_are_refused(texts):
    with pytest.raises(ConfigError, match=r"train\.phema"):
        parse_widths(texts)


def test_widths_are_sorted_and_come_from_a_list_or_a_text(tmp_path):
    assert parse_widths(("0.1", "0.05")) == (0.05, 0.1)
    path = tmp_path / "params.yaml"
    for text in ("[0.05, 0.1]", "0.05,0.1", "['0.05', '0.1']"):
        path.write_text(
            f"train:\n  cfg: stylegan2\n  gpus: 1\n  batch: 8\n  gamma: 1\n  phema: {text}\n"
        )
        assert load_settings(TrainConfig, "train", path).phema == ("0.05", "0.1")


def test_large_values_are_stored_in_float32():
    assert compact(torch.tensor([1.0], dtype=torch.float64)).dtype == torch.float16
    large = compact(torch.tensor([1e6], dtype=torch.float64))
    assert large.dtype == torch.float32 and large.tolist() == [1e6]


def test_without_widths_nothing_is_computed_or_stored(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "double", lambda self: pytest.fail("computed"))
    averages = PowerAverages([], Numbers(), 8)
    averages.update(Numbers(), 8)
    assert averages.state() == {} and averages.names == []


def test_the_setting_is_no_part_of_the_fingerprint():
    base = TrainConfig(cfg="stylegan3-t", gpus=1, batch=8, gamma=1.0)
    other = dataclasses.replace(base, phema=("0.05", "0.10"))
    assert deciding_settings(given_values(base)) == deciding_settings(given_values(other))


def read(path: Path):
    with safe_open(path, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()


@pytest.fixture
def trained(cheap_config, tiny_set, tmp_path):
    def run(name, **changes):
        """The output folder of a training of 2 kimg in a state folder of its own."""
        config = dataclasses.replace(cheap_config, **{"kimg": 2, **changes})
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        train(config, tiny_set, run_dir=tmp_path / name)
        return tmp_path / name

    return run


@pytest.mark.medium
def test_a_training_stores_them_and_computes_the_same(
    trained, cheap_config, tiny_set, tmp_path, monkeypatch
):
    widths = ("0.05", "0.1")
    plain, averaged = trained("plain"), trained("averaged", phema=widths)
    assert snapshot_digests(plain) == snapshot_digests(averaged)
    assert not list_averages(plain)
    found = list_averages(averaged)
    assert list(found) == [1, 2] and found[2].name == averages_name(2000)
    tensors, metadata = read(found[2])
    facts = json.loads(metadata["sg3flow"])
    assert facts["nimg"] == 2000 and facts["widths"] == ["0.050", "0.100"]
    assert {name.partition("/")[0] for name in tensors} == {"0.050", "0.100", "buffers"}

    # Interrupted between two snapshots, and continued from the state: the same bytes.
    taken = step.run_step

    def broken(parts, real, draw, nimg, batch_gpu):
        if nimg >= 1500:
            raise RuntimeError("a crash")
        taken(parts, real, draw, nimg, batch_gpu)

    with monkeypatch.context() as patch:
        patch.setattr(step, "run_step", broken)
        with pytest.raises(RuntimeError, match="a crash"):
            trained("again", phema=widths)
    config = dataclasses.replace(cheap_config, kimg=2, phema=widths, keep_snapshots="last 1")
    train(config, tiny_set, run_dir=tmp_path / "again")
    again = list_averages(tmp_path / "again")
    assert [p.read_bytes() for p in again.values()] == [p.read_bytes() for p in found.values()]
    assert len(list((tmp_path / "again").glob("network-snapshot-*.pkl"))) == 1
    [work] = (tmp_path / "state").glob("*/run")
    assert list(list_averages(work)) == [1, 2] and list(snapshot_digests(work))


def test_a_shorter_training_knows_which_files_are_beyond_it():
    assert kimg_of(averages_name(12_345_000)) == 12_345


@pytest.mark.medium
def test_a_width_that_comes_later_starts_where_it_is(trained, cheap_config, tiny_set, capsys):
    out = trained("out", phema=("0.05",), kimg=1)
    longer = dataclasses.replace(cheap_config, kimg=2, phema=("0.05", "0.1"))
    train(longer, tiny_set, run_dir=out)
    assert "averages of train.phema 0.100 start at 1000 images" in capsys.readouterr().err
    tensors, _ = read(list_averages(out)[2])
    assert any(name.startswith("0.100/") for name in tensors)


def test_a_wrong_width_ends_before_anything_is_made(cheap_config, tiny_set, tmp_path):
    with pytest.raises(ConfigError, match=r"train.phema must be numbers from 0.01"):
        train(
            dataclasses.replace(cheap_config, phema=("wide",)), tiny_set, run_dir=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
