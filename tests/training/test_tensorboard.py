"""TensorBoard event files: refused without the package; read back by the package itself."""

import contextlib
import dataclasses
import importlib.util
import io

import pytest
from PIL import Image

from sg3flow.errors import ConfigError
from sg3flow.runs.run_folder import JsonlReporter, Stat
from sg3flow.training import tensorboard_log, training_run
from sg3flow.training.job import prepare
from sg3flow.training.tensorboard_log import TensorBoardReporter
from sg3flow.training.training_run import train

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


def test_without_the_package_the_training_does_not_start(cheap_config, tiny_set, monkeypatch):
    monkeypatch.setattr(tensorboard_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install tensorboard, or leave --tensorboard out"):
        prepare(dataclasses.replace(cheap_config, tensorboard=True), tiny_set)
    prepare(cheap_config, tiny_set)


def test_event_files_do_not_change_the_fingerprint(cheap_config, tiny_set, monkeypatch):
    monkeypatch.setattr(tensorboard_log.importlib.util, "find_spec", lambda name: "found")
    with_events = dataclasses.replace(cheap_config, tensorboard=True)
    assert prepare(with_events, tiny_set).key == prepare(cheap_config, tiny_set).key


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def scalars(folder, name):
    return [(event.step, event.value) for event in read_events(folder).Scalars(name)]


def steps_without_the_data_server(folder, name):
    """As `tensorboard --load_fast=false` reads them; it purges by other rules."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Tensors(name)]


@needs_package
def test_a_resumed_training_has_no_step_twice(tmp_path):
    """The first start gets to 4 kimg; its last state is at 2."""
    grid = tmp_path / "fakes.png"
    Image.new("L", (4000, 1000), 128).save(grid)
    for resumed_nimg, nimgs, loss in ((-1, (0, 1000, 2000, 3000, 4000), 1.0),
                                      (2000, (2000, 3000, 4000, 5000), 2.0)):  # fmt: skip
        inner = JsonlReporter(tmp_path)
        with contextlib.closing(
            TensorBoardReporter(inner, tmp_path / "events", resumed_nimg)
        ) as reporter:
            for nimg in nimgs:
                reporter.stats({"Loss/G/loss": Stat(5, loss, 0.1)}, nimg)
                reporter.image(grid, "samples", nimg)
                reporter.metric(tmp_path / f"snapshot{nimg}.pkl", "fid50k_full", 3 * loss, nimg)
                assert reporter.has_metric(tmp_path / f"snapshot{nimg}.pkl", "fid50k_full")
    folder = tmp_path / "events"
    assert steps_without_the_data_server(folder, "Loss/G/loss") == list(range(6))
    assert scalars(folder, "Loss/G/loss") == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert [step for step, _ in scalars(folder, "Metrics/fid50k_full")] == list(range(6))
    images = read_events(folder).Images("samples")
    assert [event.step for event in images] == list(range(6))
    with Image.open(io.BytesIO(images[-1].encoded_image_string)) as image:
        assert image.size == (1920, 480) and image.getpixel((0, 0))[0] == 128


@needs_package
@pytest.mark.medium
def test_a_training_writes_events_beside_its_state(
    cheap_config, tiny_set, tmp_path, monkeypatch, capsys, own_state
):
    """Stopped after 600 images and resumed."""
    config = dataclasses.replace(cheap_config, tensorboard=True, desc="a/b")
    polls = iter([False] * 6 + [True])
    monkeypatch.setattr(
        training_run, "stop_requests", lambda: contextlib.nullcontext(lambda: next(polls, False))
    )
    with pytest.raises(training_run.TrainingInterruptedError, match="stopped at 600 "):
        train(config, tiny_set, run_dir=tmp_path / "out")
    train(config, tiny_set, run_dir=tmp_path / "out")
    [logdir] = own_state.glob("*/tensorboard")
    assert f"tensorboard --logdir {logdir}\n" in capsys.readouterr().out
    [folder] = logdir.iterdir()
    assert folder.name == "stylegan2-tiny-gpus1-batch100-gamma0.1-a_b"
    assert [step for step, _ in scalars(folder, "Progress/kimg")] == [0, 1]
    assert [step for step, _ in scalars(folder, "Diversity/ratio")] == [0, 1]
    events = read_events(folder)
    assert [event.step for event in events.Images("samples")] == [0, 1]
    assert [event.step for event in events.Images("reals")] == [0]
    assert not list((tmp_path / "out").glob("*tfevents*"))  # DVC caches this folder
