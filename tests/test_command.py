"""Stage commands: options from settings, errors in one line."""

import errno
import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import EvaluateConfig, TrainConfig
from sg3flow.errors import DataError

REQUIRED = ["--cfg=stylegan3-t", "--gpus=1", "--batch=8", "--gamma=0.5", "--data=x"]


def make_app(seen, problem=None):
    app = stage_app("doc")

    @stage_command(app, "train", TrainConfig)
    def train(config: TrainConfig, data: Annotated[Path, typer.Option(help="d")]) -> None:
        """Train."""
        if problem is not None:
            raise problem
        seen.append((config, data))

    return app


def invoke(arguments, problem=None):
    seen: list = []
    result = CliRunner().invoke(make_app(seen, problem), arguments)
    return result, seen


def test_options_become_settings():
    result, seen = invoke([*REQUIRED, "--batch_gpu", "4", "--cond=1", "--mirror", "1", "--fp32"])
    assert result.exit_code == 0, result.output
    config, data = seen[0]
    assert data == Path("x") and config.batch_gpu == 4
    assert config.cond and config.mirror and config.fp32


def test_switches_take_no_for_an_answer():
    _, seen = invoke([*REQUIRED, "--cond=0", "--mirror", "false", "--no-fp32"])
    config, _ = seen[0]
    assert not (config.cond or config.mirror or config.fp32)


def test_lists_are_given_by_commas_or_by_repeating():
    app = stage_app("doc")
    seen = []

    @stage_command(app, "evaluate", EvaluateConfig)
    def evaluate(config: EvaluateConfig) -> None:
        """Evaluate."""
        seen.append(config.metrics)

    arguments = ["--metrics", "fid1k_full,eqt1k_int", "--metrics=eqt1k_frac"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == [("fid1k_full", "eqt1k_int", "eqt1k_frac")]


def wrapped(cause):
    """An error as torch raises it when the disk refuses a write."""
    error = RuntimeError("enforce fail at inline_container.cc")
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (DataError("broken\npicture"), "error: broken picture"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.zip"), "no space left on the disk"),
        (wrapped(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), "no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "a.zip"), "Permission denied: a.zip"),
        (ZeroDivisionError("oh"), "unexpected ZeroDivisionError"),
    ],
)
def test_errors_are_one_line_and_non_zero(problem, words):
    result, _ = invoke(REQUIRED, problem)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 1 and len(lines) == 1 and words in lines[0]
    result, _ = invoke([*REQUIRED, "--debug"], problem)
    assert "Traceback" in result.stderr and words in result.stderr


def test_an_error_names_settings_where_the_user_gives_a_params_file(tmp_path):
    problem = DataError(
        "too large; lower --batch-gpu, --batch-x or --data, or train.gamma (--gamma)"
    )
    params = tmp_path / "params.yaml"
    params.write_text("train: {}\n")
    result, _ = invoke([*REQUIRED, "--params", str(params)], problem)
    assert result.stderr.endswith("(--gamma) (in the params file: train.batch_gpu)\n")
    result, _ = invoke(REQUIRED, problem)
    assert result.stderr.endswith("(--gamma)\n")


def test_stage_time_is_noted_under_dvc_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    invoke(REQUIRED)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("DVC_STAGE", "train")
    invoke(REQUIRED)
    assert '"stage": "train"' in (tmp_path / "stage-times.jsonl").read_text()


def test_a_command_without_a_section_offers_no_params():
    app = stage_app("doc")

    @stage_command(app, "look", EvaluateConfig, params=False)
    def look(config: EvaluateConfig) -> None:
        """Look."""

    assert "--params" not in CliRunner().invoke(app, ["--help"]).stdout
    assert CliRunner().invoke(app, []).exit_code == 0
