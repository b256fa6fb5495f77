"""The starter set: layout, equal bytes on every machine, and variety."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from sg3flow.data.starter.drawing import CLASSES, draw_face, draw_starter
from sg3flow.errors import ConfigError

# Of the bytes of 6 images of 64 px; they must not differ between machines or versions.
_PINNED = "8879db905a49107766bbfa5e93eb7661764aadef1b0ab7be305e2fde208c6a85"


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def test_layout_shares_classes_and_keeps_a_tenth_for_validation(tmp_path: Path) -> None:
    counts = draw_starter(tmp_path, images=60, resolution=16, seed=0)
    assert counts == {f"starter/train/{name}": 18 for name in CLASSES} | {
        f"starter/val/{name}": 2 for name in CLASSES
    }
    files = _files(tmp_path)
    assert len(files) == len(set(files.values())) == 60
    assert "starter/train/cat/starter_cat_000000.png" in files
    assert "starter/val/wild/starter_wild_000009.png" in files


def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    draw_starter(tmp_path / "few", images=4, resolution=32, seed=3)
    draw_starter(tmp_path / "many", images=9, resolution=32, seed=3)
    few, many = _files(tmp_path / "few"), _files(tmp_path / "many")
    assert few.items() <= many.items() and len(many) == 9
    draw_starter(tmp_path / "other", images=4, resolution=32, seed=4)
    assert not set(few.values()) & set(_files(tmp_path / "other").values())


def test_the_bytes_are_the_same_everywhere(tmp_path: Path) -> None:
    draw_starter(tmp_path, images=6, resolution=64, seed=0)
    digest = hashlib.sha256()
    for name, content in sorted(_files(tmp_path).items()):
        digest.update(name.encode() + content)
    assert digest.hexdigest() == _PINNED


@pytest.mark.parametrize("class_name", CLASSES)
def test_faces_fill_the_frame_and_vary(class_name: str) -> None:
    class_index = CLASSES.index(class_name)
    faces = np.stack([draw_face(class_name, 64, (0, class_index, i)) for i in range(24)])
    assert faces.shape == (24, 64, 64, 3) and faces.dtype == np.uint8
    assert faces.reshape(24, -1).std(axis=1).min() > 12  # no flat image
    assert faces.mean(axis=(1, 2, 3)).std() > 12  # light and dark ones
    center = faces[:, 16:48, 16:48].astype(float)
    assert center.std(axis=0).mean() > 25  # the middle differs from image to image


@pytest.mark.parametrize("resolution", [16, 50, 128, 256])
def test_any_resolution(resolution: int) -> None:
    assert draw_face("dog", resolution, (0, 1, 2)).shape == (resolution, resolution, 3)


@pytest.mark.parametrize(("images", "resolution"), [(2, 128), (3, 15)])
def test_too_few_or_too_small_is_an_error(tmp_path: Path, images: int, resolution: int) -> None:
    with pytest.raises(ConfigError, match="at least 3 images of at least 16 px"):
        draw_starter(tmp_path, images=images, resolution=resolution, seed=0)
    assert not list(tmp_path.iterdir())
