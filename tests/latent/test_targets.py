"""Targets: the pixels that pack would store, any form of photo, and what a bad one says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sg3flow.data.image_transform import fit
from sg3flow.errors import ConfigError, DataError
from sg3flow.latent.targets import TargetForm, as_tensor, fitted, read_target, target_names
from sg3flow.networks.layers import to_uint8


@pytest.fixture
def photo() -> Image.Image:
    """40 x 24 pixels without any symmetry."""
    pixels = np.random.RandomState(0).randint(0, 256, (24, 40, 3), np.uint8)
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def test_a_target_is_what_pack_would_store(photo, tmp_path):
    path = save(photo, tmp_path / "photo.png")
    for transform in ("center-crop", "none"):
        found, content = read_target(path, TargetForm.of(16, 3, transform))
        np.testing.assert_array_equal(found, np.asarray(fit(photo, transform, (16, 16))))
        assert content == path.read_bytes()
    tall = photo.transpose(Image.Transpose.ROTATE_90)
    form = TargetForm.of(16, 3, "center-crop-wide", "16x8")
    wide, _ = read_target(save(tall, tmp_path / "tall.png"), form)
    assert wide.shape == (16, 16, 3) and not wide[:4].any() and not wide[12:].any() and wide.any()


def test_orientation_alpha_gray_and_16_bits(photo, tmp_path):
    form = TargetForm.of(16, 3)
    upright, _ = read_target(save(photo, tmp_path / "a.png"), form)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    found, _ = read_target(save(turned, tmp_path / "b.png", exif=exif), form)
    np.testing.assert_array_equal(found, upright)

    clear = photo.convert("RGBA")
    clear.putalpha(0)
    blue, _ = read_target(
        save(clear, tmp_path / "c.png"), TargetForm.of(16, 3, background="#0000ff")
    )
    assert (blue == (0, 0, 255)).all()

    deep = Image.fromarray(np.full((20, 20), 0x8080, np.uint16))
    gray, _ = read_target(save(deep, tmp_path / "d.png"), form)
    assert gray.shape == (16, 16, 3) and (gray == 128).all()
    one, _ = read_target(tmp_path / "a.png", TargetForm.of(16, 1))
    assert one.shape == (16, 16, 1)
    np.testing.assert_array_equal(one[:, :, 0], np.asarray(Image.fromarray(upright).convert("L")))


def test_the_tensor_of_a_picture_gives_it_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    img = as_tensor(pixels)
    assert img.shape == (1, 3, 16, 16) and img.min() == -1 and img.max() == 1
    np.testing.assert_array_equal(to_uint8(img)[0].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.png", None, "cannot read the target .*none.png: No such file"),
        ("empty.png", b"", "empty.png cannot be used: the file is empty"),
        ("text.png", b"not a picture at all", "not a picture in a format that Pillow reads"),
        ("float.tiff", "F", "has floating-point values"),
        ("cut.png", "cut", "cannot be decoded"),
    ],
)
def test_a_bad_target_is_one_sentence(photo, tmp_path, name, content, words):
    path = tmp_path / name
    if content == "F":
        photo.convert("F").save(path)
    elif content == "cut":
        stream = io.BytesIO()
        photo.save(stream, "PNG")
        path.write_bytes(stream.getvalue()[:300])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_target(path, TargetForm.of(16, 3))
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_photo_that_is_too_small(photo, tmp_path):
    with pytest.raises(DataError, match=r"is a folder; name photos"):
        read_target(tmp_path, TargetForm.of(16, 3))
    form = TargetForm.of(64, 3, "center-crop-wide", "64x32")
    with pytest.raises(DataError, match="the target cannot be used: 40x24 is too small"):
        fitted(photo, form)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transform": "center-crop-wide"}, "needs --resolution WIDTHxHEIGHT"),
        ({"transform": "center-crop-wide", "size": "32x16"}, "must be as wide, not 32x16"),
        ({"size": "16x8"}, "must be square"),
        ({"size": "huge"}, "WIDTHxHEIGHT in pixels"),
        ({"background": "no color"}, "is not a color"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TargetForm.of(16, 3, **settings)


def test_names_are_those_of_the_files_and_differ_on_every_disk():
    given = ["a/cat.jpg", "b/cat.png", "cat-2.png", "CAT.webp", "..jpg", ".png", "dog.tar.gz"]
    found = target_names(list(map(Path, given)))
    assert found == ["cat", "cat-2", "cat-2-2", "CAT-3", "target", "png", "dog.tar"]
    assert len({name.lower() for name in found}) == len(given)
