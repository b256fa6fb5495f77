"""Hostile files are refused by name, and nothing in them is executed."""

import builtins
import bz2
import gzip
import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.errors import CheckpointError


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def canary(tmp_path):
    """A file that must never come to be, and the shell command that makes it."""
    path = tmp_path / "executed"
    yield f"touch {path}"
    assert not path.exists(), "code from the file was executed"


def refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_networks(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


CALLS = {
    "os.system": (lambda c: Call(os.system, c), r"posix.system"),
    "eval": (
        lambda c: Call(eval, f"__import__('os').system({c!r})"),
        r"(builtins|__builtin__).eval",
    ),
    "exec": (lambda c: Call(exec, f"import os; os.system({c!r})"), r"(builtins|__builtin__).exec"),
    "getattr": (lambda c: Call(getattr, dict, "get"), r"(builtins|__builtin__).getattr"),
    "import": (lambda c: Call(builtins.__import__, "antigravity"), r"__import__"),
    "open": (lambda c: Call(open, c.split()[1], "w"), r"(io|_io)\.open"),
    "popen": (lambda c: Call(subprocess.Popen, ["sh", "-c", c]), r"(subprocess|commands).Popen"),
    "torch.load": (lambda c: Call(torch.load, "x"), r"torch.serialization.load"),
    "pickle.loads": (lambda c: Call(pickle.loads, b"."), r"pickle.loads"),
    "object array": (
        lambda c: np.array([Call(os.system, c)], dtype=object),
        r"posix.system|numpy values of type 'O8'|_reconstruct",
    ),
    "a class": (lambda c: pathlike(), r"pathlib.*Path"),
}


def pathlike():
    from pathlib import PurePosixPath

    return PurePosixPath("x")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_wherever_they_stand(name, protocol, canary, tmp_path):
    make, message = CALLS[name]
    attack = make(canary)
    for content in (attack, {"G": attack}, {"G_ema": None, "x": [({"y": attack},)]}):
        data = pickle.dumps(content, protocol=protocol)
        old = r"|neither a pickle|opcode|copyreg|copy_reg"  # protocols 0 and 1 have no marker
        refused(tmp_path / "a.pkl", data, message + (old if protocol < 2 else ""))
        if protocol < 2:  # and with the marker of protocol 2 in front
            refused(tmp_path / "a.pkl", b"\x80\x02" + data, message + r"|_reconstructor")


@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_inside_the_public_form_are_refused(protocol, public, canary, tmp_path):
    attack = Call(os.system, canary)
    places = [
        public.obj("Generator", {"_parameters": {"w": attack}}),
        public.obj("Generator", {"_init_kwargs": {"w": attack}}),
        public.obj("Generator", {"anything": attack}),
        public.obj(attack, {}),
        public.stored(attack),
    ]
    for place in places:
        refused(tmp_path / "a.pkl", public.dumps({"G": place}, protocol), "refused.*posix.system")


def raw(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


# Pickles by hand: %s is the shell command.
OPCODES = {
    "GLOBAL REDUCE": (raw(b"cos\nsystem\n(V%s\ntR"), "os.system"),
    "STACK_GLOBAL": (raw(text("os"), text("system"), b"\x93(V%s\ntR"), "os.system"),
    "STACK_GLOBAL dotted": (raw(text("os"), text("path.join"), b"\x93)R"), "os.path.join"),
    "dotted from an allowed module": (
        raw(text("torch"), text("serialization.os.system"), b"\x93(V%s\ntR"),
        "torch.serialization.os.system",
    ),
    "a longer allowed name": (
        raw(text("collections"), text("OrderedDict.fromkeys"), b"\x93)R"),
        "OrderedDict.fromkeys",
    ),
    "INST": (raw(b"(V%s\nios\nsystem\n"), "opcode INST.*os system"),
    "OBJ": (raw(b"(cos\nsystem\nV%s\no"), "os.system"),
    "OBJ of an allowed name": (raw(b"(ctorch\nSize\n(lo"), "opcode OBJ"),
    "NEWOBJ": (raw(b"cos\nsystem\n(V%s\nt\x81"), "os.system"),
    "NEWOBJ_EX": (raw(b"ccollections\nOrderedDict\n)}\x92"), "opcode NEWOBJ_EX"),
    "EXT1": (raw(b"\x82\x01"), "opcode EXT1"),
    "EXT2": (raw(b"\x83\x01\x00"), "opcode EXT2"),
    "EXT4": (raw(b"\x84\x01\x00\x00\x00"), "opcode EXT4"),
    "PERSID": (raw(b"Pos.system\n"), "opcode PERSID"),
    "BINPERSID": (raw(b"V%s\nQ"), "refers to objects outside"),
    "NEXT_BUFFER": (raw(b"\x97"), "opcode NEXT_BUFFER"),
    "BUILD of a function": (
        raw(b"ctorch._utils\n_rebuild_tensor_v2\n}V__code__\nV%s\nsb"),
        "sets the state of torch._utils._rebuild_tensor_v2",
    ),
    "BUILD of a list": (raw(b"]}b"), "sets the state of a list"),
    "REDUCE of a text": (raw(b"V%s\n)R"), "calls a str"),
    "REDUCE of a constant": (raw(b"ctorch\nfloat32\n)R"), "calls torch.float32"),
    "a name that is not a string": (raw(b"K\x01K\x02\x93"), "whose name is not a string"),
    "stack underflow": (raw(b"R"), "damaged"),
    "mark": (raw(b"("), "damaged"),
    "unknown memo": (raw(b"h\x05"), "damaged"),
    "no end": (b"\x80\x04N", "cut off"),
    "unknown opcode": (b"\x80\x04\xff.", "damaged"),
    "set item of a list": (raw(b"]K\x01K\x02s"), "damaged"),
    "long digits": (raw(b"I" + b"9" * 10000 + b"\n"), "damaged"),
    "text for a storage": (raw(b"ctorch.storage\n_load_from_bytes\n(V%s\ntR"), "not bytes"),
    "dict of texts": (raw(b"ccollections\nOrderedDict\n(](V%s\nettR"), "damaged|pairs"),
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_are_refused(name, canary, tmp_path):
    content, message = OPCODES[name]
    refused(tmp_path / "a.pkl", content.replace(b"%s", canary.encode()), message)


def saved(content, extra=()):
    """An archive of torch.save with ``content`` as its pickle."""
    stream = io.BytesIO()
    entries = [("a/data.pkl", content), ("a/version", b"3\n"), ("a/byteorder", b"little"), *extra]
    with zipfile.ZipFile(stream, "w") as archive:
        for name, inner in entries:
            archive.writestr(name, inner)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_calls_in_a_snapshot_are_refused(name, protocol, canary, tmp_path):
    make, message = CALLS[name]
    attack = make(canary)
    for content in (attack, {"format": "sg3flow-snapshot-1", "G": {"state_dict": {"w": attack}}}):
        data = pickle.dumps(content, protocol=protocol)
        refused(tmp_path / "a.pkl", saved(data), message + "|_reconstructor")


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_in_a_snapshot_are_refused(name, canary, tmp_path):
    content, message = OPCODES[name]
    here = message + "|which is not allowed|not a storage of torch|not a snapshot of sg3flow"
    refused(tmp_path / "a.pkl", saved(content.replace(b"%s", canary.encode())), here)


def storage_id(kind=b"ctorch\nFloatStorage\n", key=b"V0\n", count=b"K\x04", tag=b"Vstorage\n"):
    """A persistent id as torch.save writes it, with any part replaced."""
    return raw(b"(" + tag + kind + key + b"Vcpu\n" + count + b"tQ")


STORAGES = {
    "another kind of object": (storage_id(tag=b"Vmodule\n"), "not a storage of torch"),
    "a text as its type": (storage_id(kind=b"VFloatStorage\n"), "not a storage of torch"),
    "a number as its key": (storage_id(key=b"K\x00"), "not a storage of torch"),
    "a call as its type": (storage_id(kind=b"cos\nsystem\n"), "the file names os.system"),
    "longer than it is": (storage_id(count=b"K\x05"), "does not have its declared length"),
    "shorter than it is": (storage_id(count=b"K\x03"), "does not have its declared length"),
    "a negative length": (
        storage_id(count=b"J\xff\xff\xff\xff"),
        "does not have its declared length",
    ),
    "another type": (
        storage_id(kind=b"ctorch\nDoubleStorage\n"),
        "does not have its declared length",
    ),
    "no such entry": (storage_id(key=b"V7\n"), "damaged"),
    "a key that leaves its folder": (storage_id(key=b"V../../0\n"), "damaged"),
    "two types": (
        raw(b"(" + storage_id()[2:-1] + storage_id(kind=b"ctorch\nIntStorage\n")[2:-1] + b"t"),
        "two types of numbers",
    ),
}


@pytest.mark.parametrize("name", STORAGES)
def test_storages_of_a_snapshot_are_what_they_say(name, tmp_path):
    content, message = STORAGES[name]
    refused(tmp_path / "a.pkl", saved(content, [("a/data/0", b"\0" * 16)]), message)


def test_archives_that_hold_code_are_refused(tmp_path):
    empty, code = raw(b"}"), "def f():\n  return 1\n"
    model = raw(b"c__torch__\nModel\n)\x81")
    script = [("a/constants.pkl", empty), ("a/code/__torch__.py", code)]
    for extra in (script, script[:1], script[1:]):
        for content in (model, empty):
            refused(
                tmp_path / "a.pkl", saved(content, extra), "archive of TorchScript, which contains"
            )
    package = [("a/.data/extern_modules", "os"), ("a/model/model.pkl", empty)]
    refused(tmp_path / "a.pkl", saved(model, package), r"names __torch__\.Model")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:  # as Python itself would run it
        archive.writestr("__main__.py", code)
    refused(tmp_path / "a.pkl", wheel.getvalue(), "must hold one data.pkl")


def test_other_containers_of_pickles_are_refused(tmp_path):
    content = pickle.dumps({"G": 1}, protocol=2)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:  # the first format of torch
        for name in ("pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    array = io.BytesIO()
    np.save(array, np.array([None], dtype=object), allow_pickle=True)
    for other in (tar.getvalue(), array.getvalue(), gzip.compress(content), bz2.compress(content)):
        refused(tmp_path / "a.pkl", other, "neither a pickle nor a snapshot")
    inner = saved(content)
    refused(tmp_path / "a.pkl", inner[4:], "neither a pickle nor a snapshot")
    refused(
        tmp_path / "a.pkl", saved(raw(b"}"), [("a/data/0", inner)]), "not a snapshot of sg3flow"
    )
    loaded = b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR"
    refused(tmp_path / "a.pkl", saved(raw(loaded)), "names torch.storage._load_from_bytes")
    for place in ({"magic": Counter("x")}, {"keys": [Counter("x")]}):
        refused(tmp_path / "a.pkl", legacy(**place), "collections.Counter|bytes follow the end")


def nested(archive):
    """A public file whose only tensor has ``archive`` in place of its storage."""
    size = struct.pack("<Q", len(archive))
    loaded = b"ctorch.storage\n_load_from_bytes\n(\x8e" + size + archive + b"tR"
    return raw(b"}V%s\n" % b"G" + loaded + b"s")


def legacy(magic=0x1950A86A20F9469CFC6C, storage=None, keys=("0",), numbers=b"\0" * 16, count=4):
    """A storage as torch saves it inside a pickle, with any part replaced."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            wanted = ("storage", torch.FloatStorage, "0", "cpu", count, None)
            return wanted if obj == "the storage" else None

    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    stream = io.BytesIO()
    for part in (magic, 1001, machine, storage or "the storage", list(keys)):
        Pickler(stream, protocol=2).dump(part)
    return stream.getvalue() + struct.pack("<q", count) + numbers


def test_nested_archives_hold_one_storage_and_nothing_else(tmp_path):
    other = Counter("x")  # a harmless class that is not in the allow-list
    modern, old = io.BytesIO(), io.BytesIO()
    torch.save({"x": other}, modern)
    torch.save({"x": other}, old, _use_new_zipfile_serialization=False)
    cases = [
        (pickle.dumps(other, protocol=2), "collections.Counter"),
        (legacy(magic=other), "collections.Counter"),
        (legacy(storage=other), "collections.Counter"),
        (legacy(keys=[other]), "collections.Counter"),
        (legacy(storage=[1]), "not one storage"),
        (legacy(keys=["1"]), "not one storage"),
        (legacy(magic=3), "not one storage"),
        (legacy(numbers=b""), "cut off"),
        (legacy(numbers=b"\0" * 17), "longer than declared"),
        (legacy(count=5), "cut off"),
        (legacy(count=-1), "impossible size"),
        (modern.getvalue(), "damaged|cut off|opcode"),
        (old.getvalue(), "collections.Counter|not one storage"),
        (b"", "damaged"),
    ]
    for archive, message in cases:
        refused(tmp_path / "a.pkl", nested(archive), message)
    (tmp_path / "a.pkl").write_bytes(nested(legacy()))
    with pytest.raises(CheckpointError, match="G is a Tensor"):
        load_networks(tmp_path / "a.pkl")


def tensor(offset, size, stride):
    """A public file with a tensor over a storage of 4 numbers."""
    archive = legacy()
    start = b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n("
    body = b"B" + struct.pack("<I", len(archive)) + archive + b"tR"
    unpacked = b"".join(pickle.dumps(x, protocol=2)[2:-1] for x in (offset, size, stride))
    return raw(b"}VG\n" + start + body + unpacked + b"\x89}tRs")


VIEWS = [
    (0, (5,), (1,)),
    (4, (1,), (1,)),
    (0, (3, 3), (0, 0)),
    (0, (2, 2), (4, 1)),
    (-1, (2,), (1,)),
    (0, (2,), (-1,)),
    (0, (1,) * 9, (1,) * 9),
    (0, (2,), (1, 1)),
]


@pytest.mark.parametrize("offset, size, stride", VIEWS)
def test_tensors_stay_within_their_storage(offset, size, stride, tmp_path):
    message = "beyond its storage|impossible|damaged"
    refused(tmp_path / "a.pkl", tensor(offset, size, stride), message)


def test_torch_archives_with_calls_are_refused(canary, tmp_path):
    attack = Call(os.system, canary)
    for modern in (True, False):
        stream = io.BytesIO()
        torch.save({"G": attack}, stream, _use_new_zipfile_serialization=modern)
        message = "posix.system" if modern else "bytes follow the end|has no G"
        for name in ("a.pkl", "a.pt", "a.safetensors", "a.png", "a.json"):
            refused(tmp_path / name, stream.getvalue(), message)


def test_bytes_around_an_archive_are_refused(networks, canary, tmp_path):
    G, D = networks("stylegan3-t")
    rest = {"augment_p": 0.0, "training_set": {}, "progress": {}}
    save_snapshot(tmp_path / "good.pkl", G=G, D=D, G_ema=G, **rest)
    good, more = (tmp_path / "good.pkl").read_bytes(), b"\0" * 16
    refused(tmp_path / "a.pkl", pickle.dumps(3) + good, "bytes follow the end")
    refused(tmp_path / "a.pkl", b"PK\x03\x04" + more, "cut off or not a snapshot")
    refused(tmp_path / "a.pkl", good + more, "bytes follow the end of its archive")
    commented = io.BytesIO(good)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = more
    refused(tmp_path / "a.pkl", commented.getvalue(), "bytes follow the end of its archive")
    refused(
        tmp_path / "a.pkl", good[:-22] + more + good[-22:], "damaged, cut off or not a snapshot"
    )
    second = io.BytesIO(good)
    with zipfile.ZipFile(second, "a") as archive:
        archive.writestr("b/data.pkl", raw(b"}"))
    refused(tmp_path / "a.pkl", second.getvalue(), "must hold one data.pkl")
    replaced = io.BytesIO()
    attack = pickle.dumps({"G": Call(os.system, canary)}, protocol=2)
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(replaced, "w") as new:
        for entry in old.infolist():
            inner = attack if entry.filename.endswith("data.pkl") else old.read(entry)
            new.writestr(entry.filename, inner)
    refused(tmp_path / "a.pkl", replaced.getvalue(), "posix.system")


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x89PNG\r\n\x1a\n" + b"\0" * 99, b'{"G": 1}', b"cos\nsystem\n."]
)
def test_other_files_are_refused(content, tmp_path):
    refused(tmp_path / "a.pkl", content, "cannot be read as a network pickle")


def test_folders_and_special_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="name the file"):
        load_networks(tmp_path)
    with pytest.raises(CheckpointError, match="is not a file"):
        load_networks("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_networks(tmp_path / "pipe")
