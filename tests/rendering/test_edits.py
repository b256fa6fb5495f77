"""Edits of w: the file of directions, hostile ones, and what strengths do to w and the image."""

import io
import math
import warnings
import zipfile

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError, DataError
from sg3flow.rendering import npz_file
from sg3flow.rendering.edits import (
    Directions,
    edited,
    edited_w,
    is_directions_file,
    parse_edits,
    read_directions,
    resolve_edits,
    write_directions,
)
from sg3flow.rendering.images import render_image, seed_ws
from sg3flow.rendering.seeds import RenderOptions


def some_directions(num_ws=3, w_dim=4, count=2, layers=(0, 2)):
    vectors = np.zeros((count, num_ws, w_dim), np.float32)
    for k in range(count):
        vectors[k, list(layers), k % w_dim] = 1
    return Directions(
        vectors,
        tuple(f"pca{k}" for k in range(count)),
        np.arange(count, 0, -1.0),
        np.sqrt(np.arange(count, 0, -1.0)),
        "pca",
        tuple(layers),
        "ab" * 32,
    )


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "directions.npz"
    write_directions(file, some_directions())
    return file


def rewritten(path, **changes):
    """The file with other arrays; None leaves one out."""
    with np.load(path) as arrays:
        content = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})


def test_a_file_keeps_everything_and_equal_directions_give_equal_bytes(path, tmp_path):
    given, found = some_directions(), read_directions(path)
    np.testing.assert_array_equal(found.vectors, given.vectors)
    np.testing.assert_array_equal(found.values, given.values)
    np.testing.assert_array_equal(found.scales, given.scales)
    assert (found.names, found.method, found.layers, found.network) == (
        given.names, given.method, given.layers, given.network,
    )  # fmt: skip
    write_directions(tmp_path / "second.npz", found)
    assert (tmp_path / "second.npz").read_bytes() == path.read_bytes()
    assert is_directions_file(path)


def test_an_offset_is_the_sum_of_strength_times_direction():
    directions = some_directions()
    offset = resolve_edits(directions, {"pca1": -0.5, "pca0": 2})
    assert offset.dtype == np.float32
    np.testing.assert_array_equal(offset[0], [2, -0.5, 0, 0])
    np.testing.assert_array_equal(offset[1], 0)
    np.testing.assert_array_equal(offset[2], offset[0])
    again = resolve_edits(directions, {"pca0": np.float32(2), "pca1": -0.5})
    np.testing.assert_array_equal(again, offset)
    np.testing.assert_array_equal(resolve_edits(directions, {}), np.zeros((3, 4)))


def test_an_edit_is_added_after_truncation(generator):
    directions = some_directions(generator.num_ws, generator.w_dim, layers=(1, 2))
    plain = seed_ws(generator, 3, RenderOptions(psi=0.5), None)
    edit = resolve_edits(directions, {"pca1": 0.75})
    moved = seed_ws(generator, 3, RenderOptions(psi=0.5, edit=edit), None)
    assert moved.dtype == plain.dtype
    expected = plain.clone()
    expected[0, 1:3, 1] += 0.75
    assert torch.equal(moved, expected)
    images = [render_image(generator, 3, RenderOptions(0.5, edit=e)) for e in (None, edit)]
    assert (images[0] != images[1]).any()


def test_no_edit_and_strength_0_leave_every_bit(generator):
    zeros = resolve_edits(some_directions(generator.num_ws, generator.w_dim), {"pca0": 0.0})
    ws = torch.full((1, generator.num_ws, generator.w_dim), -0.0)
    for edit in (None, zeros):
        assert torch.signbit(edited(ws, edit)).all()  # -0 + 0 is +0
        np.testing.assert_array_equal(
            render_image(generator, 4, RenderOptions(edit=edit)),
            render_image(generator, 4, RenderOptions()),
        )


def test_arrays_move_as_tensors_do():
    edit = resolve_edits(some_directions(), {"pca0": 0.1, "pca1": -3})
    ws = np.random.RandomState(0).randn(2, 3, 4).astype(np.float32)
    moved = edited_w(ws, edit)
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved, edited(torch.from_numpy(ws), edit).numpy())
    assert edited_w(ws, None) is ws and edited_w(ws, 0 * edit) is ws
    with pytest.raises(ConfigError, match=r"w of \[3, 4\], this one has \[2, 4\]"):
        edited_w(ws[:, :2], edit)


def test_an_edit_of_another_network_is_refused(generator):
    edit = resolve_edits(some_directions(), {"pca0": 1})
    with pytest.raises(ConfigError, match=r"w of \[3, 4\], this one has \[\d+, 16\]; use"):
        render_image(generator, 0, RenderOptions(edit=edit))
    with pytest.raises(ConfigError, match="edit must be finite"):
        RenderOptions(edit=np.full((3, 4), math.nan, np.float32))


