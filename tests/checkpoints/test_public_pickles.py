"""Public pickles are read without the code that they name, into this project's networks."""

import pickle
import sys

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.errors import CheckpointError


def contents(public, G, D, kwargs=None):
    pipe = torch.nn.Module()
    pipe.register_buffer("p", torch.tensor(0.375))
    pipe.register_buffer("Hz_geom", torch.zeros(12))
    augment = {"xflip": 1, "scale": np.float64(0.5), "imgfilter_bands": [1, 1, 0, 1]}
    return {
        "G": public.module(G, "Generator", G.init_kwargs if kwargs is None else kwargs),
        "D": public.module(D, "Discriminator", D.init_kwargs),
        "G_ema": public.module(G, "Generator", G.init_kwargs if kwargs is None else kwargs),
        "augment_pipe": public.module(pipe, "AugmentPipe", augment),
        "training_set_kwargs": public.easy_dict(path="cats.zip", resolution=16, max_size=None),
    }


def assert_same(loaded, G, D):
    for one, other in ((loaded.G, G), (loaded.G_ema, G), (loaded.D, D)):
        assert type(one) is type(other)
        state, expected = one.state_dict(), other.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_stylegan3(protocol, public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    path = public.write(tmp_path / "a.pkl", contents(public, G, D), protocol)
    loaded = load_networks(path)
    assert_same(loaded, G, D)
    z, c = torch.randn(1, 8), torch.zeros(1, 0)
    assert torch.equal(loaded.G_ema(z, c), G(z, c))
    assert float(loaded.augment_pipe.p) == 0.375
    assert loaded.augment_pipe.init_kwargs["scale"] == 0.5
    assert loaded.augment_pipe.init_kwargs["imgfilter_bands"] == [1, 1, 0, 1]
    assert loaded.training_set == {"path": "cats.zip", "resolution": 16, "max_size": None}
    assert not {"torch_utils", "dnnlib", "torch_utils.persistence"} & set(sys.modules)


@pytest.mark.parametrize("cfg", ["stylegan3-r", "stylegan2"])
def test_the_other_configurations_with_labels(cfg, public, networks, tmp_path):
    G, D = networks(cfg, 3)
    assert_same(load_networks(public.write(tmp_path / "a.pkl", contents(public, G, D))), G, D)


def test_stylegan2_ada_with_nested_arguments(public, networks, tmp_path):
    G, D = networks("stylegan2")
    kwargs = dict(G.init_kwargs)
    nested = {name: kwargs.pop(name) for name in ("channel_base", "channel_max")}
    nested |= {"num_fp16_res": 2, "conv_clamp": 128, "activation": "lrelu"}
    nested["fused_modconv_default"] = "inference_only"
    kwargs["synthesis_kwargs"] = public.easy_dict(nested)
    kwargs["mapping_kwargs"] = public.easy_dict(
        num_layers=8, activation="lrelu", embed_features=None
    )
    loaded = load_networks(public.write(tmp_path / "a.pkl", contents(public, G, D, kwargs)))
    assert_same(loaded, G, D)
    assert loaded.G.init_kwargs["num_fp16_res"] == 2
    assert loaded.G.init_kwargs["conv_clamp"] == 128


def test_what_is_not_there_is_none(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    content = contents(public, G, D)
    content = {"G_ema": content["G_ema"], "D": None, "augment_pipe": None}
    loaded = load_networks(public.write(tmp_path / "a.pkl", content))
    assert loaded.G is loaded.D is loaded.augment_pipe is loaded.training_set is None
    assert loaded.G_ema is not None


def test_half_precision_and_strided_tensors_on_another_device(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    content = contents(public, G, D)
    weight = G.synthesis.input.weight
    expected = weight.detach().half().float().clone()
    weight.data = weight.data.half().t().contiguous().t()
    data = public.dumps(content)
    assert data.count(b"X\x03\x00\x00\x00cpu") > 10
    # A location is a name of 3 letters here only so that no length in the file changes.
    path = tmp_path / "a.pkl"
    path.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x03\x00\x00\x00xpu"))
    loaded = load_networks(path)
    assert torch.equal(loaded.G.synthesis.input.weight, expected)
    assert loaded.G.synthesis.input.weight.dtype == torch.float32


def test_the_content_counts_and_not_the_name(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    path = public.write(tmp_path / "weights.zip", contents(public, G, D))
    assert_same(load_networks(path), G, D)


def test_missing_weights_are_listed(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    content = contents(public, G, D)
    del D.b4.fc._parameters["bias"]
    content["D"] = public.module(D, "Discriminator", D.init_kwargs)
    with pytest.raises(CheckpointError, match=r"D: tensors do not fit.*missing: b4.fc.bias"):
        load_networks(public.write(tmp_path / "a.pkl", content))


def test_every_truncation_is_one_line(public, networks, tmp_path):
    data = public.dumps(contents(public, *networks("stylegan3-t")))
    path = tmp_path / "a.pkl"
    for length in (0, 1, 2, 50, 5000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError) as caught:
            load_networks(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def damaged_contents(public, G, D):
    """Well-formed pickles of the right names that hold nonsense: (what, message)."""
    stored = public.obj
    deep = stored("SynthesisLayer", {})
    for _ in range(50):
        deep = stored("SynthesisLayer", {"_modules": {"x" * 90: deep}})
    return [
        ({"x": 1}, "has no G"),
        ([1], "has no G"),
        ({"G": 3}, "G is a int"),
        ({"G": stored("MappingNetwork", {})}, "of no known architecture"),
        ({"G": stored("Generator", {})}, "of no known architecture"),
        ({"G": stored("Evil", {})}, "refused: the stored class 'Evil'"),
        ({"G": stored("Generator", 7)}, "has no state"),
        ({"G": stored("Generator", {}, version=7)}, "unknown version 7"),
        ({"G": stored("Generator", {}, type="function")}, "refused: a stored object"),
        ({"D": stored("Discriminator", {"_init_kwargs": {}})}, "missing a required argument"),
        ({"D": stored("Discriminator", {"_init_kwargs": [1]})}, "must be a dict"),
        ({"D": stored("Discriminator", {"_init_args": (3,)})}, "positional"),
        (
            {"D": stored("Discriminator", {"_init_kwargs": {}, "_parameters": {"x": 3}})},
            "x is a int",
        ),
        (
            {"D": stored("Discriminator", {"_init_kwargs": {}, "_modules": {"b4": 3}})},
            "b4 is not a stored",
        ),
        ({"D": stored("Discriminator", {"_init_kwargs": {"c_dim": 1 << 63}})}, "not a primitive"),
        ({"G_ema": public.module(D, "Discriminator", D.init_kwargs)}, "G_ema is a Discriminator"),
        ({"D": public.module(G, "Generator", G.init_kwargs)}, "must be a discriminator"),
        (
            {"D": stored("Discriminator", {"_init_kwargs": {}, "_modules": {"b4": deep}})},
            "too deep",
        ),
        ({"D": stored("Discriminator", {}, version=1 << 63)}, "version a int of"),
        ({"G": None, "D": {(1, 2): 1}}, "key of type tuple"),
        ({"G": public.module(G, "Generator", {}), "augment_pipe": 3}, "augment_pipe is not an"),
        (
            {"D": public.module(D, "Discriminator", D.init_kwargs | {"evil": 1})},
            "refuses its init_kwargs.*evil",
        ),
    ]


def test_nonsense_is_refused_in_one_line(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    for content, message in damaged_contents(public, G, D):
        path = public.write(tmp_path / "a.pkl", content)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_networks(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_bytes_after_the_end_are_refused(public, networks, tmp_path):
    G, D = networks("stylegan3-t")
    path = tmp_path / "a.pkl"
    path.write_bytes(public.dumps(contents(public, G, D)) + pickle.dumps(1))
    with pytest.raises(CheckpointError, match="bytes follow the end"):
        load_networks(path)
