"""From what a person wrote to the run it names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sg3flow.compare.facts import Facts
from sg3flow.errors import DataError, TrackingError, nearest

_HEXADECIMAL = re.compile(r"[0-9a-f]{4,40}")


def find_all(names: Sequence[str], root: Path, metric: str, folder: Path) -> list[Facts]:
    """The facts of each run, their code named alike; arguments and errors as ``find_facts``."""
    from sg3flow.compare.revisions import code_commit

    found = []
    for asked in names:
        facts = find_facts(asked, root, metric, folder)
        environment = dict(facts.environment)
        if "code" in environment:
            environment["code"] = code_commit(root, environment["code"])
        found.append(replace(facts, environment=environment))
    return found


def find_facts(asked: str, root: Path, metric: str, folder: Path) -> Facts:
    """The facts of the run that ``asked`` names.

    In this order: a run folder; NAME@ALIAS, @ALIAS of the model in params.yaml, or models:/NAME/3;
    a DVC experiment; a git revision; an MLflow run by id, beginning of an id, or name.
    ``runs:/ID`` is always an MLflow run.

    Args:
        root: folder of the DVC project.
        metric: chooses the best snapshot; empty: the one each report was made with.
        folder: where files may be put until the comparison is written.

    Raises:
        DataError, TrackingError: there is no such run, there are several, or where it is recorded
            cannot be read.
    """
    from sg3flow.compare.folder import is_run_folder, read_folder
    from sg3flow.compare.revisions import find_revision, read_revision
    from sg3flow.compare.tracked import read_tracked, read_version
    from sg3flow.tracking.finding import split_version

    if not asked.strip():
        raise DataError("a RUN is empty; name a run id, a run name, an experiment or a folder")
    if asked.startswith("@"):
        asked = f"{_registered_name(root)}{asked}"
    place = _place(asked)
    if is_run_folder(place) or ("/" in asked and place.is_dir()):
        return read_folder(place, metric)
    if split_version(asked) is not None and not _is_called_so(asked):
        return read_version(asked, metric, folder)
    revision = None if asked.startswith("runs:/") else find_revision(root, asked)
    if revision is not None and not _HEXADECIMAL.fullmatch(asked):
        return read_revision(root, revision, metric)
    try:
        facts = read_tracked(asked, metric, folder)
    except TrackingError as error:
        if revision is not None:
            return read_revision(root, revision, metric)
        raise TrackingError(f"{_what_it_is_not(asked, root)}; {error}") from None
    if revision is not None:
        raise DataError(
            f"{asked} begins both a commit and an MLflow run; write more of it, or runs:/ID"
        )
    return facts


def _place(asked: str) -> Path:
    try:
        return Path(asked).expanduser()
    except RuntimeError:  # ~nobody/x
        return Path(asked)


def _is_called_so(asked: str) -> bool:
    """Whether a training has this very name, though it reads like NAME@ALIAS."""
    from sg3flow.tracking.finding import is_run_name
    from sg3flow.tracking.store import connect, tracking_errors

    store = connect()
    with tracking_errors(store.uri):
        return is_run_name(store, asked)


def _registered_name(root: Path) -> str:
    from sg3flow.config import read_params

    section = read_params(root / "params.yaml").get("register")
    name = section.get("name") if isinstance(section, dict) else None
    if not name:
        raise DataError("params.yaml names no model (register.name); write NAME@ALIAS")
    return str(name)


def _what_it_is_not(asked: str, root: Path) -> str:
    from sg3flow.compare.revisions import experiment_names

    hint = nearest(asked, experiment_names(root))
    folder = "folder of a run" if _place(asked).is_dir() else "folder"
    return f"'{asked}' is no {folder}, no DVC experiment{hint} and no git revision"
