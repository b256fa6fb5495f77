"""Labels from JSON, CSV and Parquet: one set of rules, and one line for what breaks them."""

import datetime
import json
import struct
import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sg3flow.config import PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.packing import pack_images
from sg3flow.data.raw_images import count_images
from sg3flow.data.readers.labels import LabelsFile, read_labels
from sg3flow.data.readers.listing import open_listing
from sg3flow.data.readers.storage import open_storage
from sg3flow.errors import DataError

NAMES = ["a.png", "b.png", "c.png"]


def pack(source: Path, folder: Path, **config: object) -> PackedSet:
    folder.mkdir(exist_ok=True)
    paths = source, folder / "set.zip", folder / "manifest.parquet"
    pack_images(*paths, PackConfig(**config), workers=1)
    return PackedSet(folder / "set.zip")


def classes(packed: PackedSet) -> list[int]:
    return [int(packed.label(i).argmax()) for i in range(packed.num_images)]


@pytest.fixture
def raw(tmp_path, noise, png) -> Path:
    (tmp_path / "raw").mkdir()
    for i, name in enumerate(NAMES):
        (tmp_path / "raw" / name).write_bytes(png(noise(i)))
    return tmp_path / "raw"


@pytest.fixture
def table(tmp_path, noise, png):
    """``table(labels, type)``: a Parquet file of images with these labels."""

    def write(labels: list[object], kind: object = None) -> Path:
        images = [{"bytes": png(noise(i)), "path": NAMES[i]} for i in range(len(labels))]
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"image": images, "label": pa.array(labels, kind)}), path)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 0], ["a.png", 1]]}',
            r"gives a\.png two labels \(labels\[0\] and labels\[3\]\)",
        ),
        (
            '{"labels": [["a.png", 0], ["b.png", 1], ["./a.png", 0], ["c.png", 0]]}',
            r"gives a\.png two labels \(labels\[0\] and labels\[2\]\)",
        ),
        (
            '{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 1]], "labels": null}',
            "has the key 'labels' twice",
        ),
        (
            '{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 2]], "class_names": ["x","y","x"]}',
            r"names two classes 'x' \(numbers 0 and 2\)",
        ),
        (
            f'{{"labels": [["a.png", {"9" * 5000}], ["b.png", 1], ["c.png", 2]]}}',
            r"a whole number of 5,000 digits\)",
        ),
        (
            '{"labels": [["a.png", 0], ["b.png", 0], ["c.png", 0]], "class_names": ["\\ud800"]}',
            r'must be a list of names, not \["\\ud800"\]',
        ),
    ],
)
def test_labels_that_are_not_clear_are_refused(raw, tmp_path, content, words):
    (raw / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        pack(raw, tmp_path / "out")
    assert len(str(caught.value)) < 400
    with pytest.raises(DataError, match=words):
        PackedSet(raw)  # as training and validation read it
    with pytest.raises(DataError, match=words):
        read_labels(open_storage(raw))
    assert pack(raw, tmp_path / "out", labels="none").label_dim == 0


def test_labels_of_paths_with_a_dot(raw, tmp_path):
    content = {"labels": [[f"./{name}", i % 2] for i, name in enumerate(NAMES)]}
    (raw / "dataset.json").write_text(json.dumps(content))
    assert classes(pack(raw, tmp_path / "out")) == [0, 1, 0]


def test_class_names_of_any_source_are_distinct():
    """Also those of CIFAR-10 and of the Hugging Face hub, which come without dataset.json."""
    labels = LabelsFile(Path("x"), {"a": 0, "b": 1}, ["cat", "cat"])
    with pytest.raises(DataError, match=r"x names two classes 'cat' \(numbers 0 and 1\)"):
        labels.array(["a", "b"])


# A label beside two whole numbers, in text, as Parquet has it, and in the message.
_ODD = [
    ("-1", -1, "-1"),
    ("0.5", 0.5, r"0\.5"),
    ("1.0", 1.0, r"1\.0"),
    ("100000", 100_000, "100000"),
]


@pytest.mark.parametrize(("text", "value", "words"), _ODD)
def test_numbers_that_are_no_classes_are_refused(raw, tmp_path, table, text, value, words):
    rule = rf"must be all class numbers from 0 to 99999, .*; {{}}b\.png has {words};"
    (raw / "labels.csv").write_text(f"path,label\na.png,0\nb.png,{text}\nc.png,2\n")
    with pytest.raises(DataError, match=rule.format("")):
        pack(raw, tmp_path / "out", labels="csv")
    if isinstance(value, int):
        with pytest.raises(DataError, match=rule.format("00000001-")):
            pack(table([0, value, 2]), tmp_path / "out")
    with pytest.raises(DataError, match="must be all class numbers"):
        pack(table([0.0, float(value), 2.0]), tmp_path / "out")


@pytest.mark.parametrize("others", [("0", "1"), ("cat", "dog")])
def test_an_empty_label_is_refused(raw, tmp_path, table, others):
    (raw / "labels.csv").write_text(f"path,label\na.png,{others[0]}\nb.png,\nc.png,{others[1]}\n")
    with pytest.raises(DataError, match=r'; b\.png has "";'):
        pack(raw, tmp_path / "out", labels="csv")
    with pytest.raises(DataError, match=r'; 00000001-b\.png has "";'):
        pack(table([others[0], "", others[1]]), tmp_path / "out")
    with pytest.raises(DataError, match=r"; 00000001-b\.png has null;"):
        pack(table([others[0], None, others[1]]), tmp_path / "out")


def test_a_row_without_an_image_may_lack_its_label(raw, tmp_path):
    """As the test images of many competitions."""
    text = "path,label\na.png,1\ntest/1.png,\nb.png,0\nc.png,1\n"
    (raw / "labels.csv").write_text(text)
    packed = pack(raw, tmp_path / "out", labels="csv")
    assert classes(packed) == [1, 0, 1] and packed.class_names is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "path,label\na.png,0\nb.png,cat\nc.png,1\n",
            r"line 3 of .* has the class name 'cat', but line 2 the number 0; give only",
        ),
        (
            "path,label\na.png,cat\nb.png,dog\nc.png,-1.5\n",
            r"line 2 of .* has the class name 'cat', but line 4 the number -1\.5",
        ),
        ("path,label\na.png,0\nb.png,1\n./a.png,2\n", r"line 4 of .* repeats a\.png of line 2"),
        ("path,x,y,x\na.png,0,1,2\n", r"names the column x twice \(columns 2 and 4\)"),
        (
            f"path,label\na.png,0\nb.png,{'9' * 5000}\nc.png,1\n",
            r'b\.png has "9{56}\.\.\.; repair labels\.csv',
        ),
        (
            f"path,x,y\na.png,0,1\nb.png,0,{'9' * 5000}\nc.png,0,1\n",
            r"b\.png has \[0\.0, Infinity\]; repair labels\.csv",
        ),
        ("path,x,y\na.png,1_0,1\nb.png,0,1\nc.png,0,1\n", r"label of a\.png .* not a vector"),
        ("path,x,y\na.png,nan,1\nb.png,0,1\nc.png,0,1\n", r"label of a\.png .* not a vector"),
    ],
)
def test_csv_files_that_are_not_clear_are_refused(raw, tmp_path, text, words):
    (raw / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        pack(raw, tmp_path / "out", labels="csv")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("fields", "numbers", "names"),
    [
        (["2", "0", "2"], [2, 0, 2], None),
        (["+1", "0", "007"], [1, 0, 7], None),
        (["n01", "nan", "0x1"], [1, 2, 0], ["0x1", "n01", "nan"]),
        (["1990s", "1.2.3", "1-2"], [2, 1, 0], ["1-2", "1.2.3", "1990s"]),
    ],
)
def test_numbers_and_names_in_csv(raw, tmp_path, fields, numbers, names):
    rows = zip(NAMES, fields, strict=True)
    (raw / "labels.csv").write_text("path,label\n" + "".join(f"{n},{f}\n" for n, f in rows))
    packed = pack(raw, tmp_path / "out", labels="csv")
    assert classes(packed) == numbers and packed.class_names == names


