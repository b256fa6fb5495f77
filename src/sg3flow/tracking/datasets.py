"""The packed set as an MLflow dataset: its digest and what it holds, on every run that uses it."""

import json
from collections.abc import Mapping
from typing import Any

from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag


class PackedSetDataset(MetaDataset):  # type: ignore[misc]  # mlflow's classes are untyped here
    """Metadata of a packed set: name, digest, where from, and counts as its profile."""

    def __init__(self, source: Any, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        self._profile_values = dict(profile)
        super().__init__(source, name=name, digest=digest)

    def to_dict(self) -> dict[str, str]:
        """What MLflow stores."""
        profile = json.dumps(self._profile_values, sort_keys=True)
        return {**super().to_dict(), "profile": profile}


def log_dataset(
    client: Any, run_id: str, *, name: str, digest: str, source: str, profile: Mapping[str, Any]
) -> None:
    """Attach a data set to a run; the same set twice is one."""
    from mlflow.data.code_dataset_source import CodeDatasetSource

    # MLflow keeps at most 36 characters of a digest.
    dataset = PackedSetDataset(
        CodeDatasetSource({"sg3flow.source": source}), name, digest[:16], profile
    )
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [context])])
