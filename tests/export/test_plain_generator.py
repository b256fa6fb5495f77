"""Generators as plain ops compute what the networks do, for every input and free batches."""

import numpy as np
import pytest
import torch
from torch import nn

from sg3flow.errors import CheckpointError
from sg3flow.export.plain_filters import FirPass, fir_passes
from sg3flow.export.plain_generator import PlainGenerator, random_inputs
from sg3flow.export.self_check import check_file, difference, network_images
from sg3flow.ops import setup_filter, upfirdn2d

KINDS = ("t", "r", "stylegan2")
NEAR = 2e-5  # of the largest value: both compute in float32, in another order


def images_of(plain: PlainGenerator, inputs) -> np.ndarray:
    return plain(*map(torch.from_numpy, inputs.values())).numpy()


def check(G, seeds=(1, 2, 3)) -> None:
    plain = PlainGenerator(G)
    inputs = random_inputs(plain, list(seeds))
    found, expected = images_of(plain, inputs), network_images(G, inputs)
    error, levels = difference(found, expected)
    assert expected.std() > 0.01 and error < NEAR and levels <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_all_inputs_count_and_give_the_images_of_the_network(make_network, kind, c_dim):
    G = make_network(kind, c_dim)
    check(G)
    plain = PlainGenerator(G)
    inputs = random_inputs(plain, [1, 2])
    names = {"z", "psi"} | ({"label"} if c_dim else set())
    assert set(inputs) == names | ({"transform"} if kind != "stylegan2" else set())
    for name in inputs:  # each one matters
        others = random_inputs(plain, [7, 8]) | {"label": np.eye(3, dtype=np.float32)[[2, 2]]}
        changed = images_of(plain, inputs | {name: others[name]})
        assert np.abs(changed - images_of(plain, inputs)).max() > 1e-3, name


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("t", {"conv_clamp": 0.3}),
        ("t", {"conv_clamp": None, "img_channels": 1}),
        ("t", {"num_layers": 5, "num_critical": 1, "filter_size": 5, "img_resolution": 32}),
        ("t", {"lrelu_upsampling": 4, "margin_size": 3, "output_scale": 0.5}),
        ("r", {"conv_clamp": 0.3, "img_resolution": 32}),
        ("stylegan2", {"conv_clamp": 0.3}),
        ("stylegan2", {"conv_clamp": None, "use_noise": False, "img_channels": 1}),
        ("stylegan2", {"resample_filter": (1, 2, 1)}),
        ("stylegan2", {"resample_filter": (1, 2, 3, 4, 4, 3, 2, 2), "img_resolution": 32}),
        ("stylegan2", {"mapping_kwargs": {"num_layers": 3, "layer_features": 9}}),
    ],
)
def test_other_settings_give_the_images_of_the_network(make_network, kind, options):
    check(make_network(kind, **options), seeds=[5])


@pytest.mark.parametrize("zoom", [0.5, 1.2])
def test_a_transform_may_zoom(make_network, zoom):
    """Smaller features have frequencies beyond the bandwidth, which the input fades out."""
    G = make_network("t")
    plain = PlainGenerator(G)
    inputs = random_inputs(plain, [1, 2])
    inputs["transform"] = np.diag([zoom, zoom, 1]).astype(np.float32) @ inputs["transform"]
    error, levels = difference(images_of(plain, inputs), network_images(G, inputs))
    assert error < NEAR and levels <= 1


def test_a_clamp_acts(make_network):
    plain = PlainGenerator(make_network("t", conv_clamp=0.3))
    inputs = random_inputs(plain, [5])
    largest = []
    for module in plain.modules():
        if hasattr(module, "limit"):
            module.up.register_forward_hook(lambda m, i, y: largest.append(float(y.abs().max())))
    images_of(plain, inputs)
    assert max(largest) > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(make_network, kind):
    plain = PlainGenerator(make_network(kind))
    inputs = random_inputs(plain, [1, 2, 3])
    together = images_of(plain, inputs)
    alone = images_of(plain, inputs | {"z": inputs["z"][1:2]})
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)


def test_psi_0_is_the_average_image(make_network):
    plain = PlainGenerator(make_network("t"))
    inputs = random_inputs(plain, [1, 2]) | {"psi": np.zeros([], np.float32)}
    first, second = images_of(plain, inputs)
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("f", [[1, 3, 3, 1], [1, 2, 4, 1, 1, 2, 3, 1, 5], [[1, 2], [3, 5]]])
@pytest.mark.parametrize(
    ("up", "down", "padding"),
    [
        (1, 1, (0, 0, 0, 0)),
        (1, 1, (2, 2, 2, 2)),
        (1, 1, (1, 3, 0, 2)),
        (2, 1, (2, 1, 2, 1)),
        (2, 1, (-3, 1, 2, -1)),
        (2, 1, (9, 12, 11, 9)),
        (3, 1, (4, 0, 1, 2)),
        (4, 1, (0, 7, 3, 5)),
        (1, 2, (3, 4, 4, 3)),
        (1, 3, (3, 0, -1, 5)),
    ],
)
def test_passes_are_upfirdn2d(f, up, down, padding):
    f = setup_filter(f)
    if f.ndim == 2:
        f = f * torch.arange(1, f.shape[1] + 1)  # not symmetric
    x = torch.randn(2, 3, 11, 12)
    expected = upfirdn2d(x, f, up=up, down=down, padding=padding, gain=1.7)
    passes, size = fir_passes(3, f, (11, 12), up, down, padding, gain=1.7)
    assert size == tuple(expected.shape[2:])
    torch.testing.assert_close(passes(x), expected, atol=1e-5, rtol=1e-5)


def test_an_identity_takes_no_pass():
    passes, size = fir_passes(3, None, (5, 6))
    assert len(passes) == 0 and size == (5, 6)
    passes, size = fir_passes(2, None, (5, 6), padding=(1, -1, 2, 0), gain=2)
    [only] = passes
    assert isinstance(only, FirPass) and size == (7, 6)
    x = torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(passes(x), upfirdn2d(x, None, padding=(1, -1, 2, 0), gain=2))


def test_a_file_that_computes_something_else_is_refused(make_network):
    G = make_network("t")
    plain = PlainGenerator(G)
    said = check_file(lambda inputs: network_images(G, inputs), G, plain, "itself")
    assert said == (
        "checked with itself (images: 3): at most 0.0e+00 of the largest value and 0 gray levels "
        "from the network"
    )
    large = make_network("stylegan2", img_resolution=256, channel_max=4)
    said = check_file(
        lambda inputs: network_images(large, inputs), large, PlainGenerator(large), "x"
    )
    assert "(images: 1)" in said
    for wrong in (
        lambda inputs: network_images(G, inputs) + 0.1,
        lambda inputs: network_images(G, inputs)[:, :, ::-1].copy(),
        lambda inputs: network_images(G, inputs)[:, :, 1:],
        lambda inputs: network_images(G, inputs) * np.float32(np.nan),
    ):
        with pytest.raises(CheckpointError, match="with itself the exported file differs"):
            check_file(wrong, G, plain, "itself")
    G.synthesis.input.weight.fill_(np.nan)
    with pytest.raises(CheckpointError, match="not finite; not exported"):
        check_file(lambda inputs: network_images(G, inputs), G, plain, "itself")


def test_only_generators_can_be_plain():
    with pytest.raises(CheckpointError, match="a Linear cannot be exported"):
        PlainGenerator(nn.Linear(2, 2))
