"""Registers the best snapshot as a version in the MLflow registry; twice adds nothing."""

import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import nn

import sg3flow
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.loading import package_generator
from sg3flow.checkpoints.network_catalog import NETWORKS, STARTER
from sg3flow.config import RegisterConfig
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.files import write_bytes, write_json
from sg3flow.metrics.error_terms import beside, read_terms
from sg3flow.output_checks import check_replaceable, json_marked
from sg3flow.registry.aliases import REGISTERED, change_alias
from sg3flow.registry.candidate import Candidate
from sg3flow.registry.gate import (
    Decision,
    decide,
    gate_record,
    read_gate_record,
    require_comparable,
    resolve_gate,
)
from sg3flow.registry.model_card import SAMPLES, Lineage, ModelFacts, model_card
from sg3flow.registry.registered_directions import directions_to_register
from sg3flow.registry.version_terms import terms_of_version, upload_terms
from sg3flow.rendering.conditions import TrainingLabels, described_labels
from sg3flow.rendering.grid import sample_sheet
from sg3flow.rendering.images import RenderedGenerator, png_bytes
from sg3flow.runs.best_snapshot import best_of_run, read_report
from sg3flow.runs.run_folder import read_provenance, read_run
from sg3flow.settings import Tag
from sg3flow.tracking.event_upload import log_model_metrics, record_output
from sg3flow.tracking.mlflow_store import (
    CANDIDATE,
    CHAMPION,
    Store,
    connect,
    current_aliases,
    experiment_of,
    results_of,
    time_to_upload,
    tracking_errors,
    training_run_id,
)
from sg3flow.tracking.outbox import training_set_name
from sg3flow.tracking.run_notes import FAMILY_NAMES
from sg3flow.tracking.upload_process import tracked_now

FORMAT = "sg3flow-registered-1"
_MODEL_TYPE = "generator"
_MOST_CLASSES = 6  # named on a card

