"""Every mode of image is converted to RGB or gray by the stated rule, and the rule is recorded."""

import base64
import importlib.util
import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from sg3flow.config import PackConfig
from sg3flow.data.image_decoding import (
    ConvertedImage,
    UnusableImageError,
    decode_image,
    file_kind,
    parse_color,
    to_rgb_or_gray,
)
from sg3flow.data.manifest import read_manifest, read_notes
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


SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
D50 = np.array([0.9642, 1.0, 0.8249])  # the white of profiles
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def colorants(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """RGB to XYZ for primaries under D65, adapted to D50."""
    white, matrix = xyz(0.3127, 0.3290), np.stack([xyz(*each) for each in primaries], axis=1)
    adapted = np.linalg.inv(BRADFORD) * ((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adapted @ (matrix * np.linalg.solve(matrix, white))


def srgb_curve(points: int) -> np.ndarray:
    x = np.linspace(0, 1, points)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def profile(name: str, curve: np.ndarray | float, primaries: tuple | None) -> bytes:
    """An ICC profile of version 2: a curve or a gamma, and primaries (None: of gray)."""

    def numbers(values: np.ndarray) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(float(v) * 65536) for v in values))

    if isinstance(curve, float):
        curve_tag = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(curve * 256))
    else:
        table = np.round(curve * 65535).astype(">u2").tobytes()
        curve_tag = b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + table
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + numbers(D50),
    }
    if primaries is None:
        tags[b"kTRC"] = curve_tag
    else:
        for letter, column in zip((b"r", b"g", b"b"), colorants(primaries).T, strict=True):
            tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + numbers(column)
            tags[letter + b"TRC"] = curve_tag
    index, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        index += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(index + body), b"", 0x02100000, b"mntr", space, b"XYZ "
    )
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + numbers(D50)
    return head.ljust(128, b"\0") + index + body


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light to 8 bits of sRGB."""
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * curved)


@pytest.mark.parametrize(
    ("name", "curve", "primaries", "wanted"),
    [
        ("sRGB-V2-g10 linear", 1.0, SRGB, (128, 188, 229)),
        ("sRGB-like wide gamut", srgb_curve(4096), ADOBE, (0, 128, 202)),
        ("sRGB with gamma 2.2", 2.2, SRGB, None),
        ("Adobe's primaries and gamma", 2.2, ADOBE, None),
    ],
)
def test_a_profile_is_known_by_its_curves_and_primaries(name, curve, primaries, wanted):
    image = Image.new("RGB", (1, 1), (55, 128, 200))
    result = plain(saved(image, icc_profile=profile(name, curve, primaries)))
    assert result.changes == ("ICC profile",)
    found = np.array(result.image.getpixel((0, 0)))
    light = np.array([55, 128, 200]) / 255
    if isinstance(curve, float):
        light = light**curve
    else:
        light = np.interp(light, np.linspace(0, 1, len(curve)), curve)
    expected = encoded(np.linalg.solve(colorants(SRGB), colorants(primaries) @ light))
    assert np.abs(found - expected).max() <= 1
    assert wanted is None or tuple(found) == wanted


@pytest.mark.parametrize(
    "curve", [srgb_curve(1024), srgb_curve(26), srgb_curve(4096)], ids=["1024", "26", "4096"]
)
@pytest.mark.parametrize("primaries", [SRGB, None])
def test_srgb_by_any_name_changes_nothing(noise, curve, primaries):
    image = photo(noise) if primaries else photo(noise).convert("L")
    result = plain(saved(image, icc_profile=profile("c2", curve, primaries)))
    assert result.changes == ()
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(image))


def test_a_profile_of_gray_is_applied():
    image = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    result = plain(saved(image, icc_profile=profile("sRGB gray, linear", 1.0, None)))
    assert result.changes == ("ICC profile",) and result.image.mode == "L"
    off = np.asarray(result.image)[0] - encoded(np.arange(256) / 255)
    assert np.abs(off).max() <= 1


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


def tiff(values: np.ndarray, photometric: int, bits: int = 16, **options: object) -> bytes:
    """A gray TIFF of one strip, with the photometric interpretation and bits given."""
    content = bytearray(saved(Image.fromarray(values), "TIFF", **options))
    for tag, value in ((258, bits), (262, photometric)):
        place = content.index(struct.pack("<HHI", tag, 3, 1)) + 8
        content[place : place + 2] = struct.pack("<H", value)
    return bytes(content)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw"])
def test_white_is_zero(compression):
    deep = np.array([[0, 16383, 32767, 65535]], np.uint16)
    result = plain(tiff(deep, 0, compression=compression))
    assert np.asarray(result.image).tolist() == [[255, 192, 128, 0]]
    result = plain(tiff(deep, 1, compression=compression))
    assert np.asarray(result.image).tolist() == [[0, 64, 127, 255]]
    shallow = np.array([[0, 64, 127, 255]], np.uint8)
    result = plain(tiff(shallow, 0, bits=8, compression=compression))
    assert np.asarray(result.image).tolist() == [[255, 191, 128, 0]]


def test_gray_of_12_bits_is_scaled_by_its_own_white():
    packed = bytes([0x00, 0x07, 0xFF, 0x80, 0x0F, 0xFF])  # 0, 2047, 2048, 4095
    content = bytearray(tiff(np.zeros((1, 4), np.uint16), 1, bits=12))
    assert len(content) >= 8
    place = content.index(struct.pack("<HHI", 273, 4, 1)) + 8  # the offset of the pixels
    start = struct.unpack_from("<I", content, place)[0]
    content[start : start + len(packed)] = packed
    decoded = decode_image(bytes(content))
    assert decoded.changes == ("12 bits",) and decoded.span == (0, 4095)
    assert np.asarray(to_rgb_or_gray(decoded.image).image).tolist() == [[0, 127, 128, 255]]


def test_values_of_deep_images_are_seen(noise):
    for format in ("PNG", "TIFF"):
        values = np.array([[7, 4095], [300, 12]], np.uint16)
        assert decode_image(saved(Image.fromarray(values), format)).span == (7, 4095)
    row = struct.pack(">6H", 0x0100, 0x0200, 0x0FFF, 0x0100, 0x0200, 0x0300)
    assert decode_image(png_file(2, 16, 2, row)).span == (0x0100, 0x0FFF)
    row = struct.pack(">4H", 0x0100, 0xFFFF, 0x0200, 0xFFFF)  # gray and alpha
    assert decode_image(png_file(2, 16, 4, row)).span == (0x0100, 0x02FF)
    assert decode_image(saved(photo(noise))).span is None
    pgm = b"P5 2 1 4095\n" + struct.pack(">2H", 0, 4095)  # scaled by Pillow
    decoded = decode_image(pgm)
    assert decoded.changes == ("16 bits",) and decoded.span == (0, 0xFFFF)


def png_file(width: int, depth: int, kind: int, row: bytes, key: bytes = b"") -> bytes:
    """A PNG of one row; ``key`` is its transparent color (tRNS)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", key) if key else b"") + body


