"""The packaged generator: what is in the files, and that its pictures are always the same."""

import json
import math
import pickletools
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from sg3flow.checkpoints.packaged import load_packaged
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.rendering.images import Look, png_bytes, render_image
from sg3flow.serving.predictor import Predictor, Request


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

    from sg3flow.serving.pyfunc import GeneratorModel

    G, _ = make_networks()
    G.mapping.w_avg.fill_(math.nan)
    model = GeneratorModel()
    model.predictor = Predictor(G)
    with pytest.raises(MlflowException, match="not finite") as caught:
        model.predict(None, pd.DataFrame([{"seed": 1, "psi": 0.5}]))
    assert caught.value.get_http_status_code() == 500


def test_predictions_are_the_rendered_pictures(make_package):
    package, G = make_package(c_dim=3)
    predictor = Predictor.load(package.weights, package.description)
    assert predictor.class_names == ("cat", "dog", "wild")
    look = Look(psi=0.7, translate=(0.1, 0.0), rotate=20)
    assert predictor.predict(Request(5, look, 2)) == png_bytes(render_image(G, 5, look, 2))


def test_many_threads_get_what_one_gets(make_package):
    package, _ = make_package()
    predictor = Predictor.load(package.weights, package.description)
    looks = [Look(psi=0.5 + 0.1 * i, translate=(0.05 * i, 0), rotate=15 * i) for i in range(4)]
    requests = [Request(seed, look) for seed in range(10) for look in looks]
    expected = [predictor.predict(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.predict, requests)) == expected


def test_a_request_for_another_kind_of_model_is_refused(make_package):
    package, _ = make_package()
    predictor = Predictor.load(package.weights, package.description)
    with pytest.raises(ConfigError, match="without classes"):
        predictor.predict(Request(1, class_index=0))
