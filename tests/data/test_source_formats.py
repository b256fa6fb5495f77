"""Every form of source: tar, CIFAR-10, MNIST, LMDB, Parquet, CSV labels; whole and damaged."""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sg3flow.config import PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.manifest import read_manifest, read_notes
from sg3flow.data.packing import pack_images
from sg3flow.data.raw_images import ignored_record
from sg3flow.data.readers import storage
from sg3flow.data.readers.listing import count_suffixes, ignored_words, open_listing
from sg3flow.errors import DataError


def pack(source: Path, folder: Path, workers: int = 1, **config: object) -> PackedSet:
    folder.mkdir(exist_ok=True)
    paths = source, folder / "set.zip", folder / "manifest.parquet"
    pack_images(*paths, PackConfig(**config), workers=workers)
    return PackedSet(folder / "set.zip")


def classes(packed: PackedSet) -> list[int]:
    return [int(packed.label(i).argmax()) for i in range(packed.num_images)]


@pytest.fixture
def raw(tmp_path, noise, png) -> Path:
    """A folder of six images in two classes."""
    for i in range(6):
        path = tmp_path / "raw" / "ba"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(noise(i)))
    return tmp_path / "raw"


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_tar_file_gives_the_same_set_as_its_folder(raw, tmp_path, suffix, workers):
    path = tmp_path / f"raw.{suffix}"
    mode = {"tar": "w", "tgz": "w:gz"}.get(suffix, f"w:{suffix[4:]}")
    with tarfile.open(path, mode) as archive:
        archive.add(raw, "./")
    expected = pack(raw, tmp_path / "one", labels="folders").digest
    assert pack(path, tmp_path / "two", workers, labels="folders").digest == expected


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_that_are_no_pictures_are_counted_and_listed(raw, tmp_path, kind):
    for name in ("a/1.MOV", "a/2.mov", "IMG_1.CR2", "notes", ".hidden.mov", "dataset.json"):
        (raw / name).write_text("{}")
    (raw / "own.csv").write_text(
        "path,label\n" + "".join(f"{'ba'[i % 2]}/{i}.png,{i % 2}\n" for i in range(6))
    )
    source = raw
    if kind != "folder":
        source = Path(shutil.make_archive(str(tmp_path / "source"), kind, raw))
    paths = source, tmp_path / "set.zip", tmp_path / "set.parquet"
    summary = pack_images(*paths, PackConfig(labels="csv", labels_csv="own.csv"))
    assert summary.num_packed == summary.num_source == 6
    assert summary.ignored == {".mov": 2, ".cr2": 1, "no suffix": 1}
    words = "ignored 4 files that are no known pictures: 2 .mov, 1 .cr2, 1 no suffix"
    assert summary.sentence(tmp_path).endswith(f"; {words}")
    files = ["IMG_1.CR2", "a/1.MOV", "a/2.mov", "notes"]
    assert read_notes(paths[2]) == {"ignored": {"counts": summary.ignored, "files": files}}
    assert summary.profile()["ignored"] == summary.ignored


