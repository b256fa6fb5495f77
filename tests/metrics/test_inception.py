import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics import features
from sg3flow.metrics.features import inception
from sg3flow.metrics.features.convolutions import arranged, in_parts, placed
from sg3flow.metrics.features.inception import (
    FixedBatchNorm,
    Inception,
    InceptionFeatures,
    load_inception,
    with_folded_norms,
)
from sg3flow.metrics.features.input_rules import OFFICIAL, tf1_resize


@pytest.fixture(scope="module")
def state(inception_state):
    return inception_state


@pytest.fixture(scope="module")
def network(state):
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def test_golden_names_and_shapes(golden, state):
    names = json.loads((golden / "inception-names.json").read_text())
    assert {name: list(value.shape) for name, value in state.items()} == names


@pytest.mark.parametrize("pair", "abcde")
def test_golden_features(golden, network, pair):
    arrays = np.load(golden / "inception.npz")
    features = network(torch.from_numpy(arrays[f"x_{pair}"]))
    for name in ("f64", "f192", "f768", "f2048", "logits_unbiased", "logits"):
        expected = torch.from_numpy(arrays[f"{name}_{pair}"])
        assert (features[name] - expected).abs().max() < 1e-6 * expected.abs().max()


def test_features_do_not_depend_on_the_batch(network):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=random)
    whole = network(images)["f2048"]
    single = torch.cat([network(image[None])["f2048"] for image in images])
    assert (whole - single).abs().max() < 1e-5 * whole.abs().max()


def test_grey_is_repeated(network):
    grey = torch.arange(0, 100, dtype=torch.uint8).view(1, 1, 10, 10)
    color = grey.repeat(1, 3, 1, 1)
    assert torch.equal(network(grey)["f64"], network(color)["f64"])


@pytest.mark.parametrize("form", [(3, 20, 31), (3, 400, 299), (1, 299, 299), (1, 7, 5)])
def test_any_size_and_grey(network, form):
    images = torch.randint(0, 256, (1, *form), dtype=torch.uint8)
    assert torch.isfinite(network(images)["f2048"]).all()


def test_channels_last_gives_the_same(state, network):
    with torch.device("meta"):
        turned = Inception()
    turned.load_state_dict(state, assign=True)
    turned = turned.eval().to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    expected = network(images)["f2048"]
    found = turned(images.contiguous(memory_format=torch.channels_last))["f2048"]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.medium
def test_it_compiles_as_one_graph(network):
    images = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images)["f2048"], network(images)["f2048"])


def test_probabilities_leave_the_bias_out(cache, monkeypatch, state, network):
    monkeypatch.setattr(inception, "load_weights", lambda *_: state)
    features = network(torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8))
    found = InceptionFeatures().probabilities(features["f2048"])
    assert torch.allclose(found, features["logits_unbiased"].softmax(dim=1), atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8).byte()])
def test_refuses_what_is_no_picture(network, images):
    with pytest.raises(MetricError, match="images uint8"):
        network(images)


def test_resize_doubles_without_half_pixel_shift():
    # Sources 0, 0.5, 1, 1.5, 2, 2.5: the last one has no right neighbor and repeats.
    row = torch.tensor([0.0, 10, 40]).view(1, 1, 1, 3)
    assert tf1_resize(row, 1, 6).flatten().tolist() == [0, 5, 10, 25, 40, 40]
    column = row.transpose(2, 3)
    assert tf1_resize(column, 6, 1).flatten().tolist() == [0, 5, 10, 25, 40, 40]


def test_resize_halves_by_leaving_out():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert tf1_resize(x, 2, 2).flatten().tolist() == [0, 2, 8, 10]


def test_resize_by_odd_ratios_and_none():
    row = torch.tensor([0.0, 3, 6]).view(1, 1, 1, 3)
    assert tf1_resize(row, 1, 2).flatten().tolist() == [0, 4.5]  # sources 0 and 1.5
    x = torch.rand(2, 3, 5, 7)
    assert torch.equal(tf1_resize(x, 5, 7), x)


def test_average_pool_leaves_the_padding_out():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    pooled = inception._average(x)[0, 0]
    assert pooled[0, 0] == (0 + 1 + 3 + 4) / 4
    assert pooled[1, 0] == (0 + 1 + 3 + 4 + 6 + 7) / 6
    assert pooled[1, 1] == 4


def test_pools_of_the_last_blocks():
    """Where the 1x1 branches see nothing, a block's pool branch shows what kind of pool it is."""
    with torch.device("meta"):
        network = Inception()
    spike = torch.zeros(1, 1, 3, 3)
    spike[..., 0, 0] = -1  # a maximum ignores it, an average does not
    assert network.Mixed_7b.pool(spike)[0, 0, 0, 0] == -1 / 4
    assert network.Mixed_7c.pool(spike)[0, 0, 0, 0] == 0
    assert torch.equal(inception._shrink(spike), functional.max_pool2d(spike, 3, 2))


@pytest.fixture
def no_pauses(monkeypatch):
    """Downloads try again at once."""
    monkeypatch.setattr(features, "RetryPolicy", partial(features.RetryPolicy, pause_sec=0))


def test_without_weights_the_error_says_what_to_do(cache, monkeypatch, no_pauses):
    monkeypatch.setattr(inception, "WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(MetricError) as caught:
        InceptionFeatures()
    message = str(caught.value)
    assert inception.WEIGHTS_NAME in message and inception.WEIGHTS_SHA256 in message
    assert "http://127.0.0.1:9/weights.pth" in message
    assert str(cache / inception.WEIGHTS_NAME) in message
    assert "fd_random" in message
    assert "\n" not in message


def test_weights_in_the_cache_are_loaded_without_network(cache, monkeypatch, state, network):
    from sg3flow.files import sha256_file

    cache.mkdir()
    path = cache / inception.WEIGHTS_NAME
    torch.save(state, path)
    monkeypatch.setattr(inception, "WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", sha256_file(path))
    loaded = load_inception()
    assert not loaded.training
    images = torch.full((1, 3, 20, 20), 77, dtype=torch.uint8)
    assert torch.equal(loaded(images)["f2048"], network(images)["f2048"])
    found, expected = InceptionFeatures()(images), network(images)["f2048"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_folded_norms_and_parts_change_rounding_only(state):
    """Norms with other statistics than 0 and 1, and more images than one part."""
    random = torch.Generator().manual_seed(3)
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    for block in network.modules():
        if isinstance(block, FixedBatchNorm):
            for tensor in (block.weight.data, block.running_var):
                tensor.uniform_(0.5, 2, generator=random)
            for tensor in (block.bias.data, block.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=random)
    images = torch.randint(256, (5, 3, 40, 40), generator=random, dtype=torch.uint8)
    plain = network.eval().requires_grad_(False)(images)["f2048"]
    folded = placed(with_folded_norms(copy.deepcopy(network)), torch.device("cpu"))

    def features(part):
        return folded.layers(arranged(OFFICIAL.prepare(part)))["f2048"]

    found = in_parts(images, torch.device("cpu"), features)
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-6 * float(plain.abs().max()))
    assert not any(isinstance(block, FixedBatchNorm) for block in folded.modules())


def test_damaged_weights_in_the_cache_are_not_loaded(cache, monkeypatch, no_pauses):
    cache.mkdir()
    (cache / inception.WEIGHTS_NAME).write_bytes(b"half a file")
    monkeypatch.setattr(inception, "WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(MetricError, match="no weights of Inception"):
        load_inception()
