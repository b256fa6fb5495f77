"""Two sets of images are read as packing reads them, and what makes values unreliable is told."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from sg3flow.config import EvaluateImagesConfig, PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.packing import pack_images
from sg3flow.errors import DataError, MetricError
from sg3flow.metrics.evaluation import ImageSet
from sg3flow.metrics.evaluation_run import evaluate_images


def photos(count: int, size: int = 16) -> list[Image.Image]:
    random = np.random.RandomState(0)
    coarse = (random.randint(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(count))
    return [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]


def _deep(image: Image.Image, index: int) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _clear(image: Image.Image, index: int) -> Image.Image:
    alpha = Image.linear_gradient("L").resize(image.size).rotate(90 * (index % 4))
    image.putalpha(alpha)
    return image


def _turned(index: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 1 + index % 8
    return exif


def _profile() -> bytes:
    """Of gamma 1.8 and sRGB's primaries, by another name than sRGB's."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    start = profile.index(b"para\0\0\0\0") + 12
    gamma = round(1.8 * 65536).to_bytes(4, "big")
    return profile[:start] + gamma + profile[start + 4 :]


SAVE = {
    "16-bit gray": lambda im, i, path: _deep(im, i).save(path.with_suffix(".png")),
    "RGBA": lambda im, i, path: _clear(im, i).save(path.with_suffix(".png")),
    "LA": lambda im, i, path: _clear(im.convert("L"), i).save(path.with_suffix(".png")),
    "EXIF": lambda im, i, path: im.save(path.with_suffix(".png"), exif=_turned(i)),
    "palette": lambda im, i, path: im.quantize(16).save(path.with_suffix(".png"), transparency=3),
    "ICC": lambda im, i, path: im.save(path.with_suffix(".png"), icc_profile=_profile()),
    "CMYK": lambda im, i, path: im.convert("CMYK").save(path.with_suffix(".jpg")),
    "GIF": lambda im, i, path: im.save(path.with_suffix(".gif")),
    "TIFF": lambda im, i, path: im.save(path.with_suffix(".tiff")),
}


def folder_of(folder: Path, kind: str, count: int = 20) -> Path:
    folder.mkdir()
    for index, image in enumerate(photos(count)):
        SAVE[kind](image, index, folder / f"{index:03d}.x")
    return folder


def compare(a: Path, b: Path, report: Path | None = None) -> tuple[float, str]:
    config = EvaluateImagesConfig(metrics=("fd_random",), device="cpu")
    text = evaluate_images(config, a, b, report)
    return float(re.search(r"fd_random\s+(-?[\d.]+)", text)[1]), text


@pytest.mark.parametrize("kind", SAVE)
def test_a_folder_equals_its_own_packed_set(tmp_path, kind):
    raw = folder_of(tmp_path / "raw", kind)
    pack_images(raw, tmp_path / "set.zip", tmp_path / "m.parquet", PackConfig())
    images, packed = ImageSet(raw), PackedSet(tmp_path / "set.zip")
    for index in range(packed.num_images):
        np.testing.assert_array_equal(images.image(index), packed.image(index))
    compare(raw, tmp_path / "set.zip", tmp_path / "report.json")
    row = json.loads((tmp_path / "report.json").read_text())["results"][0]
    assert row["value"] == pytest.approx(0, abs=1e-6)
    assert row["reference_sha256"] == packed.digest


def test_a_tar_file_equals_its_folder(tmp_path):
    raw = folder_of(tmp_path / "raw", "TIFF")
    archive = Path(shutil.make_archive(str(tmp_path / "images"), "gztar", raw))
    assert ImageSet(archive).digest == ImageSet(raw).digest
    assert compare(archive, raw)[0] == 0


def test_one_lossy_side_is_told(tmp_path):
    for name, suffix in (("a", "png"), ("b", "jpg"), ("c", "jpg")):
        (tmp_path / name).mkdir()
        for index, image in enumerate(photos(6)):
            image.save(tmp_path / name / f"{index}.{suffix}")
    _, text = compare(tmp_path / "a", tmp_path / "b", tmp_path / "report.json")
    words = "0 of 6 images of --a and 6 of 6 images of --b have lossy compression"
    assert f"warning: {words}" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert any(words in warning for warning in report["warnings"])
    assert [report["sets"][name]["lossy"] for name in "ab"] == [0, 6]
    assert "lossy compression" not in compare(tmp_path / "b", tmp_path / "c")[1]


@pytest.mark.medium
def test_fewer_images_than_features_are_told(tmp_path):
    raw = folder_of(tmp_path / "raw", "TIFF", 255)
    _, text = compare(raw, raw)
    assert "warning" not in text
    (raw / "000.tiff").unlink()
    _, text = compare(raw, raw)
    assert "warning: fd_random: 254 and 254 images for 254 features" in text
    config = EvaluateImagesConfig(metrics=("kid_random",), device="cpu")
    assert "warning" not in evaluate_images(config, raw, raw, None)


def test_one_image_is_refused(tmp_path):
    many, one = folder_of(tmp_path / "many", "GIF"), folder_of(tmp_path / "one", "GIF", 1)
    for sides in ((many, one), (one, many)):
        with pytest.raises(MetricError, match=r"/one has one image; .* need at least two"):
            compare(*sides)


def test_ignored_files_are_told(tmp_path):
    raw = folder_of(tmp_path / "raw", "GIF")
    (raw / "clip.mov").write_text("x")
    for record in ("dataset.json", "SOURCE.json"):
        (raw / record).write_text("{}")
    _, text = compare(raw, raw, tmp_path / "report.json")
    assert "warning: --a: ignored 1 file that is no known picture: 1 .mov" in text
    sets = json.loads((tmp_path / "report.json").read_text())["sets"]
    assert sets["a"] == {"num_images": 20, "lossy": 0, "ignored": {".mov": 1}}


def test_features_from_before_a_conversion_are_not_taken_from_the_cache(tmp_path, cache):
    def keys() -> list[dict[str, str]]:
        files = sorted((cache / "stats").glob("*.npz"))
        return [json.loads(str(np.load(file)["key"])) for file in files]

    raw = folder_of(tmp_path / "raw", "TIFF")
    compare(raw, raw)
    assert keys() and not any("conversion" in key for key in keys())
    shutil.rmtree(cache)
    raw = folder_of(tmp_path / "clear", "RGBA")
    compare(raw, raw)
    assert keys() and all("conversion" in key for key in keys())


def test_what_holds_no_image_files_is_to_be_packed_first(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "set.parquet")
    with pytest.raises(DataError, match="holds no image files; pack it"):
        ImageSet(tmp_path / "set.parquet")


def test_names_that_are_not_utf_8_have_a_digest(tmp_path):
    raw = folder_of(tmp_path / "raw", "GIF", 2)
    (raw / "000.gif").rename(raw / "\udcff.gif")
    assert len(ImageSet(raw).digest) == 64