def test_texts_in_parquet_follow_the_rules_of_csv(table, tmp_path):
    packed = pack(table(["10", "2", "2"]), tmp_path / "numbers")
    assert classes(packed) == [10, 2, 2] and packed.class_names is None
    packed = pack(table(["dog", "cat", "dog"]), tmp_path / "names")
    assert classes(packed) == [1, 0, 1] and packed.class_names == ["cat", "dog"]
    for odd in ("-1", "0.5", "1.0"):
        with pytest.raises(DataError, match=rf"must be all class numbers .* has {odd};"):
            pack(table([odd, "0", "1"]), tmp_path / "odd")
    with pytest.raises(DataError, match=r"row 0+1-b\.png of .* name 'cat', but row 0+-a\.png the"):
        pack(table(["0", "cat", "1"]), tmp_path / "mixed")


def test_decimals_in_parquet(table, tmp_path):
    """DuckDB writes 1.5, and sums of whole numbers, as decimals."""
    whole = [Decimal(1), Decimal(0), Decimal(2)]
    assert classes(pack(table(whole, pa.decimal128(18, 0)), tmp_path / "out")) == [1, 0, 2]
    vectors = [[Decimal("0.5"), Decimal("1.5")], [Decimal(0), Decimal(1)], [Decimal(2)] * 2]
    packed = pack(table(vectors, pa.list_(pa.decimal128(12, 1))), tmp_path / "out")
    assert packed.label(0).tolist() == [0.5, 1.5] and packed.label(2).tolist() == [2, 2]
    with pytest.raises(DataError, match=r"00000000-a\.png has 1\.5;"):
        pack(table([Decimal("1.5"), 0, 1], pa.decimal128(12, 1)), tmp_path / "out")
    with pytest.raises(DataError, match=r"00000000-a\.png has 9{38};"):
        pack(table([Decimal("9" * 38), 0, 1], pa.decimal128(38, 0)), tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        ([datetime.date(2026, 1, 2)] * 3, None, '"2026-01-02"'),
        ([datetime.datetime(2026, 1, 2)] * 3, None, '"2026-01-02 00:00:00"'),
        ([datetime.timedelta(1)] * 3, None, '"1 day'),
        ([b"cat"] * 3, None, "\"b'cat'\""),
        ([uuid.UUID(int=7).bytes] * 3, pa.uuid(), '"00000000-0000-0000-0000-000000000007"'),
        ([{"x": [1] * 1000}] * 3, None, r'{"x": \[1, 1, .*\.\.\.;'),
        ([True, False, True], None, "true"),
    ],
)
def test_labels_of_no_use_in_parquet_are_named(table, tmp_path, labels, kind, words):
    with pytest.raises(DataError, match=rf"00000000-a\.png has {words}") as caught:
        pack(table(labels, kind), tmp_path / "out")
    assert len(str(caught.value)) < 400


