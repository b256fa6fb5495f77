"""Where networks come from: a path, a URL, the model registry or a run of the tracking server."""

import os
import re
from pathlib import Path

from sg3flow.addresses import address_mark, shown_url
from sg3flow.downloads import cached, local_path, url_file_name
from sg3flow.errors import CheckpointError, TrackingError, nearest

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_MLFLOW_SCHEMES = ("models", "runs")
_MAX_NAMES = 5


def local_copy(source: str | os.PathLike[str]) -> Path:
    """A file or folder on this machine that holds what ``source`` names.

    Args:
        source: a path; ``http://``, ``https://`` (kept in a cache) or ``file://`` URL;
            ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/RUN_ID/PATH``.

    Raises:
        CheckpointError: there is no such file, or a scheme we do not know.
        DataError: the download failed, or a ``file://`` URL names another machine.
        TrackingError: the tracking server or the registry failed.
    """
    name = os.fspath(source)
    scheme = _SCHEME.match(name)
    if scheme is None:
        return _existing(Path(name).expanduser())
    kind = scheme[1].lower()
    if kind in _MLFLOW_SCHEMES:
        return _from_mlflow(name)
    if kind == "file":
        return _existing(local_path(name))
    if kind in ("http", "https"):
        return _downloaded(name)
    known = "a path, https://, http://, file://, models:/ or runs:/"
    raise CheckpointError(f"cannot read networks from {shown_url(name)}: expected {known}")


def _existing(path: Path) -> Path:
    if path.exists():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise CheckpointError(f"no file {path}: there is no folder {folder} either")
    names = sorted(entry.name for entry in folder.iterdir())
    hint = nearest(path.name, names)
    pickles = [name for name in names if name.endswith(".pkl")][-_MAX_NAMES:]
    if not hint and pickles:
        hint = f"; there are: {', '.join(pickles)}"
    raise CheckpointError(f"no file {path}{hint}")


def _downloaded(url: str) -> Path:
    # Two addresses may end in the same file name: the address itself is part of ours.
    return cached(url, f"{address_mark(url)[:12]}-{url_file_name(url)}")


def _from_mlflow(uri: str) -> Path:
    from sg3flow.tracking.store import tracking_errors
    from sg3flow.tracking.versions import open_registry

    store = open_registry()
    try:
        with tracking_errors(store.uri):
            import mlflow

            # The place that comes back may be the store itself: it is read, never changed.
            return Path(mlflow.artifacts.download_artifacts(uri))
    except TrackingError as error:
        raise TrackingError(f"cannot read {uri}: {error}") from None
