"""The MLflow tracking server or database this project writes to.

``MLFLOW_TRACKING_URI`` names it; without it, an SQLite file in the project's folder, at one
absolute place whatever the current folder is. The experiment is ``MLFLOW_EXPERIMENT_NAME`` or
``sg3flow``.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.addresses import shown_url, without_secrets
from sg3flow.errors import ConfigError, Sg3flowError, TrackingError, nearest
from sg3flow.files import file_lock
from sg3flow.runs.run_folder import read_run
from sg3flow.settings import Tag, local_artifacts, local_tracking_uri

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SLOW_BYTES_PER_SEC = 1 << 20  # an upload slower than this counts as hung

# Every call answers or fails within seconds; with MLflow's own settings one takes 4 to 20 minutes.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _TIMEOUT: "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Store:
    """An open connection: where runs go."""

    uri: str
    experiment_id: str
    client: Any  # mlflow.MlflowClient


def tracking_uri() -> str:
    """The tracking URI in force."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri()


def connect() -> Store:
    """Connect to the tracking store and make sure that the experiment exists.

    Raises:
        TrackingError: the store cannot be reached or refuses us; within seconds.
    """
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri()
    with _quiet_logs(), tracking_errors(uri), _creation_lock(uri):
        import mlflow

        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        return Store(uri, _experiment_id(client), client)


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn whatever the tracking client raises into one TrackingError."""
    try:
        yield
    except Sg3flowError:  # has its words already
        raise
    except Exception as error:  # the client lets SQL, HTTP and OS errors of many kinds through
        raise TrackingError(f"MLflow at {shown_url(uri)} {_in_short(error)}") from error


def _in_short(error: Exception) -> str:
    """What went wrong and what to do, in a line without secrets."""
    text = without_secrets(" ".join(str(error).split()))
    for words, reason in _KNOWN_FAILURES.items():
        if any(word in text for word in words):
            return reason
    if isinstance(error, ValueError | KeyError | TypeError) and not isinstance(error, OSError):
        reason = f"{type(error).__name__}: {text[:300]}"  # of our side: the server may be well
        return f"cannot be used: {reason}; check the MLFLOW_* variables, or report it to sg3flow"
    return f"failed: {text[:300]}; check MLFLOW_TRACKING_URI and that the server is up"


_KNOWN_FAILURES = {
    ("Connection refused", "Name or service not known", "Temporary failure in name resolution"): (
        "cannot be reached; check MLFLOW_TRACKING_URI and that the server is up"
    ),
    ("timed out", "timeout exception"): "does not answer; check that the server is not stuck",
    ("error code 401", "401 Client Error", "error code 403", "403 Client Error"): (
        "refuses us; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and what that "
        "user may do"
    ),
    ("No space left on device", "too many 500 error", "too many 507 error"): (
        "failed on its side; check its log and that its disk is not full"
    ),
}


@contextmanager
def time_to_upload(*files: Path) -> Iterator[None]:
    """Give every request in the block the time that uploading these files may take.

    A server that hands an artifact on to its own store answers only when all of it is there: the
    seconds that do for everything else would cut a large snapshot off again and again.
    """
    seconds = sum(path.stat().st_size for path in files) // _SLOW_BYTES_PER_SEC
    usual = os.environ[_TIMEOUT] if _TIMEOUT in os.environ else _CLIENT_SETTINGS[_TIMEOUT]
    os.environ[_TIMEOUT] = str(int(usual) + seconds)
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = usual


def training_run_id(run_dir: Path) -> str | None:
    """The MLflow run of a training folder on the connected store, or None if it has none there."""
    described = read_run(run_dir)
    if described is None:
        return None
    store = connect()
    with tracking_errors(store.uri):
        return find_run(store, described["uid"])


def find_run(store: Store, uid: str) -> str | None:
    """The run tagged with ``uid``: a tag, not a saved id, so that asking twice never makes two.

    Should there be two after all (a request was answered after it had been given up as lost), the
    same one is found by everybody.
    """
    found = sorted(run.info.run_id for run in runs_tagged(store, uid))
    return found[0] if found else None


def runs_tagged(store: Store, uid: str, *, deleted: bool = False) -> list[Any]:
    """All runs with this ``uid``; those that were deleted, if asked for."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    wanted = f"tags.`{Tag.UID}` = '{uid}'"
    return list(store.client.search_runs([store.experiment_id], wanted, view))


def _experiment_id(client: Any) -> str:
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):  # set by `mlflow run`
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "sg3flow"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # The default place of artifacts follows the current folder: name it, beside our database.
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else local_artifacts()
        return str(client.create_experiment(name, local.as_uri() if local else None))
    return str(experiment.experiment_id)


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Two processes that create the same SQLite database at once break it: one at a time."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with file_lock(path.with_name(path.name + ".lock")):
        yield


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Creating the database logs forty lines of schema migrations: nobody asked for them."""
    import logging

    names = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


CANDIDATE, CHAMPION = "candidate", "champion"


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
        key.removeprefix(Tag.RESULT): dict(json.loads(value))
        for key, value in version.tags.items()
        if key.startswith(Tag.RESULT)
    }


def with_error(result: dict[str, Any]) -> str:
    """A result as people read it: the value, and its standard error if it has one."""
    error = result.get("standard_error")
    return f"{float(result['value']):.4g}" + (f" ± {float(error):.2g}" if error else "")


def standing(store: Store, name: str) -> dict[str, str]:
    """Where the aliases stand: version by alias."""
    # Versions are numbers from a database and texts from a server.
    found = store.client.get_registered_model(name).aliases
    return {str(alias): str(version) for alias, version in found.items()}


def local_artifact(uri: str) -> Path:
    """The file or folder behind a ``models:/`` or ``runs:/`` address, on this machine.

    It may be the store itself: it is read, never changed.

    Raises:
        TrackingError: the tracking server or the registry failed, or has no such thing.
    """
    store = open_registry()
    try:
        with tracking_errors(store.uri):
            import mlflow

            return Path(mlflow.artifacts.download_artifacts(uri))
    except TrackingError as error:
        raise TrackingError(f"cannot read {uri}: {error}") from None
