"""Files of own w: their forms, and what a wrong one says."""

import io
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from sg3flow.errors import ConfigError, DataError, Sg3flowError
from sg3flow.rendering.w_files import MOST_WS, is_w_file, read_w, write_w

G = SimpleNamespace(num_ws=3, w_dim=4)
ONE = np.random.RandomState(0).randn(3, 4).astype(np.float32)
SEVERAL = np.random.RandomState(1).randn(5, 3, 4).astype(np.float32)


@pytest.fixture(params=[".npz", ".npy"])
def saved(request, tmp_path):
    """Writes an array as NumPy does."""

    def save(array):
        path = tmp_path / f"w{request.param}"
        if request.param == ".npz":
            np.savez(path, w=array)
        else:
            np.save(path, array)
        return path

    return save


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ONE, ONE[None]),
        (ONE[None], ONE[None]),
        (SEVERAL, SEVERAL),
        (ONE[1], np.stack([ONE[1]] * 3)[None]),
        (ONE[None, 1:2], np.stack([ONE[1]] * 3)[None]),
        (SEVERAL.astype(np.float64), SEVERAL),
        (np.arange(12, dtype=np.int64).reshape(3, 4), np.arange(12.0).reshape(1, 3, 4)),
        (np.asfortranarray(ONE), ONE[None]),
        (SEVERAL.astype(">f4"), SEVERAL),
    ],
)
def test_every_form_of_w_is_read(saved, given, expected):
    w = read_w(saved(given), G)
    assert w.dtype == np.float32 and w.flags.c_contiguous and w.flags.writeable
    np.testing.assert_array_equal(w, expected)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.NPZ"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, name):
    path = tmp_path / "new folder" / name
    write_w(path, SEVERAL)
    np.testing.assert_array_equal(read_w(path, G), SEVERAL)
    first = path.read_bytes()
    write_w(path, SEVERAL)
    assert path.read_bytes() == first and is_w_file(path)
    write_w(path, ONE)
    np.testing.assert_array_equal(read_w(path, G), ONE[None])


def test_the_public_tools_read_what_is_written(tmp_path):
    write_w(tmp_path / "projected_w.npz", ONE)
    with np.load(tmp_path / "projected_w.npz") as content:
        assert content.files == ["w"] and content["w"].shape == (1, 3, 4)
        assert content["w"].dtype == np.float32


def test_only_files_of_w_count_as_ours(tmp_path):
    np.savez(tmp_path / "more.npz", w=ONE, other=ONE)
    (tmp_path / "photo.npz").write_bytes(b"holiday")
    (tmp_path / "photo.npy").write_bytes(b"holiday")
    assert not any(map(is_w_file, tmp_path.iterdir()))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4)),
        np.zeros(3),
        np.zeros((2, 1, 4)),
        np.zeros((0, 3, 4)),
        np.zeros(()),
        np.zeros((1, 1, 3, 4)),
        np.zeros((1, 3, 5)),
        np.full((3, 4), np.nan),
        np.full((3, 4), 1e39),
        np.zeros((3, 4), complex),
        np.full((3, 4), "a"),
        np.zeros((3, 4), bool),
    ],
)
def test_a_wrong_w_names_file_and_rule(saved, wrong):
    path = saved(wrong)
    with pytest.raises((ConfigError, DataError)) as caught:
        read_w(path, G)
    said = str(caught.value)
    is_object = wrong.dtype.kind in "cb"  # refused by the reader of .npz
    assert (
        said.startswith(f"{path}: ")
        and (" w " in said or is_object)
        and "\n" not in said
        and len(said) < 400
    )


def _archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    return stream.getvalue()


HOSTILE = {
    "no.npz": None,
    "empty.npz": b"",
    "empty.npy": b"",
    "text.npy": b"w = 1, 2, 3",
    "text.npz": b"w = 1, 2, 3",
    "short.npy": _header((1, 3, 4)) + bytes(40),
    "future.npy": b"\x93NUMPY\x09\x00" + bytes(100),
    "header.npy": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 0xFFFF,
    "huge.npy": _header((10**15, 3, 4)),
    "many.npy": _header((MOST_WS + 1, 3, 4)),
    "negative.npy": _header((-1, 3, 4)),
    "object.npy": _pickled(),
    "photo.png": b"holiday",
    "bytes\udcff.npy": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    if HOSTILE[name] is not None:
        path.write_bytes(HOSTILE[name])
    with pytest.raises(Sg3flowError) as caught:
        read_w(path, G)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert name.partition("\udcff")[0] in str(caught.value)


def test_a_folder_and_a_file_without_the_key(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        (tmp_path / "folder.npy").mkdir()
        read_w(tmp_path / "folder.npy", G)
    np.savez(tmp_path / "other.npz", ws=ONE, z=ONE)
    with pytest.raises(DataError, match="it has no array 'w', only ws, z"):
        read_w(tmp_path / "other.npz", G)
    _archive(tmp_path / "none.npz")
    with pytest.raises(DataError, match="only nothing"):
        read_w(tmp_path / "none.npz", G)
    with pytest.raises(DataError, match="cut off or damaged"):
        read_w(_archive(tmp_path / "short.npz", w=_header((3, 4)) + bytes(4)), G)
    content = bytearray(
        _archive(tmp_path / "bits.npz", w=_header((3, 4)) + ONE.tobytes()).read_bytes()
    )
    content[-120] ^= 0xFF
    (tmp_path / "bits.npz").write_bytes(content)
    with pytest.raises(DataError):
        read_w(tmp_path / "bits.npz", G)


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((0, 3, 4)), np.zeros((1, 1, 3, 4))])
def test_a_wrong_w_is_not_written(tmp_path, wrong):
    with pytest.raises(ConfigError, match="shape"):
        write_w(tmp_path / "a.npz", wrong)
    with pytest.raises(ConfigError, match=r"must end in \.npz or \.npy"):
        write_w(tmp_path / "a.pt", ONE)
    assert list(tmp_path.iterdir()) == []
