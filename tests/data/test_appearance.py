"""Checks of visible defects, near duplicates, source counts, and drift from an earlier set."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from sg3flow.config import PackConfig, ValidateConfig
from sg3flow.data.image_transform import quality
from sg3flow.data.packing import pack_images
from sg3flow.data.validation.checks import Report, validate_packed
from sg3flow.data.validation.expectations import (
    ExpectColumnDistributionToBeNear,
    ExpectColumnMixToBeNear,
    run_expectations,
)
from sg3flow.errors import ConfigError, DataError
from sg3flow.reports.validation_page import html_page, thumbnails, write_reports


def photo(seed: int) -> Image.Image:
    """Soft shapes under noise, 64 px."""
    random = np.random.RandomState(seed)
    soft = Image.fromarray(random.randint(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(soft.resize((64, 64), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(
        (pixels + random.randint(-20, 20, (64, 64, 3))).clip(0, 255).astype("u1")
    )


def letterboxed(seed: int) -> Image.Image:
    canvas = Image.new("RGB", (64, 64))
    canvas.paste(photo(seed).resize((64, 40)), (0, 12))
    return canvas


def spotted(seed: int) -> Image.Image:
    canvas = Image.new("RGB", (64, 64), (200, 30, 30))
    canvas.paste(photo(seed).resize((16, 12)), (20, 20))
    return canvas


def write(folder: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


@pytest.fixture
def validated(tmp_path) -> Callable[..., Report]:
    """``validated(images, pack={...}, **thresholds)``: the report on the images packed."""

    def run(images: dict[str, Image.Image], pack: dict | None = None, **config: object) -> Report:
        raw = write(tmp_path / "raw", images)
        paths = raw, tmp_path / "set.zip", tmp_path / "m.parquet"
        settings = {"subset": "train", "labels": "folders"} | (pack or {})
        pack_images(*paths, PackConfig(**settings), workers=1)
        return validate_packed(paths[2], paths[1], raw, ValidateConfig(**config), workers=1)

    return run


def sound(count: int = 6, first: int = 0) -> dict[str, Image.Image]:
    return {f"train/{'ab'[i % 2]}/{i}.png": photo(i) for i in range(first, first + count)}


def complaints(report: Report) -> dict[str, list[str]]:
    return {c.name: [o.path for o in c.offenders] for c in report.checks if c.status != "passed"}


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("not_blurred", lambda: photo(50).filter(ImageFilter.GaussianBlur(4))),
        ("no_bars", lambda: letterboxed(50)),
        ("no_bars", lambda: letterboxed(50).rotate(90)),
        ("not_one_colour", lambda: spotted(50)),
    ],
)
def test_images_that_look_wrong_are_warned_of_with_a_thumbnail(validated, name, odd):
    report = validated(sound() | {"train/a/odd.png": odd()})
    assert report.success
    assert complaints(report) == {name: ["train/a/odd.png"]}
    assert list(thumbnails(report)) == ["train/a/odd.png"]
    off = {"min_sharpness": 0.0, "max_bars": 1.0, "max_one_color": 1.0}
    assert complaints(validated({}, **off)) == {}


def test_quality_of_plain_cases():
    assert quality(photo(1)).bars == 0 and quality(photo(1)).sharpness > 30
    assert quality(letterboxed(1)).bars == pytest.approx(24 / 64)
    blank = quality(Image.new("L", (16, 16), 7))
    assert (blank.sharpness, blank.bars, blank.one_colour) == (0, 0, 1)
    assert quality(Image.new("RGB", (2, 2))).sharpness == 0
    assert quality(spotted(1)).bars == 0  # uniform all around: a background


def as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(stream)


@pytest.mark.parametrize("how", ["warn", "fail", "off"])
def test_near_duplicates_are_paired_within_and_across_splits(validated, how):
    twins = {"train/b/twin.png": as_jpeg(photo(0)), "val/a/leak.png": as_jpeg(photo(1))}
    inside = {"train/a/same_split_outside.png": photo(60)}
    report = validated(sound() | twins | inside, near_duplicates=how)
    found = {c.name: c for c in report.checks if c.status != "passed"}
    assert report.success == (how != "fail")
    if how == "off":
        assert found == {}
        return
    assert sorted(found) == ["look_not_in_other_split", "look_unique"]
    (pair,) = found["look_unique"].offenders
    assert (pair.path, pair.other) == ("train/b/twin.png", "train/a/0.png")
    assert "of 256 bits differ" in pair.reason
    (leak,) = found["look_not_in_other_split"].offenders
    assert (leak.path, leak.other) == ("train/b/1.png", "val/a/leak.png")
    page = html_page(report).partition("Contact sheet")[0]
    assert page.count("<figure>") == 2 and page.count("<img") == 4  # pairs, side by side


def test_enlarged_images_are_warned_of(validated):
    small = {"small": photo(9).resize((32, 32)), "flat": photo(10).resize((200, 32))}
    images = sound() | {f"train/a/{name}.png": image for name, image in small.items()}
    square = {"resolution": "64x64", "transform": "center-crop"}
    found = complaints(validated(images, square, min_sharpness=0))
    assert found == {"not_enlarged": ["train/a/flat.png", "train/a/small.png"]}


def test_wide_images_between_bars_are_not_enlarged(validated):
    wide = {"resolution": "64x32", "transform": "center-crop-wide"}
    low = {name: image.resize((100, 60)) for name, image in sound().items()}
    assert "not_enlarged" not in complaints(validated(low, wide, min_sharpness=0))


def test_counts_of_the_source(validated):
    counts = ("train/a=3", "/train/b/ = 3", "train=6", "val=0")
    assert complaints(validated(sound(), source_counts=counts)) == {}
    report = validated({}, source_counts=("train/a=4", "train/b=3"))
    assert complaints(report) == {"source_counts": ["train/a"]}
    (check,) = [check for check in report.checks if check.name == "source_counts"]
    assert (check.status, check.level) == ("failed", "raw")
    assert check.offenders[0].reason == "train/a holds 3 images, not 4"
    with pytest.raises(ConfigError, match="FOLDER=NUMBER, not 'train'"):
        validated({}, source_counts=("train",))


@pytest.fixture
def reference(validated, tmp_path) -> Path:
    write_reports(validated(sound(12)), tmp_path / "old.json", tmp_path / "old.html")
    return tmp_path / "old.json"


def test_the_same_set_has_not_drifted(validated, reference):
    report = validated({}, reference=str(reference), max_drift=0.0, max_class_drift=0.0)
    assert report.success
    observed = {check.name: check.observed for check in report.checks if check.level == "reference"}
    assert sorted(observed) == [
        "drift_brightness",
        "drift_classes",
        "drift_contrast",
        "drift_sharpness",
    ]
    assert set(observed.values()) == {"0.0"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("drift_brightness", lambda p: p.point(lambda v: v // 2 + 127)),
        ("drift_contrast", lambda p: p.point(lambda v: v // 2 + 64)),
        ("drift_sharpness", lambda p: p.filter(ImageFilter.GaussianBlur(1))),
        ("drift_classes", None),
    ],
)
def test_drift_is_found(validated, reference, tmp_path, name, change):
    for path in (tmp_path / "raw").rglob("*.png"):
        if change:
            change(Image.open(path)).save(path)
        elif path.parent.name == "b":
            path.rename(path.parents[1] / "a" / path.name)
    (tmp_path / "raw/train/b").mkdir(exist_ok=True)
    report = validated({"train/b/x.png": photo(70)}, reference=str(reference), min_contrast=0)
    (found,) = [check for check in report.failed if check.name == name]
    assert not found.offenders, "the set as a whole drifted, no image of it"
    assert "drift" in html_page(report)


@pytest.mark.parametrize("content", [None, "", "{}", '{"profile": {"mean": 1}}', "[1]"])
def test_what_is_no_reference_is_named(validated, tmp_path, content):
    if content is not None:
        (tmp_path / "old.json").write_text(content)
    with pytest.raises(DataError, match=r"old\.json (cannot be read|contains no profile)"):
        validated(sound(), reference=str(tmp_path / "old.json"))


def test_the_profile_is_in_the_report(reference):
    profile = json.loads(reference.read_text())["profile"]
    assert profile["classes"] == {"a": 0.5, "b": 0.5} and profile["num_images"] == 12
    for name in ("mean", "contrast", "sharpness"):
        assert sum(profile[name]["shares"]) == pytest.approx(1, abs=1e-4)


def evaluated(expectation: object, values: list[object], dtype: str) -> tuple[bool, object]:
    frame = pd.DataFrame({"row": range(len(values)), "v": pd.array(values, dtype=dtype)})
    result = run_expectations("table", frame, [expectation])[0]
    return result.success, result.result["observed_value"]


def test_expectation_distribution():
    def near(values: list[object], most: float) -> tuple[bool, object]:
        expectation = ExpectColumnDistributionToBeNear(
            column="v", edges=[0, 1, 2, 3], shares=[0.5, 0.5, 0.0], max_value=most
        )
        return evaluated(expectation, values, "float64")

    assert near([0.5, 1.5], 0.0) == (True, 0.0)
    assert near([0.5, 1.5, 1.5, 2.5], 0.2) == (False, 0.25)
    assert near([-9.0, 99.0], 0.5) == (True, 0.5)  # beyond the edges: in the outer bins
    assert near([None, 0.5, 1.5], 0.0) == (True, 0.0)
    assert near([], 0.0) == (True, 0.0)


def test_expectation_mix():
    def near(values: list[object], most: float) -> tuple[bool, object]:
        expectation = ExpectColumnMixToBeNear(
            column="v", shares={"a": 0.5, "b": 0.5}, max_value=most
        )
        return evaluated(expectation, values, "object")

    assert near(["a", "b", None], 0.0) == (True, 0.0)
    assert near(["a", "a", "a", "b"], 0.2) == (False, 0.25)
    assert near(["c", "c"], 1.0) == (True, 1.0)
