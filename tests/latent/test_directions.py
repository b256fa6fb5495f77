"""SeFa and PCA: eigenvectors, their conventions, and what a direction does to an image."""

import numpy as np
import pytest
import torch

from sg3flow.checkpoints.loading import package_generator, weights_digest
from sg3flow.errors import ConfigError
from sg3flow.latent.directions import (
    PCA,
    SEFA,
    affines,
    covariance_of,
    find_directions,
    gram_matrix,
    principal_axes,
    sampled_w,
    style_weights,
)
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.rendering.conditions import TrainingLabels
from sg3flow.rendering.edits import resolve_edits
from sg3flow.rendering.images import Model, render_image
from sg3flow.rendering.seeds import RenderOptions

W_DIM = 12
KINDS = [StyleGAN3Generator, StyleGAN2Generator]
FEW = {"num_samples": 64}


def make_model(kind=StyleGAN3Generator, c_dim=0, samples=()):
    torch.manual_seed(1)
    G = kind(
        z_dim=8, c_dim=c_dim, w_dim=W_DIM,
        img_resolution=16, img_channels=3, channel_base=512, channel_max=16,
    ).eval().requires_grad_(False)  # fmt: skip
    if kind is StyleGAN3Generator:
        G.synthesis.input.affine.weight.normal_()  # a new network's is zero
    return Model(G, "test", TrainingLabels(c_dim, samples))


def planted(G, layers, hidden):
    """Make the styles of these layers ignore one coordinate of w, and the first one count most."""
    for layer in layers:
        for affine in affines(G)[layer]:
            affine.weight[:, hidden] = 0
            affine.weight[:, 0] *= 10


