"""Reading packed sets: ours and foreign ones, damaged ones, and from other processes."""

import io
import json
import multiprocessing
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sg3flow.data import archive
from sg3flow.data.archive import PackedSet
from sg3flow.data.readers.storage import Limits, ZipStorage, open_storage
from sg3flow.errors import DataError


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def entries(count: int = 4, labels: object = None, **extra: object) -> dict[str, bytes]:
    images = {f"00000/img{i:08d}.png": png(noise(i, 16, 16, 3)) for i in range(count)}
    return images | {"dataset.json": json.dumps({"labels": labels, **extra}).encode()}


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def class_labels(count: int) -> list[list[object]]:
    return [[f"00000/img{i:08d}.png", i % 3] for i in range(count)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_images_and_labels(tmp_path, method):
    files = entries(4, class_labels(4), class_names=["cat", "dog", "wild"], licence="CC0")
    packed = PackedSet(write_zip(tmp_path / "set.zip", files, method))
    assert (packed.num_images, packed.resolution, packed.channels) == (4, 16, 3)
    assert (packed.name, packed.label_dim, packed.license) == ("set", 3, "CC0")
    assert packed.class_names == ["cat", "dog", "wild"]
    for i in range(4):
        np.testing.assert_array_equal(packed.image(i), noise(i, 16, 16, 3))
        np.testing.assert_array_equal(packed.label(i), np.eye(3, dtype=np.float32)[i % 3])
    assert packed.label(0).dtype == np.float32


def test_zip_and_folder_are_the_same_set(tmp_path):
    files = entries()
    in_zip = PackedSet(write_zip(tmp_path / "set.zip", files))
    in_folder = PackedSet(write_folder(tmp_path / "set", files))
    (tmp_path / "set" / ".DS_Store").write_bytes(b"litter")
    assert in_zip.digest == in_folder.digest == PackedSet(tmp_path / "set").digest
    np.testing.assert_array_equal(in_zip.image(2), in_folder.image(2))
    other = PackedSet(write_zip(tmp_path / "other.zip", entries(3)))
    assert other.digest != in_zip.digest


def test_gray_images_without_labels(tmp_path):
    files = {"00000/img00000000.png": png(noise(0, 8, 8))}
    packed = PackedSet(write_zip(tmp_path / "gray.zip", files))
    assert (packed.channels, packed.label_dim, packed.class_names) == (1, 0, None)
    assert packed.image(0).shape == (8, 8, 1)
    assert packed.label(0).shape == (0,)


def test_label_vectors(tmp_path):
    labels = [[f"00000\\img{i:08d}.png", [i / 4, 1.0]] for i in range(4)]
    packed = PackedSet(write_zip(tmp_path / "set.zip", entries(4, labels)))
    assert packed.label_dim == 2
    np.testing.assert_array_equal(packed.label(3), np.array([0.75, 1], np.float32))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (class_labels(3), "img00000003.png has no label in .*set"),
        ([[f"00000/img{i:08d}.png", -1] for i in range(4)], "class numbers from 0"),
        ([[f"00000/img{i:08d}.png", [1] * (i + 1)] for i in range(4)], "vectors of one length"),
        ([1, 2], "list of"),
    ],
)
def test_bad_labels_are_named(tmp_path, labels, words):
    with pytest.raises(DataError, match=words):
        PackedSet(write_zip(tmp_path / "set.zip", entries(4, labels)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": class_labels(4), "class_names": {"0": "cat"}}, 'names, not {"0": "cat"}'),
        ({"labels": class_labels(4), "class_names": [1, 2, 3]}, r"names, not \[1, 2, 3\]"),
        ({"labels": class_labels(4), "class_names": ["a", "b"]}, "names 2 classes, .* have 3"),
        ({"class_names": ["a"]}, "names 1 classes, but has no labels"),
        ({"licence": {"name": "MIT"}}, 'licence of .* must be a text, not {"name": "MIT"}'),
        ({"labels": {"a": 1}}, r'list of \[file name, label\], not {"a": 1}'),
        ({"labels": [["a", 1, 2]]}, r'it contains \["a", 1, 2\]'),
        ({"labels": [[0, 1]]}, r"it contains \[0, 1\]"),
        (["a"], r"must hold an object with 'labels', not \[\"a\"\]"),
    ],
)
def test_foreign_labels_files_are_refused_in_one_line(tmp_path, content, words):
    files = entries(4) | {"dataset.json": json.dumps(content).encode()}
    with pytest.raises(DataError, match=words) as caught:
        PackedSet(write_zip(tmp_path / "set.zip", files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "label",
    [10**30, 1_700_000_000, 100_000, True, 1.5, "cat", None, {}, [], [1e300], [float("nan")]],
)
def test_labels_that_are_none_are_named(tmp_path, label):
    labels = class_labels(4)
    labels[2][1] = label
    with pytest.raises(DataError, match=r"from 0 to 99999.*img00000002\.png has"):
        PackedSet(write_zip(tmp_path / "set.zip", entries(4, labels)))
    same = [[name, label] for name, _ in labels]
    with pytest.raises(DataError, match=r"img00000000\.png has"):
        PackedSet(write_zip(tmp_path / "set.zip", entries(4, same)))


def test_a_class_may_have_a_name_and_no_image(tmp_path):
    files = entries(2, class_labels(2), class_names=["cat", "dog", "wild"])
    packed = PackedSet(write_zip(tmp_path / "set.zip", files))
    assert packed.label_dim == 3 and packed.class_names == ["cat", "dog", "wild"]
    assert packed.label(1).tolist() == [0, 1, 0]


@pytest.mark.parametrize("length", [0, 5])
def test_entry_names_that_cannot_be_read_are_refused(tmp_path, length):
    path = write_zip(tmp_path / "set.zip", {"ä.png": b"x", "b.png": b"y"})
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 28] = length  # of the name, in bytes: cut in two, or none
    content[central + 30] += 6 - length  # what is over counts as the extra field
    content[central + 46] = 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a complete zip file"):
        PackedSet(path)


