"""The same images and made-up weights through each tool, and through our protocol of its name.

300 faces of 512 px against 300 others, drawn once into `build/peers-images`. For each tool: the
features of all images, and the distance. About 15 minutes on two cores.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import outside  # noqa: F401
import torch
from made_up import draw_images, inception_weights
from numpy.typing import NDArray
from peer_inceptions import clean_network, pytorch_network, saved_weights
from rows import Row, report_rows

from sg3flow.metrics.evaluation import ImageSet, compare_sets
from sg3flow.metrics.features import inception
from sg3flow.metrics.features.inception import InceptionFeatures
from sg3flow.metrics.features.input_rules import INPUT_RULES
from sg3flow.metrics.reference_set import EVERYTHING, Reference

COUNT, BATCH = 300, 20
_PLACE = Path("build/peers-images")
_CPU = torch.device("cpu")
_SINGULAR = "300 images for 2,048 features: the root of a singular matrix"
Found = tuple[NDArray[np.float32], dict[str, float]]  # features of both sets, values by our names


def pytorch_fid(a: Path, b: Path, weights: dict[str, torch.Tensor]) -> Found:
    """Features and distance of pytorch-fid's command."""
    from pytorch_fid.fid_score import calculate_frechet_distance, get_activations

    network = pytorch_network(weights)
    sets = [
        get_activations(sorted(folder.glob("*.png")), network, BATCH, num_workers=0)
        for folder in (a, b)
    ]
    sides = [(np.mean(each, axis=0), np.cov(each, rowvar=False)) for each in sets]
    value = float(calculate_frechet_distance(*sides[0], *sides[1]))
    return np.concatenate(sets).astype(np.float32), {"pytorch_fid": value}


def clean_fid(a: Path, b: Path, weights: dict[str, torch.Tensor]) -> Found:
    """Features, FID and KID of clean-fid's mode `clean`."""
    from cleanfid.fid import fid_from_feats, get_folder_features, kernel_distance

    network = clean_network(weights)
    settings = {"num_workers": 0, "batch_size": BATCH, "device": _CPU, "verbose": False}
    sets = [get_folder_features(str(folder), network, **settings) for folder in (a, b)]
    values = {
        "clean_fid": float(fid_from_feats(*sets)),
        "clean_kid": kernel_distance(*[each.astype(np.float64) for each in sets]),
    }
    return np.concatenate(sets), values


def torch_fidelity(a: Path, b: Path, weights: dict[str, torch.Tensor]) -> Found:
    """Features and FID of torch-fidelity; its KID needs 1,000 images."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

    sets = []
    with saved_weights(weights) as path:
        settings = {"feature_extractor_weights_path": str(path), "cuda": False, "cache": False}
        settings |= {"verbose": False, "batch_size": BATCH, "save_cpu_ram": True}
        network = create_feature_extractor("inception-v3-compat", ["2048"], **settings)
        for folder in (a, b):
            found = extract_featuresdict_from_input_id(1, network, input1=str(folder), **settings)
            sets.append(found["2048"])
    stats = [fid_features_to_statistics(each) for each in sets]
    value = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    return torch.cat(sets).numpy(), {"torch_fidelity_fid": value}


def torchmetrics(a: Path, b: Path, weights: dict[str, torch.Tensor]) -> Found:
    """Features and FID of torchmetrics with its defaults."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    with saved_weights(weights) as path:
        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path))
    features: list[torch.Tensor] = []
    metric.inception.register_forward_hook(lambda *step: features.append(step[2]))
    for folder, is_real in ((a, False), (b, True)):
        images = ImageSet(folder)
        for start in range(0, images.num_images, BATCH):
            numbers = range(start, min(start + BATCH, images.num_images))
            batch = np.stack([images.image(number) for number in numbers])
            metric.update(torch.from_numpy(batch).permute(0, 3, 1, 2), real=is_real)
    return torch.cat(features).numpy(), {"torchmetrics_fid": float(metric.compute())}


TOOLS: dict[str, tuple[str, Callable[[Path, Path, dict[str, torch.Tensor]], Found]]] = {
    "pytorch-fid": ("inception_pytorch", pytorch_fid),
    "clean-fid": ("inception_clean", clean_fid),
    "torch-fidelity": ("inception_torch_fidelity", torch_fidelity),
    "torchmetrics": ("inception_torchmetrics", torchmetrics),
}


def our_features(folder: Path, detector: str) -> NDArray[np.float32]:
    """Our features; `compare_sets` finds them in the cache afterwards."""
    images = ImageSet(folder)
    extractor = InceptionFeatures(_CPU, INPUT_RULES[detector])
    reference = Reference(images, extractor, BATCH, _CPU, conversion=images.conversion)
    reference.prepare_features(EVERYTHING)
    return reference.features(EVERYTHING).numpy()


def check() -> Iterator[Row]:
    """Per tool a row of features, and a row per distance."""
    weights = inception_weights()
    inception.load_weights = lambda *described: weights
    a, b = (draw_images(_PLACE / str(seed), COUNT, seed) for seed in (1, 2))
    case = f"{COUNT} against {COUNT} images of 512 px"
    for tool, (detector, compute) in TOOLS.items():
        theirs, values = compute(a, b, weights)
        ours = np.concatenate([our_features(folder, detector) for folder in (a, b)])
        most = float(np.abs(theirs).max())
        apart = float(np.abs(ours - theirs).max()) / most
        yield Row(f"{case}: features", tool, most, float(np.abs(ours).max()), 1e-5, apart)
        for name, value in values.items():
            is_singular = name.endswith("fid")
            note, limit = (_SINGULAR, 3e-4) if is_singular else ("", 1e-5)
            found = _ours(a, b, name)
            yield Row(f"{case}: distance", tool, value, found, limit, None, name, note)
        if tool == "torch-fidelity":  # its input is the official one
            found, value = _ours(a, b, "fid"), values["torch_fidelity_fid"]
            yield Row(f"{case}: distance", tool, value, found, None, None, "fid", "the divisor")


def _ours(a: Path, b: Path, name: str) -> float:
    """Our value, through `compare_sets` as `evaluate images` uses it."""
    sets = ImageSet(a), ImageSet(b)
    return compare_sets(*sets, [name], seed=0, batch=BATCH, device=_CPU)[0].value


if __name__ == "__main__":
    report_rows(check)
