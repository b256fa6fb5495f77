"""Run data of DVC experiments and git revisions, from DVC's cache on this machine.

This only reads: it takes no locks of DVC, which may be running stages, and contacts no remote.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sg3flow.addresses import shown_host
from sg3flow.compare.folder_source import TrainingFiles, run_data_of_files, with_notes
from sg3flow.compare.run_data import Measured, RunData, canonical, read_measured
from sg3flow.errors import ConfigError, DataError
from sg3flow.git import GitError, git_text
from sg3flow.metrics.error_terms import TERMS_NAME
from sg3flow.metrics.estimates import NOT_MEASURED
from sg3flow.runs.best_snapshot import REPORT_NAME, SUMMARY_NAME
from sg3flow.runs.code_state import CODE_PATHS
from sg3flow.yaml_text import load_yaml

_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


@dataclass(frozen=True)
class Revision:
    """A named commit.

    Attributes:
        commit: its full hash.
        name: the name it was found by.
        baseline: for an experiment, the commit it started from; otherwise the commit itself.
        is_experiment: whether it is a DVC experiment.
    """

    commit: str
    name: str
    baseline: str
    is_experiment: bool


def experiment_names(root: Path) -> dict[str, list[Revision]]:
    """The experiments of a project by name; a name can exist on several baselines.

    Read from git: ``dvc.api.exp_show`` takes a second instead of 13 ms, returns abbreviated
    commits, and omits experiments that did not start from the current commit.
    """
    found: dict[str, list[Revision]] = {}
    listed = _git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/")
    for line in listed.splitlines():
        commit, _, ref = line.partition(" ")
        match = _EXPERIMENT.fullmatch(ref)
        if match:
            revision = Revision(commit, match[3], match[1] + match[2], True)
            found.setdefault(match[3], []).append(revision)
    return found


def find_revision(root: Path, text: str) -> Revision | None:
    """The experiment or git revision with a name; None: there is none.

    Raises:
        DataError: several experiments have the name, none of them on the current commit.
    """
    named = experiment_names(root).get(text, [])
    head = _commit(root, "HEAD")
    on_head = [revision for revision in named if revision.baseline == head]
    if len(named) > 1 and len(on_head) != 1:
        listed = ", ".join(f"{each.commit[:9]} on {each.baseline[:9]}" for each in named)
        raise DataError(
            f"{len(named)} experiments are named {text}; give a commit instead: {listed}"
        )
    if named:
        return (on_head or named)[0]
    commit = _commit(root, text)
    return Revision(commit, text, commit, False) if commit else None


def read_revision(root: Path, revision: Revision, metric: str) -> RunData:
    """The data of a revision.

    Args:
        root: folder of the DVC project.
        metric: metric that selects the best snapshot; empty: that of the report.

    Raises:
        DataError: the revision has no ``dvc.lock`` with a training, or it cannot be read.
    """
    notes: list[str] = []
    with _opened(root, revision) as files:
        stages = _locked_stages(files.text("dvc.lock"), revision)
        outs = {out.get("path"): out for stage in stages.values() for out in stage.get("outs", [])}
        trained = files.folder("runs/train", notes) if "runs/train" in outs else {}
        is_own = _is_of_this_training(stages, outs)
        # Up to version 0.2, metrics.json was the report; now it is a summary of evaluation.json.
        names = (f"reports/{REPORT_NAME}", f"reports/{SUMMARY_NAME}")
        measured_as = next((name for name in names if is_own and name in outs), None)
        report = files.file(measured_as, notes) if measured_as else None
        kept = f"reports/{TERMS_NAME}"
        terms = files.file(kept, []) if report and kept in outs else None  # missing: unpaired
    if is_own:
        measured = read_measured(report, metric, notes, terms)
    else:
        measured = Measured()
        notes.append(
            f"{NOT_MEASURED}: the evaluation in its dvc.lock is of another training; run dvc repro "
            "evaluate there and commit dvc.lock"
        )
    kind = "DVC experiment" if revision.is_experiment else "git revision"
    address = revision.commit[:12]
    training = TrainingFiles(trained)
    data = run_data_of_files(training, measured, kind, address, name=revision.name)
    return with_notes(_completed(data, stages, revision), notes)


def code_commit(root: Path, code: str) -> str:
    """Replace the commit in ``code`` by the last commit that changed the code.

    Commits of results or notes do not count as other code. An unknown commit is kept.
    """
    commit, space, rest = code.partition(" ")
    found = _git(root, "log", "-1", "--format=%H", "--end-of-options", commit, "--", *CODE_PATHS)
    return f"{found.strip()[:12]}{space}{rest}" if found.strip() else code


def _completed(data: RunData, stages: Mapping[str, Any], revision: Revision) -> RunData:
    """Add the settings of all stages and the commit, which are not in the files."""
    locked = {
        f"{section}.{name}": canonical(_shown(name, value))
        for stage in stages.values()
        for section, values in stage.get("params", {}).get("params.yaml", {}).items()
        for name, value in (values if isinstance(values, Mapping) else {}).items()
    }
    resolved = {name for name in data.params if name.startswith("train.")}
    if resolved:  # the resolved settings of the training are more precise
        locked = {k: v for k, v in locked.items() if not k.startswith("train.")}
    environment = {"code": revision.baseline[:12]} | dict(data.environment)
    return replace(data, params={**data.params, **locked}, environment=environment)


def _shown(name: str, value: Any) -> Any:
    """A setting for people: the address of a webhook is a secret."""
    return shown_host(str(value)) if name == "notify" and value else value


def _locked_stages(text: str, revision: Revision) -> dict[str, Any]:
    """The stages in ``dvc.lock``, as they ran.

    ``dvc.api.params_show`` reads ``params.yaml``, which may have been edited since.
    """
    where = _words(revision)
    if not text:
        raise DataError(f"{where} has no dvc.lock; commit it after dvc repro, or name another run")
    try:
        content = load_yaml(text, "dvc.lock")
    except ConfigError:
        content = None
    stages = content.get("stages") if isinstance(content, dict) else None
    known = {k: v for k, v in (stages or {}).items() if isinstance(v, dict)}
    if "train" not in known:
        raise DataError(f"{where}: its dvc.lock has no training; run dvc repro there")
    return known


def _is_of_this_training(stages: Mapping[str, Any], outs: Mapping[str, Any]) -> bool:
    """Whether the locked evaluation, if any, belongs to the locked training.

    It does not if only the training was run again.
    """
    if "evaluate" not in stages:
        return True
    trained = outs.get("runs/train", {}).get("md5")
    evaluated = {dep.get("path"): dep.get("md5") for dep in stages["evaluate"].get("deps", [])}
    return trained is not None and evaluated.get("runs/train") == trained


class _RevisionFiles:
    """The files of one revision in git and in DVC's cache.

    Attributes:
        repo: the DVC project, switched to the revision.
        files: its files as a DVC file system.
    """

    def __init__(self, repo: Any) -> None:
        from dvc.api import DVCFileSystem

        self.repo, self.files = repo, DVCFileSystem(repo)

    def text(self, path: str) -> str:
        """The content of a file in git; empty: there is none."""
        try:
            return str(self.files.read_text(path))
        except FileNotFoundError:
            return ""

    def file(self, path: str, notes: list[str]) -> Path | None:
        """Path of an output in DVC's cache."""
        try:
            place = self._place(self.files.info(path))
        except FileNotFoundError:
            place = None
        if place is None or not place.is_file():
            notes.append(f"{path} is not in DVC's cache; run dvc fetch to get it from the remote")
            return None
        return place

    def folder(self, path: str, notes: list[str]) -> dict[str, Path]:
        """Paths of the files of an output folder in DVC's cache, by name."""
        from dvc_data.index import DataIndexDirError

        try:
            entries = self.files.find(path, detail=True)
        except DataIndexDirError:
            entries = {}
        if not entries:
            notes.append(f"{path} is not in DVC's cache; run dvc fetch to get it from the remote")
        found = {name.removeprefix(f"{path}/"): self._place(e) for name, e in entries.items()}
        present = {name: place for name, place in found.items() if place and place.is_file()}
        missing = sorted(set(found) - set(present))
        if missing:
            notes.append(f"not in DVC's cache: {', '.join(missing[:5])}; run dvc fetch")
        return present

    def _place(self, entry: Mapping[str, Any]) -> Path | None:
        # The cached file itself: dvc.api would copy it, and a snapshot can have gigabytes.
        md5 = entry.get("md5")
        return Path(self.repo.cache.local.oid_to_path(md5)) if md5 else None


@contextmanager
def _opened(root: Path, revision: Revision) -> Iterator[_RevisionFiles]:
    """Open a revision with the current configuration of DVC and without its remotes.

    ``DVCFileSystem(root, rev=...)`` fails for a project in a subfolder of its repository, and if
    the cache was moved since.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), config={"core": {"remote": ""}}) as repo:
            with repo.switch(revision.commit):
                yield _RevisionFiles(repo)
    except DvcException as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{_words(revision)} cannot be read by DVC: {reason}") from None


def _words(revision: Revision) -> str:
    return f"{revision.name} ({revision.commit[:9]})"


def _commit(root: Path, text: str) -> str | None:
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    return found.strip() or None


def _git(root: Path, *arguments: str) -> str:
    """Output of git in the project; empty if git fails or is missing."""
    try:
        return git_text(root, *arguments)
    except GitError:
        return ""
