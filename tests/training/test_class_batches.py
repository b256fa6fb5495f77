"""Batches of one class: where they are refused, and that a training takes them."""

import dataclasses

import pytest

from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet, training_batches
from sg3flow.errors import ConfigError
from sg3flow.training.job import prepare


def test_they_need_labels_that_are_classes(cheap_config, tiny_set, vector_set):
    config = dataclasses.replace(cheap_config, class_batches=True)
    with pytest.raises(ConfigError, match=r"a set with classes, and train\.cond is off"):
        prepare(config, tiny_set)
    config = dataclasses.replace(config, cond=True)
    prepare(config, tiny_set)
    with pytest.raises(ConfigError, match=r"the labels of .*vectors.zip are vectors"):
        prepare(config, vector_set)


def test_they_and_the_loss_are_part_of_the_fingerprint(cheap_config, tiny_set):
    config = dataclasses.replace(cheap_config, cond=True)
    changes = ({}, {"class_batches": True}, {"loss": "relativistic"})
    keys = {prepare(dataclasses.replace(config, **each), tiny_set).key for each in changes}
    assert len(keys) == 3


@pytest.mark.parametrize("mirror", [False, True])
def test_the_batches_of_a_training_have_one_class(tiny_set, mirror):
    items = TrainingSet(PackedSet(tiny_set), mirror=mirror, labels=True)
    assert len(items.classes()) == len(items)
    batches = training_batches(items, 0, 8, 4, workers=0, pin_memory=False, class_batches=True)
    seen = set()
    for _ in range(12):
        _, labels = next(batches)
        assert labels.shape == (4, 3) and (labels == labels[0]).all()
        seen.add(int(labels[0].argmax()))
    assert seen == {0, 1, 2}