@pytest.mark.parametrize("kind", KINDS)
def test_sefa_gives_eigenvectors_of_the_style_weights(kind):
    model = make_model(kind)
    layers = [1, 2, 4]
    found = find_directions(model, SEFA, layers, W_DIM, **FEW)
    matrix = gram_matrix(style_weights(model.G, layers))
    for vectors, value in zip(found.vectors, found.values, strict=True):
        for v in vectors[layers].astype(np.float64):
            assert np.abs(matrix @ v - value * v).max() <= 1e-5 * found.values[0]
    assert (np.diff(found.values) <= 0).all()
    one = found.vectors[:, 1].astype(np.float64)
    np.testing.assert_allclose(one @ one.T, np.eye(W_DIM), atol=1e-6)
    untouched = np.delete(found.vectors, layers, axis=1)
    assert not untouched.any()
    assert found.names == tuple(f"sefa{k}" for k in range(W_DIM))
    assert (found.method, found.layers) == ("sefa", (1, 2, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_an_eigenvalue_is_the_squared_change_of_the_styles(kind):
    model = make_model(kind)
    layers = list(range(model.G.num_ws))
    found = find_directions(model, SEFA, layers, 3, **FEW)
    for vectors, value in zip(found.vectors, found.values, strict=True):
        v = torch.from_numpy(vectors[0])[None]
        readers = [affine for layer in layers for affine in affines(model.G)[layer]]
        change = sum((a(v) - a(torch.zeros_like(v))).square().sum() for a in readers)
        assert float(change) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_affine_transform_is_read_by_one_layer(kind):
    G = make_model(kind).G
    readers = affines(G)
    assert len(readers) == G.num_ws
    found = sorted(id(affine) for layer in readers for affine in layer)
    expected = [m for name, m in G.synthesis.named_modules() if name.endswith("affine")]
    assert found == sorted(map(id, expected))
    ws = torch.randn(1, G.num_ws, W_DIM)
    plain = _inputs(G, expected, ws)
    for layer, affs in enumerate(readers):  # exactly these see the w of the layer
        moved = ws.clone()
        moved[:, layer] += 1
        seen = _inputs(G, expected, moved)
        changed = {each for each in seen if not torch.equal(seen[each], plain[each])}
        assert changed == set(map(id, affs))


def _inputs(G, affine_transforms, ws):
    """What each of the affine transforms reads, by its id."""
    seen = {}

    def note(module, args, output):
        seen[id(module)] = args[0].clone()

    hooks = [each.register_forward_hook(note) for each in affine_transforms]
    G.synthesis(ws)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_direction_changes_nothing_and_the_first_most(kind):
    model = make_model(kind)
    G, layers, hidden = model.G, [1, 2, 3], W_DIM - 1
    planted(G, layers, hidden)
    found = find_directions(model, SEFA, layers, W_DIM, **FEW)
    assert found.values[-1] == 0
    np.testing.assert_allclose(found.vectors[-1, 1], np.eye(W_DIM)[hidden], atol=1e-7)
    plain = render_image(G, 5, RenderOptions()).astype(int)

    def change(k, strength=1.0):
        edit = resolve_edits(found, {f"sefa{k}": strength})
        return np.abs(render_image(G, 5, RenderOptions(edit=edit)).astype(int) - plain).mean()

    assert change(W_DIM - 1, 5.0) == 0
    changes = [change(k) for k in range(W_DIM)]
    assert changes[0] == max(changes) > 2 * changes[1]


def test_the_sign_makes_the_largest_component_positive():
    matrix = np.diag([3.0, 2.0, 1.0])
    turn = np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    for factor in (1, -1):
        values, vectors = principal_axes(factor * turn @ matrix @ (factor * turn).T, 2)
        np.testing.assert_allclose(values, [3, 2])
        for v, column in zip(vectors, turn.T, strict=False):
            assert v[np.abs(v).argmax()] > 0
            assert abs(v @ column) == pytest.approx(1)
    values, _ = principal_axes(np.diag([1.0, -1e-17]), 2)
    np.testing.assert_array_equal(values, [1, 0])  # no root of a negative variance


class _PlantedMapping(torch.nn.Module):
    """w = mean + z @ root: its covariance is root.T @ root."""

    def __init__(self, G, root):
        super().__init__()
        self.num_ws, self.root = G.num_ws, torch.from_numpy(root).float()

    def forward(self, z, c, truncation_psi=1):
        w = 50 + z @ self.root
        return w[:, None].repeat(1, self.num_ws, 1)


def test_pca_recovers_a_planted_covariance():
    model = make_model()
    axes = np.linalg.qr(np.random.RandomState(3).randn(W_DIM, W_DIM))[0][:, :8].T
    spreads = 2.0 ** -np.arange(8)
    model.G.mapping = _PlantedMapping(model.G, spreads[:, None] * axes)
    found = find_directions(model, PCA, [0, 3], 8, num_samples=4500)
    np.testing.assert_allclose(found.values, spreads**2, rtol=0.1)
    np.testing.assert_allclose(found.scales**2, found.values, rtol=1e-9)
    cosines = np.abs(np.sum(found.vectors[:, 3] * axes, axis=1))
    assert cosines.min() > 0.99
    assert found.names[0] == "pca0"
    assert (found.vectors[:, 1] == 0).all()


def test_a_covariance_keeps_the_digits_of_small_variances():
    rows = np.random.RandomState(0).randn(2500, 4) * [1, 0.1, 1e-3, 1e-6] + 1000.0
    found = covariance_of(iter(np.split(rows, [1000, 2000])))
    np.testing.assert_allclose(found, np.cov(rows.T, bias=True), rtol=1e-6, atol=1e-16)


def test_the_scale_is_the_standard_deviation_of_w_along_a_direction():
    model = make_model()
    found = find_directions(model, SEFA, [1], 3, num_samples=1500, seed=2)
    w = np.concatenate(list(sampled_w(model, None, 1500, 2)))
    assert w.shape == (1500, W_DIM)
    np.testing.assert_allclose(found.scales, (w @ found.vectors[:, 1].T).std(axis=0), rtol=1e-5)


def test_samples_take_all_classes_in_turn_or_one():
    model = make_model(c_dim=3)
    mixed = next(sampled_w(model, None, 9, 0))
    for c in range(3):
        alone = next(sampled_w(model, c, 9, 0))
        np.testing.assert_allclose(mixed[c::3], alone[c::3], rtol=1e-5)
        assert not np.allclose(mixed[(c + 1) % 3 :: 3], alone[(c + 1) % 3 :: 3])
    vectors = make_model(c_dim=2, samples=((0.5, -1.0), (2.0, 0.0)))
    label = next(sampled_w(vectors, (2.0, 0.0), 4, 0))
    np.testing.assert_allclose(next(sampled_w(vectors, None, 4, 0))[1::2], label[1::2], rtol=1e-5)


def test_the_same_arguments_give_the_same_directions_and_another_seed_others():
    found = [find_directions(make_model(), PCA, [0], 4, num_samples=50, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(found[0].vectors, found[1].vectors)
    np.testing.assert_array_equal(found[0].scales, found[1].scales)
    assert not np.allclose(found[0].scales, found[2].scales)


def test_the_digest_is_that_of_the_packaged_weights(tmp_path):
    G = make_model().G
    package = package_generator(G, tmp_path, training_set={}, metrics={}, snapshot_sha256="0" * 64)
    assert weights_digest(G) == package.weights_sha256
    assert find_directions(make_model(), SEFA, [0], 1, **FEW).network == package.weights_sha256


@pytest.mark.parametrize(
    ("layers", "num", "words"),
    [
        ([1], 0, "num must be from 1 to 12, the dimension of w, not 0"),
        ([1], 13, "not 13"),
        ([], 2, "layers must name at least one layer, from 0 to"),
    ],
)
def test_wrong_numbers_get_a_sentence(layers, num, words):
    with pytest.raises(ConfigError, match=words):
        find_directions(make_model(), SEFA, layers, num, **FEW)


def test_a_discriminator_has_no_directions():
    with pytest.raises(ConfigError, match="StyleGAN2 or StyleGAN3 generator"):
        affines(Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=512))
