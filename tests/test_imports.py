"""Which package of the library may use which: what docs/architecture.md draws, held to the code."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "sg3flow"
# From the bottom up. What a package is not allowed here, it does not know.
MAY_USE = {
    "cuda": set(),
    "kernels": {"cuda", "ops"},  # a kernel is tried against the op that it replaces
    "ops": {"kernels"},
    "networks": {"ops"},
    "data": set(),
    "checkpoints": {"networks", "training", "tracking"},  # AugmentPipe; models:/ and runs:/
    "provenance": {"data", "ops"},
    "training": {"checkpoints", "data", "networks", "ops", "provenance"},
    "metrics": {"checkpoints", "data", "networks", "ops"},
    "rendering": {"checkpoints", "metrics", "networks"},
    "serving": {"checkpoints", "rendering"},
    "reproduction": {"checkpoints", "data", "provenance"},
    "tracking": {"checkpoints", "metrics", "provenance", "rendering", "reproduction", "serving"},
    "compare": {"metrics", "provenance", "rendering", "tracking"},
    "reports": {"compare", "data", "metrics", "rendering", "tracking"},
}
COMMANDS = {"cli", "command", "recipes", "settings_file", "summary", "sweep"}


def used(package: str) -> dict[str, str]:
    """What a package imports of the others, anywhere in its files, and in which file."""
    found = {}
    for path in sorted((PACKAGE / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            parts = [name.split(".") for name in names if name.startswith("sg3flow.")]
            found |= {each[1]: path.name for each in parts if each[1] != package}
    return found


@pytest.mark.parametrize("package", MAY_USE)
def test_a_package_uses_what_it_may(package):
    others = {name: file for name, file in used(package).items() if name in {*MAY_USE, *COMMANDS}}
    assert {n: f for n, f in others.items() if n not in MAY_USE[package]} == {}
    assert MAY_USE[package] <= set(others), "allowed and not used: take it out"


def test_every_package_is_told():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(MAY_USE)
