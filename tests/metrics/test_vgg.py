import pytest
import torch
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.feature_collector import path_lengths
from sg3flow.metrics.features import vgg
from sg3flow.metrics.features.vgg import VGG16, Lpips, VGGFeatures

CPU = torch.device("cpu")
_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def network(vgg_state):
    network = VGG16(fully_connected=False)
    network.load_state_dict(vgg_state)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def heads(lpips_heads):
    return lpips_heads


def test_names_and_shapes_are_those_of_the_public_weights():
    with torch.device("meta"):
        shapes = {name: list(t.shape) for name, t in VGG16().state_dict().items()}
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    expected = {}
    for place, before, width in zip(_CONVOLUTIONS, [3, *widths], widths, strict=False):
        expected[f"features.{place}.weight"] = [width, before, 3, 3]
        expected[f"features.{place}.bias"] = [width]
    for place, before in ((0, 25088), (3, 4096)):
        expected[f"classifier.{place}.weight"] = [4096, before]
        expected[f"classifier.{place}.bias"] = [4096]
    assert shapes == expected


def plain_lpips(network, heads, a, b):
    """By the formula of the paper, layer by layer."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    state, total = network.state_dict(), 0
    x, y = ((img - shift[:, None, None]) / scale[:, None, None] for img in (a, b))
    stages = iter(heads)
    for place in _CONVOLUTIONS:
        w, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
        x, y = (functional.conv2d(img, w, bias, padding=1).relu() for img in (x, y))
        if place + 2 not in _CONVOLUTIONS:  # the last before a pool
            unit = [img / img.norm(dim=1, keepdim=True) for img in (x, y)]
            total += ((unit[0] - unit[1]) ** 2 * next(stages)).sum(1).mean((1, 2))
            x, y = (functional.max_pool2d(img, 2) for img in (x, y))
    return total


def test_lpips_is_the_formula(network, heads):
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 64, 64, generator=random) * 2 - 1
    lpips = Lpips(network, heads, CPU)
    assert torch.allclose(lpips(a, b), plain_lpips(network, heads, a, b), rtol=1e-5)
    assert torch.equal(lpips(a, b), lpips(b, a))
    assert lpips(a, a).abs().max() == 0
    grey = a[:, :1]
    assert torch.equal(lpips(grey, b), lpips(grey.expand(-1, 3, -1, -1), b))


def test_paths_have_their_length(network, heads, tiny_generator):
    G = tiny_generator(seed=3)
    z_from, z_to = torch.randn(2, 3, G.z_dim, generator=torch.Generator().manual_seed(0))
    c = torch.zeros(3, 0)
    lpips = Lpips(network, heads, CPU)
    (found,) = path_lengths(G, lpips, iter([(z_from, z_to, c)]))
    (swapped,) = path_lengths(G, lpips, iter([(z_from, z_from, c)]))
    assert found.shape == (3,) and found.dtype == torch.float64
    assert found.min() > 0 and swapped.max() == 0
    # A path of twice the slope is four times as long, for steps as small as these.
    with torch.no_grad():
        begin, end = G.mapping(z_from, c), G.mapping(z_to, c)
        pictures = [
            G.synthesis(torch.lerp(begin, end, t), noise_mode="const", force_fp32=True)
            for t in (0.0, 1e-3)
        ]
    assert torch.allclose(lpips(*pictures).double() / 1e-6, found, rtol=0.1)


def test_both_ends_of_a_path_have_the_label(network, heads, tiny_generator):
    G = tiny_generator(c_dim=3)
    z, labels = torch.randn(3, G.z_dim, generator=torch.Generator().manual_seed(0)), []
    mapping = G.mapping.forward
    G.mapping.forward = lambda z, c: mapping(z, labels.append(c) or c)
    list(path_lengths(G, Lpips(network, heads, CPU), iter([(z, z.flip(0), torch.eye(3))])))
    assert len(labels) == 2 and all(torch.equal(c, torch.eye(3)) for c in labels)


def test_values_that_are_not_finite_are_told(network, heads, tiny_generator):
    G = tiny_generator()
    for parameter in G.synthesis.parameters():
        parameter.data.fill_(torch.nan)
    z = torch.zeros(1, G.z_dim)
    with pytest.raises(MetricError, match="not finite"):
        list(path_lengths(G, Lpips(network, heads, CPU), iter([(z, z, torch.zeros(1, 0))])))


def test_without_weights_the_error_says_what_to_do(cache, monkeypatch):
    for name, load in (("VGG", VGGFeatures), ("HEADS", vgg.load_heads)):
        monkeypatch.setattr(vgg, f"{name}_URL", "file:///nowhere/weights.pth")
        with pytest.raises(MetricError) as caught:
            load()
        file_name, digest = getattr(vgg, f"{name}_NAME"), getattr(vgg, f"{name}_SHA256")
        for word in ("/nowhere/weights.pth", digest, str(cache / file_name), "fd_random"):
            assert word in str(caught.value)


def test_heads_in_the_cache_are_read(cache, monkeypatch, heads):
    cache.mkdir()
    path = cache / vgg.HEADS_NAME
    torch.save({f"lin{i}.model.1.weight": head for i, head in enumerate(heads)}, path)
    monkeypatch.setattr(vgg, "HEADS_SHA256", sha256_file(path))
    assert all(torch.equal(a, b) for a, b in zip(vgg.load_heads(), heads, strict=True))


def test_heads_of_the_package_lpips_are_read_without_importing_it(
    cache, monkeypatch, tmp_path, heads
):
    folder = tmp_path / "site" / "lpips"
    path = folder / "weights" / "v0.1" / "vgg.pth"
    path.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('needs torchvision')")
    torch.save({f"lin{i}.model.1.weight": head for i, head in enumerate(heads)}, path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(vgg, "HEADS_URL", "file:///nowhere/heads.pth")
    with pytest.raises(MetricError):  # another version of the package
        vgg.load_heads()
    monkeypatch.setattr(vgg, "HEADS_SHA256", sha256_file(path))
    assert all(torch.equal(a, b) for a, b in zip(vgg.load_heads(), heads, strict=True))


@pytest.mark.slow
def test_features_with_all_layers(cache, monkeypatch, draw_faces):
    """Half a gigabyte of weights by a rule: shapes, and that neither batch nor size decides."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in VGG16().state_dict().items()}
    cache.mkdir()
    path = cache / vgg.VGG_NAME
    extra = {"classifier.6.weight": torch.zeros(1000, 4096), "classifier.6.bias": torch.zeros(1000)}
    torch.manual_seed(0)
    state = {n: torch.randn(s) * (2 / max(1, s[1:].numel())) ** 0.5 for n, s in shapes.items()}
    torch.save(state | extra, path)
    monkeypatch.setattr(vgg, "VGG_SHA256", sha256_file(path))
    features = VGGFeatures()
    images = draw_faces(5, seed=0)
    whole = features(images)
    assert whole.shape == (5, 4096) and whole.min() == 0 and whole.std() > 0
    parts = torch.cat([features(part) for part in images.split(2)])
    assert (whole - parts).abs().max() < 1e-5 * whole.abs().max()
    assert torch.equal(features(images[:, :1]), features(images[:, :1].expand(-1, 3, -1, -1)))
