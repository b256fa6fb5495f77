"""Versions of a registered model, and errors for names that do not exist."""

import json
from pathlib import Path
from typing import Any

from sg3flow.errors import ConfigError, TrackingError, nearest
from sg3flow.tracking.moves import standing
from sg3flow.tracking.store import Store, connect, tracking_uri

CANDIDATE, CHAMPION = "candidate", "champion"

WEIGHTS_TAG = "sg3flow.weights_sha256"
RESULT_TAG = "sg3flow.result."


def open_registry() -> Store:
    """Connect to a registry that exists: asking for a name must not make an empty database.

    Raises:
        TrackingError: there is none, or it cannot be reached.
    """
    uri = tracking_uri()
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_file():
        raise TrackingError(
            f"no tracking database {path}; run the pipeline first, or set MLFLOW_TRACKING_URI"
        )
    return connect()


def require_model(store: Store, name: str) -> None:
    """Refuse a name that the registry does not know.

    Raises:
        TrackingError: says which names there are.
    """
    if "'" not in name and store.client.search_registered_models(f"name = '{name}'"):
        return
    known = [model.name for model in store.client.search_registered_models()]
    if not known:
        raise TrackingError("the registry is empty; run stages/register.py first")
    shown = ", ".join(sorted(known)[:10])
    raise TrackingError(
        f"no registered model '{name[:60]}'{nearest(name, known)}; there are: {shown}"
    )


def versions_of(store: Store, name: str) -> list[Any]:
    """All versions of a model as MLflow gives them, the first one first."""
    found = store.client.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version))


def find_version(store: Store, name: str, wanted: str) -> Any:
    """A version by its number, or by an alias with or without ``@``.

    Raises:
        TrackingError: there is no such model, version or alias.
        ConfigError: neither a number nor the name of an alias.
    """
    require_model(store, name)
    alias = wanted.removeprefix("@")
    aliases = standing(store, name)
    number = aliases.get(alias, alias)
    versions = {str(version.version): version for version in versions_of(store, name)}
    if number in versions:
        return versions[number]
    if alias.isdecimal():
        shown = ", ".join(list(versions)[-10:]) or "none"
        raise TrackingError(f"{name} has no version {alias[:20]}; it has {shown}")
    if not aliases:
        raise ConfigError(f"a version is a number, not '{wanted[:60]}'; {name} has no aliases")
    known = ", ".join(sorted(aliases))
    raise ConfigError(
        f"a version is a number or one of {known}, not '{wanted[:60]}'{nearest(alias, aliases)}"
    )


def results_of(version: Any) -> dict[str, dict[str, Any]]:
    """What was measured on a version: rows of ``reports/metrics.json`` by metric."""
    return {
        key.removeprefix(RESULT_TAG): dict(json.loads(value))
        for key, value in version.tags.items()
        if key.startswith(RESULT_TAG)
    }


def with_error(result: dict[str, Any]) -> str:
    """A result as people read it: the value, and its standard error if it has one."""
    error = result.get("standard_error")
    return f"{float(result['value']):.4g}" + (f" ± {float(error):.2g}" if error else "")
