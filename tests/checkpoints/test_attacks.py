"""Hostile files: refused by name, nothing executed, bounded in memory and time."""

import builtins
import bz2
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

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
    "a name that is no text": (raw(b"K\x01K\x02\x93"), "whose name is no text"),
    "stack underflow": (raw(b"R"), "damaged"),
    "mark": (raw(b"("), "damaged"),
    "unknown memo": (raw(b"h\x05"), "damaged"),
    "no end": (b"\x80\x04N", "cut off"),
    "unknown opcode": (b"\x80\x04\xff.", "damaged"),
    "set item of a list": (raw(b"]K\x01K\x02s"), "damaged"),
    "long digits": (raw(b"I" + b"9" * 10000 + b"\n"), "damaged"),
    "text for a storage": (raw(b"ctorch.storage\n_load_from_bytes\n(V%s\ntR"), "no bytes"),
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
    here = message + "|which is not allowed|no storage of torch|no snapshot of ours"
    refused(tmp_path / "a.pkl", saved(content.replace(b"%s", canary.encode())), here)


def storage_id(kind=b"ctorch\nFloatStorage\n", key=b"V0\n", count=b"K\x04", tag=b"Vstorage\n"):
    """A persistent id as torch.save writes it, with any part replaced."""
    return raw(b"(" + tag + kind + key + b"Vcpu\n" + count + b"tQ")


