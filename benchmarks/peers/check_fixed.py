"""Features and images of formulas through each peer; keeps its numbers for the tests.

It writes `tests/metrics/peer_values.json`, which `tests/metrics/test_protocols.py` compares with.
"""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import outside  # noqa: F401
import torch
from check_features import (
    frechet_of_ours,
    frechet_of_pytorch_fid,
    frechet_of_torch_fidelity,
    frechet_of_torchmetrics,
)
from cleanfid.fid import fid_from_feats, kernel_distance
from cleanfid.resize import build_resizer
from made_up import inception_weights
from numpy.typing import NDArray
from peer_inceptions import clean_network, pytorch_network, saved_weights
from rows import Row, report_rows
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.utils import create_feature_extractor
from torchmetrics.image.fid import NoTrainInceptionV3

from sg3flow.metrics.features.input_rules import INPUT_RULES
from sg3flow.metrics.polynomial_mmd import kernel_estimate

_TESTS = Path(__file__).parents[2] / "tests" / "metrics"
sys.path.insert(0, str(_TESTS))  # the tests and the peers get the same case

from fixed_cases import (  # noqa: E402
    IMAGE_SIZES,
    SEED,
    SIZE,
    SUBSETS,
    formula_features,
    formula_image,
    kept_values,
)

# The tool of each value.
_TOOLS = {
    "pytorch_": "pytorch-fid",
    "clean_": "clean-fid",
    "torch_fidelity_": "torch-fidelity",
    "torchmetrics_": "torchmetrics",
}
Prepared = list[NDArray[np.float32]]


class _Recorder(torch.nn.Module):
    """Takes the place of clean-fid's network and keeps its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: Prepared = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x[0].numpy())
        return torch.zeros(len(x), 2048)


def _by_clean_fid(images: list[NDArray[np.uint8]], weights: dict[str, torch.Tensor]) -> Prepared:
    network: Any = clean_network(weights)
    network.layers = recorder = _Recorder()
    resize = build_resizer("clean")
    for image in images:
        network(torch.from_numpy(resize(image)).permute(2, 0, 1)[None])
    return recorder.inputs


def _by_pytorch_fid(images: list[NDArray[np.uint8]], weights: dict[str, torch.Tensor]) -> Prepared:
    from torchvision.transforms import ToTensor

    network = pytorch_network(weights)
    prepared = _inputs_of(network.blocks[0])
    for image in images:
        network(ToTensor()(image)[None])
    return prepared


def _by_torch_fidelity(
    images: list[NDArray[np.uint8]], weights: dict[str, torch.Tensor]
) -> Prepared:
    with saved_weights(weights) as path:
        network = create_feature_extractor(
            "inception-v3-compat", ["64"], feature_extractor_weights_path=str(path), cuda=False
        )
    return _by_layers(network, images)


def _by_torchmetrics(images: list[NDArray[np.uint8]], weights: dict[str, torch.Tensor]) -> Prepared:
    with saved_weights(weights) as path:
        network = NoTrainInceptionV3("inception-v3-compat", ["64"], str(path))
    return _by_layers(network, images)


def _by_layers(network: Any, images: list[NDArray[np.uint8]]) -> Prepared:
    prepared = _inputs_of(network.Conv2d_1a_3x3)
    for image in images:
        network(torch.from_numpy(image).permute(2, 0, 1)[None])
    return prepared


def _inputs_of(layer: torch.nn.Module) -> Prepared:
    """A list to which each call of a layer appends its input."""
    found: Prepared = []
    layer.register_forward_pre_hook(lambda _, given: found.append(given[0][0].numpy()))
    return found


_PREPARED = {
    "inception_pytorch": ("pytorch-fid", _by_pytorch_fid),
    "inception_clean": ("clean-fid", _by_clean_fid),
    "inception_torch_fidelity": ("torch-fidelity", _by_torch_fidelity),
    "inception_torchmetrics": ("torchmetrics", _by_torchmetrics),
}


def check() -> Iterator[Row]:
    """A row per value and per rule of resizing."""
    peers, ours = _peer_values(), _our_values()
    for name, value in peers.items():
        tool = next(tool for start, tool in _TOOLS.items() if name.startswith(start))
        yield Row("features of a formula", tool, value, ours[name], 1e-6, name=name)
    images = [formula_image(number) for number in range(len(IMAGE_SIZES))]
    weights, inputs = inception_weights(), {}
    for detector, (tool, prepare) in _PREPARED.items():
        with torch.inference_mode():
            theirs = prepare(images, weights)
        inputs[detector] = [kept_values(each) for each in theirs]
        apart = [
            np.abs(each - _ours(detector, image)).max()
            for each, image in zip(theirs, images, strict=True)
        ]
        most = max(float(np.abs(each).max()) for each in theirs)
        case = f"input of Inception, {len(images)} images of 1 to 1,024 px"
        yield Row(case, tool, most, most, 2e-6, float(max(apart)) / most)
    versions = {tool: version(tool) for tool in _TOOLS.values()}
    content = {"versions": versions, "values": peers, "inputs": inputs}
    (_TESTS / "peer_values.json").write_text(json.dumps(content, indent=1) + "\n")


def _ours(detector: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    prepared: NDArray[np.float32] = INPUT_RULES[detector].prepare(images)[0].numpy()
    return prepared


def _peer_values() -> dict[str, float]:
    a, b = formula_features(0, 60), formula_features(1, 50)  # a: generated
    settings = {"kid_subsets": SUBSETS, "kid_subset_size": SIZE, "rng_seed": SEED}
    sides = [torch.from_numpy(x.astype(np.float64)) for x in (a, b)]
    found = kid_features_to_metric(*sides, verbose=False, **settings)
    np.random.seed(SEED)
    return {
        "pytorch_fid": frechet_of_pytorch_fid(a, b),
        "clean_fid": float(fid_from_feats(a, b)),
        "clean_kid": kernel_distance(*map(np.float64, (a, b)), SUBSETS, SIZE),
        "torch_fidelity_fid": frechet_of_torch_fidelity(a, b),
        "torch_fidelity_kid": found["kernel_inception_distance_mean"],
        "torchmetrics_fid": frechet_of_torchmetrics(a, b),
    }


def _our_values() -> dict[str, float]:
    a, b = formula_features(0, 60), formula_features(1, 50)
    frechet = frechet_of_ours(a, b)
    names = ("pytorch_fid", "clean_fid", "torch_fidelity_fid", "torchmetrics_fid")
    return dict.fromkeys(names, frechet) | {
        "clean_kid": kernel_estimate(b, a, SUBSETS, SIZE, SEED).value,
        "torch_fidelity_kid": kernel_estimate(b, a, SUBSETS, SIZE, SEED, draw_b_first=True).value,
    }


if __name__ == "__main__":
    report_rows(check)
