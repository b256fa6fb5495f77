"""The files of which `sg3flow init` makes a project.

Each stands once, at the top of the repository. There `setup.py` reads this list and puts the files
into the wheel, below `sg3flow/project/`; a checkout uses them where they stand. Only the standard
library may be imported here: a build has nothing else.
"""

from collections.abc import Iterator
from pathlib import Path

# Glob patterns, relative to the top of the repository.
_PATTERNS = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/plots/page.html",
    ".dvcignore",
    ".gitignore",
    "MLproject",
    "dvc.yaml",
    "params.schema.json",
    "profiles/README.md",
    "recipes/*.yaml",
    "stages/*.py",
)


def template_files(top: Path) -> list[Path]:
    """The files below ``top``, relative to it and sorted.

    Raises:
        FileNotFoundError: one is missing, so this list is out of date.
    """
    return sorted(path for pattern in _PATTERNS for path in _matched(top, pattern))


def _matched(top: Path, pattern: str) -> Iterator[Path]:
    found = [path.relative_to(top) for path in top.glob(pattern) if path.is_file()]
    if not found:
        raise FileNotFoundError(f"{top} has no {pattern}, of which projects are made")
    yield from found


def template_folder() -> Path:
    """Where the files are: in the installed package, or at the top of its checkout.

    Raises:
        ConfigError: they are not there, as in the copy of the package that a model carries.
    """
    package = Path(__file__).parents[1]
    for top in (package / "project", package.parents[1]):
        if (top / "stages" / "train.py").is_file() and (top / "dvc.yaml").is_file():
            return top
    from sg3flow.errors import ConfigError

    raise ConfigError(
        f"the package in {package} is without the files of a project; install sg3flow again"
    )
