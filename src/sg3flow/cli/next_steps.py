"""What to run after a stage: its last line on standard output, ``next: sg3flow pack …``.

Under DVC, which runs the next stage itself, only the last stage says it. The command has the paths
of this run and its params file, and is one that the stage after it accepts.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from sg3flow.cli.stage_options import given_arguments
from sg3flow.config import FetchConfig

# The part of a known data set that a first training takes.
_TRAIN_FOLDER = {"starter": "starter/train", "afhq": "afhq/train/cat", "afhqv2": "train"}
_PHOTO_SIZE = "256x256"


def after_fetch(dest: Path, config: FetchConfig) -> None:
    """Suggest to pack the images."""
    paths: list[str | Path] = [
        "--dest",
        dest.parent / "packed.zip",
        "--manifest",
        dest.parent / "manifest.parquet",
    ]
    if _params():  # it has the subset and the resolution
        _say("pack", "--source", dest, *paths)
        return
    size = [] if config.dataset == "starter" else ["--resolution", _PHOTO_SIZE]
    source = dest / _TRAIN_FOLDER.get(config.dataset, "")
    _say("pack", "--source", source, *paths, *size)


def after_pack(source: Path, dest: Path, manifest: Path) -> None:
    """Suggest to validate the packed set."""
    _say("validate", "--manifest", manifest, "--packed", dest, "--raw", source)


def after_validate(packed: Path, sizes: Mapping[str, int]) -> None:
    """Suggest to train; without a params file, with a gamma for the resolution.

    Args:
        sizes: counts by size and mode, such as ``256x256 RGB``.
    """
    if _params():
        _say("train", "--data", packed, "--run-dir", "runs/train")
        return
    resolution = int(next(iter(sizes), "256").partition("x")[0])
    gamma = f"{32 * (resolution / 1024) ** 2:.2g}"  # as the help of --gamma
    settings = ["--cfg", "stylegan3-t", "--gpus", "1", "--batch", "32", "--gamma", gamma]
    _say("train", "--data", packed, "--outdir", "runs", *settings)


def after_train(out: Path, data: Path) -> None:
    """Suggest to measure the snapshots."""
    _say("evaluate", "snapshots", "--run", out, "--data", data)


def after_evaluate(run: Path, report: Path) -> None:
    """Suggest to render the best snapshot."""
    _say("render", "best", "--run", run, "--metrics", report)


def after_render(run: Path, report: Path) -> None:
    """Suggest to register the best snapshot."""
    _say("register", "--run", run, "--metrics", report)


def after_register(name: str, version: str, aliases: list[str]) -> None:
    """Suggest to serve the version, or to make it the champion first."""
    alias = next((each for each in ("champion", "candidate") if each in aliases), "")
    target = ["serve", f"{name}@{alias}"] if alias else ["promote", name, version]
    print(f"next: {shlex.join(['sg3flow', *target])}", flush=True)


def _say(stage: str, *arguments: str | Path) -> None:
    """Print the command of a stage, in the form in which this one was called."""
    if "DVC_STAGE" in os.environ:
        return
    command = [*_program(stage), *map(str, arguments), *_params()]
    print(f"next: {shlex.join(command)}", flush=True)


def _program(stage: str) -> list[str]:
    """``sg3flow STAGE``; from a script in ``stages/``, the one beside it."""
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.parent.name == "stages":
        return ["python", str(script.with_name(f"{stage}.py"))]
    return ["sg3flow", stage]


def _params() -> list[str]:
    """The option of the params file that this command was given; empty: none."""
    given = given_arguments()
    for index, argument in enumerate(given):
        if argument == "--params" and index + 1 < len(given):
            return ["--params", given[index + 1]]
        if argument.startswith("--params="):
            return ["--params", argument.partition("=")[2]]
    return []
