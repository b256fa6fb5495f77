"""Validation: every expectation for pass and fail, the two leaked dogs, the reports."""

import dataclasses
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sg3flow.config import PackConfig, ValidateConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.packing import pack_images
from sg3flow.data.validation import check_plan, checks
from sg3flow.data.validation.checks import Report, require_success, validate_packed
from sg3flow.data.validation.expectations import (
    ExpectColumnNonNullCountToBeAtMost,
    ExpectColumnValuesToBePowerOfTwo,
    ExpectColumnValuesToEqualTheMostCommon,
    gxe,
    run_expectations,
)
from sg3flow.errors import ConfigError, DataError
from sg3flow.reports.validation_page import (
    check_report_paths,
    contact_sheet,
    html_page,
    thumbnails,
    write_reports,
)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def noise(seed: int, *shape: int) -> bytes:
    return png(np.random.RandomState(seed).randint(0, 256, shape, np.uint8))


def write_raw(folder: Path, images: dict[str, bytes]) -> None:
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A sound labeled set of six images, packed from train; val holds two others."""
    images = {f"train/{'ab'[i % 2]}/{i}.png": noise(i, 16, 16, 3) for i in range(6)}
    images |= {f"val/a/{i}.png": noise(i, 16, 16, 3) for i in (10, 11)}
    write_raw(tmp_path / "raw", images)
    repack(tmp_path)
    return tmp_path


def repack(folder: Path, **config: object) -> None:
    settings = PackConfig(**{"subset": "train", "labels": "folders"} | config)
    paths = (folder / name for name in ("raw", "set.zip", "manifest.parquet"))
    pack_images(*paths, settings)


def change(folder: Path, edit: Callable[[dict[str, bytes]], object]) -> None:
    """Rewrite the packed set with changed entries."""
    with zipfile.ZipFile(folder / "set.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    edit(files)
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def validate(folder: Path, raw: bool = False, **config: object) -> Report:
    paths = (folder / "manifest.parquet", folder / "set.zip", folder / "raw" if raw else None)
    return validate_packed(*paths, ValidateConfig(**config))


def failures(report: Report) -> dict[str, list[str]]:
    """Names of the checks that failed, each with the paths they complain about."""
    return {check.name: [o.path for o in check.offenders] for check in report.failed}


def test_a_sound_set_passes(packed):
    report = validate(packed, min_images=6, min_class_images=3, classes=2)
    assert report.success
    assert {check.status for check in report.checks} == {"passed"}
    assert report.summary["classes"] == {"a": 3, "b": 3}
    assert report.summary["num_images"] == 6
    assert report.left_out_counts == {"outside the subset": 2}


def test_a_minimum_of_one_is_in_the_singular(packed):
    report = validate(packed, min_images=1, min_class_images=3, classes=2)
    words = {check.name: check.words for check in report.checks}
    assert words["enough_pictures"] == "the set has at least 1 image"
    assert words["enough_a_class"] == "every class has at least 3 images"


def entry(index: int) -> str:
    return f"00000/img{index:08d}.png"


def edit_labels(files: dict[str, bytes], edit: Callable[[list[list[object]]], object]) -> None:
    content = json.loads(files["dataset.json"])
    edit(content["labels"])
    files["dataset.json"] = json.dumps(content).encode()


# Entries are in the order of the paths: train/a/0, a/2, a/4, b/1, b/3, b/5.
_EDITS = {
    "entries_decode": (lambda f: f.update({entry(0): f[entry(0)][:400]}), "train/a/0.png"),
    "square": (lambda f: f.update({entry(1): noise(1, 32, 16, 3)}), "train/a/2.png"),
    "one_size": (lambda f: f.update({entry(1): noise(1, 32, 16, 3)}), "train/a/2.png"),
    "power_of_two": (lambda f: f.update({entry(2): noise(1, 12, 12, 3)}), "train/a/4.png"),
    "rgb_or_grey": (lambda f: f.update({entry(2): noise(1, 16, 16, 4)}), "train/a/4.png"),
    "one_mode": (lambda f: f.update({entry(3): noise(1, 16, 16)}), "train/b/1.png"),
    "not_blank": (
        lambda f: f.update({entry(4): png(np.full((16, 16, 3), 9, np.uint8))}),
        "train/b/3.png",
    ),
    "unique": (lambda f: f.update({entry(5): f[entry(4)]}), "train/b/3.png"),
    "entries_found": (lambda f: f.pop(entry(5)), "train/b/5.png"),
    "entries_known": (lambda f: f.update({entry(9): noise(9, 16, 16, 3)}), entry(9)),
    "pixels_as_packed": (lambda f: f.update({entry(0): noise(9, 16, 16, 3)}), "train/a/0.png"),
    "labels_complete": (lambda f: edit_labels(f, lambda x: x.pop(1)), "train/a/2.png"),
    "labels_one_kind": (
        lambda f: edit_labels(f, lambda x: x[1].__setitem__(1, [1.0])),
        "train/a/2.png",
    ),
    "labels_in_range": (
        lambda f: edit_labels(f, lambda x: x[1].__setitem__(1, 2)),
        "train/a/2.png",
    ),
    "labels_as_packed": (
        lambda f: edit_labels(f, lambda x: x[1].__setitem__(1, 1)),
        "train/a/2.png",
    ),
}


@pytest.mark.parametrize("name", _EDITS)
def test_each_fault_is_found_with_its_image(packed, name):
    edit, offender = _EDITS[name]
    change(packed, edit)
    report = validate(packed)
    assert name in failures(report)
    assert offender in failures(report)[name]
    with pytest.raises(DataError, match=name):
        require_success(report, Path("v.html"))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("enough_pictures", {"min_images": 7}),
        ("enough_a_class", {"min_class_images": 4}),
        ("number_of_classes", {"classes": 3}),
        ("not_blank", {"min_contrast": 120}),
    ],
)
def test_thresholds(packed, name, config):
    report = validate(packed, **config)
    assert list(failures(report)) == [name]
    with pytest.raises(DataError, match=rf"validation failed \({name}\)"):
        require_success(report, Path("v.html"))


def test_the_message_has_an_image_a_count_and_their_limits(packed):
    report = validate(packed, min_images=7, min_contrast=120)
    with pytest.raises(DataError) as caught:
        require_success(report, Path("v.html"))
    words = str(caught.value)
    assert re.search(r"first: \S+\.png: contrast \d", words), words
    assert "required: the set has at least 7 images; found: 6;" in words
    assert words.endswith("v.html; limits: --min-images, --min-contrast")


def test_every_limit_in_a_message_is_a_check_and_an_option():
    planned = {each.name for each in check_plan.planned_checks(ValidateConfig(classes=3), 3, True)}
    planned |= {each.name for each in check_plan.appearance_checks(ValidateConfig())}
    assert set(checks._THRESHOLDS) <= planned
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ValidateConfig)}
    assert set(checks._THRESHOLDS.values()) <= options


def test_rejects_beyond_the_limit(packed):
    write_raw(packed / "raw", {"train/a/bad.png": b"no picture"})
    repack(packed, max_rejects=1)
    assert failures(validate(packed)) == {"few_rejects": ["train/a/bad.png"]}
    report = validate(packed, max_rejects=1)
    assert report.success
    assert report.left_out[0].path == "train/a/bad.png"
    assert "unreadable" in report.left_out[0].reason


@pytest.mark.parametrize("duplicates", ["fail", "warn"])
@pytest.mark.medium
def test_duplicates_fail_or_warn(packed, duplicates):
    twin = (packed / "raw/train/b/1.png").read_bytes()
    write_raw(packed / "raw", {"train/a/twin.png": twin, "val/a/leak.png": twin})
    repack(packed)
    report = validate(packed, duplicates=duplicates)
    found = {c.name: c for c in report.checks if c.status in ("failed", "warning")}
    assert sorted(found) == ["not_in_other_split", "unique"]
    assert report.success == (duplicates == "warn")
    both = ["train/a/twin.png", "train/b/1.png"]
    assert [o.path for o in found["unique"].offenders] == both
    assert [o.other for o in found["not_in_other_split"].offenders] == ["val/a/leak.png"] * 2
    repack(packed, duplicates="leave-out")
    report = validate(packed)
    assert report.success
    assert [o.path for o in report.left_out] == both


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.medium
def test_the_two_dogs_of_the_afhq_sample(afhq_sample, tmp_path, left_out):
    raw, dest, manifest = afhq_sample, tmp_path / "set.zip", tmp_path / "manifest.parquet"
    duplicates = "leave-out" if left_out else "keep"
    config = PackConfig(subset="afhq/train", resolution="64x64", duplicates=duplicates)
    pack_images(raw, dest, manifest, config)
    report = validate_packed(manifest, dest, raw, ValidateConfig())
    check = next(check for check in report.checks if check.name == "not_in_other_split")
    assert report.success == check.success == left_out
    dogs = {o.path: o.other for o in (report.left_out if left_out else check.offenders)}
    assert dogs == {
        f"afhq/train/dog/pixabay_dog_{number}.jpg": f"afhq/val/dog/pixabay_dog_{number}.jpg"
        for number in ("000322", "001082")
    }
    page, shown = html_page(report), thumbnails(report)
    for path in [*dogs, *dogs.values()]:
        assert shown[path].startswith("data:image/jpeg;base64,")
        assert path in page


@pytest.mark.medium
def test_reports_are_deterministic_and_offline(packed, tmp_path):
    change(packed, lambda f: f.update({entry(0): f[entry(1)]}))
    for name in ("one", "two"):
        report = validate(packed, raw=True)
        write_reports(report, tmp_path / f"{name}.json", tmp_path / f"{name}.html")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    page = (tmp_path / "one.html").read_text()
    assert page == (tmp_path / "two.html").read_text()
    assert not re.search(r"https?://(?!www.w3.org/2000/svg\")|<link| src=\"(?!data:)", page)
    content = json.loads((tmp_path / "one.json").read_text())
    assert content["format"] == "sg3flow-validation-1"
    assert not content["success"]
    unique = next(check for check in content["checks"] if check["name"] == "unique")
    assert [o["path"] for o in unique["offenders"]] == ["train/a/0.png", "train/a/2.png"]
    check_report_paths(tmp_path / "one.json", tmp_path / "one.html")


def test_names_are_escaped(tmp_path):
    write_raw(tmp_path / "raw", {"train/<b>&/'\"x.png": noise(0, 16, 16, 3)})
    repack(tmp_path)
    page = html_page(validate(tmp_path, min_contrast=120))
    assert "<b>&/" not in page
    assert "&lt;b&gt;&amp;" in page


def test_ignored_files_and_warnings_of_packing_are_reported(packed, tmp_path):
    assert "Ignored files" not in html_page(validate(packed))
    write_raw(packed / "raw", {"train/a/<1>.MOV": b"x", "2.CR2": b"x", "train/a/b.mov": b"x"})
    deep = np.full((16, 16), 1000, np.uint16)
    deep[0] = 4000
    write_raw(packed / "raw", {"deep/a/0.png": png(deep)})
    repack(packed, subset="deep")
    report = validate(packed)
    counts, files = {".mov": 2, ".cr2": 1}, ["2.CR2", "train/a/<1>.MOV", "train/a/b.mov"]
    assert report.to_json()["summary"]["ignored"] == {"counts": counts, "files": files}
    page = html_page(report)
    assert "ignored 3 files that are no known pictures: 2 .mov, 1 .cr2" in page
    assert all(f">{name}</td>" in page for name in ("2.CR2", "train/a/&lt;1&gt;.MOV"))
    assert "1 of 1 images of 16 bits have values from 1,000 to 4,000 of 65,535" in page


def test_foreign_reports_are_refused(tmp_path):
    (tmp_path / "v.json").write_text("{}")
    with pytest.raises(DataError, match="not replaced"):
        check_report_paths(tmp_path / "v.json", tmp_path / "v.html")
    with pytest.raises(DataError, match="--report and --html are both"):
        check_report_paths(tmp_path / "v", tmp_path / "v")


@pytest.mark.medium
def test_thumbnails_are_capped(tmp_path):
    blank = {f"train/{i}.png": png(np.full((8, 8, 3), i, np.uint8)) for i in range(80)}
    write_raw(tmp_path / "raw", blank)
    repack(tmp_path, labels="none")
    report = validate(tmp_path)
    assert len(report.failed[0].offenders) == 80
    assert len(thumbnails(report)) == 16  # the first of the check, which others complain of too


@pytest.mark.medium
def test_the_contact_sheet_is_a_capped_sample_of_each_class(tmp_path):
    write_raw(
        tmp_path / "raw", {f"train/{'ab'[i % 2]}/{i}.png": noise(i, 8, 8, 3) for i in range(80)}
    )
    repack(tmp_path)
    report = validate(tmp_path)
    sheet = contact_sheet(report)
    assert [(group["name"], len(group["pictures"])) for group in sheet] == [("a", 27), ("b", 27)]
    assert sheet == contact_sheet(validate(tmp_path))
    assert "54 of the 80 packed" in html_page(report)
    repack(tmp_path, labels="none")
    [group] = contact_sheet(validate(tmp_path))
    assert group["name"] == "" and len({uri for _, uri in group["pictures"]}) == 54


@pytest.mark.medium
def test_the_page_is_called_as_the_set_is(packed):
    assert "<h1>set.zip</h1>" in html_page(validate(packed, raw=True))
    source = {"format": "sg3flow-source-1", "dataset": "my <cats>", "origin": "cats.zip"}
    (packed / "raw/SOURCE.json").write_text(json.dumps(source))
    page = html_page(validate(packed, raw=True))
    assert "<title>Validation of my &lt;cats&gt;</title>" in page
    assert "<h1>my &lt;cats&gt;</h1>" in page and "set.zip · cats.zip" in page


def test_wrong_inputs_are_named(packed):
    with pytest.raises(DataError, match="no manifest"):
        validate_packed(packed / "none", packed / "set.zip", None, ValidateConfig())
    with pytest.raises(DataError, match="not a manifest"):
        validate_packed(packed / "set.zip", packed / "set.zip", None, ValidateConfig())
    with pytest.raises(DataError, match="no file or folder"):
        validate_packed(packed / "manifest.parquet", packed / "none", None, ValidateConfig())


def test_a_missing_raw_folder_is_named_before_the_work(packed, monkeypatch):
    monkeypatch.setattr(
        "sg3flow.data.validation.check_tables.read_tables", lambda *_: pytest.fail("worked")
    )
    manifest = packed / "manifest.parquet"
    for raw, words in ((packed / "none", "no file or folder"), (manifest, "no column of images")):
        with pytest.raises(DataError, match=words):
            validate_packed(manifest, packed / "set.zip", raw, ValidateConfig())


@pytest.mark.parametrize("label", [10**30, -(10**30), [1e300], {"a": 1}])
def test_labels_of_no_use_are_offenders(packed, label):
    change(packed, lambda f: edit_labels(f, lambda x: x[1].__setitem__(1, label)))
    assert "labels_one_kind" in failures(validate(packed))


def test_an_empty_set_fails(packed):
    change(packed, lambda f: [f.pop(entry(i)) for i in range(6)])
    report = validate(packed)
    assert {"enough_pictures", "entries_found", "enough_a_class"} <= failures(report).keys()
    html_page(report)


def test_an_expectation_that_crashes_is_an_error(packed, monkeypatch):
    broken = check_plan.PlannedCheck(
        "broken", "crashes", "packed", gxe.ExpectColumnValuesToBeNull(column="no such"), str
    )
    monkeypatch.setattr(check_plan, "planned_checks", lambda *_: [broken])
    report = validate(packed)
    assert not report.success
    assert report.checks[0].status == "error"
    assert "could not be evaluated" in report.checks[0].observed


def test_nothing_is_left_in_the_temp_folder(packed, monkeypatch):
    folder = packed / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    validate(packed)
    assert list(folder.iterdir()) == []


def evaluated(
    expectation: object, values: list[object], dtype: str = "object"
) -> tuple[bool, list]:
    frame = pd.DataFrame({"row": range(len(values)), "v": pd.array(values, dtype=dtype)})
    result = run_expectations("table", frame, [expectation])[0]
    assert checks._crash(result.exception_info) == ""
    found = result.result.get("unexpected_index_list") or []
    return result.success, [int(item["row"]) for item in found]


def test_expectation_power_of_two():
    expectation = ExpectColumnValuesToBePowerOfTwo
    assert evaluated(expectation(column="v"), [1, 64, None, 1024], "Int64") == (True, [])
    assert evaluated(expectation(column="v"), [0, 64, -4, 96], "Int64") == (False, [0, 2, 3])
    assert evaluated(expectation(column="v"), [], "Int64") == (True, [])


def test_expectation_most_common():
    expectation = ExpectColumnValuesToEqualTheMostCommon
    assert evaluated(expectation(column="v"), ["a", None, "a"]) == (True, [])
    assert evaluated(expectation(column="v"), ["a", "b", "b", None]) == (False, [0])
    assert evaluated(expectation(column="v"), ["b", "a"]) == (False, [0])


def test_expectation_non_null_count():
    expectation = ExpectColumnNonNullCountToBeAtMost
    assert evaluated(expectation(column="v", max_value=1), ["x", None]) == (True, [])
    assert evaluated(expectation(column="v", max_value=1), ["x", None, "y"]) == (False, [])


def test_class_numbers_with_gaps_are_explained(packed):
    """Six images of the classes 0, 1 and 19: twenty classes, as a training sees them."""
    numbers = {"labels": [[f"train/{'ab'[i % 2]}/{i}.png", (0, 1, 19)[i % 3]] for i in range(6)]}
    (packed / "raw" / "dataset.json").write_text(json.dumps(numbers))
    repack(packed, labels="json")
    assert PackedSet(packed / "set.zip").label_dim == 20
    report = validate(packed)
    assert failures(report) == {"enough_a_class": [str(i) for i in range(2, 19)]}
    with pytest.raises(DataError, match="class 2 has 0 images, but class 19 has; number the "):
        require_success(report, Path("v.html"))
    change(packed, lambda f: edit_labels(f, lambda x: x[5].__setitem__(1, 99_999)))
    report = validate(packed)
    assert len(failures(report)["enough_a_class"]) == 997  # not a row for each of them
    reasons = {o.reason for check in report.failed for o in check.offenders}
    assert "class 2 has 0 images, but class 99999 has; number the classes from 0 without gaps" in (
        reasons
    )


def test_counts_of_a_folder_given_twice_are_refused(packed):
    with pytest.raises(ConfigError, match=r"names 'train/a' twice \(3 and 2\)"):
        validate(packed, source_counts=("train/a=3", "train/a/=2"))
