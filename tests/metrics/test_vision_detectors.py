import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.features import clip, dinov2
from sg3flow.metrics.features.clip import ClipFeatures, ClipImageTower
from sg3flow.metrics.features.dinov2 import DinoLargeFeatures, DinoV2
from sg3flow.metrics.features.vision_transformer import center_square, pillow_resize
from sg3flow.metrics.features.weight_files import WeightFile, load_network
from sg3flow.metrics.image_metrics import load_extractor

sys.path.insert(0, str(Path(__file__).parent))

import detector_cases as cases
import fixed_cases

PEERS = json.loads((Path(__file__).parent / "detector_values.json").read_text())["features"]
CPU = torch.device("cpu")
# Of CLIP's preprocessor.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", sorted(PEERS))
def test_features_of_the_peers(name):
    kind, size = name.split("-")
    network = cases.tiny_dino() if kind == "dinov2" else cases.tiny_clip()
    found = network(cases.images(int(size)))
    assert relative(found, torch.tensor(PEERS[name])) < 1e-5


def test_all_cases_of_the_peers_are_kept():
    assert set(PEERS) == {"dinov2-42", "dinov2-70", "clip-70"}
    features = torch.tensor(PEERS["dinov2-70"])
    assert features.shape == (2, cases.WIDTH)
    assert relative(features[0], features[1]) > 0.1  # the images matter
    assert relative(features, torch.tensor(PEERS["dinov2-42"])) > 0.1


def changed(network, change):
    """Features of an image with a fault planted, relative to those without."""
    images = cases.images(70, 1)
    expected = network(images)
    change(network)
    return relative(network(images), expected)


def without_layer_scale(network):
    for block in network.blocks:
        nn.init.ones_(block.ls1.gamma)


def with_quick_gelu(network):
    for block in network.blocks:
        block.mlp._activation = clip.quick_gelu


def with_gelu(network):
    for layer in network.vision_model.encoder.layers:
        layer.mlp._activation = functional.gelu


def with_first_head_only(network):
    for block in network.blocks:
        block.attn._heads = 1


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (cases.tiny_dino, without_layer_scale),
        (cases.tiny_dino, with_quick_gelu),
        (cases.tiny_dino, with_first_head_only),
        (cases.tiny_clip, with_gelu),
    ],
)
def test_the_small_networks_tell_faults(make, change):
    assert changed(make(), change) > 1e-3


def keys(distance):
    """The bicubic kernel with a = -0.75 (Keys 1981), as torch and OpenCV have it."""
    a, x = -0.75, abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def published_row(old, new, offset):
    """Weights ``[new, old]``: i of the new grid is at (i + 1/2) old / (new + offset) - 1/2."""
    found = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / (new + offset) - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            found[i, min(max(j, 0), old - 1)] += keys(place - j)
    return found


def test_positions_are_interpolated_as_published():
    with torch.device("meta"):
        network = DinoV2(width=3, depth=0, heads=1)
    network = cases.fill(network)
    grid = network.pos_embed[0, 1:].reshape(37, 37, 3).double().numpy()

    def expected(rows, columns, offset):
        down, across = published_row(37, rows, offset), published_row(37, columns, offset)
        return np.einsum("ri,cj,ijw->rcw", down, across, grid).reshape(-1, 3)

    for rows, columns in ((16, 16), (12, 20), (24, 24)):
        found = network.positions(rows, columns)[0].numpy()
        assert found.shape == (1 + rows * columns, 3)
        assert np.array_equal(found[0], network.pos_embed[0, 0].numpy())
        assert np.abs(found[1:] - expected(rows, columns, 0.1)).max() < 2e-5
        assert np.abs(found[1:] - expected(rows, columns, 0)).max() > 0.05
    assert network.positions(37, 37) is network.pos_embed


