"""Versions of the registry as the source of a server that follows an alias."""

import shutil
import tempfile
from pathlib import Path

from sg3flow.errors import ConfigError, TrackingError
from sg3flow.serving.gateway import Source
from sg3flow.tracking.finding import split_version
from sg3flow.tracking.moves import standing
from sg3flow.tracking.store import tracking_errors
from sg3flow.tracking.versions import find_version, open_registry


def followed(target: str, folder: Path) -> Source:
    """The source that follows ``NAME@ALIAS``.

    Args:
        folder: where versions are copied to; a store that goes away later takes nothing with it.

    Raises:
        ConfigError: no such target, or no such alias.
        TrackingError: no such model, or the registry cannot be used.
    """
    name, alias = split_version(target) or ("", "")
    if not alias.startswith("@"):
        raise ConfigError(
            f"what to serve is NAME@ALIAS, say sg3flow-starter@champion, not '{target[:80]}'"
        )
    store = open_registry()
    with tracking_errors(store.uri):
        find_version(store, name, alias)

    def wanted() -> str:
        with tracking_errors(store.uri):
            version = standing(store, name).get(alias[1:])
        if version is None:
            raise TrackingError(f"{name} has no alias {alias[1:]} any more")
        return version

    def fetch(version: str) -> Path:
        import mlflow

        place = Path(tempfile.mkdtemp(prefix=f"version-{version}-", dir=folder))
        try:
            with tracking_errors(store.uri):
                uri = f"models:/{name}/{version}"
                mlflow.artifacts.download_artifacts(uri, dst_path=str(place))
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place

    return Source(f"{name}{alias}", wanted, fetch)