def test_a_folder_with_nothing_but_unknown_files_says_what_they_are(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("1.mov", "2.mov", "3.xyz"):
        (tmp_path / "raw" / name).write_text("x")
    words = "no images below .*: 2 .mov, 1 .xyz"
    with pytest.raises(DataError, match=words):
        pack(tmp_path / "raw", tmp_path / "set.zip")


def test_many_ignored_files_are_counted_but_not_all_listed():
    names = [f"{i}.x{i % 20:02d}" for i in range(1500)]
    record = ignored_record(names)
    assert sum(record["counts"].values()) == 1500 and len(record["files"]) == 1000
    assert ignored_words(record["counts"]).endswith("75 .x11, …")
    odd = ("a.1", "v1.2 of 3", "x." + "y" * 200, "n.\x1b[1m", "clip.3gp", ".x/no")
    assert count_suffixes(odd) == {".3gp": 1, "no suffix": 1, "other": 4}


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.xz", "cifar-10-python.tar.gz"])
def test_damaged_archives_are_named(raw, tmp_path, damage, name):
    path = tmp_path / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        archive.add(raw, "raw")
    path.write_bytes(path.read_bytes()[:300] if damage is None else damage)
    with pytest.raises(DataError, match=name) as caught:
        pack(path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def write_cifar(path: Path, pixels: np.ndarray, labels: list[int], names: object) -> None:
    files = {"batches.meta": {"label_names": names}}
    for number, rows in enumerate(np.array_split(np.arange(len(pixels)), 5), 1):
        data = pixels[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
        files[f"data_batch_{number}"] = {"data": data, "labels": [labels[i] for i in rows]}
    files["test_batch"] = {"data": pixels[:1].reshape(1, -1), "labels": [0]}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            data = pickle.dumps(content, protocol=2)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("workers", [1, 2])
def test_cifar10(tmp_path, noise, workers):
    pixels, labels = noise(0, 12, 32, 32, 3), [i % 3 for i in range(12)]
    (tmp_path / "raw").mkdir()
    write_cifar(tmp_path / "raw" / "cifar-10-python.tar.gz", pixels, labels, ["cat", "dog", "ox"])
    for source in (tmp_path / "raw", tmp_path / "raw" / "cifar-10-python.tar.gz"):
        packed = pack(source, tmp_path / "out", workers)
        assert (packed.num_images, packed.resolution, packed.channels) == (12, 32, 3)
        assert classes(packed) == labels and packed.class_names == ["cat", "dog", "ox"]
        for i in range(12):
            np.testing.assert_array_equal(packed.image(i), pixels[i])


def test_a_cifar10_batch_larger_than_any_file_is_refused_unread(tmp_path, noise, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_cifar(path, noise(0, 5, 32, 32, 3), [0] * 5, [])
    monkeypatch.setattr(storage, "_MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"data_batch_1 of .* has \d,\d{3} bytes; at most 1,000"):
        open_listing(path)


class Harm:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_would_run_something_is_refused(tmp_path, noise, capsys):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_cifar(path, noise(0, 5, 32, 32, 3), [0] * 5, Harm())
    with pytest.raises(DataError, match=r"only arrays are read"):
        pack(path, tmp_path / "out")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist(tmp_path, noise, suffix):
    pixels, labels = noise(0, 7, 28, 28), [3, 1, 4, 1, 5, 9, 2]
    opener = gzip.open if suffix else open
    images = tmp_path / f"train-images-idx3-ubyte{suffix}"
    with opener(images, "wb") as stream:
        stream.write(struct.pack(">4I", 0x803, 7, 28, 28) + pixels.tobytes())
    assert pack(images, tmp_path / "out").label_dim == 0
    beside = tmp_path / f"train-labels-idx1-ubyte{suffix}"
    with opener(beside, "wb") as stream:
        stream.write(struct.pack(">2I", 0x801, 7) + bytes(labels))
    packed = pack(images, tmp_path / "out", 2)
    assert (packed.resolution, packed.channels, packed.label_dim) == (32, 1, 10)
    assert classes(packed) == labels
    np.testing.assert_array_equal(packed.image(3)[..., 0], np.pad(pixels[3], 2))
    with opener(beside, "wb") as stream:
        stream.write(struct.pack(">2I", 0x801, 6) + bytes(labels[:6]))
    with pytest.raises(DataError, match="6 labels for 7 images"):
        pack(images, tmp_path / "out")
    with opener(images, "wb") as stream:
        stream.write(struct.pack(">4I", 0x803, 8, 28, 28) + pixels.tobytes())
    with pytest.raises(DataError, match="cut off"):
        pack(images, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_lsun_lmdb(tmp_path, noise, png, workers):
    lmdb = pytest.importorskip("lmdb", reason="LSUN folders need the extra package lmdb")
    folder = tmp_path / "church_lmdb"
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as t,
    ):
        for i in range(6):
            t.put(f"{i:040x}".encode(), png(noise(i)))
    packed = pack(folder, tmp_path / "out", workers)
    assert packed.num_images == 6
    np.testing.assert_array_equal(packed.image(4), noise(4))
    (folder / "data.mdb").write_bytes(b"damaged")
    with pytest.raises(DataError, match="no whole LMDB database"):
        pack(folder, tmp_path / "out")


def write_parquet(path: Path, count: int, start: int = 0, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = columns.pop("images")
    values = [{"bytes": images[i], "path": f"pic_{i}.png"} for i in range(start, start + count)]
    names = columns.pop("names", None)
    table = pa.table({"image": values, **columns})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path, row_group_size=4)


@pytest.mark.parametrize("workers", [1, 2])
def test_hugging_face_parquet(tmp_path, noise, png, workers):
    images = [png(noise(i)) for i in range(30)]
    options = {"images": images, "names": ["cat", "dog", "wild"]}
    for part in range(2):
        label = [(10 * part + i) % 3 for i in range(10)]
        path = tmp_path / "hub" / "data" / f"train-0000{part}-of-00002.parquet"
        write_parquet(path, 10, 10 * part, label=label, **options)
    path = tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"
    write_parquet(path, 10, 20, label=[0] * 10, **options)
    (tmp_path / "hub" / "README.md").write_text("# a dataset")
    packed = pack(tmp_path / "hub", tmp_path / "out", workers, subset="data/train")
    assert packed.num_images == 20 and packed.class_names == ["cat", "dog", "wild"]
    assert classes(packed) == [i % 3 for i in range(20)]
    for i in range(20):
        np.testing.assert_array_equal(packed.image(i), noise(i))
    rows = read_manifest(tmp_path / "out" / "manifest.parquet")
    record = read_notes(tmp_path / "out" / "manifest.parquet")["ignored"]
    assert record == {"counts": {".md": 1}, "files": ["README.md"]}
    assert rows["path"][0] == "data/test/00000-of-00001/00000000-pic_20.png"
    assert sorted(set(rows["split"])) == ["test", "train"]


def test_parquet_labels_of_other_kinds(tmp_path, noise, png):
    images = [png(noise(i)) for i in range(6)]
    path = tmp_path / "set.parquet"
    write_parquet(
        path, 3, images=images, kind=["dog", "cat", "dog"], at=[[0.5, i] for i in range(3)]
    )
    assert pack(path, tmp_path / "out").label_dim == 0
    packed = pack(path, tmp_path / "out", label_column="kind")
    assert packed.class_names == ["cat", "dog"] and classes(packed) == [1, 0, 1]
    packed = pack(path, tmp_path / "out", label_column="at")
    np.testing.assert_array_equal(packed.label(2), np.array([0.5, 2], np.float32))
    with pytest.raises(DataError, match=r"no column knd .*did you mean 'kind'"):
        pack(path, tmp_path / "out", label_column="knd")
    pq.write_table(pa.table({"image": images}), path)  # plain binary
    assert pack(path, tmp_path / "out").num_images == 6


def test_parquet_rows_of_no_use_are_left_out(tmp_path, noise, png):
    images = [png(noise(0)), b"no picture", None, png(noise(3))]
    write_parquet(tmp_path / "set.parquet", 4, images=images)
    with pytest.raises(DataError, match=r"2 of 4 images .*00000001-pic_1\.png: not a picture"):
        pack(tmp_path / "set.parquet", tmp_path / "out")
    assert pack(tmp_path / "set.parquet", tmp_path / "out", max_rejects=2).num_images == 2
    rows = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert "holds no bytes" in rows["problem"][2]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more PAR1", None])
def test_damaged_parquet_is_named(tmp_path, noise, png, content):
    path = tmp_path / "set.parquet"
    write_parquet(path, 2, images=[png(noise(i)) for i in range(2)])
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    with pytest.raises(DataError, match=r"set\.parquet cannot be read as Parquet"):
        pack(path, tmp_path / "out")
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DataError, match="no column of images"):
        pack(path, tmp_path / "out")


def test_parquet_files_that_differ_in_their_columns_are_named(tmp_path, noise, png):
    images = [png(noise(i)) for i in range(2)]
    write_parquet(tmp_path / "hub" / "0.parquet", 2, images=images, label=[0, 1])
    other = tmp_path / "hub" / "1.parquet"
    write_parquet(other, 2, images=images)
    with pytest.raises(DataError, match=r"1\.parquet has no column label, unlike .*0\.parquet"):
        pack(tmp_path / "hub", tmp_path / "out")
    write_parquet(other, 2, images=images, label=["cat", "dog"])
    with pytest.raises(
        DataError, match=r"column label of .*1\.parquet has the type string.* int64"
    ):
        pack(tmp_path / "hub", tmp_path / "out")
    write_parquet(other, 2, images=images, label=pa.array([0, 1], pa.int8()))
    assert pack(tmp_path / "hub", tmp_path / "out").num_images == 4
    pq.write_table(pa.table({"photo": images, "label": [0, 1]}), other)
    with pytest.raises(DataError, match=r"1\.parquet has no column image.*photo, label"):
        pack(tmp_path / "hub", tmp_path / "out")


def test_several_sources_in_a_folder_are_not_guessed(tmp_path, noise):
    (tmp_path / "raw").mkdir()
    write_cifar(tmp_path / "raw" / "cifar-10-python.tar.gz", noise(0, 5, 32, 32, 3), [0] * 5, [])
    (tmp_path / "raw" / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="holds several sources"):
        open_listing(tmp_path / "raw")


@pytest.mark.parametrize("place", ["inside", "outside", "zip"])
def test_labels_from_csv(raw, tmp_path, place):
    text = (
        "path,label\nb/0.png,dog\na/1.png,cat\nb/2.png,dog\na/3.png,ox\nb\\4.png,cat\na/5.png,ox\n"
    )
    (raw / "my.csv" if place != "outside" else tmp_path / "my.csv").write_text("\ufeff" + text)
    source, where = raw, "my.csv"
    if place == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "raw"), "zip", raw))
    if place == "outside":
        where = str(tmp_path / "my.csv")
    packed = pack(source, tmp_path / "out", labels="csv", labels_csv=where)
    assert packed.class_names == ["cat", "dog", "ox"]
    assert classes(packed) == [0, 2, 2, 1, 1, 0]  # a/1, a/3, a/5, b/0, b/2, b/4


def test_vectors_and_numbers_from_csv(raw, tmp_path):
    names = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.png"))
    (raw / "labels.csv").write_text(
        "path,x,y\n" + "".join(f"{n},0.5,{i}\n" for i, n in enumerate(names))
    )
    packed = pack(raw, tmp_path / "out", labels="csv")
    np.testing.assert_array_equal(packed.label(3), np.array([0.5, 3], np.float32))
    (raw / "labels.csv").write_text(
        "path,label\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names))
    )
    packed = pack(raw, tmp_path / "out", labels="csv")
    assert classes(packed) == list(range(6)) and packed.class_names is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("", "first row of .* must name the columns"),
        ("a/1.png,0\n", "first row of .* must name the columns"),
        ("path,label\na/1.png\n", "line 2 of .* has 1 fields"),
        ("path,label\na/1.png,0\na/1.png,1\n", "line 3 of .* repeats a/1.png"),
        ("path,label\n\n\na/1.png,0\na/1.png,1\n", "line 5 of .* repeats a/1.png"),
        ("path,label\n" + "x" * 200_000 + ",1\n", "line 2 of .* is not valid CSV .*field larger"),
        ("path,label\nwrong/1.png,0\n", "names no image of .*'wrong/1.png', .* 'a/1.png'"),
        ("path,x,y\na/1.png,0,east\n", "label of a/1.png .* is not a vector"),
        ("path,label\na/1.png,0\n", "a/3.png has no label"),
    ],
)
def test_bad_csv_labels_are_named(raw, tmp_path, text, words):
    if text is not None:
        (raw / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        pack(raw, tmp_path / "out", labels="csv")


def test_terms_are_carried_into_the_packed_set(raw, tmp_path):
    record = {"format": "sg3flow-source-1", "licence": "CC BY-NC 4.0", "citation": "Choi et al."}
    (raw / "SOURCE.json").write_text(json.dumps(record))
    packed = pack(raw / "a", tmp_path / "out")
    assert (packed.license, packed.citation) == ("CC BY-NC 4.0", "Choi et al.")
    again = pack(tmp_path / "out" / "set.zip", tmp_path / "again")
    assert again.citation == "Choi et al." and again.digest == packed.digest
