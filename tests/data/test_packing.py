"""Packing: golden pixels, deterministic bytes, labels, duplicates, and every kind of bad input."""

import hashlib
import io
import json
import os
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sg3flow.config import PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.manifest import read_manifest
from sg3flow.data.packing import pack_images
from sg3flow.errors import ConfigError, DataError


def save(path: Path, seed: int, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, shape or (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pack(source: Path, dest: Path, workers: int = 1, **config: object):
    manifest = dest.with_name("manifest.parquet")
    return pack_images(source, dest, manifest, PackConfig(**config), workers=workers)


def rows(dest: Path) -> dict[str, dict]:
    frame = read_manifest(dest.with_name("manifest.parquet"))
    return {row["path"]: row for row in frame.to_dict("records")}


@pytest.fixture(scope="session")
def photos(afhq_sample: Path, tmp_path_factory) -> Path:
    """The sample unpacked, and beside it the sources `wide` and `gray` of the golden cases."""
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(afhq_sample) as archive:
        archive.extractall(folder)
    dogs = sorted((folder / "afhq/train/dog").iterdir())
    for name in ("wide", "gray"):
        (folder / name).mkdir()
    for dog in dogs[:4]:
        Image.open(dog).crop((0, 64, 512, 448)).save(folder / "wide" / f"{dog.stem}.png")
    for dog in dogs[:2]:
        Image.open(dog).convert("L").save(folder / "gray" / f"{dog.stem}.png")
    return folder


_CASES = ["cat-256", "train-64", "max-5", "native", "gray-64", "center-crop", "center-crop-wide"]


@pytest.mark.parametrize("name", _CASES)
def test_golden_pixels(golden, photos, tmp_path, name):
    cases = json.loads((golden / "dataset.json").read_text())["cases"]
    assert sorted(_CASES) == sorted(case["name"] for case in cases)
    case = next(case for case in cases if case["name"] == name)
    options = dict(argument[2:].split("=") for argument in case["args"])
    config = {key.replace("-", "_"): value for key, value in options.items()}
    if "max_images" in config:
        config["max_images"] = int(config["max_images"])
    dest = tmp_path / "set.zip"
    pack(photos / case["source"], dest, **config)
    with zipfile.ZipFile(dest) as archive:
        assert json.loads(archive.read("dataset.json")) == case["dataset_json"]
        assert archive.namelist() == [image[0] for image in case["images"]] + ["dataset.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        for entry, shape, digest in case["images"]:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(entry))))
            assert list(pixels.shape) == shape
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest, entry


def test_bytes_depend_on_nothing_but_the_images(tmp_path):
    for i in range(40):
        save(tmp_path / "raw" / "abc"[i % 3] / f"{i}.png", i)
    results = []
    for run, workers in enumerate((1, 2, 2)):
        dest = tmp_path / str(run) / "set.zip"
        pack(tmp_path / "raw", dest, workers, labels="folders")
        manifest = dest.with_name("manifest.parquet")
        results.append((dest.read_bytes(), manifest.read_bytes()))
    assert results[0] == results[1] == results[2]


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(5)))
def test_order_of_creation_does_not_matter(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("order")
    for i in order:
        save(folder / "raw" / f"{i % 2}" / f"{i}.png", i)
    pack(folder / "raw", folder / "set.zip")
    digest = hashlib.sha256((folder / "set.zip").read_bytes()).hexdigest()
    _DIGESTS.add(digest)
    assert len(_DIGESTS) == 1


_DIGESTS: set[str] = set()


def test_zip_source_and_folder_dest_give_the_same_set(tmp_path):
    for i in range(3):
        save(tmp_path / "raw" / f"{i}.png", i)
    shutil.make_archive(str(tmp_path / "raw"), "zip", tmp_path / "raw")
    one = pack(tmp_path / "raw", tmp_path / "one.zip")
    two = pack(tmp_path / "raw.zip", tmp_path / "two")
    packed = PackedSet(tmp_path / "one.zip")
    assert one.digest == two.digest == packed.digest == PackedSet(tmp_path / "two").digest
    assert packed.num_images == 3


def test_a_packed_set_can_be_packed_again(tmp_path):
    for i in range(3):
        save(tmp_path / "raw" / "ab"[i % 2] / f"{i}.png", i)
    one = pack(tmp_path / "raw", tmp_path / "one.zip", labels="folders")
    two = pack(tmp_path / "one.zip", tmp_path / "two.zip")
    assert one.digest == two.digest


def test_labels_from_folders_and_splits(tmp_path):
    for i, name in enumerate(["train/dog", "train/cat", "val/dog"]):
        save(tmp_path / "raw" / name / f"{i}.png", i)
    record = {"format": "sg3flow-source-1", "licence": "CC BY-NC 4.0"}
    (tmp_path / "raw" / "SOURCE.json").write_text(json.dumps(record))
    (tmp_path / "SOURCE.json").write_text('{"licence": "of something else"}')
    dest = tmp_path / "set.zip"
    summary = pack(tmp_path / "raw", dest, labels="folders", subset="train")
    packed = PackedSet(dest)
    assert packed.class_names == ["cat", "dog"]
    assert packed.license == summary.license == "CC BY-NC 4.0"
    assert [int(packed.label(i).argmax()) for i in range(2)] == [0, 1]
    assert summary.classes == {"cat": 1, "dog": 1}
    outside = rows(dest)["val/dog/2.png"]
    assert (outside["split"], outside["left_out"]) == ("val", "outside the subset")
    assert len(outside["pixel_sha256"]) == 64
    below = pack(tmp_path / "raw" / "train" / "dog", tmp_path / "dog.zip")
    assert below.license == "CC BY-NC 4.0"


def test_labels_from_json_follow_their_images(tmp_path):
    for name in "ab":
        save(tmp_path / "raw" / f"{name}.png", ord(name))
    labels = tmp_path / "raw" / "dataset.json"
    labels.write_text(json.dumps({"labels": [["b.png", 0], ["a.png", 1]]}))
    pack(tmp_path / "raw", tmp_path / "set.zip")
    packed = PackedSet(tmp_path / "set.zip")
    assert [int(packed.label(i).argmax()) for i in range(2)] == [1, 0]
    labels.write_text(json.dumps({"labels": [["b.png", 0]]}))
    with pytest.raises(DataError, match=r"a\.png .*has no label"):
        pack(tmp_path / "raw", tmp_path / "set.zip")
    summary = pack(tmp_path / "raw", tmp_path / "set.zip", labels="none")
    assert summary.classes == {}


def test_labels_that_are_vectors_are_not_called_no_classes(tmp_path):
    names = [save(tmp_path / "in" / f"{i}.png", i).name for i in range(3)]
    for labels, words in (
        ([[0.5, -1.0], [0, 2], [1, 1]], "labels are vectors of 2, SHA-256"),
        ([0, 2, 1], "3 classes, SHA-256"),
        (None, "no classes, SHA-256"),
    ):
        pairs = labels and [list(pair) for pair in zip(names, labels, strict=True)]
        (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": pairs}))
        summary = pack(tmp_path / "in", tmp_path / "out.zip")
        assert words in summary.sentence(tmp_path / "out.zip")
        assert summary.profile().get("label_vectors_of", 0) == (2 if "vectors" in words else 0)


def test_a_dataset_json_of_another_kind_need_not_be_read(tmp_path):
    save(tmp_path / "raw" / "a.png", 1)
    (tmp_path / "raw" / "dataset.json").write_text('{"labels": {"info": "COCO"}}')
    with pytest.raises(DataError, match=r'not {"info": "COCO"}; repair it, or .* --labels none'):
        pack(tmp_path / "raw", tmp_path / "set.zip")
    assert pack(tmp_path / "raw", tmp_path / "set.zip", labels="none").num_packed == 1


def test_leaked_dogs_of_the_sample_are_left_out(photos, tmp_path):
    dest = tmp_path / "set.zip"
    config = {"subset": "afhq/train", "resolution": "64x64", "duplicates": "leave-out"}
    summary = pack(photos, dest, 2, **config)
    assert summary.num_packed == 26
    assert summary.left_out["duplicate"] == 2
    left_out = {path: row["same_as"] for path, row in rows(dest).items() if row["same_as"]}
    assert left_out == {
        f"afhq/train/dog/pixabay_dog_{number}.jpg": f"afhq/val/dog/pixabay_dog_{number}.jpg"
        for number in ("000322", "001082")
    }


def test_of_two_equal_images_the_first_stays(tmp_path):
    for name, seed in (("train/a.png", 1), ("train/b.png", 1), ("val/c.png", 1)):
        save(tmp_path / "raw" / name, seed)
    dest = tmp_path / "set.zip"
    assert pack(tmp_path / "raw", dest, duplicates="leave-out").num_packed == 1
    assert [row["packed"] for row in rows(dest).values()] == [True, False, False]
    assert rows(dest)["val/c.png"]["left_out"] == "same picture as train/a.png"
    assert pack(tmp_path / "raw", dest).num_packed == 3


def test_max_images_counts_packed_images(tmp_path):
    for i in range(50):
        save(tmp_path / "raw" / f"{i:02d}.png", i)
    dest = tmp_path / "set.zip"
    assert pack(tmp_path / "raw", dest, 2, max_images=3).num_packed == 3
    assert rows(dest)["03.png"]["left_out"] == "beyond max_images"
    assert len(rows(dest)["49.png"]["pixel_sha256"]) == 64


_BAD = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"this is no image", "not a picture"),
    "cut.png": (None, "cannot be decoded"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_images_are_named_or_left_out(tmp_path, name):
    good = save(tmp_path / "raw" / "a.png", 1, 64, 64, 3)
    content, words = _BAD[name]
    (tmp_path / "raw" / name).write_bytes(good.read_bytes()[:2000] if content is None else content)
    dest = tmp_path / "set.zip"
    with pytest.raises(DataError, match=rf"1 of 2 images .*{name}: {words}"):
        pack(tmp_path / "raw", dest)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert pack(tmp_path / "raw", dest, max_rejects=1).num_packed == 1
    assert rows(dest)[name]["left_out"].startswith(f"unreadable: {words}")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((32, 32, 3), r"a\.png is 16x16 color, b\.png is 32x32 color; pass --resolution 16x16"),
        ((16, 16), r"a\.png is 16x16 color, b\.png is 16x16 gray"),
    ],
)
def test_images_of_different_form_are_named(tmp_path, shape, words):
    save(tmp_path / "raw" / "a.png", 1)
    save(tmp_path / "raw" / "b.png", 2, *shape)
    with pytest.raises(DataError, match=words):
        pack(tmp_path / "raw", tmp_path / "set.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_side_that_is_no_power_of_two_says_what_to_pass(tmp_path):
    save(tmp_path / "raw" / "a.png", 1, 20, 30, 3)
    with pytest.raises(DataError, match=r"30x20.*--resolution 16x16 \(with --transform center"):
        pack(tmp_path / "raw", tmp_path / "set.zip")


@pytest.mark.parametrize(
    "config",
    [
        {"resolution": "64"},
        {"resolution": "100x100"},
        {"resolution": "64x32"},
        {"transform": "center-crop"},
        {"transform": "center-crop-wide", "resolution": "32x64"},
        {"background": "no colour"},
    ],
)
def test_impossible_transforms(tmp_path, config):
    with pytest.raises(ConfigError, match=r"resolution|square|not a color"):
        pack(tmp_path, tmp_path / "set.zip", **config)


def test_too_small_for_wide_is_left_out(tmp_path):
    save(tmp_path / "raw" / "a.png", 1, 8, 8, 3)
    save(tmp_path / "raw" / "b.png", 1, 48, 64, 3)
    config = {"transform": "center-crop-wide", "resolution": "32x16"}
    with pytest.raises(DataError, match=r"1 of 2 .*a\.png: .* too small for center-crop-wide"):
        pack(tmp_path / "raw", tmp_path / "set.zip", **config)
    summary = pack(tmp_path / "raw", tmp_path / "set.zip", max_rejects=1, **config)
    assert summary.left_out == {"too small": 1}


def test_odd_names(tmp_path):
    names = ["Ünï/猫 🐱.png", "a b/'q' & <x>.PNG", "e\u0301.jpeg", "._a.png", "__MACOSX/a.png"]
    for i, name in enumerate(names):
        save(tmp_path / "raw" / name, i)
    dest = tmp_path / "set.zip"
    assert pack(tmp_path / "raw", dest).num_packed == 3
    assert sorted(rows(dest)) == sorted(names[:3])


def test_foreign_outputs_are_refused(tmp_path):
    save(tmp_path / "raw" / "a.png", 1)
    foreign = tmp_path / "notes.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("notes.txt", "mine")
    save(tmp_path / "album" / "holiday.png", 1)
    before = foreign.read_bytes()
    for dest in (foreign, tmp_path / "album", tmp_path / "raw", tmp_path / "raw" / "below"):
        with pytest.raises(DataError, match=r"not replaced|its own source|inside its source"):
            pack(tmp_path / "raw", dest)
    assert foreign.read_bytes() == before
    (tmp_path / "manifest.parquet").write_text("mine")
    with pytest.raises(DataError, match="not replaced"):
        pack(tmp_path / "raw", tmp_path / "set.zip")
    assert (tmp_path / "manifest.parquet").read_text() == "mine"
    assert not (tmp_path / "set.zip").exists()


def test_nothing_to_pack(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="no images"):
        pack(tmp_path / "raw", tmp_path / "set.zip")
    save(tmp_path / "raw" / "train" / "a.png", 1)
    with pytest.raises(DataError, match="did you mean 'train'"):
        pack(tmp_path / "raw", tmp_path / "set.zip", subset="trian")
    with pytest.raises(DataError, match="no file or folder"):
        pack(tmp_path / "none", tmp_path / "set.zip")


@pytest.mark.parametrize("dest", ["set.zip", "set"])
def test_full_disk_leaves_nothing(tmp_path, dest):
    for i in range(3):
        save(tmp_path / "raw" / f"{i}.png", i, 64, 64, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            pack(tmp_path / "raw", tmp_path / dest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_two_outputs_never_share_a_path(tmp_path):
    save(tmp_path / "raw" / "a.png", 1)
    for dest in ("set.zip", "set"):
        same = tmp_path / "raw" / ".." / dest
        with pytest.raises(DataError, match="--dest and --manifest are both"):
            pack_images(tmp_path / "raw", tmp_path / dest, same, PackConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("config", [{"max_images": 2}, {"subset": "00000"}])
def test_a_part_of_a_labeled_set_keeps_all_classes(tmp_path, config):
    for i in range(6):
        save(tmp_path / "raw" / "abc"[i // 2] / f"{i}.png", i)
    pack(tmp_path / "raw", tmp_path / "one.zip", labels="folders")
    summary = pack(tmp_path / "one.zip", tmp_path / "two.zip", **config)
    packed = PackedSet(tmp_path / "two.zip")
    assert packed.num_images == summary.num_packed == config.get("max_images", 6)
    assert (packed.class_names, packed.label_dim) == (["a", "b", "c"], 3)
    assert packed.label(1).tolist() == [1, 0, 0]


def test_classes_without_images_are_named(tmp_path):
    for i in range(3):
        save(tmp_path / "raw" / f"{i}.png", i)
    content = {"labels": [[f"{i}.png", (0, 2, 9)[i]] for i in range(3)]}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(content))
    dest = tmp_path / "set.zip"
    summary = pack(tmp_path / "raw", dest)
    assert summary.empty_classes == ("1", "3", "4", "5", "6", "7", "8")
    assert "3 classes" in summary.sentence(dest)
    assert summary.sentence(dest).endswith("; classes without images: 1, 3, 4, 5 and 3 more")
    content["labels"][1][1], content["labels"][2][1] = 1, 2
    for names in (None, ["a", "b", "c", "d"]):
        (tmp_path / "raw" / "dataset.json").write_text(json.dumps(content | {"class_names": names}))
        assert pack(tmp_path / "raw", dest).empty_classes == (("d",) if names else ())
    content["labels"] = [[f"{i}.png", [i, 9]] for i in range(3)]
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(content))
    assert pack(tmp_path / "raw", dest).empty_classes == ()


def test_linked_class_folders_are_packed(tmp_path):
    for i, name in enumerate(("real/a", "elsewhere/b")):
        save(tmp_path / name / f"{i}.png", i)
    (tmp_path / "real" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "real" / "c").symlink_to("b")  # twice the same folder is no circle
    summary = pack(tmp_path / "real", tmp_path / "set.zip", labels="folders")
    assert summary.classes == {"a": 1, "b": 1, "c": 1}
    (tmp_path / "elsewhere" / "b" / "up").symlink_to(tmp_path / "real")
    with pytest.raises(DataError, match=r"2 of 5 .*up: a link to a folder above it"):
        pack(tmp_path / "real", tmp_path / "set.zip")
    summary = pack(tmp_path / "real", tmp_path / "set.zip", max_rejects=2, labels="folders")
    assert summary.num_packed == 3 and summary.left_out == {"unreadable": 2}
    assert rows(tmp_path / "set.zip")["b/up"]["problem"].startswith("a link to a folder above")
    with pytest.raises(DataError, match="up: a link to a folder above it"):
        PackedSet(tmp_path / "real")


def test_a_pipe_among_the_images_is_named(tmp_path):
    save(tmp_path / "raw" / "a.png", 1)
    os.mkfifo(tmp_path / "raw" / "b.png")
    with pytest.raises(DataError, match=r"b\.png is not a plain file"):
        pack(tmp_path / "raw", tmp_path / "set.zip")


def test_license_of_a_foreign_record_is_not_taken(tmp_path):
    save(tmp_path / "raw" / "a.png", 1)
    (tmp_path / "raw" / "SOURCE.json").write_text('{"licence": "of something else"}')
    assert pack(tmp_path / "raw", tmp_path / "set.zip").license is None
