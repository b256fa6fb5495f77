"""Generators against the independent implementation: latents, images, gradients, averages."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("each_backend")

CASES = [
    ("stylegan3-t", 0),
    ("stylegan3-t", 3),
    ("stylegan3-r", 0),
    ("stylegan2", 0),
    ("stylegan2", 3),
    ("stylegan2-shapes", 0),
]
# leaky-ReLU signs flip between implementations, and gradients with them (see golden/README.md)
GRADIENTS = {
    ("stylegan3-t", 0): 1e-2,
    ("stylegan3-t", 3): 2e-2,
    ("stylegan3-r", 0): 5e-3,
    ("stylegan2", 0): 3e-3,
    ("stylegan2", 3): 5e-3,
}


def latents(arrays):
    z = torch.from_numpy(arrays["z"])
    return z, torch.from_numpy(arrays["c"]) if "c" in arrays else torch.zeros(len(z), 0)


@pytest.mark.parametrize(("cfg", "c_dim"), CASES)
def test_latents_images_and_truncation(golden_generator, relative_error, cfg, c_dim):
    G, arrays = golden_generator(cfg, c_dim)
    if "z" in arrays:
        z, c = latents(arrays)
        options = {"ws": {}, "ws_psi06": {"truncation_psi": 0.6}}
        options["ws_psi06_cutoff5"] = {"truncation_psi": 0.6, "truncation_cutoff": 5}
        for name in options.keys() & arrays.keys():
            assert relative_error(G.mapping(z, c, **options[name]), arrays[name]) <= 1e-6
        assert relative_error(G(z, c), arrays["img"]) <= 2e-5
        if "img_psi06" in arrays:
            assert relative_error(G(z, c, truncation_psi=0.6), arrays["img_psi06"]) <= 2e-5
    if "ws" in arrays:
        img = G.synthesis(torch.from_numpy(arrays["ws"]))
        assert relative_error(img, arrays["img"]) <= 2e-5


@pytest.mark.parametrize(("cfg", "c_dim"), GRADIENTS)
def test_gradients(golden_generator, relative_error, cfg, c_dim):
    G, arrays = golden_generator(cfg, c_dim)
    (G(*latents(arrays)) * torch.from_numpy(arrays["img_weight_for_grads"])).sum().backward()
    expected = {k[5:]: v for k, v in arrays.items() if k.startswith("grad.")}
    found = {name: p.grad for name, p in G.named_parameters()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # sums of many terms that cancel: one flipped sign is 5e-3 of them
        limit = 5e-2 if name.endswith("noise_strength") else GRADIENTS[cfg, c_dim]
        assert relative_error(found[name], value) <= limit, name
    total = np.sqrt(sum(np.square(v).sum() for v in expected.values()))
    apart = np.sqrt(sum(np.square(found[k].numpy() - v).sum() for k, v in expected.items()))
    assert apart / total <= 5e-3


@pytest.mark.parametrize(("cfg", "c_dim"), CASES[:3])
def test_input_transform(golden_generator, relative_error, cfg, c_dim):
    G, arrays = golden_generator(cfg, c_dim)
    G.synthesis.input.transform.copy_(torch.from_numpy(arrays["transform"]))
    assert relative_error(G(*latents(arrays)), arrays["img_transform"]) <= 2e-5


@pytest.mark.parametrize(("cfg", "c_dim"), CASES[:5])
def test_running_means(golden_generator, relative_error, cfg, c_dim):
    G, arrays = golden_generator(cfg, c_dim)
    G.train()(*latents(arrays), update_emas=True)
    buffers = dict(G.named_buffers())
    names = [k for k in arrays if k.startswith("after_ema.")]
    assert names
    for name in names:
        found = buffers[name.removeprefix("after_ema.")]
        assert relative_error(found, arrays[name]) <= 1e-6, name
