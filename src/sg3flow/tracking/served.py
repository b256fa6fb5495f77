"""Versions of the registry as the source of a server that follows an alias."""

import re
import shutil
import tempfile
from pathlib import Path

from sg3flow.errors import ConfigError, TrackingError
from sg3flow.serving.front import Source
from sg3flow.tracking.moves import standing
from sg3flow.tracking.store import tracking_errors
from sg3flow.tracking.versions import find_version, open_registry

_TARGET = re.compile(r"(?:models:/)?([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z0-9._-]+)")


def followed(target: str, folder: Path) -> Source:
    """The source that follows ``NAME@ALIAS``.

    Args:
        folder: where versions are copied to; a store that goes away later takes nothing with it.

    Raises:
        ConfigError: no such target, or no such alias.
        TrackingError: no such model, or the registry cannot be used.
    """
    found = _TARGET.fullmatch(target)
    if found is None:
        raise ConfigError(
            f"what to serve is NAME@ALIAS, say sg3flow-starter@champion, not '{target[:80]}'"
        )
    name, alias = found.groups()
    store = open_registry()
    with tracking_errors(store.uri):
        find_version(store, name, f"@{alias}")

    def wanted() -> str:
        with tracking_errors(store.uri):
            version = standing(store, name).get(alias)
        if version is None:
            raise TrackingError(f"{name} has no alias {alias} any more")
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

    return Source(f"{name}@{alias}", wanted, fetch)