# What the served code imports, directly or through sg3flow.
_REQUIREMENTS = (
    *("mlflow", "torch", "numpy", "scipy", "pillow", "safetensors", "pandas"),
    "filelock",  # builds of kernels
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def register_best(
    run_dir: Path, metrics: Path, report: Path, config: RegisterConfig
) -> dict[str, Any]:
    """Register the best snapshot, set the aliases, and write the report.

    ``candidate`` always points to it afterwards. ``champion`` does if there was none, or if the
    version passes the gate against the present one.

    Returns:
        the content of the report.

    Raises:
        ConfigError: the name is not valid in a registry, or the directions are for a network of
            other sizes.
        MetricError, CheckpointError: the metrics or the snapshot are missing or damaged, a metric
            of the gate was not measured, or the champion was measured against other images or by
            another detector.
        DataError: ``report`` exists and was not written by this stage, or the file of directions
            cannot be used.
        TrackingError: the registry cannot be used; raised within seconds.
    """
    _check_name(config.name)
    check_replaceable(report, json_marked(FORMAT), "a registration report", "--report")
    best, path, digest = best_of_run(run_dir, metrics, config.metric)
    gate = resolve_gate(config.gate, best.metric, list(best.results))
    terms = read_terms(beside(read_report(metrics)[0]))
    network, training_set = _read_snapshot(path, run_dir)
    store = connect()
    with tempfile.TemporaryDirectory() as folder:
        rows = best.results
        package = package_generator(
            network, Path(folder), training_set=training_set, metrics=rows, snapshot_sha256=digest
        )
        G = cast(RenderedGenerator, network)
        directions = directions_to_register(
            config.directions, Path(folder), G, package.weights_sha256
        )
        samples = Path(folder) / SAMPLES
        names = tuple(map(str, training_set.get("class_names") or ()))
        labels = TrainingLabels.read(G.c_dim, training_set)
        write_bytes(samples, png_bytes(sample_sheet(G, labels, names)))
        set_name = training_set_name(run_dir) or str(training_set.get("name") or "an unknown set")
        words = _network_words(run_dir, G, names)
        known = None if directions is None else directions.content
        facts = ModelFacts(words, set_name, training_set, digest, _start(run_dir), known)
        candidate = Candidate(
            best, digest, training_set, package, samples, facts, directions, gate, terms
        )
        with tracking_errors(store.uri):
            content = _register(store, candidate, run_dir, config)
    write_json(report, content)
    return content


def _register(
    store: Store, candidate: Candidate, run_dir: Path, config: RegisterConfig
) -> dict[str, Any]:
    version = _known_version(store, config.name, candidate)
    _require_comparable(store, config.name, version, candidate)
    note = f"already registered as version {version}"
    if version is None:
        version = _new_version(store, candidate, run_dir, config)
        note = f"registered as version {version}"
    upload_terms(
        store,
        store.client.get_model_version(config.name, version),
        candidate.best.results,
        candidate.terms,
    )
    decision = _decide(store, config.name, version, candidate)
    _describe(store, candidate, config.name, version, decision)
    sentence = _change_aliases(store, config.name, version, decision)
    aliases = current_aliases(store, config.name)
    return {
        "format": FORMAT,
        "name": config.name,
        "version": version,
        "note": note,
        "aliases": sorted(alias for alias, number in aliases.items() if number == version),
        "decision": sentence,
        "gate": dict(candidate.gate),
        "verdicts": [asdict(verdict) for verdict in decision.verdicts],
        "warning": decision.warning,
        "metric": candidate.best.metric,
        "value": candidate.best.value,
        "snapshot": candidate.best.snapshot,
        "snapshot_sha256": candidate.snapshot_sha256,
        "weights_sha256": candidate.package.weights_sha256,
        "model_uri": f"models:/{config.name}/{version}",
    }


def _known_version(store: Store, name: str, candidate: Candidate) -> str | None:
    """The version with exactly these weights and directions, if there is one."""
    wanted = (
        f"name = '{name}' and tags.`{Tag.WEIGHTS_SHA256}` = '{candidate.package.weights_sha256}'"
    )
    found = store.client.search_model_versions(wanted)
    ready = [each for each in found if each.status == "READY"]
    numbers = [int(each.version) for each in ready if candidate.has_directions_of(each.tags)]
    return str(min(numbers)) if numbers else None


def _require_comparable(store: Store, name: str, version: str | None, candidate: Candidate) -> None:
    """Check, before anything is registered, that it can be compared with the champion."""
    if not store.client.search_registered_models(f"name = '{name}'"):
        return
    champion = current_aliases(store, name).get(CHAMPION)
    if champion is None or _adds_directions(store, name, champion, candidate):
        return
    if champion != version:
        base = results_of(store.client.get_model_version(name, champion))
        require_comparable(candidate.gate, candidate.best.results, champion, base)


def _adds_directions(store: Store, name: str, champion: str, candidate: Candidate) -> bool:
    """Whether it is the champion's network, with other directions than the champion has."""
    tags = store.client.get_model_version(name, champion).tags
    if tags.get(Tag.WEIGHTS_SHA256) != candidate.package.weights_sha256:
        return False
    return candidate.directions is not None and not candidate.has_directions_of(tags)


def _new_version(store: Store, candidate: Candidate, run_dir: Path, config: RegisterConfig) -> str:
    import mlflow

    with tracked_now("register", config, run_dir) as stage_run:
        training = training_run_id(run_dir)
        if note := _place_of_training(store, training, run_dir):
            print(f"note: {note}", file=sys.stderr)
        model = _logged_model(store, candidate, training)
        if model is None:
            model = _new_logged_model(store, candidate, training or stage_run)
        if model.status != "READY":
            _upload(store, candidate, model)
        uri = f"models:/{model.model_id}"
        return str(mlflow.register_model(uri, config.name, tags=candidate.tags).version)


def _place_of_training(store: Store, training: str | None, run_dir: Path) -> str:
    """Where the training's run is, if not where one expects it."""
    if training is None and read_run(run_dir) is None:  # blends and other made networks
        return f"{run_dir} is the folder of no training: the model belongs to the run of register"
    if training is None:
        return (
            f"the training of {run_dir} is not in MLflow, so the model belongs to the run of "
            f"register; `sg3flow sync {run_dir}` before it sends the training"
        )
    experiment = experiment_of(store, training)
    if experiment == store.experiment_id:
        return ""
    names = [store.client.get_experiment(i).name for i in (experiment, store.experiment_id)]
    return (
        f"the training's run and the model are in the experiment {names[0]}, the run of register "
        f"is in {names[1]}; set MLFLOW_EXPERIMENT_NAME={names[0]} to have all in one"
    )


def _describe(
    store: Store, candidate: Candidate, name: str, number: str, decision: Decision
) -> None:
    """Set the tags and the description of a version.

    A known version may have new measurements, or its registration was interrupted. If there was
    nothing to compare it with, it keeps the verdicts of its last comparison.
    """
    version = store.client.get_model_version(name, number)
    model_id = version.source.removeprefix("models:/")
    lineage = _lineage(store, model_id)
    # What was measured earlier, by other metrics, stays.
    results = json.dumps(results_of(version) | candidate.best.results)
    verdicts = decision.verdicts or read_gate_record(version.tags.get(Tag.GATE, ""))[1]
    tags = candidate.tags | {Tag.RESULTS: results, Tag.COMMIT: lineage.commit}
    tags[Tag.GATE] = gate_record(candidate.gate, verdicts)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            store.client.set_model_version_tag(name, number, key, value)
    texts = [verdict.text for verdict in verdicts]
    text = model_card(name, number, candidate.best, candidate.facts, lineage, texts)
    if version.description != text:
        store.client.update_model_version(name, number, text)
    log_model_metrics(store, lineage.run_id, model_id, candidate.best)


def _logged_model(store: Store, candidate: Candidate, training: str | None) -> Any | None:
    """The LoggedModel of these weights from an interrupted start; a complete one first."""
    wanted = f"tags.`{Tag.WEIGHTS_SHA256}` = '{candidate.package.weights_sha256}'"
    wanted += f" AND model_type = '{_MODEL_TYPE}'"
    experiment = store.experiment_id
    if training is not None:  # another training may have equal weights
        wanted += f" AND source_run_id = '{training}'"
        experiment = experiment_of(store, training)
    models = store.client.search_logged_models([experiment], wanted)
    found = [model for model in models if candidate.has_directions_of(model.tags)]
    return min(found, key=lambda model: model.status != "READY", default=None)


def _new_logged_model(store: Store, candidate: Candidate, run_id: str) -> Any:
    return store.client.create_logged_model(
        experiment_of(store, run_id),
        name="generator",
        source_run_id=run_id,
        tags=candidate.content_tags,
        params={"kimg": str(candidate.best.kimg)},
        model_type=_MODEL_TYPE,
    )


def _upload(store: Store, candidate: Candidate, model: Any) -> None:
    """Log the package as a pyfunc of the model's run; the run stays finished."""
    import mlflow

    from sg3flow.serving import pyfunc_model

    record_output(store, model.source_run_id, model.model_id, candidate.best.kimg)
    with time_to_upload(candidate.package.weights), _code() as code:
        mlflow.pyfunc.log_model(
            model_id=model.model_id,
            python_model=str(Path(pyfunc_model.__file__)),
            artifacts=candidate.artifacts,
            code_paths=[str(code)],
            signature=pyfunc_model.signature(),
            input_example=pyfunc_model.example(candidate.training_set),
            pip_requirements=requirements(),
        )


@contextmanager
def _code() -> Iterator[Path]:
    """A copy of this package without the network that comes with it, which no version needs."""
    package = Path(sg3flow.__file__).parent
    bundled = NETWORKS[STARTER].bundled

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n == "__pycache__" or Path(folder, n) == bundled}

    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(package, Path(scratch, package.name), ignore=left_out))


