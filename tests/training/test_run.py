"""Whole trainings in process: extending, shortening, transferring, diverging."""

import dataclasses

import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.errors import CheckpointError, DataError, DivergedError
from sg3flow.files import sha256_file
from sg3flow.metrics.evaluation_run import snapshot_metrics
from sg3flow.training import step
from sg3flow.training.training_run import train

pytestmark = pytest.mark.medium


def snapshots(folder):
    return sorted(p.name for p in folder.glob("network-snapshot-*.pkl"))


def test_longer_resumes_and_shorter_is_not_the_longer_one(cheap_config, tiny_set, tmp_path):
    out = tmp_path / "out"
    train(cheap_config, tiny_set, run_dir=out)
    first = sha256_file(out / "network-snapshot-000001.pkl")
    train(dataclasses.replace(cheap_config, kimg=2), tiny_set, run_dir=out)
    assert snapshots(out) == [f"network-snapshot-00000{i}.pkl" for i in range(3)]
    assert sha256_file(out / "network-snapshot-000001.pkl") == first
    again = tmp_path / "again"
    train(cheap_config, tiny_set, run_dir=again)
    assert snapshots(again) == [f"network-snapshot-00000{i}.pkl" for i in range(2)]
    assert sha256_file(again / "network-snapshot-000001.pkl") == first

    # From another network: its weights are taken, its architecture must fit.
    source = str(again / "network-snapshot-000001.pkl")
    other = tmp_path / "transfer"
    train(dataclasses.replace(cheap_config, resume=source), tiny_set, run_dir=other)
    start = load_networks(other / "network-snapshot-000000.pkl")
    wanted = load_networks(source)
    for name, value in wanted.G.state_dict().items():
        assert torch.equal(start.G.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r"the checkpoint is .*; this training is "):
        misfit = dataclasses.replace(cheap_config, resume=source, cmax=4, cbase=128)
        train(misfit, tiny_set, run_dir=tmp_path / "misfit")


def test_a_shorter_training_leaves_the_record_of_the_longer_alone(cheap_config, tiny_set, tmp_path):
    longer = dataclasses.replace(cheap_config, kimg=2, snap=2)
    first = train(longer, tiny_set, outdir=tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(DataError, match="another run of this training"):
        train(cheap_config, tiny_set, run_dir=first)
    second = train(cheap_config, tiny_set, outdir=tmp_path / "runs")
    assert second.name.startswith("00001-")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert snapshots(second) == ["network-snapshot-000000.pkl", "network-snapshot-000001.pkl"]
    assert train(longer, tiny_set, outdir=tmp_path / "runs") == first


def test_another_batch_gpu_is_another_training_and_says_so(
    cheap_config, tiny_set, tmp_path, capsys
):
    train(cheap_config, tiny_set, run_dir=tmp_path / "whole")
    assert "note:" not in capsys.readouterr().out
    train(dataclasses.replace(cheap_config, batch_gpu=25), tiny_set, run_dir=tmp_path / "parts")
    assert "with batch_gpu 100 has a saved state at 1000 images; batch_gpu 25 changes" in (
        capsys.readouterr().out
    )


def test_a_diverged_training_stops_and_names_the_term(
    cheap_config, tiny_set, tmp_path, monkeypatch
):
    taken = step.run_step

    def broken(parts, real, draw, nimg, batch_gpu):
        taken(parts, real, draw, nimg, batch_gpu)
        if nimg >= 300:
            parts.collector.add("Loss/G/loss", torch.tensor([float("nan")]))

    monkeypatch.setattr(step, "run_step", broken)
    out = tmp_path / "out"
    with pytest.raises(
        DivergedError,
        match=r"Loss/G/loss is no longer finite, first in step 3 \(after 300 images\)",
    ):
        train(cheap_config, tiny_set, run_dir=out)
    assert snapshots(out) == ["network-snapshot-000000.pkl"]


def test_the_same_training_twice_gives_the_same_bytes(
    cheap_config, tiny_set, tmp_path, monkeypatch
):
    digests = []
    for name in ("a", "b"):
        monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / name / "state"))
        again = name == "b"  # with a reader of its own, and measured on the way
        config = dataclasses.replace(cheap_config, workers=int(again))
        train(
            config,
            tiny_set,
            run_dir=tmp_path / name / "out",
            measure_for=lambda batch_gpu, packed, device, again=again: snapshot_metrics(
                ("fd_random20_full",) if again else ("none",), packed, batch=5, device=device
            ),
        )
        digests.append(sha256_file(tmp_path / name / "out" / "network-snapshot-000001.pkl"))
        measured = tmp_path / name / "out" / "metric-fd_random20_full.jsonl"
        assert measured.exists() == again
    assert digests[0] == digests[1]
