"""The first sample grids, at 1, 2, 4, 8… kimg: the same files after any interruption."""

import contextlib
import dataclasses
import re

import pytest

from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import kimg_of, read_whole_lines
from sg3flow.training import loop, training_run
from sg3flow.training.loop import Clock, LoopSettings, TrainingLoop
from sg3flow.training.training_run import train


@pytest.fixture
def untrained(monkeypatch, cheap_config):
    """A training whose steps only count; it ends at the moments of `stops`, in images."""
    stops: list[int] = []
    seen = [0]

    def step(parts, items, batches, nimg, *, seed, batch, batch_gpu):
        parts.collector.nimg = seen[0] = nimg + batch
        return seen[0]

    def is_asked():
        is_stop = bool(stops) and seen[0] >= stops[0]
        return bool(is_stop and stops.pop(0))

    monkeypatch.setattr(loop, "training_step", step)
    monkeypatch.setattr(training_run, "stop_requests", lambda: contextlib.nullcontext(is_asked))

    def start(data, out, *at, **settings):
        stops[:], seen[0] = at, 0
        return train(dataclasses.replace(cheap_config, **settings), data, run_dir=out)

    return start


def grids(out):
    return [kimg_of(p.name) for p in sorted(out.glob("fakes*.png")) if kimg_of(p.name)]


def samples_reported(out):
    events = read_whole_lines(out / "events.jsonl")
    return [row["nimg"] for row in events if row["key"] == "samples"]


@pytest.mark.parametrize(
    ("settings", "kimgs"),
    [
        ({"kimg": 400, "tick": 4, "snap": 50, "batch": 32}, [1, 2, 4, 8, 16, 32, 64, 128]),
        ({"kimg": 40, "tick": 4, "snap": 5, "batch": 100}, [1, 2, 4, 8, 16]),
        ({"kimg": 3, "tick": 1, "snap": 1, "batch": 100}, []),
        ({"kimg": 8, "tick": 4, "snap": 50, "batch": 100}, [1, 2, 4]),  # 8 is the end
        ({"kimg": 40, "tick": 50, "snap": 1, "batch": 3000}, [3, 6, 9, 18, 33]),
    ],
)
def test_powers_of_two_until_the_first_snapshot(settings, kimgs):
    """The last snapshot and those of `snap` have grids of their own."""
    clock = Clock()
    chosen = LoopSettings(seed=0, batch_gpu=1, max_nonfinite_updates=0, **settings)
    one = TrainingLoop(chosen, None, None, None, iter(()), clock, None)
    found = []
    for clock.nimg in range(0, settings["kimg"] * 1000 + settings["batch"], settings["batch"]):
        if one._early_sample_due(done=clock.nimg >= settings["kimg"] * 1000):
            found.append(clock.nimg // 1000)
    assert found == kimgs


@pytest.mark.medium
def test_an_interrupted_training_writes_the_same_files(untrained, tiny_set, tmp_path, monkeypatch):
    settings = {"kimg": 9, "tick": 4, "snap": 50}
    folders = {}
    for name, stops in (("whole", ()), ("stopped", (1900, 4000))):
        monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / name / "state"))
        out = folders[name] = tmp_path / name / "out"
        for stop in stops:
            with pytest.raises(training_run.TrainingInterruptedError, match=f"stopped at {stop} "):
                untrained(tiny_set, out, stop, **settings)
        untrained(tiny_set, out, **settings)
    whole, stopped = folders["whole"], folders["stopped"]
    assert grids(whole) == [1, 2, 4, 8, 9]
    assert sorted(p.name for p in stopped.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert samples_reported(stopped) == samples_reported(whole)
    for path in whole.glob("fakes*.png"):
        assert sha256_file(path) == sha256_file(stopped / path.name), path.name
    assert len(list(stopped.glob("network-snapshot-*.pkl"))) == 2


@pytest.mark.medium
def test_early_samples_do_not_change_a_snapshot(
    cheap_config, tiny_set, tmp_path, monkeypatch, capsys
):
    digests = set()
    for snap in (1, 8):  # without and with a sample between two snapshots
        monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / str(snap)))
        config = dataclasses.replace(cheap_config, kimg=2, snap=snap, notify="")
        out = train(config, tiny_set, run_dir=tmp_path / f"out{snap}")
        digests.add(sha256_file(out / "network-snapshot-000002.pkl"))
        assert (out / "fakes000001.png").exists()
        assert (out / "network-snapshot-000001.pkl").exists() == (snap == 1)
        output = capsys.readouterr()
        said = re.findall(
            r"^time: .* per step of 100 images; about .* here for 2 kimg.*$", output.out, re.M
        )
        assert len(said) == 1 and " for 25,000 kimg" in said[0]
        assert re.search(r"^train \(images\): 2,000/2,000 in ", output.err, re.M)
        stats = read_whole_lines(out / "stats.jsonl")
        assert all(row["Diversity/ratio"]["mean"] > 0 for row in stats)
    assert len(digests) == 1
