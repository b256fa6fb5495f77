"""Completion of `sg3flow` in a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(tmp_path):
    """Runs `python -m sg3flow` with variables, as a user whose home is empty."""

    def run(*arguments: str, **variables: str) -> str:
        environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [sys.executable, "-m", "sg3flow", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_commands_are_completed(command):
    answer = command(_SG3FLOW_COMPLETE="complete_bash", COMP_WORDS="sg3flow re", COMP_CWORD="1")
    assert set(answer.split()) == {"register", "render", "recipes", "reproduce"}


def test_options_are_completed(command):
    words = {"COMP_WORDS": "sg3flow init --re", "COMP_CWORD": "2"}
    assert command(_SG3FLOW_COMPLETE="complete_bash", **words).split() == ["--recipe"]


@pytest.mark.parametrize(
    ("words", "index"), [("sg3flow use afhq-", "2"), ("sg3flow init d --recipe afhq-", "4")]
)
def test_names_of_recipes_are_completed(command, words, index):
    answer = command(_SG3FLOW_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=index)
    assert answer.split() == ["afhq-cat-256", "afhq-sample"]


def test_the_script_of_a_shell_is_shown_and_installed(command, tmp_path):
    detected = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = command("--show-completion", "bash", **detected)
    assert "complete -o default -F _sg3flow_completion sg3flow" in shown
    assert list(tmp_path.iterdir()) == []
    assert "bash completion installed in" in command("--install-completion", "bash", **detected)
    assert shown.strip() in (tmp_path / ".bash_completions" / "sg3flow.sh").read_text()
