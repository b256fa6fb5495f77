"""DVC experiments and git revisions as data: what DVC has of them on this machine, by reading.

DVC may run stages meanwhile: nothing here takes its locks or asks its remotes.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sg3flow.compare.folder_source import TrainingFiles, run_data_of_files, with_notes
from sg3flow.compare.run_data import Measured, RunData, canonical, read_measured
from sg3flow.errors import DataError
from sg3flow.git import GitError, git_text
from sg3flow.metrics.estimates import NOT_MEASURED
from sg3flow.settings import CODE

_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


@dataclass(frozen=True)
class Revision:
    """A commit that was named.

    Attributes:
        commit: its full hash.
        name: the name it was found by.
        baseline: of an experiment, the commit it was started from; else the commit itself.
        is_experiment: whether it is a DVC experiment.
    """

    commit: str
    name: str
    baseline: str
    is_experiment: bool


def experiment_names(root: Path) -> dict[str, list[Revision]]:
    """The experiments of a project by name; one name may stand on several baselines.

    From git: ``dvc.api.exp_show`` took a second in place of 13 ms, gives abbreviated commits, and
    leaves out experiments that were started from other commits than the present one.
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
    """The experiment or git revision of that name; None: there is none.

    Raises:
        DataError: several experiments have the name, none of them on the present commit.
    """
    named = experiment_names(root).get(text, [])
    head = _commit(root, "HEAD")
    on_head = [revision for revision in named if revision.baseline == head]
    if len(named) > 1 and len(on_head) != 1:
        listed = ", ".join(f"{each.commit[:9]} on {each.baseline[:9]}" for each in named)
        raise DataError(f"{len(named)} experiments are called {text}; name a commit: {listed}")
    if named:
        return (on_head or named)[0]
    commit = _commit(root, text)
    return Revision(commit, text, commit, False) if commit else None


def read_revision(root: Path, revision: Revision, metric: str) -> RunData:
    """The data of a revision.

    Args:
        root: folder of the DVC project.
        metric: chooses the best snapshot; empty: the one its report was made with.

    Raises:
        DataError: the revision has no ``dvc.lock`` with a training, or it cannot be read.
    """
    notes: list[str] = []
    with _opened(root, revision) as kept:
        stages = _locked_stages(kept.text("dvc.lock"), revision)
        outs = {out.get("path"): out for stage in stages.values() for out in stage.get("outs", [])}
        files = kept.folder("runs/train", notes) if "runs/train" in outs else {}
        is_own = _is_of_this_training(stages, outs)
        is_measured = is_own and "reports/metrics.json" in outs
        report = kept.file("reports/metrics.json", notes) if is_measured else None
    if is_own:
        measured = read_measured(report, metric, notes)
    else:
        measured = Measured()
        notes.append(
            f"{NOT_MEASURED}: its dvc.lock has the evaluation of another training; run dvc repro "
            "evaluate there and commit dvc.lock"
        )
    kind = "DVC experiment" if revision.is_experiment else "git revision"
    address = revision.commit[:12]
    training = TrainingFiles(files)
    data = run_data_of_files(training, measured, kind, address, name=revision.name)
    return with_notes(_completed(data, stages, revision), notes)


def code_commit(root: Path, code: str) -> str:
    """The last commit that touched the code, of a commit and what is said after it.

    Commits of results and notes do not make other code. A commit that is not known here stays.
    """
    commit, space, rest = code.partition(" ")
    found = _git(root, "log", "-1", "--format=%H", "--end-of-options", commit, "--", *CODE)
    return f"{found.strip()[:12]}{space}{rest}" if found.strip() else code


def _completed(data: RunData, stages: Mapping[str, Any], revision: Revision) -> RunData:
    """The settings of all stages, and the code, which the files do not tell."""
    locked = {
        f"{section}.{name}": canonical(value)
        for stage in stages.values()
        for section, values in stage.get("params", {}).get("params.yaml", {}).items()
        for name, value in (values if isinstance(values, Mapping) else {}).items()
    }
    resolved = {name for name in data.params if name.startswith("train.")}
    if resolved:  # what the training made of them says more than what was given
        locked = {k: v for k, v in locked.items() if not k.startswith("train.")}
    environment = {"code": revision.baseline[:12]} | dict(data.environment)
    return replace(data, params={**data.params, **locked}, environment=environment)


