"""Pickles for the official scripts: they name classes, and load with plain ``pickle`` too."""

import io
import pickle
import pickletools
import sys
import types

import pytest
import torch

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.nvidia_pickle import is_nvidia_pickle, write_nvidia_pickle
from sg3flow.checkpoints.pickle_writer import Built, Call, Prepared, write_pickle
from sg3flow.checkpoints.public_classes import CLASSES, EVAL, LOAD_STATE_DICT, PARTIAL
from sg3flow.checkpoints.restricted_unpickler import GlobalName
from sg3flow.errors import CheckpointError
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

DESCRIBED = {"name": "cats", "label_dim": 3, "num_images": 9, "resolution": 16, "mirror": True}
KINDS = [(cfg, c_dim) for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2") for c_dim in (0, 3)]


@pytest.fixture
def official(monkeypatch):
    """Modules with the names of the official repository; its classes are ours here."""
    sg3, sg2 = (types.ModuleType(f"training.networks_stylegan{n}") for n in (3, 2))
    sg3.Generator = StyleGAN3Generator
    sg2.Generator, sg2.Discriminator = StyleGAN2Generator, Discriminator
    monkeypatch.setitem(sys.modules, "training", types.ModuleType("training"))
    for module in (sg3, sg2):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def write(path, **networks):
    with path.open("wb") as stream:
        write_nvidia_pickle(stream, **networks)


def different(networks, cfg, c_dim=0):
    G, D = networks(cfg, c_dim)
    G_ema, _ = networks(cfg, c_dim)
    G_ema.mapping.w_avg.normal_()
    return G, D, G_ema


def assert_same(network, expected):
    assert type(network) is type(expected) and network.init_kwargs == expected.init_kwargs
    state, wanted = network.state_dict(), expected.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("cfg", "c_dim"), KINDS)
def test_our_reader_gives_back_exactly_what_was_written(networks, tmp_path, cfg, c_dim):
    G, D, G_ema = different(networks, cfg, c_dim)
    path = tmp_path / "a.pkl"
    progress = {"nimg": 7000}
    write(path, G=G, D=D, G_ema=G_ema, training_set=DESCRIBED, progress=progress)
    loaded = load_networks(path)
    for network, expected in ((loaded.G, G), (loaded.D, D), (loaded.G_ema, G_ema)):
        assert_same(network, expected)
    assert loaded.training_set == DESCRIBED and loaded.progress == progress
    assert loaded.augment_pipe is None
    assert not {"training", "training.networks_stylegan3"} & set(sys.modules)


@pytest.mark.parametrize(("cfg", "c_dim"), KINDS)
def test_plain_pickle_makes_the_networks_by_their_constructors(
    official, networks, tmp_path, cfg, c_dim
):
    G, D, G_ema = different(networks, cfg, c_dim)
    path = tmp_path / "a.pkl"
    write(path, G=G, D=D, G_ema=G_ema, training_set=DESCRIBED)
    content = pickle.loads(path.read_bytes())
    assert list(content)[1:] == ["G", "D", "G_ema", "augment_pipe", "training_set_kwargs"]
    for name, expected in (("G", G), ("D", D), ("G_ema", G_ema)):
        assert_same(content[name], expected)
        modules, parameters = content[name].modules(), content[name].parameters()
        assert not any(each.training for each in modules)
        assert not any(each.requires_grad for each in parameters)
    assert content["augment_pipe"] is None
    assert content["training_set_kwargs"] == {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": "cats.zip",
        "use_labels": True,
        "max_size": 9,
        "xflip": True,
        "resolution": 16,
    }


def test_only_public_names_are_in_the_file(networks, tmp_path):
    path = tmp_path / "a.pkl"
    for cfg in ("stylegan3-t", "stylegan2"):
        G, D, G_ema = different(networks, cfg, 3)
        write(path, G=G, D=D, G_ema=G_ema, training_set=DESCRIBED)
        opcodes = pickletools.genops(path.read_bytes())
        names = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
        assert {name.split(" ")[0].split(".")[0] for name in names} == {
            *("torch", "collections", "functools", "training")
        }


def test_a_source_without_a_discriminator_gives_a_placeholder(official, networks, tmp_path):
    G, _ = networks("stylegan3-t", 3)
    path = tmp_path / "a.pkl"
    write(path, G_ema=G)
    content = pickle.loads(path.read_bytes())
    logits = content["D"](content["G"](torch.randn(1, 8), torch.eye(3)[:1]), torch.eye(3)[:1])
    assert logits.shape == (1, 1) and content["training_set_kwargs"] is None
    assert_same(content["G"], G)
    loaded = load_networks(path)
    assert loaded.D is None and loaded.training_set is None
    assert_same(loaded.G, G)


