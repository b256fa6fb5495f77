"""Labels that are vectors: known from the checkpoint, checked, and drawn as they were trained."""

import json
import zipfile

import numpy as np
import pytest
import torch

from sg3flow.data.packed_form import label_kind, label_kind_of, label_vectors
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.files import write_json
from sg3flow.rendering.conditions import (
    TrainingLabels,
    condition_text,
    described_labels,
    given_condition,
    label_tensor,
    parse_label,
)
from sg3flow.rendering.grid import resized, sample_sheet, seed_sheet
from sg3flow.rendering.images import render_image
from sg3flow.rendering.seeds import RenderOptions

_VECTORS = [[0.5, -1.0], [0.25, 2.0], [3.0, 4.0]]
_RECORD = {"label_dim": 2, "label_kind": "vectors", "sample_labels": _VECTORS}


def _packed(path, labels):
    content = {"labels": [[f"00000/img{i:08d}.png", label] for i, label in enumerate(labels)]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", json.dumps(content if labels else {"labels": None}))
    return path


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 2, 1], "classes"),
        ([[0, 1], [1.0, 0]], "classes"),
        ([[0, 1], [1.0, 1]], "vectors"),
        ([[0.5, -1]], "vectors"),
        ([[0, 0]], "vectors"),
        ([[2, -1]], "vectors"),
        ([], ""),
    ],
)
def test_the_kind_of_labels_shows_in_the_labels_themselves(tmp_path, labels, kind):
    path = _packed(tmp_path / "set.zip", labels)
    assert label_kind_of(path) == kind
    assert label_vectors(path) == (labels if kind == "vectors" else [])
    assert not labels or label_kind(labels) == kind


def test_sample_labels_are_few_different_and_from_the_whole_set(tmp_path):
    many = _packed(tmp_path / "many.zip", [[i / 10, -1.5] for i in range(1000)])
    first = [label[0] for label in label_vectors(many)]
    assert len(first) == 64 and first == sorted(set(first))
    assert first[0] == 0 and 90 < first[-1] < 100
    assert label_vectors(_packed(tmp_path / "same.zip", [[0.5]] * 9)) == [[0.5]]
    long = _packed(tmp_path / "long.zip", [[float(i)] * 20_000 for i in range(8)])
    assert [label[0] for label in label_vectors(long)] == [0, 2, 5]


def test_vectors_come_in_turn_and_classes_as_before():
    labels = TrainingLabels.read(2, _RECORD)
    assert labels.are_vectors
    assert labels.in_turn(4) == [(0.5, -1.0), (0.25, 2.0), (3.0, 4.0), (0.5, -1.0)]
    for record in (None, {}, {"label_dim": 2}, {"label_kind": "classes"}):
        known = TrainingLabels.read(2, record)
        assert not known.are_vectors and known.in_turn(3) == [0, 1, 0]
    assert TrainingLabels.read(0, _RECORD).in_turn(2) == [None, None]


@pytest.mark.parametrize(
    "samples", [None, [], "x", [1], [[1.0]], [[1, "a"]], [[1, True]], [[1, 1e39]], [None]]
)
def test_a_damaged_record_is_an_error_in_words(samples):
    with pytest.raises(CheckpointError, match="sample_labels"):
        TrainingLabels.read(2, {"label_kind": "vectors", "sample_labels": samples})


@pytest.mark.parametrize(
    ("labels", "condition", "words"),
    [
        (TrainingLabels(0), 1, "unconditional; do not give a class"),
        (TrainingLabels(0), (1.0,), "unconditional; do not give a label"),
        (TrainingLabels(3), None, "give a class from 0 to 2"),
        (TrainingLabels(3), 3, "class must be from 0 to 2, not 3"),
        (TrainingLabels(3), (1.0, 2.0), "must have 3 numbers, not 2"),
        (TrainingLabels.read(2, _RECORD), None, "give a label of 2 numbers, such as 0.5,-1"),
        (TrainingLabels.read(2, _RECORD), 0, "vectors, not classes; give a label of 2 numbers"),
    ],
)
def test_conditions_of_another_kind_are_refused(labels, condition, words):
    with pytest.raises(ConfigError, match=words):
        label_tensor(condition, labels)


def test_labels_are_read_from_options():
    assert given_condition(None, "0.5,-1") == parse_label(" 0.5, -1 ") == (0.5, -1.0)
    assert given_condition(2, "") == 2 and given_condition(None, "") is None
    with pytest.raises(ConfigError, match="not both"):
        given_condition(0, "1")
    for text in ("x", "1,,2", "nan", "inf,1", "1e39", "1;2"):
        with pytest.raises(ConfigError, match="finite numbers like"):
            parse_label(text)
    assert label_tensor((0.5, -1.0), TrainingLabels(2)).tolist() == [[0.5, -1.0]]
    assert condition_text((0.5, -1.0, 1 / 3, 4, 5)) == "label 0.5,-1,0.333,4,…"
    assert condition_text(1, ["cat", "dog"]) == "dog" and condition_text(2, ["cat"]) == "class 2"


def test_the_sample_sheet_of_a_version_shows_labels_of_the_training_set(make_generator):
    G = make_generator(c_dim=2)
    with torch.no_grad():  # untrained, it hardly follows its label
        G.mapping.embed.weight.mul_(5)
    labels = TrainingLabels.read(2, _RECORD)
    conditions = labels.in_turn(12)
    images = [resized(render_image(G, s, RenderOptions(), conditions[s]), 16) for s in range(12)]
    captions = [f"{s} {condition_text(conditions[s])}" for s in range(12)]
    expected = seed_sheet(images, captions, 16)
    np.testing.assert_array_equal(sample_sheet(G, labels), expected)
    assert (sample_sheet(G, TrainingLabels(2)) != expected).any()


def test_a_snapshot_of_an_earlier_version_gets_its_labels_from_the_set_of_its_run(tmp_path):
    path = _packed(tmp_path / "set.zip", _VECTORS)
    data = {"path": str(path), "digest": "ab"}
    write_json(tmp_path / "provenance.json", {"format": "sg3flow-provenance-1", "data": data})
    old = {"label_dim": 2, "digest": "ab"}
    assert described_labels(old, tmp_path) == old | _RECORD
    assert described_labels({"label_dim": 2, "digest": "other"}, tmp_path)["digest"] == "other"
    assert described_labels({"label_dim": 0}, tmp_path) == {"label_dim": 0}
    wrong = {"label_dim": 3, "digest": "ab"}  # the set was replaced
    assert described_labels(wrong, tmp_path) == wrong
    _packed(path, [0, 1, 1])
    assert described_labels(old, tmp_path) == old | {"label_kind": "classes"}
    path.unlink()
    assert described_labels(old, tmp_path) == old
    assert described_labels(old, tmp_path / "nowhere") == old