STORAGES = {
    "another kind of object": (storage_id(tag=b"Vmodule\n"), "no storage of torch"),
    "a text as its type": (storage_id(kind=b"VFloatStorage\n"), "no storage of torch"),
    "a number as its key": (storage_id(key=b"K\x00"), "no storage of torch"),
    "a call as its type": (storage_id(kind=b"cos\nsystem\n"), "the file names os.system"),
    "longer than it is": (storage_id(count=b"J\xff\xff\xff\x7f"), "not as long as it says"),
    "shorter than it is": (storage_id(count=b"K\x03"), "not as long as it says"),
    "a negative length": (storage_id(count=b"J\xff\xff\xff\xff"), "not as long as it says"),
    "another type": (storage_id(kind=b"ctorch\nDoubleStorage\n"), "not as long as it says"),
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


def test_archives_that_hold_code_are_refused(canary, tmp_path):
    attack = pickle.dumps(Call(os.system, canary), protocol=2)
    code = f"def f():\n  import os\n  os.system({canary!r})\n"
    model = raw(b"c__torch__\nModel\n)\x81")
    script = [("a/constants.pkl", attack), ("a/code/__torch__.py", code)]
    for extra in (script, script[:1], script[1:]):
        for content in (model, attack, raw(b"}")):
            refused(
                tmp_path / "a.pkl", saved(content, extra), "archive of TorchScript, which holds"
            )
    package = [("a/.data/extern_modules", "os"), ("a/model/model.pkl", attack)]
    refused(tmp_path / "a.pkl", saved(model, package), r"names __torch__\.Model")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:  # as Python itself would run it
        archive.writestr("__main__.py", code)
    refused(tmp_path / "a.pkl", wheel.getvalue(), "no sane")


def test_other_containers_of_pickles_are_refused(canary, tmp_path):
    attack = pickle.dumps(Call(os.system, canary), protocol=2)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:  # the first format of torch
        for name in ("pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(attack)
            archive.addfile(entry, io.BytesIO(attack))
    array = io.BytesIO()
    np.save(array, np.array([Call(os.system, canary)], dtype=object), allow_pickle=True)
    for content in (tar.getvalue(), array.getvalue(), gzip.compress(attack), bz2.compress(attack)):
        refused(tmp_path / "a.pkl", content, "neither a pickle nor a snapshot")
    refused(tmp_path / "a.pkl", saved(attack)[4:], "neither a pickle nor a snapshot")
    inner = saved(attack)
    refused(tmp_path / "a.pkl", saved(raw(b"}"), [("a/data/0", inner)]), "no snapshot of ours")
    loaded = b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR"
    refused(tmp_path / "a.pkl", saved(raw(loaded)), "names torch.storage._load_from_bytes")
    for place in ({"magic": Call(os.system, canary)}, {"keys": [Call(os.system, canary)]}):
        refused(tmp_path / "a.pkl", legacy(**place), "posix.system|bytes follow the end")


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


def test_nested_archives_hold_one_storage_and_nothing_else(canary, tmp_path):
    attack = Call(os.system, canary)
    modern, old = io.BytesIO(), io.BytesIO()
    torch.save({"x": attack}, modern)
    torch.save({"x": attack}, old, _use_new_zipfile_serialization=False)
    cases = [
        (pickle.dumps(attack, protocol=2), "posix.system"),
        (legacy(magic=attack), "posix.system"),
        (legacy(storage=attack), "posix.system"),
        (legacy(keys=[attack]), "posix.system"),
        (legacy(storage=[1]), "no single storage"),
        (legacy(keys=["1"]), "no single storage"),
        (legacy(magic=3), "no single storage"),
        (legacy(numbers=b""), "cut off"),
        (legacy(numbers=b"\0" * 17), "longer than it says"),
        (legacy(count=1 << 39), "cut off"),
        (legacy(count=1 << 62), "no sane size"),
        (legacy(count=-1), "no sane size"),
        (modern.getvalue(), "damaged|cut off|opcode"),
        (old.getvalue(), "posix.system|no single storage"),
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
    (0, (1 << 41,), (0,)),
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
        message = "posix.system" if modern else "bytes follow the end|holds no G"
        for name in ("a.pkl", "a.pt", "a.safetensors", "a.png", "a.json"):
            refused(tmp_path / name, stream.getvalue(), message)


def test_polyglots_are_refused(networks, canary, tmp_path):
    G, D = networks("stylegan3-t")
    rest = {"augment_p": 0.0, "training_set": {}, "progress": {}}
    save_snapshot(tmp_path / "good.pkl", G=G, D=D, G_ema=G, **rest)
    good = (tmp_path / "good.pkl").read_bytes()
    attack = pickle.dumps({"G": Call(os.system, canary)}, protocol=2)
    refused(tmp_path / "a.pkl", attack + good, "posix.system")
    refused(tmp_path / "a.pkl", pickle.dumps(3) + good, "bytes follow the end")
    refused(tmp_path / "a.pkl", b"PK\x03\x04" + attack, "cut off or no snapshot")
    refused(tmp_path / "a.pkl", good + attack, "bytes follow the end of its archive")
    commented = io.BytesIO(good)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = attack
    refused(tmp_path / "a.pkl", commented.getvalue(), "bytes follow the end of its archive")
    refused(tmp_path / "a.pkl", good[:-22] + attack + good[-22:], "damaged, cut off or no snapshot")
    renamed = io.BytesIO(good)
    with zipfile.ZipFile(renamed, "a") as archive:
        archive.writestr("b/data.pkl", attack)
    refused(tmp_path / "a.pkl", renamed.getvalue(), "no sane")
    replaced = io.BytesIO()
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
    with pytest.raises(CheckpointError, match="no file"):
        load_networks("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no file"):
        load_networks(tmp_path / "pipe")


def bombs():
    """Small files that grow when read by an innocent reader."""
    big = struct.pack("<Q", 1 << 60)
    storage = legacy(numbers=b"\0" * 400_000, count=100_000)
    again = b"ctorch.storage\n_load_from_bytes\n\x94B" + struct.pack("<I", len(storage)) + storage
    yield "text", raw(b"\x8d" + big)
    yield "bytes", raw(b"\x8e" + big)
    yield "bytearray", raw(b"\x96" + big)
    yield "frame", raw(b"\x95" + big + b"N")
    yield "long", raw(b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\1")
    yield "negative long", raw(b"\x8b" + struct.pack("<i", -5))
    yield "memo", raw(b"N" + b"r\xff\xff\xff\xff" * 5)
    yield "text memo", raw(b"Np" + b"9" * 4000 + b"\n")
    yield "deep tuples", raw(b")" + b"\x85" * 900_000)
    yield "deep lists", raw(b"]" * 400_000 + b"a" * 399_999)
    yield "many", raw(b"(" + b"}" * 3_000_000 + b"l")
    yield "laughs", raw(b"]" + b"\x94h\x00h\x00\x86" * 60)
    doubled = b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(80))
    yield "hash", raw(b"})" + doubled + b"Ns")
    doubled = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
    yield "laughs as text", raw(b")q\x000" + doubled + b"c_codecs\nencode\nh<V%s\n\x86R")
    yield "same storage", raw(again + b"\x94(" + b"h\x00h\x01\x85R" * 100_000 + b"l")
    yield (
        "same items",
        raw(
            b"("
            + b"N" * 300_000
            + b"l\x94cbuiltins\nset\n\x94("
            + b"h\x01h\x00\x85R" * 50_000
            + b"l"
        ),
    )
    yield (
        "same pairs",
        raw(
            b"("
            + b"K\x01K\x02\x86" * 99_000
            + b"l\x94ccollections\nOrderedDict\n\x94("
            + b"h\x01h\x00\x85R" * 50_000
            + b"l"
        ),
    )


def archive_bombs():
    """The same for archives of torch.save, whose own reader allows some of them."""
    big = struct.pack("<i", 2_000_000_000)
    yield "bytes by number", raw(b"cbuiltins\nbytearray\n(J" + big + b"tR")
    yield "old bytes by number", raw(b"c__builtin__\nbytearray\n(J" + big + b"tR")
    doubled = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(1, 60))
    yield "key", raw(b"}q\x00)q\x01" + doubled + b"h\x00h\x3cNs")
    yield "long text", raw(b"X\xff\xff\xff\x7f")
    yield "long number", raw(b"\x8b\xff\xff\xff\x7f")
    yield "far memo", raw(b"N" + b"r\xff\xff\xff\xff" * 5)
    yield "deep", raw(b")" + b"\x85" * 900_000)
    yield "deep dicts", raw(b"}" * 300_000)
    yield (
        "shape",
        raw(
            b"ctorch._utils\n_rebuild_tensor_v2\n("
            + storage_id()[2:-1]
            + b"K\x00J"
            + big
            + b"\x85K\x00\x85\x89}tR"
        ),
    )


READING = """
import json, resource, sys, time
from sg3flow.checkpoints import load_networks
from sg3flow.errors import CheckpointError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        load_networks(path)
        said = None
    except CheckpointError as error:
        said = str(error)
    print(json.dumps([path, said, peak() - before, time.process_time() - start]))
"""


def test_bombs_do_not_go_off(tmp_path):
    paths = []
    for name, content in bombs():
        paths.append(tmp_path / f"{name}.pkl")
        paths[-1].write_bytes(content)
    for name, content in archive_bombs():
        paths.append(tmp_path / f"{name} in an archive.pkl")
        paths[-1].write_bytes(saved(content, [("a/data/0", b"\0" * 16)]))
    compressed = tmp_path / "compressed.pkl"
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (64 << 20))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READING, *paths, compressed]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths) + 1
    for path, said, grown_kib, sec in rows:
        assert said is not None and len(said) < 500, path
        assert grown_kib < 200 << 10, f"{path} took {grown_kib >> 10} MiB"
        assert sec < 10, f"{path} took {sec:.1f} s"
