import re
from pathlib import Path

import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.features import clip, inception, vgg
from sg3flow.metrics.features.clip import ClipFeatures
from sg3flow.metrics.features.detectors import DETECTORS
from sg3flow.metrics.features.dinov2 import (
    BASE_WEIGHTS,
    LARGE_WEIGHTS,
    DinoBaseFeatures,
    DinoLargeFeatures,
)
from sg3flow.metrics.image_metrics import load_extractor

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
CPU = torch.device("cpu")


def test_the_table_of_detectors():
    expected = {name: 2048 for name in DETECTORS if name.startswith("inception")}
    expected |= {"vgg16": 4096, "random": 254, "dinov2": 1024, "dinov2_b": 768, "clip": 768}
    assert {name: detector.num_features for name, detector in DETECTORS.items()} == expected
    for kind, name in (
        (DinoLargeFeatures, "dinov2"),
        (DinoBaseFeatures, "dinov2_b"),
        (ClipFeatures, "clip"),
    ):
        entry = DETECTORS[name]
        assert (kind.num_features, kind.input_size) == (entry.num_features, entry.input_size)
    assert load_extractor("random", CPU, 32).num_features == 254
    assert len({kind.digest for kind in (DinoLargeFeatures, DinoBaseFeatures, ClipFeatures)}) == 3
    with pytest.raises(MetricError, match="no detector 'dino'"):
        load_extractor("dino", CPU, 32)


def test_docs_list_every_file_of_weights():
    files = {file.name: file.sha256 for file in (LARGE_WEIGHTS, BASE_WEIGHTS, clip.WEIGHTS)}
    files[inception.WEIGHTS_NAME] = inception.WEIGHTS_SHA256
    files |= {vgg.VGG_NAME: vgg.VGG_SHA256, vgg.HEADS_NAME: vgg.HEADS_SHA256}
    section = DOCUMENT.read_text().partition("## Weights")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `([^`]+)`[^|]*\| `([0-9a-f]{64})` \|", section, re.MULTILINE))
    assert listed == files
