"""Recipes: whole params files, copied over params.yaml (never composed)."""

from pathlib import Path

from sg3flow.config import read_params
from sg3flow.errors import ConfigError, nearest
from sg3flow.files import copy_file
from sg3flow.git import GitError, git_text
from sg3flow.project import project_root


def use_recipe(name: str, *, force: bool = False) -> str:
    """Copy ``recipes/<name>.yaml`` over ``params.yaml``; returns what was done, in words.

    Raises:
        ConfigError: no such recipe, or params.yaml holds settings that stand nowhere else.
    """
    root = project_root()
    recipes = {path.stem: path for path in sorted((root / "recipes").glob("*.yaml"))}
    name = name.removesuffix(".yaml")
    if name not in recipes:
        known = ", ".join(recipes) or "none"
        raise ConfigError(f"no recipe '{name}'{nearest(name, recipes)}; there are: {known}")
    params = root / "params.yaml"
    read_params(recipes[name])
    if params.exists() and not force and not _is_kept_elsewhere(params, list(recipes.values())):
        raise ConfigError(
            "params.yaml has settings of your own that are not committed; commit or copy it, or "
            "use --force"
        )
    copy_file(recipes[name], params)
    return f"params.yaml is now recipes/{name}.yaml; run `dvc repro`"


def _is_kept_elsewhere(params: Path, recipes: list[Path]) -> bool:
    """Whether overwriting loses nothing: the file equals a recipe, or git has it as it is."""
    content = params.read_bytes()
    if any(content == recipe.read_bytes() for recipe in recipes):
        return True
    try:
        answer = git_text(params.parent, "status", "--porcelain", "--", params.name)
    except GitError:
        return False
    return answer.strip() == ""