def requirements() -> list[str]:
    """The packages that serving needs, pinned to the installed versions, without torch's build."""
    versions = {name: importlib.metadata.version(name) for name in _REQUIREMENTS}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _decide(store: Store, name: str, version: str, candidate: Candidate) -> Decision:
    """Whether the version becomes champion, or is it already."""
    champion = current_aliases(store, name).get(CHAMPION)
    if champion == version:
        return Decision(True, f"version {version} is the champion already")
    if champion is None:
        return Decision(True, "champion: there was none yet")
    if _adds_directions(store, name, champion, candidate):
        words = f"champion: the network of version {champion} with these directions"
        return Decision(True, words)
    present = store.client.get_model_version(name, champion)
    terms = dict(candidate.terms) | terms_of_version(store, present, candidate.gate)
    return decide(candidate.gate, candidate.best.results, champion, results_of(present), terms)


def _change_aliases(store: Store, name: str, version: str, decision: Decision) -> str:
    """Set the aliases; returns a sentence about ``champion``."""
    change_alias(store, name, CANDIDATE, version, how=REGISTERED, why="registered last")
    if not decision.passed:
        return decision.reason
    why = decision.reason
    warning = change_alias(store, name, CHAMPION, version, how=REGISTERED, why=why)
    return f"{why}; {warning}" if warning else why


def _lineage(store: Store, model_id: str) -> Lineage:
    run_id = store.client.get_logged_model(model_id).source_run_id
    run = store.client.get_run(run_id)
    commit = run.data.tags.get("mlflow.source.git.commit", "")
    experiment = str(run.info.experiment_id)
    return Lineage(run_id, model_id, run.info.run_name or "", commit, experiment)


def _read_snapshot(path: Path, run_dir: Path) -> tuple[nn.Module, dict[str, Any]]:
    networks = load_networks(path)
    if networks.G_ema is None:
        raise CheckpointError(f"{path} has no G_ema to register")
    return networks.G_ema, described_labels(networks.training_set or {}, run_dir)


def _start(run_dir: Path) -> dict[str, Any]:
    """The record of the network that the training started from; empty: none."""
    found = (read_provenance(run_dir) or {}).get("network")
    return found if isinstance(found, dict) else {}


def _network_words(run_dir: Path, G: RenderedGenerator, class_names: Sequence[str]) -> str:
    """The network and its size, such as ``StyleGAN3-T, 32 x 32 pixels, 3 classes``."""
    params = (read_run(run_dir) or {}).get("params")
    cfg = params.get("cfg") if isinstance(params, dict) else ""
    kind = FAMILY_NAMES.get(str(cfg)) or type(G).__name__
    words = [kind, f"{G.img_resolution} x {G.img_resolution} pixels"]
    if class_names:
        words.append(f"{len(class_names)} classes ({', '.join(class_names[:_MOST_CLASSES])})")
    return ", ".join(words)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"register.name must be letters, digits and . _ - (at most 128), not '{name[:60]}'"
        )
