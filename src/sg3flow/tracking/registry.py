"""The best snapshot as a version in the MLflow registry; asking twice adds nothing."""

import importlib.metadata
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import sg3flow
from sg3flow.checkpoints import load_networks
from sg3flow.config import RegisterConfig
from sg3flow.errors import CheckpointError, ConfigError, DataError
from sg3flow.files import write_json
from sg3flow.metrics.best import BestSnapshot, best_of_run
from sg3flow.serving.package import Package, package_generator
from sg3flow.tracking.champion import judge, require_comparable
from sg3flow.tracking.stage_run import tracked_now
from sg3flow.tracking.store import (
    Store,
    connect,
    time_to_upload,
    tracking_errors,
    training_run_id,
)

FORMAT = "sg3flow-registered-1"
CANDIDATE, CHAMPION = "candidate", "champion"

# What the served code imports, directly or through the parts of sg3flow it uses.
_REQUIREMENTS = ("mlflow", "torch", "numpy", "scipy", "pillow", "safetensors", "pandas")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WEIGHTS_TAG = "sg3flow.weights_sha256"


@dataclass(frozen=True)
class _Candidate:
    """A snapshot on its way into the registry."""

    best: BestSnapshot
    snapshot_sha256: str
    training_set: dict[str, Any]
    package: Package

    @property
    def tags(self) -> dict[str, str]:
        """What a version carries: digests, and every measurement with its conditions."""
        rows = {
            f"sg3flow.result.{name}": json.dumps(row) for name, row in self.best.results.items()
        }
        return rows | {
            _WEIGHTS_TAG: self.package.weights_sha256,
            "sg3flow.snapshot_sha256": self.snapshot_sha256,
            "sg3flow.snapshot": self.best.snapshot,
            "sg3flow.kimg": str(self.best.kimg),
            "sg3flow.metric": self.best.metric,
            "sg3flow.value": repr(self.best.value),
            "sg3flow.data": str(self.training_set.get("digest", "")),
            "sg3flow.licence": str(self.training_set.get("licence") or "not known"),
        }


def register_best(
    run_dir: Path, metrics: Path, report: Path, config: RegisterConfig
) -> dict[str, Any]:
    """Register the best snapshot, move the aliases, and write the report.

    ``candidate`` always points to it afterwards. ``champion`` does if there was none, or if the
    present one is worse by the same metric under the same conditions.

    Returns:
        the content of the report.

    Raises:
        ConfigError: a name the registry cannot take.
        MetricError, CheckpointError: the metrics or the snapshot are missing or damaged, or the
            champion was measured against other pictures or by another detector.
        DataError: ``report`` is a file of somebody else.
        TrackingError: the registry cannot be used; it fails within seconds.
    """
    _check_name(config.name)
    _refuse_foreign(report)
    best, path, digest = best_of_run(run_dir, metrics, config.metric)
    network, training_set = _read_snapshot(path)
    store = connect()
    with tempfile.TemporaryDirectory() as folder:
        rows = best.results
        package = package_generator(
            network, Path(folder), training_set=training_set, metrics=rows, snapshot_sha256=digest
        )
        candidate = _Candidate(best, digest, training_set, package)
        with tracking_errors(store.uri):
            content = _register(store, candidate, run_dir, config)
    write_json(report, content)
    return content


def _register(
    store: Store, candidate: _Candidate, run_dir: Path, config: RegisterConfig
) -> dict[str, Any]:
    version = _known_version(store, config.name, candidate)
    _require_comparable(store, config.name, version, candidate)
    note = f"already registered as version {version}"
    if version is None:
        version = _new_version(store, candidate, run_dir, config)
        note = f"registered as version {version}"
    else:
        # Measured again since, perhaps by another metric: the version says what is known now.
        for key, value in candidate.tags.items():
            store.client.set_model_version_tag(config.name, version, key, value)
    decision = _move_aliases(store, config.name, version, candidate)
    aliases = _aliases(store, config.name)
    return {
        "format": FORMAT,
        "name": config.name,
        "version": version,
        "note": note,
        "aliases": sorted(alias for alias, number in aliases.items() if number == version),
        "decision": decision,
        "metric": candidate.best.metric,
        "value": candidate.best.value,
        "snapshot": candidate.best.snapshot,
        "snapshot_sha256": candidate.snapshot_sha256,
        "weights_sha256": candidate.package.weights_sha256,
        "model_uri": f"models:/{config.name}/{version}",
    }


