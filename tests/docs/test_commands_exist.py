"""Every command in README and docs names things that exist and options that are accepted."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import typer
import typer.main

from sg3flow.cli import commands, stage_commands

ROOT = Path(__file__).parents[2]
# Commands of other programs, whose options are not checked here.
_OTHERS = set(
    """
    . apt aws cat cd chmod cmp cp curl docker export git gto install mkdir pip printf psql python3
    runuser set systemctl useradd /srv/mlflow/.venv/bin/pip
""".split()
)


def test_every_command_can_be_given_like_this(block):
    for words in block.commands():
        try:
            _check(words)
        except (SystemExit, Exception) as error:
            pytest.fail(f"{block.page.name}:{block.line}: {' '.join(words)}: {error!r}")


def _check(words: list[str]) -> None:
    name, *rest = words
    if name == "torchrun":
        script = next(i for i, word in enumerate(words) if word.startswith("stages/"))
        _parse(_stage(words[script]), words[script + 1 :])
    elif name in ("python", "python3") and rest[0].startswith("stages/"):
        _parse(_stage(rest[0]), rest[1:])
    elif name in ("python", "python3") and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), "no such script"
    elif name == "sg3flow":
        _parse(typer.main.get_command(commands.app), rest)
    elif name == "make":
        assert set(w for w in rest if "=" not in w) <= _make_targets(), "no such target"
    elif name == "dvc":
        from dvc.cli.parser import get_main_parser

        get_main_parser().parse_args(rest)
    elif name == "mlflow":
        from mlflow.cli import cli as mlflow_cli

        _parse(mlflow_cli, rest)
    else:
        assert name in _OTHERS or (ROOT / name).is_file(), "unknown command"


def _parse(command, words: list[str]) -> None:
    """Parse as the command line does, down to the subcommand's options; nothing runs."""
    context = command.make_context(command.name or "command", list(words))
    if hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        if rest:
            _, sub, left = command.resolve_command(context, rest)
            _parse(sub, left)


@cache
def _stage(script: str):
    assert (ROOT / script).is_file(), "no such script"
    return typer.main.get_command(getattr(stage_commands, f"{Path(script).stem}_app"))


@cache
def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_link_leads_somewhere(page):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            path = (page.parent / target).resolve()
            assert path.exists(), f"{page.name} links to {target}"
            if tracked.returncode == 0:
                name = path.relative_to(ROOT).as_posix()
                assert name in tracked.stdout, f"{target} is not part of the project"
