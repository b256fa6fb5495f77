"""The packaged generator: what is in the files, and that its pictures are always the same."""

import io
import json
import math
import pickletools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as PillowImage

from sg3flow.checkpoints.loading import load_packaged, package_generator
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.networks import Discriminator
from sg3flow.precision import EXACT, Precision, computing, current
from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import png_bytes, render_image, seed_ws
from sg3flow.rendering.seeds import RenderOptions, seed_latent
from sg3flow.serving.pyfunc_model import Predictor, _twin, example
from sg3flow.serving.request_schema import Limits, Request


@pytest.mark.medium
def test_a_package_holds_the_weights_and_their_story(make_package):
    package, G = make_package(c_dim=3)
    content = json.loads(package.description.read_text())
    assert content["class_name"] == "StyleGAN3Generator"
    assert content["init_kwargs"]["c_dim"] == 3
    assert content["training_set"]["licence"] == "CC0"
    assert content["metrics"]["fd_random1k_full"]["value"] == 1.5
    assert content["snapshot_sha256"] == "ab" * 32
    assert content["weights_sha256"] == package.weights_sha256
    with pytest.raises(ValueError, match=r"opcode|pickle"):
        list(pickletools.genops(package.weights.read_bytes()))
    loaded, _ = load_packaged(package.weights, package.description)
    assert set(loaded.state_dict()) == set(G.state_dict())


def test_a_discriminator_is_not_served(tmp_path):
    D = Discriminator(0, 16, 3, channel_base=64, channel_max=4)
    about = {"training_set": {}, "metrics": {}, "snapshot_sha256": ""}
    package = package_generator(D, tmp_path, **about)
    with pytest.raises(CheckpointError, match="G_ema is a Discriminator and must be a generator"):
        load_packaged(package.weights, package.description)


def test_equal_networks_give_equal_bytes(make_package):
    first = make_package()[0].weights.read_bytes()
    assert make_package()[0].weights.read_bytes() == first


@pytest.mark.parametrize("damage", ["cut", "other", "json", "absent"])
def test_a_damaged_package_is_refused(make_package, damage):
    package, _ = make_package()
    if damage == "cut":
        package.weights.write_bytes(package.weights.read_bytes()[:-1])
    elif damage == "other":
        content = bytearray(package.weights.read_bytes())
        content[-1] ^= 1
        package.weights.write_bytes(bytes(content))
    elif damage == "json":
        package.description.write_text("{")
    else:
        package.weights.unlink()
    with pytest.raises(CheckpointError):
        Predictor.load(package.weights, package.description)


