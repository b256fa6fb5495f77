"""``keep_snapshots`` during a training: what remains, also after an interruption."""

import dataclasses
import json

import pytest

from sg3flow.errors import ConfigError
from sg3flow.metrics.evaluation_run import snapshot_metrics
from sg3flow.runs.run_folder import snapshot_digests
from sg3flow.runs.snapshot_retention import note_registered
from sg3flow.training import step
from sg3flow.training.training_run import train

pytestmark = pytest.mark.medium
METRIC = "fd_random20_full"


def kimgs(folder):
    return sorted(int(path.stem[-6:]) for path in folder.glob("network-snapshot-*.pkl"))


def run(config, data, out, keep, *, measured=False):
    settings = dataclasses.replace(config, keep_snapshots=keep)

    def measure_for(batch_gpu, packed, device):
        names = (METRIC,) if measured else ("none",)
        return snapshot_metrics(names, packed, batch=20, device=device)

    ranked_by = (METRIC, False) if measured else None
    train(settings, data, run_dir=out, measure_for=measure_for, ranked_by=ranked_by)
    [work] = (out.parent / "state").glob("*/run")
    assert kimgs(work) == kimgs(out)
    return work


def test_the_last_ones_stay_also_after_a_crash_and_an_extension(
    cheap_config, tiny_set, tmp_path, monkeypatch
):
    longer = dataclasses.replace(cheap_config, kimg=3)
    taken = step.run_step

    def broken(parts, real, draw, nimg, batch_gpu):
        if nimg >= 2500:
            raise RuntimeError("a crash")
        taken(parts, real, draw, nimg, batch_gpu)

    out = tmp_path / "out"
    run(cheap_config, tiny_set, out, "last 2")
    assert kimgs(out) == [0, 1]
    with monkeypatch.context() as patch:
        patch.setattr(step, "run_step", broken)
        with pytest.raises(RuntimeError, match="a crash"):
            run(longer, tiny_set, out, "last 2")
    assert kimgs(out) == [1, 2]
    work = run(longer, tiny_set, out, "last 2")
    assert kimgs(out) == [2, 3]
    assert list(snapshot_digests(out)) == [f"network-snapshot-00000{i}.pkl" for i in range(4)]
    assert len(list(out.glob("fakes00*.png"))) == 3  # grids are small, and show the way
    # The rule of a finished training may change: fewer are removed at once, and none comes back.
    run(longer, tiny_set, out, "last 1")
    assert kimgs(out) == [3]
    run(longer, tiny_set, out, "all")
    assert kimgs(out) == [3]
    events = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    pruned = [row["nimg"] for row in events if row["kind"] == "pruned"]
    assert pruned == [0, 1000, 2000]


def test_a_registered_one_and_the_best_ones_stay(cheap_config, tiny_set, tmp_path):
    out = tmp_path / "out"
    config = dataclasses.replace(cheap_config, kimg=2)
    run(cheap_config, tiny_set, out, "all", measured=True)
    name, digest = next(iter(snapshot_digests(out).items()))
    note_registered(out, {"snapshot": name, "snapshot_sha256": digest})
    work = run(config, tiny_set, out, "best 1", measured=True)
    rows = map(json.loads, (work / f"metric-{METRIC}.jsonl").read_text().splitlines())
    values = {row["nimg"] // 1000: row["results"][METRIC] for row in rows}
    assert sorted(values) == [0, 1, 2]
    assert kimgs(out) == sorted({0, 2, min(values, key=values.get)})


def test_best_without_a_metric_is_refused_before_anything_is_made(cheap_config, tiny_set, tmp_path):
    with pytest.raises(ConfigError, match=r"keep_snapshots best 2 needs a metric"):
        run(cheap_config, tiny_set, tmp_path / "out", "best 2")
    assert not (tmp_path / "out").exists() and not (tmp_path / "state").exists()
