"""The description of a registered version: which network a training started from."""

import dataclasses

import pytest

from sg3flow.registry.model_card import Lineage, ModelFacts, model_card
from sg3flow.runs.best_snapshot import BestSnapshot

ROW = {"metric": "fd_random1k_full", "value": 4.0, "standard_error": 0.1, "num_generated": 1000}
LATER = BestSnapshot("network-snapshot-000001.pkl", 1, ROW["metric"], 4.0, {ROW["metric"]: ROW})
FIRST = dataclasses.replace(LATER, snapshot="network-snapshot-000000.pkl", kimg=0)
STARTER = {"source": "starter", "shortened": False, "sha256": "ab12" * 16}


def card(best, start) -> list[str]:
    facts = ModelFacts("StyleGAN3-T, 64 x 64 pixels", "starter 64x64", {"digest": "cd"}, "e" * 64)
    facts = dataclasses.replace(facts, start=start)
    return model_card("cats", "1", best, facts, Lineage("r", "m")).splitlines()


def test_it_names_the_network_that_the_training_started_from():
    lines = card(LATER, STARTER)
    assert "| **starts from** | `starter`, SHA-256 `ab12ab12ab12` |" in lines
    assert (
        "| **snapshot** | `network-snapshot-000001.pkl`, 1 kimg, chosen by fd_random1k_full |"
    ) in lines


def test_a_first_snapshot_is_that_network_itself():
    (line,) = [line for line in card(FIRST, STARTER) if line.startswith("| **snapshot**")]
    assert "000000.pkl`, 0 kimg: the network that the training started from, chosen by" in line


@pytest.mark.parametrize("start", [{}, {"source": ""}])
def test_from_random_weights_it_names_none(start):
    text = "\n".join(card(FIRST, start))
    assert "start" not in text.replace("starter 64x64", "") and "`, 0 kimg, chosen by" in text


def test_an_unknown_digest_is_said_to_be_unknown():
    assert "| **starts from** | `x.pkl`, SHA-256 `unknown` |" in card(LATER, {"source": "x.pkl"})