@pytest.mark.parametrize(
    ("depth", "kind", "row", "key", "wanted"),
    [
        (16, 0, struct.pack(">2H", 300, 301), struct.pack(">H", 300), [255, 1]),
        (16, 0, struct.pack(">2H", 0xFFFF, 0), struct.pack(">H", 0), [255, 255]),
        (8, 0, bytes([7, 8]), struct.pack(">H", 7), [255, 8]),
        (4, 0, bytes([0x78]), struct.pack(">H", 7), [255, 136]),
        (2, 0, bytes([0b01100000]), struct.pack(">H", 1), [255, 170]),
        (1, 0, bytes([0b01000000]), struct.pack(">H", 0), [255, 255]),
        # Equal in the upper 8 bits; only the first is the transparent color.
        (
            16,
            2,
            struct.pack(">6H", 256, 512, 768, 257, 512, 768),
            struct.pack(">3H", 256, 512, 768),
            [[255, 255, 255], [1, 2, 3]],
        ),
        # The upper 8 bits of the second are the numbers of the transparent color.
        (
            16,
            2,
            struct.pack(">6H", 1, 2, 3, 256, 512, 768),
            struct.pack(">3H", 1, 2, 3),
            [[255, 255, 255], [1, 2, 3]],
        ),
    ],
)
def test_the_transparent_color_of_a_png_is_compared_at_its_depth(depth, kind, row, key, wanted):
    result = plain(png_file(2, depth, kind, row, key))
    assert result.changes == ("alpha",)
    assert np.asarray(result.image)[0].tolist() == wanted


def test_a_transparent_color_that_does_not_occur_changes_nothing():
    row = struct.pack(">6H", 256, 512, 768, 257, 512, 768)
    for key in ((1, 2, 3), (256, 512, 767)):
        result = plain(png_file(2, 16, 2, row, struct.pack(">3H", *key)))
        assert result.changes == () and np.asarray(result.image)[0].tolist() == [[1, 2, 3]] * 2


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


# Drawn for this test: 64x64, the left half (30, 60, 200), the right half (200, 30, 30).
HEIC = zlib.decompress(base64.b85decode(
    "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>UfiWyMwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{FSfUycf1A!"
    "h8D`#frrGa@MQBfc#l?lqrC`&d3G5HEIOLE~#u4NV!6#(h&nFY!DK)M2`%$boHBs2l6NbUo}pT9qTFfi~lCjfOwI"
    "56@s{{IhBzzkBs3_^0dm>d#;lG;v;jA$|o6dGBlz4Fvtm&YW<!vPXH0U|gYl7Q;jT^J7*ZBTLmS|gmCpHq~VoKpc"
    "5=4D`O01Am@78j&K{pJA00tJ~BnIHjX4i2Dc4C0vuxv<~^h6qa|6Eh2tX_lLk2nszd4aW6s7Eyoxn*S<e|0)0AOa"
    "1@XAC?^oznvHV|IN*Fn}1)B`1rA{``=&t1^_OcTHg"
))  # fmt: skip