def test_the_device_is_chosen_by_the_environment(make_package, monkeypatch):
    package, _ = make_package()
    monkeypatch.setenv("SG3FLOW_DEVICE", "cpu")
    predictor = Predictor.load(package.weights, package.description)
    assert next(predictor.G.parameters()).device.type == "cpu"
    monkeypatch.setenv("SG3FLOW_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="one of auto, cpu, cuda, not 'tpu'"):
        Predictor.load(package.weights, package.description)


def test_a_model_that_draws_no_finite_values_is_a_500(make_networks):
    from mlflow import MlflowException

    from sg3flow.serving.pyfunc_model import GeneratorModel

    G, _ = make_networks()
    G.mapping.w_avg.fill_(math.nan)
    model = GeneratorModel()
    model.predictor, model.limits = Predictor(G), Limits()
    with pytest.raises(MlflowException, match="not finite") as caught:
        model.predict(None, pd.DataFrame([{"seed": 1, "psi": 0.5}]))
    assert caught.value.get_http_status_code() == 500


def test_predictions_are_the_rendered_pictures(make_package):
    package, G = make_package(c_dim=3)
    predictor = Predictor.load(package.weights, package.description)
    options = RenderOptions(psi=0.7, translate=(0.1, 0.0), rotate=20)
    assert predictor.predict(Request(5, options, 2)) == png_bytes(render_image(G, 5, options, 2))


def test_many_threads_get_what_one_gets(make_package):
    package, _ = make_package()
    predictor = Predictor.load(package.weights, package.description)
    options_list = [
        RenderOptions(psi=0.5 + 0.1 * i, translate=(0.05 * i, 0), rotate=15 * i) for i in range(4)
    ]
    requests = [Request(seed, options) for seed in range(10) for options in options_list]
    expected = [predictor.predict(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.predict, requests)) == expected


@pytest.mark.parametrize("num_ws", [1, None])
def test_vectors_give_the_picture_of_their_seed(make_package, num_ws):
    package, G = make_package()
    predictor = Predictor.load(package.weights, package.description)
    options = RenderOptions(psi=0.7, rotate=20)
    expected = predictor.predict(Request(5, options))
    z = tuple(seed_latent(5, G.z_dim)[0])
    assert predictor.predict(Request(None, options, z=z)) == expected
    ws = tuple(map(tuple, seed_ws(G, 5, options, None)[0][:num_ws].tolist()))
    assert predictor.predict(Request(None, RenderOptions(rotate=20), ws=ws)) == expected


@pytest.mark.parametrize(("kind", "quality"), [("jpeg", 100), ("webp", 100), ("png", 90)])
def test_formats_show_the_same_picture_and_repeat(make_package, kind, quality):
    package, G = make_package()
    predictor = Predictor.load(package.weights, package.description)
    request = Request(5, kind=kind, quality=quality)
    content = predictor.predict(request)
    assert predictor.predict(request) == content
    with PillowImage.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == (kind.upper(), "RGB")
        pixels = np.asarray(picture, dtype=np.int16)
    assert np.abs(pixels - render_image(G, 5, RenderOptions())).mean() < 4
    low = Request(5, kind=kind, quality=10)
    assert (predictor.predict(low) != content) == (kind != "png")


def test_a_smaller_size_is_the_scaled_picture(make_package):
    package, G = make_package()
    predictor = Predictor.load(package.weights, package.description)
    expected = resized(render_image(G, 5, RenderOptions()), 7)
    assert expected.shape == (7, 7, 3)
    assert predictor.predict(Request(5, size=7)) == png_bytes(expected)


def test_a_vector_without_a_finite_picture_is_the_clients_fault(make_networks):
    G, _ = make_networks()
    for name, parameter in G.synthesis.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(math.nan)
    with pytest.raises(ConfigError, match="not finite, from this vector"):
        Predictor(G).predict(Request(None, ws=((1000.0,) * G.w_dim,)))
    with pytest.raises(CheckpointError, match="not finite"):
        Predictor(G).predict(Request(1))


def test_pictures_are_computed_in_exact_float32(make_networks):
    """Whatever the process that serves has set."""
    G, _ = make_networks()
    seen = []
    for network in (G.mapping, G.synthesis):
        network.register_forward_hook(lambda *_: seen.append(current()))
    with computing(Precision(tf32=True, cudnn_benchmark=True)):
        for request in (Request(1), Request(None, z=(0.5,) * G.z_dim)):
            Predictor(G).predict(request)
    assert seen == [EXACT] * 4


def test_pictures_side_by_side_are_those_made_alone(make_networks):
    G, _ = make_networks(c_dim=3)
    threads = torch.get_num_threads()
    predictor = Predictor(G, together=4)
    options_list = [
        RenderOptions(psi=0.5 + 0.1 * i, translate=(0.05 * i, 0), rotate=15 * i) for i in range(4)
    ]
    requests = [Request(seed, options, seed % 3) for seed in range(6) for options in options_list]
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(predictor.predict, requests))
    finally:
        torch.set_num_threads(threads)
    alone = [png_bytes(render_image(G, r.seed, r.options, r.class_index)) for r in requests]
    assert together == alone


def test_twins_share_the_weights_and_nothing_else(make_networks):
    G, _ = make_networks()
    twin = _twin(G)
    assert all(a is b for a, b in zip(G.parameters(), twin.parameters(), strict=True))
    assert twin.synthesis.input.transform is not G.synthesis.input.transform


def test_a_request_for_another_kind_of_model_is_refused(make_package):
    package, _ = make_package()
    predictor = Predictor.load(package.weights, package.description)
    with pytest.raises(ConfigError, match="unconditional"):
        predictor.predict(Request(1, class_index=0))


def test_a_model_trained_with_vectors_draws_its_label(make_package, make_networks, tmp_path):
    G, _ = make_networks(c_dim=2)
    training_set = {"label_dim": 2, "label_kind": "vectors", "sample_labels": [[0.5, -1.0]]}
    package = package_generator(
        G, tmp_path, training_set=training_set, metrics={}, snapshot_sha256="ab"
    )
    predictor = Predictor.load(package.weights, package.description)
    assert (predictor.shapes.num_classes, predictor.shapes.label_dim) == (0, 2)
    expected = png_bytes(render_image(G, 1, RenderOptions(), (0.5, -1.0)))
    assert predictor.predict(Request(1, label=(0.5, -1.0))) == expected
    z = tuple(seed_latent(1, G.z_dim)[0].tolist())
    assert predictor.predict(Request(None, z=z, label=(0.5, -1.0))) == expected
    assert predictor.predict(Request(1, label=(0.0, 1.0))) != expected
    (row,) = example(training_set).to_dict("records")
    assert row == {"seed": 1, "label": [0.5, -1.0]}
