"""What is read stays bounded in memory, time and depth: small inputs against lowered limits."""

import copy
import io
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import pytest
import torch

from sg3flow.checkpoints import (
    load_networks,
    network_entries,
    public_pickle,
    public_values,
    restricted_unpickler,
    save_snapshot,
    snapshots,
)
from sg3flow.checkpoints.public_values import PUBLIC_GLOBALS
from sg3flow.checkpoints.restricted_unpickler import GlobalName, RestrictedUnpickler
from sg3flow.errors import CheckpointError


def raw(*parts):
    """A pickle of opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def load(content):
    return RestrictedUnpickler(io.BytesIO(content), PUBLIC_GLOBALS).load()


def archive(content, method=zipfile.ZIP_STORED):
    """An archive of torch.save with this pickle and one storage."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, inner in (("data.pkl", content), ("byteorder", b"little"), ("data/0", bytes(16))):
            file.writestr(f"a/{name}", inner)
    return stream.getvalue()


def refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_networks(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def nested(depth, wrap=lambda value: [value]):
    value = wrap(0)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


LONG = {
    "lists": nested(60),
    "tuples": nested(60, lambda value: (value,)),
    "dicts": nested(60, lambda value: {"x": value}),
    "values": [{} for _ in range(60)],
}


@pytest.mark.parametrize("name", LONG)
def test_the_opcodes_of_a_pickle_are_counted(name, monkeypatch, tmp_path):
    content = pickle.dumps(LONG[name], protocol=4)
    assert load(content) == LONG[name]
    monkeypatch.setattr(restricted_unpickler, "MAX_OPCODES", 50)
    for file in (content, archive(content)):
        refused(tmp_path / "a.pkl", file, "the pickle has more than 50 opcodes")


def test_the_header_of_a_storage_is_counted(monkeypatch):
    content = pickle.dumps(torch.ones(3), protocol=4)
    assert torch.equal(load(content), torch.ones(3))
    monkeypatch.setattr(public_values, "_MAX_HEADER_OPCODES", 5)
    with pytest.raises(CheckpointError, match="more than 5 opcodes"):
        load(content)


def test_depth_needs_no_recursion(tmp_path):
    content = pickle.dumps({"G": 1}, protocol=4)[:-1] + b"]" * 1500 + b"a" * 1499 + b"0."
    assert load(content) == {"G": 1}
    refused(tmp_path / "a.pkl", content, "G is a int")


CLAIMS = {
    "text": b"X" + struct.pack("<I", 1 << 20),
    "long text": b"\x8d" + struct.pack("<Q", 1 << 20),
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 20),
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 20),
    "number": b"\x8b" + struct.pack("<i", 1 << 20),
    "negative number": b"\x8b" + struct.pack("<i", -5),
    "memo": b"Nr" + struct.pack("<I", 100_000) + b"0Np-1\n",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claimed_length_takes_no_memory(name, tmp_path):
    content = raw(CLAIMS[name] + b"abc")
    for file in (content, archive(content)):
        refused(tmp_path / "a.pkl", file, "damaged or cut off")
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="damaged or cut off"):
            load(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


def test_a_claimed_frame_is_ignored():
    assert load(raw(b"\x95" + struct.pack("<Q", 1 << 20) + b"N")) is None


KEYS = {
    "SETITEM": raw(b"})Ns"),
    "SETITEMS": raw(b"}()NVx\nNu"),
    "DICT": raw(b"()Nd"),
    "OrderedDict": raw(b"ccollections\nOrderedDict\n(]()Nlatt"[:-1], b"R"),
    "a tuple of tuples": pickle.dumps({((1,), (2,)): 3}, protocol=4),
    "bytes": pickle.dumps({b"x": 1}, protocol=4),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_strings_or_integers(name, tmp_path):
    for file in (KEYS[name], archive(KEYS[name])):
        refused(tmp_path / "a.pkl", file, "refused: a dict with a key of type (tuple|list|bytes)")


def test_values_of_no_use_are_not_made(tmp_path):
    for module in ("builtins", "__builtin__"):
        content = raw(f"c{module}\nbytearray\n(K\x05tR".encode())
        for file in (content, archive(content)):
            refused(tmp_path / "a.pkl", file, rf"the file names {module}\.bytearray")
    content = raw(b"c_codecs\nencode\n)\x85Vlatin1\n\x86R")
    refused(tmp_path / "a.pkl", content, "refused: bytes in the encoding 'latin1'")


def stored_numbers():
    """The bytes of a storage of 50 numbers, as a pickle holds them."""
    opcodes = pickletools.genops(pickle.dumps(torch.ones(50), protocol=4))
    return max((argument for _, argument, _ in opcodes if isinstance(argument, bytes)), key=len)


def called(times, function, argument):
    """A pickle that calls a function of the allow-list with the same argument many times."""
    calls = b"h\x00h\x01\x85R" * times
    return raw(b"(c%s\n\x94" % function, argument, b"\x94", calls, b"l")


COPIED = {
    "items": (8, b"builtins\nset", b"(" + b"N" * 60 + b"l"),
    "pairs": (8, b"collections\nOrderedDict", b"(" + b"K\x01K\x02\x86" * 60 + b"l"),
    "numbers": (
        3,
        b"torch.storage\n_load_from_bytes",
        b"B" + struct.pack("<I", len(stored_numbers())) + stored_numbers(),
    ),
}


@pytest.mark.parametrize("name", COPIED)
def test_calls_copy_a_bounded_amount(name, monkeypatch, tmp_path):
    times, *call = COPIED[name]
    assert len(load(called(times, *call))) == 2 + times
    monkeypatch.setattr(restricted_unpickler, "MAX_COPIES", 1)
    assert len(load(called(1, *call))) == 3
    refused(tmp_path / "a.pkl", called(times, *call), "copies the same values too often")


def doubled(times):
    """A short list that is long when walked."""
    return nested(times, lambda value: [value, value])


@pytest.mark.parametrize("depth, limit", [(40, 200_000), (8, 100)])
def test_primitives_are_counted_and_not_nested_deep(
    depth, limit, public, networks, monkeypatch, tmp_path
):
    value = {"x": nested(depth) if depth > 32 else doubled(depth)}
    path, (G, D) = tmp_path / "a.pkl", networks("stylegan3-t")
    rest = {"augment_p": 0.0, "training_set": {}}
    save_snapshot(path, G=G, D=D, G_ema=G, progress={}, **rest)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"progress": value}, path)
    if depth <= 32:
        assert load_networks(path).progress == value
    monkeypatch.setattr(network_entries, "MAX_PRIMITIVES", limit)
    message = "is nested too deep or has too many values"
    refused(path, path.read_bytes(), f"progress {message}")
    with pytest.raises(CheckpointError, match=f"progress {message}"):
        save_snapshot(path, G=G, D=D, G_ema=G, progress=value, **rest)
    stored = public.obj("Discriminator", {"_init_kwargs": value})
    refused(path, public.dumps({"D": stored}), f"_init_kwargs {message}")