def test_heic_is_read_where_a_decoder_is_installed(tmp_path, noise, png):
    (tmp_path / "raw").mkdir()
    for name, content in (("a.heic", HEIC), ("b.jpg", HEIC), ("c.png", png(noise(0, 64, 64, 3)))):
        (tmp_path / "raw" / name).write_bytes(content)
    paths = tmp_path / "raw", tmp_path / "set.zip", tmp_path / "m.parquet"
    summary = pack_images(*paths, PackConfig(max_rejects=1))
    sentence, rows = summary.sentence(paths[1]), read_manifest(paths[2])
    if importlib.util.find_spec("pi_heif"):
        assert summary.num_packed == 3 and summary.ignored == {}
        decoded = decode_image(HEIC)
        assert file_kind(HEIC).is_lossy and decoded.image.size == (64, 64)
        for place, color in (((8, 32), (30, 60, 200)), ((56, 32), (200, 30, 30))):
            off = np.subtract(decoded.image.getpixel(place), color)
            assert np.abs(off).max() <= 3
        for damaged in (HEIC[:40], HEIC[:-90]):
            with pytest.raises(UnusableImageError, match=r"damaged HEIC|cannot be decoded"):
                decode_image(damaged)
    else:
        assert summary.num_packed == 1 and summary.ignored == {".heic": 1}
        assert "1 .heic (to read them: pip install 'sg3flow[heic]')" in sentence
        assert rows["problem"][0].startswith("a HEIC file, which needs the package pi-heif")


def test_avif_is_read(noise):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = saved(photo(noise), "AVIF", quality=95)
    decoded = decode_image(content)
    assert file_kind(content).is_lossy and decoded.image.size == (24, 16)
    assert to_rgb_or_gray(decoded.image).image.mode == "RGB"


@pytest.mark.parametrize(
    ("format", "options", "is_lossy"),
    [
        ("PNG", {}, False),
        ("JPEG", {}, True),
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {"quality": 90}, True),
        ("WEBP", {"quality": 90, "exif": b"Exif\0\0MM\0*\0\0\0\10\0\0"}, True),
        ("JPEG2000", {"irreversible": True}, True),
        ("JPEG2000", {"irreversible": False}, False),
        ("TIFF", {"compression": "jpeg"}, True),
        ("TIFF", {"compression": "tiff_lzw"}, False),
        ("BMP", {}, False),
        ("GIF", {}, False),
    ],
)
def test_compression_that_changes_pixels_is_known(noise, format, options, is_lossy):
    content = saved(photo(noise), format, **options)
    assert file_kind(content).is_lossy == is_lossy


def test_files_whose_pixels_need_no_conversion_are_known(noise):
    image, exif = photo(noise), Image.Exif()
    for ready in (saved(image), saved(image, "JPEG"), saved(image.convert("L"), "BMP")):
        assert file_kind(ready).is_ready
    exif[0x0112] = 6
    gray = image.convert("L")
    for other in (
        saved(image, exif=exif),
        saved(image, "JPEG", exif=exif),
        saved(image, icc_profile=profile("sRGB", 1.0, SRGB)),
        saved(image, transparency=(1, 2, 3)),
        saved(image.quantize(8)),
        saved(image.convert("RGBA")),
        saved(gray.convert("I;16")),
        saved(image.convert("CMYK"), "JPEG"),
        b"no picture",
    ):
        assert not file_kind(other).is_ready


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


def test_data_of_fewer_bits_in_files_of_16_is_told(tmp_path):
    random = np.random.RandomState(0)
    (tmp_path / "raw").mkdir()
    for index, most in enumerate((4095, 1023, 0xFFFF)):
        values = random.randint(2, most + 1, (16, 16)).astype(np.uint16)
        values[0, :2] = 2 + index, most
        Image.fromarray(values).save(tmp_path / "raw" / f"{index}.png")
    paths = tmp_path / "raw", tmp_path / "set.zip", tmp_path / "m.parquet"
    summary = pack_images(*paths, PackConfig())
    (warning,) = summary.warnings
    assert "2 of 3 images of 16 bits have values from 2 to 4,095 of 65,535" in warning
    assert "at most 6.2% of the brightness; if their data has 12 bits" in warning
    assert read_notes(paths[2]) == {"warnings": [warning]}
    for index in range(2):
        (tmp_path / "raw" / f"{index}.png").unlink()
    assert pack_images(*paths, PackConfig()).warnings == [] and read_notes(paths[2]) == {}