def _locked_stages(text: str, revision: Revision) -> dict[str, Any]:
    """The stages of ``dvc.lock``, as they were run.

    ``dvc.api.params_show`` reads ``params.yaml``, which may have been edited since.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    where = _words(revision)
    if not text:
        raise DataError(f"{where} has no dvc.lock: commit it after dvc repro, or name another run")
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        content = None
    stages = content.get("stages") if isinstance(content, dict) else None
    known = {k: v for k, v in (stages or {}).items() if isinstance(v, dict)}
    if "train" not in known:
        raise DataError(f"{where}: its dvc.lock holds no training; run dvc repro there")
    return known


def _is_of_this_training(stages: Mapping[str, Any], outs: Mapping[str, Any]) -> bool:
    """Whether the locked evaluation, if there is one, is of the locked training.

    They differ where the training was run again and the evaluation was not.
    """
    if "evaluate" not in stages:
        return True
    trained = outs.get("runs/train", {}).get("md5")
    judged = {dep.get("path"): dep.get("md5") for dep in stages["evaluate"].get("deps", [])}
    return trained is not None and judged.get("runs/train") == trained


class _Kept:
    """What DVC and git have of one revision.

    Attributes:
        repo: DVC's project, switched to the revision.
        files: its files as DVC shows them.
    """

    def __init__(self, repo: Any) -> None:
        from dvc.api import DVCFileSystem

        self.repo, self.files = repo, DVCFileSystem(repo)

    def text(self, path: str) -> str:
        """The content of a file that git keeps; empty: there is none."""
        try:
            return str(self.files.read_text(path))
        except FileNotFoundError:
            return ""

    def file(self, path: str, notes: list[str]) -> Path | None:
        """Where an output lies in DVC's cache."""
        try:
            place = self._place(self.files.info(path))
        except FileNotFoundError:
            place = None
        if place is None or not place.is_file():
            notes.append(f"{path} is not in DVC's cache; dvc fetch brings it from the remote")
            return None
        return place

    def folder(self, path: str, notes: list[str]) -> dict[str, Path]:
        """Where the files of an output folder lie in DVC's cache, by their names."""
        from dvc_data.index import DataIndexDirError

        try:
            entries = self.files.find(path, detail=True)
        except DataIndexDirError:
            entries = {}
        if not entries:
            notes.append(f"{path} is not in DVC's cache; dvc fetch brings it from the remote")
        found = {name.removeprefix(f"{path}/"): self._place(e) for name, e in entries.items()}
        present = {name: place for name, place in found.items() if place and place.is_file()}
        missing = sorted(set(found) - set(present))
        if missing:
            notes.append(f"not in DVC's cache: {', '.join(missing[:5])}; run dvc fetch for it")
        return present

    def _place(self, entry: Mapping[str, Any]) -> Path | None:
        # The object itself, for dvc.api opens files and copies them: a snapshot may have gigabytes.
        md5 = entry.get("md5")
        return Path(self.repo.cache.local.oid_to_path(md5)) if md5 else None


@contextmanager
def _opened(root: Path, revision: Revision) -> Iterator[_Kept]:
    """A revision as DVC sees it, by the present configuration; its remotes are not asked.

    ``DVCFileSystem(root, rev=...)`` would do, but for a project in a subfolder of its repository,
    in which it finds nothing, and for a cache that was moved since.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), config={"core": {"remote": ""}}) as repo:
            with repo.switch(revision.commit):
                yield _Kept(repo)
    except DvcException as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{_words(revision)} cannot be read by DVC: {reason}") from None


def _words(revision: Revision) -> str:
    return f"{revision.name} ({revision.commit[:9]})"


def _commit(root: Path, text: str) -> str | None:
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    return found.strip() or None


def _git(root: Path, *arguments: str) -> str:
    """What git answers in the project; empty: it refuses, or there is no git."""
    try:
        return git_text(root, *arguments)
    except GitError:
        return ""
