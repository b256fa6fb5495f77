"""A snapshot to register, with all that goes into its version."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.checkpoints.loading import Package
from sg3flow.metrics.error_terms import Terms
from sg3flow.registry.gate import Gate
from sg3flow.registry.model_card import ModelFacts
from sg3flow.registry.registered_directions import RegisteredDirections
from sg3flow.runs.best_snapshot import BestSnapshot
from sg3flow.settings import Tag


@dataclass(frozen=True)
class Candidate:
    """A snapshot to register.

    Attributes:
        gate: what it must show to become champion, by metric.
        terms: error terms of its results by digest, as far as they are known.
    """

    best: BestSnapshot
    snapshot_sha256: str
    training_set: dict[str, Any]
    package: Package
    samples: Path
    facts: ModelFacts
    directions: RegisteredDirections | None
    gate: Gate
    terms: Terms = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a version: digests, and every measurement with its conditions."""
        return {
            Tag.RESULTS: json.dumps(self.best.results),
            Tag.SNAPSHOT_SHA256: self.snapshot_sha256,
            Tag.SNAPSHOT: self.best.snapshot,
            Tag.KIMG: str(self.best.kimg),
            Tag.METRIC: self.best.metric,
            Tag.VALUE: repr(self.best.value),
            Tag.DATA: str(self.training_set.get("digest", "")),
            Tag.LICENSE: str(self.training_set.get("licence") or "not known"),
            **self.content_tags,
        }

    @property
    def content_tags(self) -> dict[str, str]:
        """The digests of what is served: the weights, and the directions if there are some."""
        tags = {Tag.WEIGHTS_SHA256: self.package.weights_sha256}
        if self.directions is not None:
            tags[Tag.DIRECTIONS_SHA256] = self.directions.sha256
        return tags

    def has_directions_of(self, tags: Mapping[str, str]) -> bool:
        """Whether a version or model with these tags has the same directions, or also none."""
        own = "" if self.directions is None else self.directions.sha256
        return tags.get(Tag.DIRECTIONS_SHA256, "") == own

    @property
    def artifacts(self) -> dict[str, str]:
        """The files of the package by the names that the model reads them by."""
        files = {
            "weights": self.package.weights,
            "description": self.package.description,
            "samples": self.samples,
        }
        if self.directions is not None:
            files["directions"] = self.directions.path
        return {name: str(path) for name, path in files.items()}
