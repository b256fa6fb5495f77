"""Sample grids: their size and their pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import ConfigError
from sg3flow.rendering.conditions import TrainingLabels
from sg3flow.training.job import sample_labels, training_set_info
from sg3flow.training.recorder import choose_samples, grid_size, save_mosaic


def test_the_size_is_as_set_or_as_fits():
    assert grid_size("8x4", 256) == grid_size("8X4", 256) == (8, 4)
    assert grid_size("", 256) == (30, 16)
    assert grid_size("", 16) == (32, 32)
    assert grid_size("", 4096) == (7, 4)


@pytest.mark.parametrize(
    "setting", ["\u00b2x\u00b2", "8", "8x", "x4", "8x4x2", "-1x4", "8,4", "8 4"]
)
def test_a_size_of_another_form_is_refused(setting):
    with pytest.raises(ConfigError, match=r"train\.grid .* like 3x2"):
        grid_size(setting, 256)


@pytest.mark.parametrize("setting", ["0x4", "65x1", "999999999x1"])
def test_a_size_out_of_range_is_refused(setting):
    with pytest.raises(ConfigError, match="between 1x1 and 64x64"):
        grid_size(setting, 256)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_placed_row_by_row(tmp_path, channels):
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, channels, 2, 2)
    save_mosaic(tmp_path / "grid.png", images, columns=3)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture).reshape(4, 6, channels)
    assert pixels[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def _grid(path):
    items = TrainingSet(PackedSet(path), mirror=True, labels=True)
    return items, choose_samples(items, (4, 3), 8, seed=1)


def test_classes_have_a_row_each(tiny_set):
    items, grid = _grid(tiny_set)
    assert grid.c.argmax(1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [items.label(i).argmax().item() for i in grid.items] == grid.c.argmax(1).tolist()


def test_labels_that_are_vectors_belong_to_different_images(vector_set):
    """By label there would be one image a row, and only labels with a large first number."""
    items, grid = _grid(vector_set)
    assert len(set(grid.items)) == 12
    assert torch.equal(grid.c, torch.stack([items.label(i) for i in grid.items]))
    assert grid.c[:, 0].min() < 0.8 < 1.6 < grid.c[:, 0].max()


def test_a_run_records_the_kind_of_its_labels(tiny_set, vector_set):
    for path, kind in ((tiny_set, "classes"), (vector_set, "vectors")):
        items = TrainingSet(PackedSet(path), labels=True)
        assert training_set_info(items)["label_kind"] == kind
        samples = sample_labels(items)
        assert bool(samples) == (kind == "vectors")
        known = TrainingLabels.read(items.label_dim, training_set_info(items) | samples)
        own = {tuple(items.label(i).tolist()) for i in range(len(items))}
        drawn = {tuple(np.float32(label).tolist()) for label in known.samples}
        assert drawn == (own if samples else set())
    assert "label_kind" not in training_set_info(TrainingSet(PackedSet(vector_set)))
    assert sample_labels(TrainingSet(PackedSet(vector_set))) == {}