def test_huge_entries_are_refused_unread(tmp_path):
    path = write_zip(tmp_path / "set.zip", entries(2), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    content[central + 24 : central + 28] = ((1 << 30) + 1).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"declares 1,073,742,\d{3} unpacked.* a zip bomb"):
        PackedSet(path)
    storage = ZipStorage(path, Limits(free_bytes=2 << 30))
    with pytest.raises(DataError, match=r"img00000001\.png .*1,073,741,825 bytes; at most"):
        storage.read("00000/img00000001.png")
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate((1 << 30) + 1)
    with pytest.raises(DataError, match=r"huge\.png has 1,073,741,825 bytes"):
        open_storage(tmp_path).read("huge.png")


@settings(max_examples=200)
@given(st.data())
def test_no_damage_to_a_zip_escapes_as_another_error(tmp_path_factory, data):
    files = {"ä.png": png(noise(0, 8, 8)), "dataset.json": b'{"labels": [["\xc3\xa4.png", 0]]}'}
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    path = write_zip(tmp_path_factory.mktemp("fuzz") / "set.zip", files, method)
    content = bytearray(path.read_bytes())
    start = data.draw(st.sampled_from([0, content.index(b"PK\x01\x02")]))  # names and offsets
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        packed = PackedSet(path)
        packed.image(0), packed.label(0), packed.digest
    except DataError as error:
        assert "\n" not in str(error)


def test_crc_error_names_the_entry(tmp_path):
    path = write_zip(tmp_path / "set.zip", entries())
    content = bytearray(path.read_bytes())
    content[content.index(png(noise(2, 16, 16, 3))) + 200] ^= 1
    path.write_bytes(content)
    packed = PackedSet(path)
    packed.image(1)
    with pytest.raises(DataError, match=r"00000/img00000002\.png .*CRC"):
        packed.image(2)


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_a_cut_zip_is_refused(tmp_path, kept):
    path = write_zip(tmp_path / "set.zip", entries())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="not a complete zip"):
        PackedSet(path)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (png(noise(0, 32, 32, 3)), "32x32x3"),
        (png(noise(0, 16, 16)), "16x16x1"),
        (png(noise(0, 16, 16, 4)), "mode RGBA"),
        (b"no picture", "cannot be decoded"),
    ],
)
def test_an_image_unlike_the_first_is_named(tmp_path, odd, words):
    packed = PackedSet(write_zip(tmp_path / "set.zip", entries() | {"00000/img00000003.png": odd}))
    with pytest.raises(DataError, match=rf"img00000003\.png.*{words}"):
        packed.image(3)


