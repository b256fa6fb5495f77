"""The command that each stage suggests is one that the next stage accepts."""

import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from sg3flow.cli import next_steps
from sg3flow.cli.commands import app
from sg3flow.cli.stage_options import _given
from sg3flow.config import FetchConfig
from sg3flow.params_file import SECTIONS

RUN, REPORT = Path("runs/00000 a"), Path("reports/metrics.json")
HINTS = {
    "fetch": lambda: next_steps.after_fetch(Path("data/raw"), FetchConfig(dataset="afhq")),
    "pack": lambda: next_steps.after_pack(Path("raw"), Path("d/packed.zip"), Path("d/m.parquet")),
    "validate": lambda: next_steps.after_validate(Path("d/packed.zip"), {"128x128 RGB": 9}),
    "train": lambda: next_steps.after_train(RUN, Path("d/packed.zip")),
    "evaluate": lambda: next_steps.after_evaluate(RUN, REPORT),
    "render": lambda: next_steps.after_render(RUN, REPORT),
    "register": lambda: next_steps.after_register("cats", "3", ["candidate", "champion"]),
}


@pytest.fixture(autouse=True)
def called_plainly(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(sys, "argv", ["sg3flow"])
    _given[:] = []
    yield
    _given[:] = []


def hint(stage, capsys):
    """The words of the only line that a stage adds."""
    HINTS[stage]()
    output = capsys.readouterr()
    assert output.err == "" and output.out.startswith("next: ") and output.out.count("\n") == 1
    return shlex.split(output.out.removeprefix("next: "))


def parsed(words):
    """The names of the commands, and their parameters, by the program's own parser."""
    command, arguments, names, context = get_command(app), words[1:], [], None
    while hasattr(command, "resolve_command"):
        context = command.make_context("sg3flow", list(arguments), parent=context)
        name, command, arguments = command.resolve_command(context, arguments)
        names.append(name)
    return names, command.make_context(names[-1], list(arguments), parent=context).params


FOLLOWING = {
    "fetch": (["pack"], {"source": Path("data/raw/afhq/train/cat"), "resolution": "256x256"}),
    "pack": (["validate"], {"packed": Path("d/packed.zip"), "raw": Path("raw")}),
    "validate": (["train"], {"data": Path("d/packed.zip"), "gamma": 0.5, "batch": 32}),
    "train": (["evaluate", "snapshots"], {"run": RUN, "data": Path("d/packed.zip")}),
    "evaluate": (["render", "best"], {"run": RUN, "metrics": REPORT}),
    "render": (["register"], {"run": RUN, "metrics": REPORT}),
    "register": (["serve"], {"target": "cats@champion"}),
}


@pytest.mark.parametrize("stage", FOLLOWING)
def test_each_stage_suggests_the_next_one(stage, capsys):
    words = hint(stage, capsys)
    assert words[0] == "sg3flow"
    names, params = parsed(words)
    assert names == FOLLOWING[stage][0]
    assert params.items() >= FOLLOWING[stage][1].items()


def test_every_stage_has_one():
    assert set(HINTS) == set(FOLLOWING) == set(SECTIONS)


@pytest.mark.parametrize("given", [["--params", "my params.yaml"], ["--params=my params.yaml"]])
def test_the_params_file_is_handed_on_and_decides_the_settings(given, capsys):
    _given[:] = given
    for stage in FOLLOWING:
        words = hint(stage, capsys)
        if stage == "register":
            continue
        _, params = parsed(words)
        assert params["params"] == Path("my params.yaml")
        assert not {"--gamma", "--resolution"} & set(words)


@pytest.mark.parametrize("script", ["stages/train.py", "/somewhere/stages/train.py"])
def test_a_script_suggests_the_script_beside_it(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script])
    words = hint("train", capsys)
    assert words[:3] == ["python", script.replace("train", "evaluate"), "snapshots"]


def test_under_dvc_only_the_last_stage_suggests(monkeypatch, capsys):
    monkeypatch.setenv("DVC_STAGE", "train")
    for stage in FOLLOWING:
        HINTS[stage]()
        shown = capsys.readouterr().out
        assert shown == ("next: sg3flow serve cats@champion\n" if stage == "register" else "")


def test_a_version_without_an_alias_is_to_be_promoted(capsys):
    next_steps.after_register("cats", "4", [])
    words = shlex.split(capsys.readouterr().out.removeprefix("next: "))
    assert parsed(words)[0] == ["promote"] and words[2:] == ["cats", "4"]
    next_steps.after_register("cats", "4", ["candidate"])
    assert capsys.readouterr().out == "next: sg3flow serve cats@candidate\n"


def test_the_starter_set_needs_no_size(capsys):
    next_steps.after_fetch(Path("raw"), FetchConfig(dataset="starter"))
    next_steps.after_fetch(Path("raw"), FetchConfig(dataset="/my/photos"))
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "next: sg3flow pack --source raw/starter/train --dest packed.zip "
        "--manifest manifest.parquet"
    )
    assert "--source raw --dest" in second and second.endswith("--resolution 256x256")