def sizes(make):
    with torch.device("meta"):
        network = make()
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "width", "depth", "count"),
    [(DinoV2.large, 1024, 24, 304_368_640), (DinoV2.base, 768, 12, 86_580_480)],
)
def test_names_and_shapes_are_those_of_dinov2(make, width, depth, count):
    expected = {"cls_token": [1, 1, width], "pos_embed": [1, 1370, width]}
    expected |= {"mask_token": [1, width], "norm.weight": [width], "norm.bias": [width]}
    expected |= {"patch_embed.proj.weight": [width, 3, 14, 14], "patch_embed.proj.bias": [width]}
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(depth):
        for name, (outputs, inputs) in linear.items():
            expected[f"blocks.{block}.{name}.weight"] = [outputs * width, inputs * width]
            expected[f"blocks.{block}.{name}.bias"] = [outputs * width]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            expected[f"blocks.{block}.{name}"] = [width]
        for name in ("ls1.gamma", "ls2.gamma"):
            expected[f"blocks.{block}.{name}"] = [width]
    found = sizes(make)
    assert found == expected
    assert sum(int(np.prod(shape)) for shape in found.values()) == count


def test_names_and_shapes_are_those_of_clip():
    top = "vision_model"
    expected = {
        f"{top}.embeddings.class_embedding": [1024],
        f"{top}.embeddings.patch_embedding.weight": [1024, 3, 14, 14],
        f"{top}.embeddings.position_embedding.weight": [577, 1024],
        "visual_projection.weight": [768, 1024],
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        expected |= {f"{top}.{norm}.weight": [1024], f"{top}.{norm}.bias": [1024]}
    shapes = {f"self_attn.{part}_proj": [1024, 1024] for part in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": [4096, 1024], "mlp.fc2": [1024, 4096]}
    shapes |= {"layer_norm1": [1024], "layer_norm2": [1024]}
    for layer in range(24):
        for name, shape in shapes.items():
            expected[f"{top}.encoder.layers.{layer}.{name}.weight"] = shape
            expected[f"{top}.encoder.layers.{layer}.{name}.bias"] = shape[:1]
    found = sizes(ClipImageTower)
    assert found == expected
    assert sum(int(np.prod(shape)) for shape in found.values()) == 304_293_888


class Input(nn.Module):
    """Gives its input as features."""

    def forward(self, x):
        return x.flatten(1)


def test_input_of_dinov2_is_that_of_pillow():
    extractor = DinoLargeFeatures(CPU, Input())
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for number in (1, 7, 11):  # 256x256, 400x17, 1x2; `make peers` has the others
        pixels = fixed_cases.formula_image(number)
        resized = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
        expected = (np.asarray(resized) / 255 - mean) / deviation
        found = extractor(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        found = found.reshape(3, 224, 224).permute(1, 2, 0).numpy()
        assert np.abs(found - expected).max() < 2e-6


def test_input_of_clip_is_the_central_square():
    extractor = ClipFeatures(CPU, Input())
    pixels = fixed_cases.formula_image(6)  # 600 x 299
    resized = Image.fromarray(pixels[150:449]).resize((336, 336), Image.Resampling.BICUBIC)
    expected = (np.asarray(resized) / 255 - MEAN) / DEVIATION
    found = extractor(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    found = found.reshape(3, 336, 336).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 2e-6
    wide = torch.arange(5).expand(1, 1, 2, 5)
    assert center_square(wide)[0, 0].tolist() == [[1, 2], [1, 2]]


def test_images_of_the_right_size_stay_as_they_are():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert pillow_resize(images, 8) is images


def test_gray_images_and_batches(draw_faces):
    network = cases.tiny_dino()
    extractor = DinoLargeFeatures(CPU, network)
    extractor.input_size = 42
    images = draw_faces(18, seed=0, size=48)
    whole = extractor(images)
    assert whole.shape == (18, cases.WIDTH) and whole.dtype == torch.float32
    parts = torch.cat([extractor(part) for part in torch.split(images, 5)])
    assert relative(parts, whole) < 1e-5
    gray = images[:2, :1]
    assert torch.equal(extractor(gray), extractor(gray.expand(-1, 3, -1, -1)))
    with pytest.raises(MetricError, match="expected images uint8"):
        extractor(images.float())


def test_embeddings_of_clip_have_unit_length():
    found = cases.tiny_clip()(cases.images(70))
    assert found.shape == (2, cases.EMBEDDING)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))


FILES = {
    "dinov2": dinov2.LARGE_WEIGHTS,
    "dinov2_b": dinov2.BASE_WEIGHTS,
    "clip": clip.WEIGHTS,
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_without_weights_one_line_says_what_to_do(cache, monkeypatch, name):
    file = FILES[name]
    moved = WeightFile(file.name, "file:///nowhere/w.pth", file.sha256, file.num_bytes, file.what)
    monkeypatch.setattr(dinov2, "LARGE_WEIGHTS", moved)
    monkeypatch.setattr(dinov2, "BASE_WEIGHTS", moved)
    monkeypatch.setattr(clip, "WEIGHTS", moved)
    with pytest.raises(MetricError) as caught:
        load_extractor(name, CPU, 32)
    text = str(caught.value)
    for word in (file.what, file.sha256, "/nowhere/w.pth", str(cache / file.name)):
        assert word in text
    assert "\n" not in text


@pytest.fixture
def saved(cache):
    """``saved(content)``: a file in the cache, as tensors or bytes, and its description."""

    def save(content, name="tiny.pth"):
        cache.mkdir(exist_ok=True)
        path = cache / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return WeightFile(name, f"file:///nowhere/{name}", sha256_file(path), 1 << 20, "a test")

    return save


def tiny():
    return ClipImageTower(cases.WIDTH, cases.DEPTH, cases.HEADS, cases.EMBEDDING, side=cases.SIDE)


def test_weights_are_loaded_by_name(saved):
    state = cases.tiny_clip().state_dict()
    others = {"logit_scale": torch.tensor(1.0), "text_model.x": torch.zeros(2)}
    network = load_network(tiny, saved(others | state))
    images = cases.images(70)
    assert torch.equal(network(images), cases.tiny_clip()(images))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_extractor_from_its_file(saved, monkeypatch, draw_faces):
    def small():
        return ClipImageTower(cases.WIDTH, cases.DEPTH, cases.HEADS, cases.EMBEDDING)

    whole = cases.fill(small())
    monkeypatch.setattr(clip, "WEIGHTS", saved(whole.state_dict()))
    monkeypatch.setattr(clip, "ClipImageTower", small)
    images = draw_faces(2, seed=0, size=336)
    found = load_extractor("clip", CPU, 32)(images)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    assert relative(found, whole((images / 255 - mean) / deviation)) < 1e-5


BIAS = "vision_model.encoder.layers.1.mlp.fc2.bias"
HTML = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({BIAS: None}, f"its tensor '{BIAS}' is missing"),
        ({BIAS: torch.zeros(31)}, r"is float32 \[31\], expected float32 \[32\]"),
        ({BIAS: torch.zeros(32).half()}, r"is float16 \[32\], expected float32 \[32\]"),
        ({BIAS: [0.0]}, f"its tensor '{BIAS}' is a list"),
        ([1, 2], "holds no weights of a test: found"),
        (HTML, "holds no weights of a test"),
        (b"", "holds no weights of a test"),
        (b"PK\x03\x04 cut", "holds no weights of a test"),
    ],
)
def test_another_file_is_told_in_one_line(saved, content, words):
    if isinstance(content, dict):
        content = cases.tiny_clip().state_dict() | content
    with pytest.raises(MetricError, match=words) as caught:
        load_network(tiny, saved(content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_program_in_the_file_does_not_run(saved, tmp_path):
    class Program:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(MetricError, match="holds no weights of a test") as caught:
        load_network(tiny, saved({"x": Program()}))
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)


def test_a_file_of_another_digest_is_named(cache, saved):
    file = saved(HTML)
    wanted = WeightFile(file.name, file.url, "1" * 64, 1 << 20, "a test")
    with pytest.raises(MetricError) as caught:
        load_network(tiny, wanted)
    text = str(caught.value)
    assert f"{cache / file.name} has SHA-256 {file.sha256} and is another file" in text
    assert "1" * 64 in text and "\n" not in text
    assert (cache / file.name).read_bytes() == HTML  # nobody's file is removed


def test_a_page_in_place_of_the_file_is_told(tmp_path, cache):
    (tmp_path / "page.html").write_bytes(HTML)
    file = WeightFile("tiny.pth", (tmp_path / "page.html").as_uri(), "1" * 64, 1 << 20, "a test")
    with pytest.raises(MetricError, match="its SHA-256 is"):
        load_network(tiny, file)
    assert not (cache / "tiny.pth").exists()