def _known_version(store: Store, name: str, candidate: _Candidate) -> str | None:
    """The version that holds these very weights, if there is one."""
    wanted = f"name = '{name}' and tags.`{_WEIGHTS_TAG}` = '{candidate.package.weights_sha256}'"
    found = store.client.search_model_versions(wanted)
    numbers = [int(version.version) for version in found if version.status == "READY"]
    return str(min(numbers)) if numbers else None


def _require_comparable(
    store: Store, name: str, version: str | None, candidate: _Candidate
) -> None:
    """Refuse, before anything is registered, what could not be held against the champion."""
    if not store.client.search_registered_models(f"name = '{name}'"):
        return
    champion = _aliases(store, name).get(CHAMPION)
    if champion is not None and champion != version:
        result = candidate.best.results[candidate.best.metric]
        require_comparable(result, champion, _champion_result(store, name, champion, candidate))


def _champion_result(
    store: Store, name: str, champion: str, candidate: _Candidate
) -> dict[str, Any] | None:
    """The champion's row for the metric that chose the candidate, if it was measured by it."""
    tags = store.client.get_model_version(name, champion).tags
    row = tags.get(f"sg3flow.result.{candidate.best.metric}")
    return dict(json.loads(row)) if row else None


def _new_version(store: Store, candidate: _Candidate, run_dir: Path, config: RegisterConfig) -> str:
    import mlflow

    with tracked_now("register", config, run_dir) as stage_run:
        source_run = training_run_id(run_dir) or stage_run
        with time_to_upload(candidate.package.weights):
            model_id = _log_model(store, candidate, source_run)
        version = mlflow.register_model(f"models:/{model_id}", config.name, tags=candidate.tags)
        store.client.update_model_version(config.name, version.version, _description(candidate))
    return str(version.version)


def _log_model(store: Store, candidate: _Candidate, run_id: str) -> str:
    """Log the package as a pyfunc of a run, whose state (finished) stays as it is."""
    import mlflow
    from mlflow.entities import LoggedModelOutput

    from sg3flow.serving import pyfunc

    model = store.client.create_logged_model(
        store.experiment_id,
        name="generator",
        source_run_id=run_id,
        tags={_WEIGHTS_TAG: candidate.package.weights_sha256},
        params={"kimg": str(candidate.best.kimg)},
        model_type="generator",
    )
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, candidate.best.kimg)])
    mlflow.pyfunc.log_model(
        model_id=model.model_id,
        python_model=str(Path(pyfunc.__file__)),
        artifacts={
            "weights": str(candidate.package.weights),
            "description": str(candidate.package.description),
        },
        code_paths=[str(Path(sg3flow.__file__).parent)],
        signature=pyfunc.signature(),
        input_example=pyfunc.example(int(candidate.training_set.get("label_dim", 0))),
        pip_requirements=requirements(),
    )
    return str(model.model_id)


def requirements() -> list[str]:
    """What serving needs, pinned to what is installed here; any build of that torch will do."""
    versions = {name: importlib.metadata.version(name) for name in _REQUIREMENTS}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _move_aliases(store: Store, name: str, version: str, candidate: _Candidate) -> str:
    """Point the aliases to the version as it deserves; says in words what became of champion."""
    store.client.set_registered_model_alias(name, CANDIDATE, version)
    champion = _aliases(store, name).get(CHAMPION)
    if champion == version:
        return f"version {version} is the champion already"
    if champion is None:
        wins, reason = True, "champion: there was none yet"
    else:
        result = candidate.best.results[candidate.best.metric]
        row = _champion_result(store, name, champion, candidate)
        wins, reason = judge(result, champion, row)
    if wins:
        store.client.set_registered_model_alias(name, CHAMPION, version)
    return reason


def _aliases(store: Store, name: str) -> dict[str, str]:
    # Versions are numbers from a database and texts from a server.
    found = store.client.get_registered_model(name).aliases
    return {str(alias): str(version) for alias, version in found.items()}


def _description(candidate: _Candidate) -> str:
    best, data = candidate.best, candidate.training_set
    citation = f"; cite: {data['citation']}" if data.get("citation") else ""
    return (
        f"{best.snapshot}: {best.metric} {best.value:g} at {best.kimg} kimg, trained on "
        f"{data.get('num_images', '?')} pictures of {data.get('name', '?')} "
        f"(licence: {data.get('licence') or 'not known'}{citation})"
    )


def _read_snapshot(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    networks = load_networks(path)
    if networks.G_ema is None:
        raise CheckpointError(f"{path} holds no G_ema to register")
    return networks.G_ema, networks.training_set or {}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"register.name must be letters, digits and . _ - (at most 128), not '{name[:60]}'"
        )


def _refuse_foreign(report: Path) -> None:
    if not report.exists():
        return
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{report} exists and is no report of register; choose another --report")
