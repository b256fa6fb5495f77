"""Makes a project: the files of a checkout that its user works with, without the package's source.

Its ``dvc.yaml`` is that of the repository except for the stage ``code``. In a checkout, DVC watches
the source files of the package. In a project the package is installed elsewhere, at a path that
differs between machines, so nothing in the project changes when it is upgraded. Stage ``code``
therefore always runs; it takes a fraction of a second. The other stages depend on the digests that
it writes, so after an upgrade those run again whose deciding code has changed, and no others. A
file with the version would have to be kept up to date by hand, and would rerun every stage.

DVC is initialized by writing the files that `dvc init` writes, as in any clone.
"""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from contextlib import suppress
from pathlib import Path

import sg3flow
from sg3flow.cli.project_template import template_files, template_folder
from sg3flow.cli.recipes import find_recipe
from sg3flow.errors import ConfigError, DataError, listed
from sg3flow.files import atomic_folder, write_bytes
from sg3flow.git import GitError, git, git_or_empty, git_text
from sg3flow.params_file import read_params

# Lines are added to these if the folder has them; every other file that is there is an error.
_EXTENDED = (".gitignore", ".dvcignore")
# A folder that is a DVC project keeps its settings.
_KEPT = ".dvc"
_WATCHED_SOURCES = re.compile(r"(?m)^    deps:\n(?:      - (?:src/|stages\b).*\n)+")
_ALWAYS = """\
    # The package is installed outside this project, where DVC does not see it change.
    always_changed: true
"""
_ENVIRONMENT = """\
# What `mlflow run .` installs, unless it is given --env-manager local.
dependencies:
  - sg3flow=={version}
"""


def make_project(folder: Path, recipe: str) -> list[str]:
    """Make a project in ``folder``, which may exist; returns lines for the user.

    If it fails, the folder is as it was.

    Raises:
        ConfigError: there is no such recipe, or the folder is ignored by its git repository.
        DataError: the folder has files that would be overwritten, or git fails.
    """
    source = find_recipe(recipe, Path())
    read_params(source)
    names = {path.parts[0] for path in template_files(template_folder())} - {"recipes"}
    names |= {"params.yaml", "python_env.yaml"}
    taken = sorted(n for n in names - {*_EXTENDED, _KEPT} if os.path.lexists(folder / n))
    if taken:
        step = (
            "it is a project: `sg3flow use NAME` there takes another recipe"
            if {"dvc.yaml", "params.yaml", "stages"} <= set(taken)
            else "give another folder, or move them away"
        )
        raise DataError(
            f"{folder} already has {listed(taken, 5)}, and `sg3flow init` overwrites nothing; "
            f"{step}"
        )
    repository = _repository_of(folder)
    if folder.exists():
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DataError(f"{folder} is not writable; give another folder")
        with tempfile.TemporaryDirectory(prefix=".sg3flow-init-", dir=folder) as work:
            _write_project(Path(work), source, repository)
            _move_into(folder, Path(work))
    else:
        with atomic_folder(folder) as new:
            _write_project(new, source, repository)
    return list(_next_steps(folder, source.stem, repository))


def project_pipeline(text: str) -> str:
    """The ``dvc.yaml`` of a project, from that of the repository.

    Raises:
        ConfigError: stage ``code`` does not name source files as expected.
    """
    changed, count = _WATCHED_SOURCES.subn(_ALWAYS, text)
    if count != 1:
        raise ConfigError("stage code of the packaged dvc.yaml has no list of source files")
    return changed


