"""Finds the inputs of a reproduction: the packed set and the network with the recorded digests."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sg3flow
from sg3flow.checkpoints.loading import local_copy
from sg3flow.checkpoints.network_catalog import NamedNetwork, named_network
from sg3flow.data.archive import PackedSet
from sg3flow.errors import DataError
from sg3flow.runs.provenance import locked_stages, network_digest
from sg3flow.runs.worktree import Record, Worktree

Log = Callable[[str], None]  # takes a line about the progress


def find_data(record: Record, worktree: Worktree, root: Path, given: Path | None, log: Log) -> Path:
    """A packed set with the recorded digest.

    It is searched at the path ``given``; else where the run had it, in DVC's cache and remote; and
    finally the recorded pipeline fetches and packs it again in the worktree.

    Args:
        root: the user's project, which is only read.

    Raises:
        DataError: it is not found, or only with other content.
    """
    if given is not None:
        found = _digest(given)
        if found != record.data["digest"]:
            raise DataError(
                f"{given} is not the set of the run: its digest is {found[:12]}…, recorded is "
                f"{_data_words(record)}"
            )
        return given.resolve()  # absolute: the stage runs in another folder
    tried = []
    for path in _candidates(record, worktree, root, log):
        if _digest(path) == record.data["digest"]:
            log(f"data: {shown_path(path, root)}, digest as recorded")
            return path.resolve()
        state = "other content" if path.exists() else "not there"
        line = f"{shown_path(path, root)} ({state})"
        tried += [line] if line not in tried else []
    raise DataError(
        f"the packed set of the run ({_data_words(record)}) was not found: {'; '.join(tried)}; "
        "restore it (`dvc pull`, or fetch and pack it again) and give --data PATH"
    )


def shown_path(path: Path, root: Path) -> str:
    """A path for a message, relative to the project if it is inside."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _data_words(record: Record) -> str:
    data = record.data
    origin = data.get("source", {}).get("origin")
    where = f", from {origin}" if origin else ""
    return (
        f"{data['name']}, {data['num_images']} images of {data['resolution']} px, digest "
        f"{data['digest'][:12]}…{where}"
    )


def _digest(path: Path) -> str:
    try:
        return PackedSet(path).digest
    except DataError:
        return ""


def _candidates(record: Record, worktree: Worktree, root: Path, log: Log) -> Iterator[Path]:
    """Paths where the set may be, the cheapest first."""
    recorded = Path(record.data["path"])
    # An absolute path stays the same when joined to another.
    places = (root / record.provenance.get("folder", ".") / recorded, root / recorded)
    yield from dict.fromkeys(path.resolve() for path in places)
    stage, inside = _pipeline_stage(record, recorded)
    # Without both, DVC would work in the user's project, which is above.
    if not stage or not all((worktree.project / name).exists() for name in (".dvc", "dvc.yaml")):
        return
    work = worktree.project / inside
    _share_cache(worktree, root)
    log(f"data: searching DVC's cache and remote for {inside}")
    _dvc(worktree, worktree.project, "checkout", "--force", str(inside))
    if not work.exists():
        pulled = _dvc(worktree, worktree.project, "pull", "--force", str(inside))
        if pulled.returncode != 0:
            log(f"data: dvc pull: {last_line(pulled.stderr)}")
    yield work
    if _digest(work) != record.data["digest"]:
        log(f"data: making {inside} again by the recorded pipeline")
        _dvc(worktree, worktree.project, "repro", stage, shown=True)
        yield work


def _pipeline_stage(record: Record, path: Path) -> tuple[str, Path]:
    """The stage of the recorded pipeline that makes the set, empty: none, and the path."""
    relative = Path(os.path.normpath(path))
    for name, stage in locked_stages(record.folder / "dvc.lock").items():
        if relative.as_posix() in {out["path"] for out in stage.get("outs", [])}:
            return name, relative
    return "", relative


