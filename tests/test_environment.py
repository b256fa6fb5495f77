"""One table holds all environment variables and tag names; the docs list the variables."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sg3flow import settings
from sg3flow.errors import ConfigError
from sg3flow.settings import VARIABLES, Tag

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "stages").glob("*.py"))
NAMES = {variable.name for variable in VARIABLES}
# Macros of the C++ sources, which no environment sets.
MACROS = {"SG3FLOW_ISA", "SG3FLOW_X86"}


def literals(path):
    """The string constants of a file, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value


def test_every_variable_in_the_sources_is_in_the_table():
    files = [p for p in (ROOT / "src").rglob("*") if p.suffix in (".py", ".cpp", ".h", ".cu")]
    found = {n for p in files for n in re.findall(r"SG3FLOW_[A-Z0-9_]+[A-Z0-9]", p.read_text())}
    assert len(files) > 100
    assert found - MACROS == NAMES


def test_only_the_table_reads_them():
    elsewhere = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in SOURCES
        if path.name != "settings.py"
        for text in literals(path)
        if text in NAMES  # a name within a sentence is a message
    ]
    assert elsewhere == []


def test_the_docs_list_every_variable_with_its_default():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(SG3FLOW_\w+)` \| *([^|]*?) *\|", page, re.MULTILINE))
    assert set(rows) == NAMES
    for variable in VARIABLES:
        if variable.default:
            assert rows[variable.name] == f"`{variable.default}`"


def test_every_page_names_only_variables_that_exist():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {n for p in pages for n in re.findall(r"SG3FLOW_[A-Z0-9_]+[A-Z0-9]", p.read_text())}
    assert found <= NAMES


def test_tag_names_come_from_the_table():
    tags = {value for name, value in vars(Tag).items() if name.isupper()}
    assert len(tags) > 30 and all(tag.startswith("sg3flow.") for tag in tags)
    elsewhere = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in SOURCES
        if path.name != "settings.py"
        for text in literals(path)
        if any(tag in text if tag.endswith(".") else text == tag for tag in tags)
        or re.search(r"`sg3flow\.\w+`", text)  # in a filter of a search
    ]
    assert elsewhere == []


def test_nothing_is_read_at_import():
    program = (
        "import os\n"
        "class Watched(dict):\n"
        "    def __getitem__(self, key): raise AssertionError(key)\n"
        "    get = __contains__ = __getitem__\n"
        "os.environ = Watched()\n"
        "import sg3flow.settings\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_values_are_read_when_they_are_asked_for(monkeypatch):
    monkeypatch.delenv("SG3FLOW_OPS", raising=False)
    assert not settings.OPS.is_set() and settings.OPS.text() == "auto"
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    assert settings.OPS.is_set() and settings.OPS.text() == "torch"
    monkeypatch.setenv("SG3FLOW_CACHE", "~/here")
    assert settings.CACHE.path() == Path.home() / "here"
    monkeypatch.setenv("SG3FLOW_CACHE", "")
    assert settings.CACHE.path() is None
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.5")
    assert settings.BUILD_SEC.seconds() == 0.5
    for value in ("soon", "nan", "inf", "-1", "1e400"):
        monkeypatch.setenv("SG3FLOW_BUILD_SEC", value)
        assert settings.BUILD_SEC.seconds() == 600


@pytest.mark.parametrize(
    "value", ["", "0", "65", "-1", "1.5", "many", "²", pytest.param("9" * 5000, id="long")]
)
def test_a_number_out_of_bounds_is_an_error(monkeypatch, value):
    monkeypatch.setenv("SG3FLOW_SERVE_TOGETHER", value)
    with pytest.raises(ConfigError, match="SG3FLOW_SERVE_TOGETHER must be a whole number from 1"):
        settings.SERVE_TOGETHER.whole_number()
