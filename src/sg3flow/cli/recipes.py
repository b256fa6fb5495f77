"""The recipes: whole params files, of this project and of the package.

A recipe of the project, in its ``recipes/``, takes precedence over one of the package. The comment
at the top of a recipe says what it is and what it needs.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from sg3flow.cli.project_template import template_folder
from sg3flow.errors import ConfigError, cut, listed, nearest
from sg3flow.files import copy_file
from sg3flow.git import GitError, git_text
from sg3flow.params_file import read_params
from sg3flow.settings import project_root

_NEEDS = ("GPU memory", "time", "disk")
_NEED = re.compile(rf"- ({'|'.join(_NEEDS)}): (\S.*)")
_FOR_EDITORS = "# yaml-language-server:"  # a first line that names a schema
_UNKNOWN = "-"


@dataclass(frozen=True)
class Recipe:
    """What the table of recipes shows.

    Attributes:
        about: the first sentence of its comment.
        resolution: of the packed set, such as ``256x256``.
        needs: GPU memory, time and disk, as far as its comment states them.
    """

    name: str
    about: str
    resolution: str
    needs: dict[str, str]


def recipe_paths(project: Path) -> dict[str, Path]:
    """The file of each recipe by name: those of the project and of the package."""
    folders = (template_folder() / "recipes", project / "recipes")
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def recipe_names(incomplete: str) -> list[str]:
    """The recipes whose name begins so, for the completion of a shell."""
    return [name for name in recipe_paths(project_root()) if name.startswith(incomplete)]


def find_recipe(name: str, project: Path) -> Path:
    """The file of a recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    known = recipe_paths(project)
    name = name.removesuffix(".yaml")
    if name not in known:
        hint = nearest(name, known)
        raise ConfigError(f"no recipe '{cut(name)}'{hint}; known: {listed(known, 20)}")
    return known[name]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and the comment at its top.

    Raises:
        ConfigError: it is no params file.
    """
    packing = read_params(path).get("pack")
    resolution = packing.get("resolution") if isinstance(packing, dict) else None
    top = itertools.takewhile(_is_comment, path.read_text(encoding="utf-8").splitlines())
    lines = [line.removeprefix("#").strip() for line in top if not line.startswith(_FOR_EDITORS)]
    needs = {found[1]: found[2] for line in lines if (found := _NEED.fullmatch(line))}
    return Recipe(path.stem, _first_sentence(lines), str(resolution or _UNKNOWN), needs)


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _first_sentence(lines: list[str]) -> str:
    paragraph = " ".join(itertools.takewhile(bool, lines))
    return re.split(r"\.(?:\s|$)", paragraph)[0] or _UNKNOWN


def _needs_words(recipe: Recipe) -> str:
    return "; ".join(f"{name} {recipe.needs[name]}" for name in _NEEDS if name in recipe.needs)


def print_recipes() -> None:
    """Print a table of all recipes and how to take one."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("pixels", no_wrap=True)
    table.add_column("what it is, and what it needs")
    for path in recipe_paths(project_root()).values():
        recipe = read_recipe(path)
        about = f"{recipe.about}\n{_needs_words(recipe)}"
        # a comment may have brackets, which rich would read
        table.add_row(*map(Text, (recipe.name, recipe.resolution, about)))
    Console().print(table)
    print("The comment at the top of a recipe says where its numbers come from.")
    print(
        "next: `sg3flow use NAME` in a project, or `sg3flow init DIR --recipe NAME` for a new one"
    )


def use_recipe(name: str, *, force: bool = False) -> str:
    """Copy a recipe to ``params.yaml``; returns a message for the user.

    Raises:
        ConfigError: here is no project, there is no such recipe, or params.yaml has settings that
            would be lost.
    """
    root = project_root()
    if not any((root / name).exists() for name in (".dvc", "dvc.yaml")):
        raise ConfigError(
            f"{root} is no project; go to one, or make one: `sg3flow init DIR --recipe NAME`"
        )
    recipe, params = find_recipe(name, root), root / "params.yaml"
    read_params(recipe)
    if params.exists() and not force and not _is_saved_elsewhere(params, root):
        raise ConfigError("params.yaml has uncommitted settings; commit or copy it, or use --force")
    copy_file(recipe, params)
    return f"params.yaml is now recipes/{recipe.name}; run `dvc repro`"


def _is_saved_elsewhere(params: Path, root: Path) -> bool:
    """Whether overwriting loses nothing: the file equals a recipe or is committed unchanged."""
    content = params.read_bytes()
    if any(content == recipe.read_bytes() for recipe in recipe_paths(root).values()):
        return True
    try:
        answer = git_text(params.parent, "status", "--porcelain", "--", params.name)
    except GitError:
        return False
    return answer.strip() == ""
