"""The MLflow tracking server or database: connection, runs, registered models, artifacts.

``MLFLOW_TRACKING_URI`` names it. The default is an SQLite file in the project's folder, at an
absolute path that does not depend on the current folder. The experiment is
``MLFLOW_EXPERIMENT_NAME`` or ``sg3flow``.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.addresses import shown_url, without_secrets
from sg3flow.errors import ConfigError, Sg3flowError, TrackingError, nearest
from sg3flow.files import file_lock
from sg3flow.metrics.names import unit_of
from sg3flow.progress import waiting
from sg3flow.runs.run_folder import read_run
from sg3flow.settings import (
    Tag,
    local_artifacts,
    local_database,
    local_tracking_uri,
    project_root,
)
from sg3flow.tracking.failures import NO_FILES, check_address, explain

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SLOW_BYTES_PER_SEC = 1 << 20  # an upload slower than this counts as hung

# Every call answers or fails within seconds; MLflow's defaults take 4 to 20 minutes.
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
    """An open connection, and the experiment of the runs."""

    uri: str
    experiment_id: str
    client: Any  # mlflow.MlflowClient


def tracking_uri() -> str:
    """The tracking URI in use."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri()


def connect() -> Store:
    """Connect to the tracking store and make sure that the experiment exists.

    Raises:
        TrackingError: the store cannot be reached or denies access; raised within seconds.
    """
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri()
    check_address(uri)
    with tracking_errors(uri), _creation_lock(uri):
        import mlflow

        _follow_project(uri)
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        return Store(uri, _experiment_id(client, uri), client)


def _follow_project(uri: str) -> None:
    """Correct the addresses in the default store if the project was moved or copied."""
    from sg3flow.tracking.relocation import follow_project

    if is_default_store(uri):
        for sentence in follow_project(local_database(), project_root()):
            print(f"note: {sentence}", file=sys.stderr)


def is_default_store(uri: str) -> bool:
    """Whether ``uri`` names the project's own database, by default or by its path."""
    path = uri.removeprefix("sqlite:///")
    return path != uri and Path(path).absolute() == local_database()


_is_in_background = False


def work_in_background() -> None:
    """Let this process wait for servers in silence: another one says what there is to say."""
    global _is_in_background
    _is_in_background = True


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn any error of the tracking client into a TrackingError, and say what is waited for."""
    is_waited_for = not (_is_in_background or uri.startswith("sqlite:"))
    notice = waiting(f"MLflow at {shown_url(uri)}") if is_waited_for else nullcontext()
    try:
        with _quiet_logs(), notice:
            yield
    except Sg3flowError:  # has its message already
        raise
    except Exception as error:  # the client raises SQL, HTTP and OS errors of many kinds
        failing = _failing_uri(uri, error)
        reason = explain(error, failing, command=_command(uri))
        if failing != uri:
            reason = reason.replace("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        raise TrackingError(f"MLflow at {shown_url(failing)} {reason}") from error


def _command(uri: str) -> str:
    """MLflow's own command, for a store that is not in the environment."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow" if is_default_store(uri) else "mlflow"


def _failing_uri(uri: str, error: Exception) -> str:
    """The store that an error is about: the registry may be another one."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "").rstrip("/")
    return registry if registry and shown_url(registry) in without_secrets(str(error)) else uri


@contextmanager
def time_to_upload(*files: Path) -> Iterator[None]:
    """Extend the timeout of requests in the block by the time that these files may take.

    A server that passes an artifact to its own store answers only when it has all of it: the usual
    timeout would interrupt each upload of a large snapshot.
    """
    seconds = sum(path.stat().st_size for path in files) // _SLOW_BYTES_PER_SEC
    usual = os.environ[_TIMEOUT] if _TIMEOUT in os.environ else _CLIENT_SETTINGS[_TIMEOUT]
    os.environ[_TIMEOUT] = str(int(usual) + seconds)
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = usual


def training_run_id(run_dir: Path) -> str | None:
    """The MLflow run of a training folder on the connected store; None: it has none."""
    described = read_run(run_dir)
    if described is None:
        return None
    store = connect()
    with tracking_errors(store.uri):
        return find_training_run(store, described["uid"])


def find_training_run(store: Store, uid: str) -> str | None:
    """The run of a training, in whichever experiment it is.

    The present experiment comes first: a training may have been sent to several.
    """
    found = find_run(store, uid)
    if found is not None:
        return found
    others = sorted(run.info.run_id for run in runs_tagged(store, uid, anywhere=True))
    return others[0] if others else None


def experiments_of(store: Store) -> list[str]:
    """The ids of all experiments."""
    found, token = [], None
    while True:
        page = store.client.search_experiments(page_token=token)
        found += [str(each.experiment_id) for each in page]
        token = page.token
        if not token:
            return found


def experiment_of(store: Store, run_id: str) -> str:
    """The id of the experiment that a run is in; models of the run belong there too."""
    return str(store.client.get_run(run_id).info.experiment_id)


def find_run(store: Store, uid: str) -> str | None:
    """The run with the tag ``uid``: a tag, not a saved id, so that no second run is created.

    If there are two (a request succeeded after its timeout), every process finds the same one.
    """
    found = sorted(run.info.run_id for run in runs_tagged(store, uid))
    return found[0] if found else None


def runs_tagged(
    store: Store, uid: str, *, deleted: bool = False, anywhere: bool = False
) -> list[Any]:
    """All runs with this ``uid`` in the present experiment, or in all experiments.

    Args:
        deleted: only deleted runs, instead of the others.
    """
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    wanted = f"tags.`{Tag.UID}` = '{uid}'"
    experiments = experiments_of(store) if anywhere else [store.experiment_id]
    return list(store.client.search_runs(experiments, wanted, view))


def _experiment_id(client: Any, uri: str) -> str:
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):  # set by `mlflow run`
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "sg3flow"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # MLflow's default for artifacts depends on the current folder: use one beside our database.
        place = local_artifacts().as_uri() if is_default_store(uri) else None
        return str(client.create_experiment(name, place))
    return str(experiment.experiment_id)


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time create an SQLite database: two at once would damage it."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with file_lock(path.with_name(path.name + ".lock")):
        yield


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Silences what MLflow logs about a database: forty lines of migrations, and tracebacks.

    An error of the database is raised too, and reported in one line.
    """
    import logging

    names = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