@pytest.mark.parametrize("shape", [(16, 8, 3), (12, 12, 3)])
def test_side_must_be_a_power_of_two(tmp_path, shape):
    files = {"00000/img00000000.png": png(noise(0, *shape))}
    with pytest.raises(DataError, match="power of two"):
        PackedSet(write_zip(tmp_path / "set.zip", files))


def test_missing_and_empty_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        PackedSet(tmp_path / "none.zip")
    with pytest.raises(DataError, match="contains no images"):
        PackedSet(write_folder(tmp_path / "empty", {"readme.txt": b""}))


def test_a_file_changed_while_in_use_is_refused(tmp_path):
    path = write_zip(tmp_path / "set.zip", entries())
    copy = pickle.loads(pickle.dumps(PackedSet(path)))
    write_zip(path, entries(5))
    with pytest.raises(DataError, match="changed while in use"):
        copy.image(0)


def _sums(packed: PackedSet, queue: "multiprocessing.Queue[list[int]]") -> None:
    queue.put([int(packed.image(i).sum()) for _ in range(20) for i in range(packed.num_images)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reads_from_other_processes_at_once(tmp_path, method):
    packed = PackedSet(write_zip(tmp_path / "set.zip", entries()))
    expected = [int(noise(i, 16, 16, 3).sum()) for _ in range(20) for i in range(4)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_sums, args=(packed, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("fast", [True, False])
def test_decoding_is_the_same_with_and_without_libspng(tmp_path, monkeypatch, fast):
    if fast:
        pytest.importorskip("pyspng", reason="libspng is an extra: pip install 'sg3flow[fast]'")
    else:
        monkeypatch.setattr(archive, "_fast_decoder", lambda: None)
    clear = io.BytesIO()
    Image.fromarray(noise(3, 16, 16, 3)).save(clear, "PNG", transparency=(1, 2, 3))
    stripes = np.repeat(noise(4, 16, 1, 3), 16, axis=1)
    files = {"0.png": png(noise(0, 16, 16, 3)), "1.png": clear.getvalue(), "2.png": png(stripes)}
    packed = PackedSet(write_zip(tmp_path / "set.zip", files))
    np.testing.assert_array_equal(packed.image(0), noise(0, 16, 16, 3))
    np.testing.assert_array_equal(packed.image(1), noise(3, 16, 16, 3))
    np.testing.assert_array_equal(packed.image(2), stripes)
    gray = PackedSet(write_zip(tmp_path / "gray.zip", {"0.png": png(noise(5, 8, 8))}))
    np.testing.assert_array_equal(gray.image(0), noise(5, 8, 8)[..., None])
    for damaged in (files["0.png"][:200], files["0.png"][:60] + bytes(40) + files["0.png"][100:]):
        bad = PackedSet(write_zip(tmp_path / "bad.zip", files | {"1.png": damaged}))
        with pytest.raises(DataError, match=r"1\.png .*cannot be decoded"):
            bad.image(1)


def test_a_set_that_fits_is_decoded_once_for_all_processes(tmp_path, monkeypatch):
    packed = PackedSet(write_zip(tmp_path / "set.zip", entries()))
    assert not packed.keep_in_memory(share=0)
    assert packed.keep_in_memory() and packed.keep_in_memory()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
        worker = context.Process(target=_sums, args=(packed, queue))
        worker.start()
    expected = [int(noise(i, 16, 16, 3).sum()) for _ in range(20) for i in range(4)]
    assert queue.get(timeout=60) == expected
    worker.join()
    monkeypatch.setattr(archive, "decode_entry", lambda *_: pytest.fail("decoded again"))
    image = [packed.image(i) for i in range(4)][2]
    np.testing.assert_array_equal(image, noise(2, 16, 16, 3))
    image[:] = 0  # a copy: the cache keeps its own
    np.testing.assert_array_equal(packed.image(2), noise(2, 16, 16, 3))
    monkeypatch.undo()
    copy = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(copy.image(2), noise(2, 16, 16, 3))


def test_a_damaged_entry_is_not_kept(tmp_path):
    path = write_zip(tmp_path / "set.zip", entries())
    content = bytearray(path.read_bytes())
    content[content.index(png(noise(2, 16, 16, 3))) + 200] ^= 1
    path.write_bytes(content)
    packed = PackedSet(path)
    assert packed.keep_in_memory()
    for _ in range(2):
        with pytest.raises(DataError, match=r"img00000002\.png .*CRC"):
            packed.image(2)