def test_bfloat16_is_known_to_our_reader_and_not_to_the_official_classes(
    official, networks, tmp_path
):
    G, D = networks("stylegan3-t")
    G = StyleGAN3Generator(**G.init_kwargs, half_dtype="bfloat16")
    path = tmp_path / "a.pkl"
    write(path, G_ema=G, D=D)
    assert_same(load_networks(path).G_ema, G)
    assert "half_dtype" not in pickle.loads(path.read_bytes())["G_ema"].init_kwargs


def test_equal_networks_give_equal_bytes(networks, tmp_path):
    for name in ("1", "2"):
        G, D, G_ema = different(networks, "stylegan2")
        torch.manual_seed(0)
        G_ema.mapping.w_avg.normal_()
        write(tmp_path / name, G=G, D=D, G_ema=G_ema, training_set=DESCRIBED)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_its_files_are_recognized(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    path = tmp_path / "a.pkl"
    write(path, G_ema=G)
    assert is_nvidia_pickle(path)
    public.write(path, {"G": public.module(G, "Generator", G.init_kwargs)})
    assert not is_nvidia_pickle(path)
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0.0, training_set={}, progress={})
    assert not is_nvidia_pickle(path) and not is_nvidia_pickle(tmp_path)
    assert not is_nvidia_pickle(tmp_path / "none")


def test_a_value_that_cannot_be_stored_is_named(networks):
    G, _ = networks("stylegan3-t")
    stream = io.BytesIO()
    with pytest.raises(CheckpointError, match="training_set contains"):
        write_nvidia_pickle(stream, G_ema=G, training_set={"x": object()})
    assert not stream.getvalue()


def test_every_kind_of_value_comes_back():
    value = {
        "numbers": [0, -1, 2**62, -(2**63), 0.5, float("inf"), True, False, None],
        "texts": ["", "ä\ud800", "x" * 300],
        "bytes": b"\x00\xff",
        "nested": ((), ([1], {}), {"a": (1, 2)}),
        "tensors": [torch.arange(6.0).view(2, 3).t(), torch.zeros(0, 4), torch.tensor(2.5)],
    }
    stream = io.BytesIO()
    write_pickle(stream, value)
    loaded = pickle.loads(stream.getvalue())
    for tensor, expected in zip(loaded.pop("tensors"), value.pop("tensors"), strict=True):
        assert torch.equal(tensor, expected) and tensor.is_contiguous()
    assert loaded == value


@pytest.mark.parametrize("value", [object(), torch.zeros(2, dtype=torch.float64), {1, 2}])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="not supported"):
        write_pickle(io.BytesIO(), [value])


GENERATOR = next(name for name in CLASSES if name.module.endswith("3"))


def network(name=GENERATOR, state=None, arguments=()):
    given = (name, (), {}, None) if state is None else state
    return Call(Built(Call(PARTIAL, (name,)), given), arguments)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (network(GlobalName("os", "system")), "names os.system"),
        (network(GlobalName("torch", "float32")), "a partial call of torch.float32"),
        (network(PARTIAL), "a partial call of functools.partial"),
        (Call(PARTIAL, (3,)), "a partial call of 3"),
        (network(state=(GENERATOR, (1,), {}, None)), "unknown form"),
        (network(state=(GENERATOR, (), {}, {"x": 1})), "unknown form"),
        (network(state=(GENERATOR, (), 3, None)), "unknown form"),
        (network(state=(PARTIAL, (), {}, None)), "unknown form"),
        (network(state={"x": 1}), "unknown form"),
        (network(arguments=(1,)), "not made from named arguments"),
        (Call(Call(PARTIAL, (GENERATOR,)), ()), "not made from named arguments"),
        (Call(GENERATOR, ()), "a constant"),
        (Call(EVAL, (3,)), "not a network"),
        (Prepared(3, LOAD_STATE_DICT, ({},)), "not those of one network"),
        (Prepared(network(), LOAD_STATE_DICT, (3,)), "not those of one network"),
        (Prepared(network(), LOAD_STATE_DICT, ({"x": 3},)), "x is a int"),
        (Prepared(network(), LOAD_STATE_DICT, ({7: 3},)), "no string"),
        (Prepared(network(), LOAD_STATE_DICT, ({"x" * 500: 3},)), "too long"),
        (network(), "refuses its init_kwargs"),
        (Call(network(), ()), "calls a NamedClassNetwork"),
        (Built(network(), {}), "sets the state of a NamedClassNetwork"),
    ],
)
def test_other_calls_are_refused(tmp_path, value, message):
    path = tmp_path / "a.pkl"
    with path.open("wb") as stream:
        write_pickle(stream, {"G": value, "D": None})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_networks(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_tensors_are_taken_over_once(networks, tmp_path):
    G, _ = networks("stylegan3-t")
    twice = Prepared(
        Prepared(network(), LOAD_STATE_DICT, (G.state_dict(),)), LOAD_STATE_DICT, (G.state_dict(),)
    )
    path = tmp_path / "a.pkl"
    with path.open("wb") as stream:
        write_pickle(stream, {"G": twice})
    with pytest.raises(CheckpointError, match="not those of one network"):
        load_networks(path)
