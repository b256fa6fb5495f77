"""Finds the packed set that a run was trained on: the same content, wherever it is now."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.checkpoints.loading import local_copy
from sg3flow.data.archive import PackedSet
from sg3flow.errors import DataError
from sg3flow.runs.provenance import locked_stages, network_digest
from sg3flow.runs.worktree import Record, Worktree

Say = Callable[[str], None]


def find_data(record: Record, place: Worktree, root: Path, given: Path | None, say: Say) -> Path:
    """A packed set with the recorded digest.

    It is looked for where ``given`` says, or else where the run had it; in DVC's cache and remote;
    and at last it is fetched and packed again by the recorded pipeline, in the worktree.

    Args:
        root: the user's project, which is only read.

    Raises:
        DataError: it is nowhere, or only with other content.
    """
    if given is not None:
        found = _digest(given)
        if found != record.data["digest"]:
            raise DataError(
                f"{given} is not the set of the run: its digest is {found[:12]}…, recorded is "
                f"{_told(record)}"
            )
        return given.resolve()  # the stage runs in another folder
    tried = []
    for path in _candidates(record, place, root, say):
        if _digest(path) == record.data["digest"]:
            say(f"data: {shown_path(path, root)}, digest as recorded")
            return path.resolve()
        state = "other content" if path.exists() else "not there"
        told = f"{shown_path(path, root)} ({state})"
        tried += [told] if told not in tried else []
    raise DataError(
        f"the packed set of the run ({_told(record)}) was not found: {'; '.join(tried)}; bring it "
        "back (`dvc pull`, or fetch and pack it again) and give --data PATH"
    )


def shown_path(path: Path, root: Path) -> str:
    """A path for a person who stands in the project."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _told(record: Record) -> str:
    data = record.data
    origin = data.get("source", {}).get("origin")
    where = f", from {origin}" if origin else ""
    return (
        f"{data['name']}, {data['num_images']} pictures of {data['resolution']} px, digest "
        f"{data['digest'][:12]}…{where}"
    )


def _digest(path: Path) -> str:
    try:
        return PackedSet(path).digest
    except DataError:
        return ""


def _candidates(record: Record, place: Worktree, root: Path, say: Say) -> Iterator[Path]:
    """Where the set may be, the cheapest place first."""
    recorded = Path(record.data["path"])
    # Joined to another one, an absolute path stays itself.
    places = (root / record.provenance.get("folder", ".") / recorded, root / recorded)
    yield from dict.fromkeys(path.resolve() for path in places)
    stage, inside = _pipeline_stage(record, recorded)
    if not stage:
        return
    work = place.project / inside
    _share_cache(place, root)
    say(f"data: asking DVC's cache and remote for {inside}")
    _dvc(place, place.project, "checkout", "--force", str(inside))
    if not work.exists():
        pulled = _dvc(place, place.project, "pull", "--force", str(inside))
        if pulled.returncode != 0:
            say(f"data: dvc pull: {last_line(pulled.stderr)}")
    yield work
    if _digest(work) != record.data["digest"]:
        say(f"data: making {inside} again, as the recorded pipeline did")
        _dvc(place, place.project, "repro", stage, shown=True)
        yield work


def _pipeline_stage(record: Record, path: Path) -> tuple[str, Path]:
    """The stage of the recorded pipeline that makes the set, if one does, and its path there."""
    relative = Path(os.path.normpath(path))
    for name, stage in locked_stages(record.folder / "dvc.lock").items():
        if relative.as_posix() in {out["path"] for out in stage.get("outs", [])}:
            return name, relative
    return "", relative


def _share_cache(place: Worktree, root: Path) -> None:
    """Let DVC in the worktree use the cache and the remotes of the user's project."""
    told = _dvc(place, root, "cache", "dir").stdout.strip()
    local = root / ".dvc" / "config.local"  # remotes with passwords stand there
    settings = local.read_text(encoding="utf-8") if local.is_file() else ""
    target = place.project / ".dvc" / "config.local"
    target.parent.mkdir(exist_ok=True)
    target.touch(mode=0o600)
    target.write_text(settings, encoding="utf-8")
    changes: dict[str, Any] = {"core.no_scm": "true", "core.autostage": "false"}
    if told:
        changes["cache.dir"] = str((root / told).resolve())
    # Not `dvc remote list`, which breaks long lines. A path in a config counts from that file, and
    # is told whole.
    for line in _dvc(place, root, "config", "--list").stdout.splitlines():
        key, _, value = line.partition("=")
        if key.startswith("remote.") and key.endswith(".url") and value.startswith("/"):
            changes[key] = value
    for key, value in changes.items():
        _dvc(place, place.project, "config", "--local", key, value)


def _dvc(
    place: Worktree, folder: Path, *arguments: str, shown: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run DVC in a project; stages that it runs keep state and tracking in the workplace."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_ROOT", "DVC_EXP"))}
    environment |= {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(folder / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment | place.variables,
        stdout=sys.stderr if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )


def last_line(text: str) -> str:
    """What a command complained of in the end."""
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("error: ").removeprefix("ERROR: ") if lines else "no reason given"


# Of such a name the fingerprint holds the text; of any other the content of the file.
_NAMED = re.compile(r"~|[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class Start:
    """The network to start from; both empty: none.

    Attributes:
        recorded: the setting that the run's fingerprint was made of.
        here: the file or folder to train from.
    """

    recorded: str
    here: str

    def kept_in(self, folder: Path) -> str:
        """Where it is trained from: of a model that came as a folder, a copy in ``folder``.

        The place of a folder is in the new training's fingerprint: an attempt that goes on after an
        interruption must find it where it was.
        """
        if not self.here or Path(self.here).is_file():
            return self.here
        kept = folder / "network"
        shutil.copytree(self.here, kept, dirs_exist_ok=True)
        return str(kept)


def find_network(record: Record, root: Path, given: str) -> Start:
    """Bring the network here, with the user's own tracking server where that has it.

    Args:
        root: the user's project.
        given: where it is now; empty: where the run had it.

    Raises:
        CheckpointError, TrackingError: it is not there.
        DataError: it is another one, or the run started from none.
    """
    source = str(record.run["params"].get("resume", ""))
    if not source:
        if given:
            raise DataError(f"{record.origin} started from no network; leave out --resume")
        return Start("", "")
    is_named = _NAMED.match(source) is not None
    beside = root / record.provenance.get("folder", ".") / source
    path = local_copy(given or (source if is_named else beside)).resolve()
    digest, expected = network_digest(path), record.network.get("sha256", "")
    if expected and digest != expected:
        raise DataError(
            f"{given or source} is not the network that the run started from: its SHA-256 is "
            f"{digest[:12]}…, recorded is {expected[:12]}…; give --resume with that one"
        )
    return Start(source if is_named else str(path), str(path))