def _write_project(folder: Path, recipe: Path, repository: str | None) -> None:
    """Write all files into an empty folder; with an empty ``repository``, make one."""
    top = template_folder()
    for name in template_files(top):
        if name.parts[0] != "recipes":  # they are in the package; `sg3flow use` takes them there
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, folder / name)
    pipeline = (top / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(project_pipeline(pipeline), encoding="utf-8")
    shutil.copyfile(recipe, folder / "params.yaml")
    environment = _ENVIRONMENT.format(version=sg3flow.__version__)
    (folder / "python_env.yaml").write_text(environment, encoding="utf-8")
    if repository is None:  # of this machine only: not for a colleague who has git
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    elif not repository:
        git(folder, "init", "--quiet")


def _repository_of(folder: Path) -> str | None:
    """The top of the git repository around ``folder``; empty: there is none; None: no git.

    Raises:
        ConfigError: the repository ignores the folder.
        GitError: git fails.
    """
    if shutil.which("git") is None:
        return None
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    try:
        top = git_text(place, "rev-parse", "--show-toplevel").rstrip("\n")
    except GitError as error:
        if "not a git repository (or any" in str(error):
            return ""
        if "must be run in a work tree" in str(error):
            raise ConfigError(
                f"{place} is inside the data of a git repository; give another folder"
            ) from None
        raise
    if git_or_empty(place, "check-ignore", "--", str(folder.absolute() / "dvc.yaml")):
        raise ConfigError(
            f"the git repository {top} ignores {folder}, so neither git nor DVC can keep a project "
            "there; give another folder"
        )
    return top


def _move_into(folder: Path, work: Path) -> None:
    """Move the entries of ``work`` into ``folder``; after a failure all are back."""
    undo: list[tuple[Path, bytes | None]] = []  # what to remove, or to write again
    try:
        for entry in sorted(work.iterdir()):
            target = folder / entry.name
            if not os.path.lexists(target):
                undo.append((target, None))
                os.rename(entry, target)
            elif entry.name in _EXTENDED:
                undo.append((target, target.read_bytes()))
                _add_lines(target, entry)
            elif entry.name != _KEPT:
                raise DataError(f"{target} has appeared meanwhile; nothing was changed")
    except BaseException:
        for target, content in undo:
            if content is None:
                _remove(target)
            else:
                write_bytes(target, content)
        raise


def _add_lines(target: Path, source: Path) -> None:
    """Append the rules of ``source`` that ``target`` does not have."""
    present = target.read_bytes()
    known = {line.strip() for line in present.splitlines()}
    rules = [line for line in source.read_bytes().splitlines() if line and line[:1] != b"#"]
    missing = [line for line in rules if line not in known]
    if missing:
        start = present if present.endswith(b"\n") or not present else present + b"\n"
        write_bytes(target, b"\n".join([start + b"# sg3flow", *missing, b""]))


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _links_files(config: Path) -> bool:
    """Whether a DVC config says how outputs are linked to the cache; without it they are copies."""
    parser = ConfigParser(interpolation=None, strict=False)
    with suppress(OSError, ConfigParserError, UnicodeDecodeError):
        parser.read(config, encoding="utf-8")
    return parser.has_option("cache", "type")


def _next_steps(folder: Path, recipe: str, repository: str | None) -> Iterator[str]:
    made = {None: "without git", "": "with a new git repository"}
    where = made.get(repository, f"in the git repository {repository}")
    yield f"project in {folder}, {where}: recipe {recipe}, sg3flow {sg3flow.__version__}"
    if repository is None:
        yield (
            "note: git is not installed; `dvc exp` and `sg3flow compare` of revisions need it. "
            "After `git init`, remove .dvc/config.local"
        )
    if not _links_files(folder / _KEPT / "config"):
        yield (
            f"note: {_KEPT} keeps its settings, which copy each output; it stands once on the disk "
            "with `dvc config cache.type hardlink,copy`"
        )
    if folder.resolve() != Path.cwd():
        name = f"./{folder}" if str(folder).startswith("-") else str(folder)
        yield f"next:  cd {shlex.quote(name)}"
        yield "       dvc repro          # run the pipeline; params.yaml has its settings"
    else:
        yield "next:  dvc repro          # run the pipeline; params.yaml has its settings"
    yield "       sg3flow summary    # its results and what to do with them"
    yield "       sg3flow recipes    # other sets of settings, and what they need"
    if repository is not None:
        yield "       git add -A && git commit   # before experiments and comparisons"