def _share_cache(worktree: Worktree, root: Path) -> None:
    """Let DVC in the worktree use the cache and the remotes of the user's project."""
    shown = _dvc(worktree, root, "cache", "dir").stdout.strip()
    local = root / ".dvc" / "config.local"  # it may have remotes with passwords
    settings = local.read_text(encoding="utf-8") if local.is_file() else ""
    target = worktree.project / ".dvc" / "config.local"
    target.parent.mkdir(exist_ok=True)
    target.touch(mode=0o600)
    target.write_text(settings, encoding="utf-8")
    changes: dict[str, Any] = {"core.no_scm": "true", "core.autostage": "false"}
    if shown:
        changes["cache.dir"] = str((root / shown).resolve())
    # Not `dvc remote list`, which breaks long lines. A path in a config is relative to that file;
    # this command shows it absolute.
    for line in _dvc(worktree, root, "config", "--list").stdout.splitlines():
        key, _, value = line.partition("=")
        if key.startswith("remote.") and key.endswith(".url") and value.startswith("/"):
            changes[key] = value
    for key, value in changes.items():
        _dvc(worktree, worktree.project, "config", "--local", key, value)


def _dvc(
    worktree: Worktree, folder: Path, *arguments: str, shown: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run DVC in a project; its stages keep state and tracking in the worktree."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_ROOT", "DVC_EXP"))}
    environment |= {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(folder / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment | worktree.variables,
        stdout=sys.stderr if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )


def last_line(text: str) -> str:
    """The last line of an error output."""
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("error: ").removeprefix("ERROR: ") if lines else "no reason given"


# The fingerprint has the text of such a name, and the content of any other file. It has the text of
# a name of `network_catalog.py`, too, unless that network comes with the package.
_NAMED = re.compile(r"~|[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class InitialNetwork:
    """The network that a training starts from; both empty: none.

    Attributes:
        recorded: the setting in the run's fingerprint.
        here: the file or folder on this machine.
    """

    recorded: str
    here: str

    def kept_in(self, folder: Path) -> str:
        """The path for the training; a model that is a folder is copied into ``folder``.

        The fingerprint of the new training has the path of a folder: after an interruption it must
        be the same.
        """
        if not self.here or Path(self.here).is_file():
            return self.here
        kept = folder / "network"
        shutil.copytree(self.here, kept, dirs_exist_ok=True)
        return str(kept)


def find_network(
    record: Record, root: Path, given: str, worktree: Worktree | None = None
) -> InitialNetwork:
    """Find or download the network, with the user's tracking server.

    Args:
        root: the user's project.
        given: where it is now; empty: where the run had it.
        worktree: of the run's commit: a network that came with the package is there as it was then.

    Raises:
        CheckpointError, TrackingError: it is not available.
        DataError: it is another one, or the run started from none.
    """
    source = str(record.run["params"].get("resume", ""))
    if not source:
        if given:
            raise DataError(f"{record.origin} started from no network; leave out --resume")
        return InitialNetwork("", "")
    beside = root / record.provenance.get("folder", ".") / source
    network = None if beside.exists() else named_network(source)
    is_named = _NAMED.match(source) is not None or network is not None
    expected = record.network.get("sha256", "")
    then = None if given or network is None else _bundled_then(network, worktree)
    if then is not None and network_digest(then) == expected:
        return InitialNetwork(str(then), str(then))
    path = local_copy(given or (source if is_named else beside)).resolve()
    digest = network_digest(path)
    if expected and digest != expected:
        raise DataError(
            f"{given or source} is not the network that the run started from: its SHA-256 is "
            f"{digest[:12]}…, recorded is {expected[:12]}…; give --resume PATH of the recorded one"
        )
    by_content = not is_named or (network is not None and network.bundled is not None)
    return InitialNetwork(str(path) if by_content else source, str(path))


def _bundled_then(network: NamedNetwork, worktree: Worktree | None) -> Path | None:
    """The file of a network of the package in a worktree; None: it is not there."""
    if network.bundled is None or worktree is None:
        return None
    package = Path(sg3flow.__file__).resolve().parent
    path = worktree.project / "src" / "sg3flow" / network.bundled.resolve().relative_to(package)
    return path if path.is_file() else None