CANDIDATE, CHAMPION = "candidate", "champion"


def open_registry() -> Store:
    """Connect to an existing registry: a query must not create an empty database.

    Raises:
        TrackingError: it does not exist, or cannot be reached.
    """
    uri = tracking_uri()
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_file():
        raise TrackingError(
            f"no tracking database {path}; run the pipeline first, or set MLFLOW_TRACKING_URI"
        )
    return connect()


def require_model(store: Store, name: str) -> None:
    """Check that the registry has a model.

    Raises:
        TrackingError: it does not; the message lists the names that exist.
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
    """All versions of a model as MLflow gives them, the oldest first."""
    found = store.client.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version))


def find_version(store: Store, name: str, wanted: str) -> Any:
    """A version by its number, or by an alias with or without ``@``.

    Raises:
        TrackingError: there is no such model, version or alias.
        ConfigError: it is neither a number nor an alias.
    """
    require_model(store, name)
    alias = wanted.removeprefix("@")
    aliases = current_aliases(store, name)
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
    """The results of a version: rows of ``reports/evaluation.json`` by metric."""
    earlier = {
        key.removeprefix(Tag.RESULT): dict(json.loads(value))
        for key, value in version.tags.items()
        if key.startswith(Tag.RESULT)
    }
    return earlier | dict(json.loads(version.tags.get(Tag.RESULTS) or "{}"))


def with_error(result: dict[str, Any]) -> str:
    """A result as text: the value, its standard error if it has one, and its unit."""
    error, unit = result.get("standard_error"), unit_of(str(result.get("metric", "")))
    text = f"{float(result['value']):.4g}" + (f" ± {float(error):.2g}" if error else "")
    return f"{text} {unit}" if unit else text


def current_aliases(store: Store, name: str) -> dict[str, str]:
    """The version of each alias."""
    # A database gives versions as numbers, a server as text.
    found = store.client.get_registered_model(name).aliases
    return {str(alias): str(version) for alias, version in found.items()}


def local_artifact(uri: str) -> Path:
    """A local file or folder with what a ``models:/`` or ``runs:/`` URI names.

    It may be inside the store itself: do not change it.

    Raises:
        TrackingError: the server or the registry failed, or does not have it.
    """
    store = open_registry()
    try:
        with tracking_errors(store.uri):
            import mlflow

            if version := _VERSION_URI.match(uri):
                find_version(store, *version.groups())  # names what there is instead
            return require_files(Path(mlflow.artifacts.download_artifacts(uri)), store)
    except Sg3flowError as error:
        raise TrackingError(f"cannot read {uri[:200]}: {error}") from None


def require_files(path: Path, store: Store) -> Path:
    """``path`` of a download, which is there: a server answers with an empty list, not an error.

    Raises:
        TrackingError: it is an empty folder.
    """
    if path.is_dir() and not any(path.iterdir()):
        raise TrackingError(f"MLflow at {shown_url(store.uri)} {NO_FILES}")
    return path


# NAME and NUMBER or @ALIAS; a LoggedModel and a version's stage are left to MLflow.
_VERSION_URI = re.compile(r"models:/([^/@]+)(?:/(?=\d+(?:/|$))|(?=@))(@?[^/]+)")