def test_layers_are_counted(public, monkeypatch, tmp_path):
    layer = public.obj("SynthesisLayer", {})
    for _ in range(6):
        layer = public.obj("SynthesisLayer", {"_modules": {"a": layer, "b": layer}})
    stored = public.obj("Discriminator", {"_init_kwargs": {}, "_modules": {"b4": layer}})
    content = public.dumps({"D": stored})
    refused(tmp_path / "a.pkl", content, "missing a required argument")
    monkeypatch.setattr(public_pickle, "MAX_NAMES", 30)
    refused(tmp_path / "a.pkl", content, "too many layers")


def test_names_of_layers_are_short(public, tmp_path):
    for kind in ("_parameters", "_buffers", "_modules"):
        stored = public.obj("Discriminator", {"_init_kwargs": {}, kind: {"x" * 100: None}})
        refused(tmp_path / "a.pkl", public.dumps({"D": stored}), "must be strings of less than 100")


def test_sizes_of_tensors_are_bounded(monkeypatch):
    rebuild = PUBLIC_GLOBALS.functions[GlobalName("torch._utils", "_rebuild_tensor_v2")]
    content = pickle.dumps(torch.ones(4), protocol=4)
    assert load(content).shape == (4,)
    monkeypatch.setattr(public_values, "MAX_ELEMENTS", 4)
    with pytest.raises(CheckpointError, match="a tensor's storage has an impossible size"):
        load(content)
    assert rebuild((torch.ones(4), 0, (3,), (1,), False, {})).shape == (3,)
    with pytest.raises(CheckpointError, match="a tensor has an impossible size"):
        rebuild((torch.ones(4), 0, (4,), (0,), False, {}))


def test_taps_of_filters_are_bounded(networks, monkeypatch, tmp_path):
    path, (G, D) = tmp_path / "a.pkl", networks("stylegan3-t")
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0.0, training_set={}, progress={})
    assert load_networks(path).G is not None
    monkeypatch.setattr(network_entries, "MAX_TAPS", 4)
    refused(path, path.read_bytes(), "would need a filter of more than 4 taps")


def test_the_pickle_of_an_archive_is_short(monkeypatch, tmp_path):
    content = pickle.dumps(list(range(9)), protocol=4)
    refused(tmp_path / "a.pkl", archive(content), "found a list")
    monkeypatch.setattr(snapshots, "MAX_PICKLE_BYTES", 10)
    refused(tmp_path / "a.pkl", archive(content), "must hold one data.pkl of at most 10 bytes")


def test_an_archive_is_as_large_as_its_file(tmp_path):
    compressed = archive(pickle.dumps(["x"] * 99), zipfile.ZIP_DEFLATED)
    refused(tmp_path / "a.pkl", compressed, "it has compressed entries")
    stream = io.BytesIO(archive(pickle.dumps(["x"] * 99)))
    with zipfile.ZipFile(stream, "a") as file:
        for number in range(9):  # names for the same bytes
            again = copy.copy(file.getinfo("a/data.pkl"))
            again.filename = f"a/data/{number + 1}"
            file.filelist.append(again)
        file.writestr("a/version", b"3")
    refused(tmp_path / "a.pkl", stream.getvalue(), "claim more bytes than it has")


def test_names_of_layers_are_counted(public, monkeypatch, tmp_path):
    stored = {
        "must be a dict of at most 3 names": {"_buffers": dict.fromkeys("abcd")},
        "must be a list of at most 3 names": {"_non_persistent_buffers_set": set("abcd")},
    }
    monkeypatch.setattr(public_pickle, "MAX_NAMES", 3)
    for message, state in stored.items():
        content = public.obj("Discriminator", {"_init_kwargs": {}} | state)
        refused(tmp_path / "a.pkl", public.dumps({"D": content}), message)