def test_parquet_without_rows_is_refused(table, tmp_path, noise, png):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([], kind)}), tmp_path / "empty.parquet")
    for use in (count_images, open_listing):
        with pytest.raises(DataError, match=r"empty\.parquet holds no images: it has no rows"):
            use(tmp_path / "empty.parquet")
    folder = tmp_path / "hub"
    folder.mkdir()
    (tmp_path / "empty.parquet").rename(folder / "0.parquet")
    with pytest.raises(DataError, match="hub holds no images"):
        pack(folder, tmp_path / "out")
    images = pa.table({"image": pa.array([{"bytes": png(noise(0)), "path": "a.png"}], kind)})
    pq.write_table(images, folder / "1.parquet")
    assert pack(folder, tmp_path / "out").num_images == 1


@pytest.mark.parametrize("is_struct", [True, False])
def test_binary_view_columns_are_images(tmp_path, noise, png, is_struct):
    """As a polars frame in its newest format has them (``to_arrow``)."""
    column = pa.array([png(noise(i)) for i in range(3)], pa.binary_view())
    names = pa.array(NAMES, pa.string_view())
    if is_struct:
        column = pa.StructArray.from_arrays([column, names], names=["bytes", "path"])
    pq.write_table(pa.table({"image": column, "label": names}), tmp_path / "x.parquet")
    packed = pack(tmp_path / "x.parquet", tmp_path / "out")
    assert packed.class_names == NAMES and classes(packed) == [0, 1, 2]
    np.testing.assert_array_equal(packed.image(2), noise(2))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([{"bytes": "text", "path": "a.png"}], "no column of images"),
        ([{"bytes": [1, 2], "path": "a.png"}], "no column of images"),
        (["text"], "no column of images"),
    ],
)
def test_columns_of_no_bytes_are_no_images(tmp_path, column, words):
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=words):
        pack(tmp_path / "x.parquet", tmp_path / "out")


def test_parquet_paths_that_are_no_text_are_ignored(tmp_path, noise, png):
    pq.write_table(
        pa.table({"image": [{"bytes": png(noise(0)), "path": 7}]}), tmp_path / "x.parquet"
    )
    assert open_listing(tmp_path / "x.parquet").names == ["00000000"]


def test_parquet_columns_and_files_that_share_a_name_are_refused(tmp_path, noise, png):
    images = [png(noise(0)), png(noise(1))]
    columns = [pa.array(images), pa.array([0, 1]), pa.array([1, 0])]
    pq.write_table(
        pa.Table.from_arrays(columns, names=["image", "label", "label"]), tmp_path / "x.parquet"
    )
    with pytest.raises(DataError, match=r"several columns label \(2, 3\)"):
        pack(tmp_path / "x.parquet", tmp_path / "out")
    (tmp_path / "hub" / "train").mkdir(parents=True)
    for name in ("train-0.parquet", "train/0.parquet"):
        pq.write_table(pa.table({"image": images}), tmp_path / "hub" / name)
    with pytest.raises(DataError, match=r"train/0\.parquet and .*/train-0\.parquet both name"):
        pack(tmp_path / "hub", tmp_path / "out")


def test_arrays_without_rows_are_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x803, 0, 28, 28))
    with pytest.raises(DataError, match="ubyte holds no images: it has no rows"):
        open_listing(path)
    lmdb = pytest.importorskip("lmdb", reason="LSUN folders need the extra package lmdb")
    lmdb.open(str(tmp_path / "x_lmdb"), map_size=1 << 20).close()
    with pytest.raises(DataError, match="x_lmdb holds no images: it has no rows"):
        open_listing(tmp_path / "x_lmdb")
