"""Every mode of image is converted to RGB or gray by the stated rule, and the rule is recorded."""

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sg3flow.config import PackConfig
from sg3flow.data.image_decoding import (
    ConvertedImage,
    UnusableImageError,
    decode_image,
    parse_color,
    to_rgb_or_gray,
)
from sg3flow.data.manifest import read_manifest
from sg3flow.data.packing import pack_images
from sg3flow.errors import ConfigError, DataError

WHITE = (255, 255, 255)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def plain(content: bytes, background: tuple[int, int, int] = WHITE) -> ConvertedImage:
    return to_rgb_or_gray(decode_image(content).image, background)


def photo(noise) -> Image.Image:
    return Image.fromarray(noise(0, 4, 4, 3)).resize((24, 16), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(noise, orientation):
    upright = photo(noise)
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes it
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    for format in ("PNG", "TIFF"):
        decoded = decode_image(saved(turned, format, exif=exif))
        result = to_rgb_or_gray(decoded.image)
        np.testing.assert_array_equal(np.asarray(result.image), np.asarray(upright))
        changes = decoded.changes + result.changes
        assert changes == (() if orientation == 1 else ("EXIF orientation",))


def test_damaged_exif_says_nothing(noise):
    result = plain(saved(photo(noise), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert result.changes == ()


def test_color_profiles_are_applied(noise):
    image = photo(noise)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    same = plain(saved(image, icc_profile=srgb.tobytes()))
    assert same.changes == ()
    np.testing.assert_array_equal(np.asarray(same.image), np.asarray(image))
    for bad in (b"no profile", lab.tobytes()):
        result = plain(saved(image, icc_profile=bad))
        assert result.changes == ("ICC profile not usable",)
        np.testing.assert_array_equal(np.asarray(result.image), np.asarray(image))


def wide_gamut() -> bytes:
    """sRGB's profile with its red and green primaries swapped, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(profile.replace(b"s\0R\0G\0B", b"o\0t\0h\0r"))
    swapped = bytearray(bytes(swapped).replace("sRGB".encode("utf-16-be"), b"\0o\0t\0h\0r"))
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(swapped)


def test_another_profile_changes_the_pixels():
    image = Image.new("RGB", (8, 8), (250, 10, 10))
    result = plain(saved(image, icc_profile=wide_gamut()))
    assert result.changes == ("ICC profile",)
    red, green, blue = result.image.getpixel((0, 0))
    assert green > 240 and red < 40 and blue < 40


def test_cmyk_palette_and_one_bit(noise):
    cmyk = photo(noise).convert("CMYK")
    result = plain(saved(cmyk, "TIFF"))
    assert result.image.mode == "RGB" and result.changes == ("CMYK",)
    result = plain(saved(photo(noise).quantize(8)))
    assert result.image.mode == "RGB" and result.changes == ("palette",)
    result = plain(saved(photo(noise).convert("1")))
    assert result.image.mode == "L" and result.changes == ()


def test_16_bit_gray_is_scaled():
    values = np.array([[0, 128, 129, 257], [0x7FFF, 0x8080, 0xFF7E, 0xFFFF]], np.uint16)
    decoded = decode_image(saved(Image.fromarray(values)))
    assert decoded.changes == ("16 bits",)
    result = np.asarray(to_rgb_or_gray(decoded.image).image)
    np.testing.assert_array_equal(result, np.round(values / 257).astype(np.uint8))
    for mode, words in (("F", "floating-point"), ("I", "32 bits")):
        content = saved(Image.new(mode, (4, 4), -1 if mode == "F" else 1 << 20), "TIFF")
        with pytest.raises(UnusableImageError, match=words):
            plain(content)


@pytest.mark.parametrize(("background", "mode"), [(WHITE, "L"), ((255, 0, 0), "RGB")])
def test_transparent_parts_are_put_on_the_background(background, mode):
    for value in ((10, 20, 30, 0), (10, 0)):
        clear = Image.new("RGBA" if len(value) == 4 else "LA", (4, 4), value)
        result = plain(saved(clear), background)
        assert result.image.mode == (mode if len(value) == 2 else "RGB")
        assert result.image.convert("RGB").getpixel((0, 0)) == background
        assert result.changes == ("alpha",)
    half = plain(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), WHITE)
    assert half.image.getpixel((0, 0)) == (127, 127, 127)
    opaque = plain(saved(Image.new("RGBA", (4, 4), (1, 2, 3, 255))))
    assert opaque.changes == () and opaque.image.getpixel((0, 0)) == (1, 2, 3)


def test_a_transparent_color_of_a_palette_or_of_plain_rgb():
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    image.putpixel((0, 0), (1, 1, 1))
    for each in (image.quantize(2), image, image.convert("L")):
        key = each.getpixel((0, 0))
        result = plain(saved(each, transparency=key))
        assert "alpha" in result.changes
        assert result.image.convert("RGB").getpixel((0, 0)) == WHITE
        assert result.image.convert("RGB").getpixel((1, 1)) == (9, 9, 9)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_counts(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_image(content)
    assert decoded.changes == ("first frame",)
    assert to_rgb_or_gray(decoded.image).image.getpixel((4, 4)) == (255, 0, 0)


def test_colors_by_name_and_number():
    assert parse_color("black") == (0, 0, 0) and parse_color("#0a0B0c") == (10, 11, 12)
    with pytest.raises(ConfigError, match="not a color"):
        parse_color("blakc")


@cache
def odd_files() -> list[bytes]:
    """Made once: a profile holds the time at which it was made."""
    image = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif, "icc_profile": wide_gamut()}
    return [
        saved(image.convert("RGBA"), "PNG", **options),
        saved(image.quantize(8), "PNG", **options),
        saved(image.convert("CMYK"), "JPEG", **options),
        saved(image.convert("L").convert("I;16"), "TIFF"),
        saved(image.quantize(8), "GIF"),
    ]


@settings(max_examples=200)
@given(data=st.data())
def test_no_damage_to_an_image_escapes_as_another_error(data):
    content = bytearray(data.draw(st.sampled_from(odd_files())))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert plain(bytes(content)).image.mode in ("RGB", "L")
    except UnusableImageError as error:
        assert str(error)


def test_changes_are_counted_in_the_manifest(tmp_path, noise, png):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.png").write_bytes(png(noise(0)))
    (raw / "b.jpg").write_bytes(png(noise(1)))
    (raw / "c.png").write_bytes(saved(Image.fromarray(noise(2)).quantize(4)))
    clear = Image.fromarray(np.dstack([noise(3), noise(4, 16, 16)]))
    (raw / "d.png").write_bytes(saved(clear))
    (raw / "e.png").write_bytes(png(noise(5, 16, 16)))
    paths = raw, tmp_path / "set.zip", tmp_path / "m.parquet"
    with pytest.raises(DataError, match=r"e\.png is 16x16 gray; pass --mode rgb or --mode grey"):
        pack_images(*paths, PackConfig())
    summary = pack_images(*paths, PackConfig(mode="rgb", background="black"))
    assert summary.changes == {"alpha": 1, "palette": 1, "wrong ending": 1}
    assert "changed: 1 alpha, 1 palette, 1 wrong ending" in summary.sentence(paths[1])
    rows = read_manifest(paths[2])
    assert rows["changes"].tolist() == ["", "wrong ending", "palette", "alpha", ""]
    assert pack_images(*paths, PackConfig(mode="grey")).channels == 1