@pytest.mark.parametrize(
    ("strengths", "words"),
    [
        ({"pca2": 1}, r"no direction 'pca2' \(did you mean 'pca\d'\?\); known: pca0, pca1"),
        ({7: 1}, "no direction 7; known"),
        ({"pca0": "much"}, "the strength of pca0 must be a number from -1000 to 1000, not 'much'"),
        ({"pca0": True}, "not true"),
        ({"pca0": math.nan}, "not nan"),
        ({"pca0": math.inf}, "not inf"),
        ({"pca0": 10**400}, "not an integer of 401 digits"),
        ({"pca0": -1000.5}, "not -1000.5"),
    ],
)
def test_wrong_edits_get_a_sentence(strengths, words):
    with pytest.raises(ConfigError, match=words):
        resolve_edits(some_directions(), strengths)


def test_edits_of_a_command_line():
    assert parse_edits(["pca0=1.5", "b=-2e-1"]) == {"pca0": 1.5, "b": -0.2}
    for bad in ("pca0", "pca0=", "=1", "pca0=x", "pca0=1=2"):
        with pytest.raises(ConfigError, match=r"must be NAME=STRENGTH such as pca0=1\.5"):
            parse_edits([bad])
    with pytest.raises(ConfigError, match="pca0 is given twice"):
        parse_edits(["pca0=1", "pca0=1"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": None}, "no array 'scales', only directions, names"),
        ({"directions": np.zeros((2, 3))}, "'directions' must be an array of numbers with 3"),
        ({"directions": np.zeros((0, 3, 4))}, r"shape \[0, 3, 4\]"),
        ({"directions": np.full((2, 3, 4), np.nan)}, "not finite in float32"),
        ({"directions": np.full((2, 3, 4), 1e300)}, "not finite in float32"),
        ({"directions": np.full((2, 3, 4), "x")}, "'directions' must be an array of numbers"),
        ({"names": np.array(["a", "a"])}, "2 different names"),
        ({"names": np.array([1, 2])}, "2 different names"),
        ({"names": np.array(["a", "b\nerror: x"])}, r"letters, digits .* not 'b\\nerror: x'"),
        ({"scales": np.array([1.0, -1.0])}, "scales at least 0"),
        ({"values": np.ones(3)}, "must be 2 numbers"),
        ({"layers": np.array([0, 3])}, "'layers' must be from 0 to 2"),
        ({"method": np.array(["a", "b"])}, "'method' must be one short text"),
        ({"network": np.array("x" * 201)}, "'network' must be one short text"),
        ({"names": np.array([{}, None], object)}, "'names' must be numbers or text, not object"),
        ({"values": np.array([1j, 0])}, "'values' must be numbers or text, not complex128"),
    ],
)
def test_a_file_of_another_form_gets_a_sentence(path, changes, words):
    rewritten(path, **changes)
    with pytest.raises(DataError, match=words) as error:
        read_directions(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value).splitlines()) == 1
    assert not is_directions_file(path)


def replaced_member(path, name, content):
    """The file with another content of a member, and a correct checksum."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, old in members.items():
            archive.writestr(each, content if each == name else old)


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 4)}\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 4)}\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4)}\n") + b"short",
        header("{'descr': __import__('os').system('false')}\n"),
        header("(" * 9000 + "\n"),
        b"\x93NUMPY\x09\x00" + bytes(40),
    ],
)
def test_a_hostile_member_takes_no_memory_and_runs_nothing(path, content):
    replaced_member(path, "directions.npy", content)
    with pytest.raises(DataError, match=r"directions\.npz"):
        read_directions(path)


def test_a_bomb_is_refused_before_it_is_unpacked(path, monkeypatch):
    monkeypatch.setattr(npz_file, "_MOST_BYTES", 1 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros((2, 3, 1 << 16), np.float32))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the second of this name, which counts
        archive.writestr("directions.npy", stream.getvalue())
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_directions(path)


def test_a_file_that_is_none_gets_a_sentence(path, tmp_path):
    whole = path.read_bytes()
    for content in (b"", b"PK", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a directions file"):
            read_directions(path)
    for cut_out in (200, 1000):  # a member's bytes
        path.write_bytes(whole[:cut_out] + bytes(64) + whole[cut_out + 64 :])
        with pytest.raises(DataError, match=r"directions\.npz"):
            read_directions(path)
    with pytest.raises(DataError, match=r"no file .*none\.npz"):
        read_directions(tmp_path / "none.npz")
    with pytest.raises(DataError, match="cannot read"):
        read_directions(tmp_path)
