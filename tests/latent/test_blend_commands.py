"""``sg3flow blend`` and ``sg3flow average`` on the command line."""

import pytest
import torch
from typer.testing import CliRunner

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.cli.commands import app
from sg3flow.networks import Discriminator, StyleGAN3Generator
from sg3flow.runs.run_folder import averages_name, snapshot_name
from sg3flow.training.power_averages import PowerAverages

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two snapshots of a training, its averages, and a snapshot of another training."""
    folder = tmp_path_factory.mktemp("run")
    D = Discriminator(c_dim=0, **SIZES)
    generators = [
        StyleGAN3Generator(z_dim=4, c_dim=0, w_dim=4, num_layers=3, num_critical=1, **SIZES)
        for _ in range(2)
    ]
    G, other = generators
    averages = PowerAverages([0.05, 0.1], G, 1000)
    for kimg in (1, 2, 3):
        G.synthesis.input.weight.data += 1
        averages.update(G, 1000 * kimg)
        averages.save(folder / averages_name(1000 * kimg), G, 1000 * kimg)
        save(folder / snapshot_name(1000 * kimg), G, D, kimg)
    save(folder / "other.pkl", other, D, 4)
    return folder


def save(path, G, D, kimg):
    networks = {"G": G, "D": D, "G_ema": G, "augment_p": 0.0, "training_set": {}}
    save_snapshot(path, **networks, progress={"nimg": 1000 * kimg})


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def weight(path):
    return load_networks(path).G_ema.synthesis.input.weight.detach()


def test_blend_writes_a_snapshot(run, tmp_path):
    first, second = run / snapshot_name(1000), run / snapshot_name(3000)
    out = tmp_path / "network-snapshot-000003.pkl"
    result = call("blend", first, second, out, "--weight", "0.25")
    assert result.exit_code == 0 and "blend by weight, weight 0.25" in result.stdout
    assert "warning" not in result.stderr
    torch.testing.assert_close(weight(out), 0.75 * weight(first) + 0.25 * weight(second))
    result = call("blend", first, second, out, "--up-to", "input")
    assert result.exit_code == 0 and torch.equal(weight(out), weight(first))
    result = call("blend", first, run / "other.pkl", out, "--up-to", "none", "--mapping", "a")
    assert result.exit_code == 0 and "do not come from one training" in result.stderr
    assert torch.equal(weight(out), weight(run / "other.pkl"))


def test_average_writes_means_and_widths(run, tmp_path):
    out = tmp_path / "a.pkl"
    snapshots = [run / snapshot_name(1000 * kimg) for kimg in (1, 2, 3)]
    result = call("average", *snapshots, out, "--mean")
    assert result.exit_code == 0 and "mean of 3 networks" in result.stdout
    torch.testing.assert_close(weight(out), weight(snapshots[1]))
    result = call("average", run, out, "--sigma-rel", "0.1", "--at", "2")
    assert result.exit_code == 0, result.stderr
    assert "average of width 0.1 at 2 kimg, from 4 stored averages" in result.stdout
    result = call("average", run, out, "--sigma-rel", "0.02")
    assert result.exit_code == 0 and "only roughly (relative error" in result.stderr
    assert "rounding" not in result.stderr


def test_average_warns_of_multiplied_rounding(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sg3flow.latent.posthoc_ema._MOST_GAIN", 2.0)
    result = call("average", run, tmp_path / "a.pkl", "--sigma-rel", "0.02")
    assert result.exit_code == 0, result.stderr
    assert "times their rounding to float16; a width between the stored ones" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["blend", "a", "b", "c.pkl"], "either --up-to LAYER or --weight"),
        (["blend", "a", "b", "c.pkl", "--up-to", "x", "--weight", "1"], "either --up-to"),
        (["blend", "a", "b", "c.pkl", "--weight", "1", "--mapping", "a"], "--mapping goes with"),
        (["blend", "a", "b", "c.zip", "--weight", "1"], "OUT must end in .pkl"),
        (["blend", "{run}/none.pkl", "b", "c.pkl", "--weight", "1"], "no file"),
        (["blend", "{run}/other.pkl", "{run}/other.pkl", "c.pkl", "--up-to", "L9"], "no layer"),
        (
            ["blend", "starter", "starter", "c.pkl", "--up-to", "L1", "--mapping", "c"],
            "mapping must be a or b",
        ),
        (["blend", "{run}/other.pkl", "starter", "c.pkl", "--weight", "1"], "cannot be combined"),
        (["average", "a", "c.pkl"], "either --sigma-rel NUMBER or --mean"),
        (["average", "a", "c.pkl", "--mean", "--sigma-rel", "0.1"], "either --sigma-rel"),
        (["average", "a", "c.pkl", "--mean", "--at", "3"], "--at goes with --sigma-rel"),
        (["average", "a", "b", "c.pkl", "--sigma-rel", "0.1"], "one training, not 2"),
        (["average", "{run}/other.pkl", "c.pkl", "--mean"], "at least two networks"),
        (["average", "{run}", "c.pkl", "--sigma-rel", "0.1", "--at", "9"], "no averages at 9"),
        (["average", "{run}", "{run}/other.pkl/x.pkl", "--sigma-rel", "0.1"], "cannot write"),
    ],
)
def test_errors_are_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = call(*(text.format(run=run) for text in arguments))
    assert result.exit_code == 1
    [line] = [each for each in result.stderr.splitlines() if each.startswith("error: ")]
    assert words in line
    assert not list(tmp_path.iterdir())
