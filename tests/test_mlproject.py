"""MLproject: every command is one that the stage understands, and entry points really run."""

import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest
from mlflow.projects import _project_spec
from PIL import Image
from ruamel.yaml import YAML
from typer.main import get_command

from sg3flow.cli import stage_commands
from sg3flow.params_file import SECTIONS, load_settings

ROOT = Path(__file__).parents[1]
REQUIRED = {"train": {"gamma": "2"}}
# Paths and what no default of the settings can be.
OWN_DEFAULTS = {
    ("fetch", "dataset"),
    ("pack", "resolution"),
    ("train", "gamma"),
    ("train", "cfg"),
    ("train", "gpus"),
    ("train", "batch"),
}


def entry_points() -> dict[str, _project_spec.EntryPoint]:
    return _project_spec.load_project(str(ROOT))._entry_points


def parsed(stage: str, more: dict[str, str]) -> dict[str, object]:
    """What the stage's own parser makes of an entry point's command."""
    command = entry_points()[stage].compute_command(REQUIRED.get(stage, {}) | more, None)
    words = shlex.split(command)
    assert words[0].startswith("PYTHONPATH=$PWD/src") and words[1:3] == [
        "python",
        f"stages/{stage}.py",
    ]
    script = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    assert f'run_stage("{stage}", help=__doc__)' in script
    arguments = words[3:]
    parser = get_command(getattr(stage_commands, f"{stage}_app"))
    context = parser.make_context(stage, list(arguments))
    if hasattr(parser, "resolve_command"):
        name, parser, rest = parser.resolve_command(context, arguments)
        context = parser.make_context(name, rest, parent=context)
    return dict(context.params)


@pytest.mark.parametrize("stage", list(SECTIONS))
def test_a_stage_understands_its_entry_point(stage):
    given = parsed(stage, {})
    names = {field for field in given if given[field] is not None}
    parameters = entry_points()[stage].parameters
    assert set(parameters) <= {name.replace("-", "_") for name in names}
    # A default of the entry point is the stage's own.
    fields = SECTIONS[stage].__dataclass_fields__
    settings = {n: v for n, v in given.items() if n in fields and v is not None and v != [""]}
    split = {
        n: v[0].split(",") if isinstance(v, list) else v for n, v in settings.items() if v != []
    }
    config = load_settings(SECTIONS[stage], stage, None, split)
    for name, field in fields.items():
        if name in parameters and (stage, name) not in OWN_DEFAULTS:
            assert getattr(config, name) == field.default, name
    # Any other setting is one more parameter.
    if stage == "train":
        more = parsed(stage, {"map_depth": "3", "fp32": "1", "cond": "1", "grid": "2x2"})
        assert (more["map_depth"], more["fp32"], more["cond"], more["grid"]) == (
            3,
            True,
            True,
            "2x2",
        )


def test_every_stage_and_the_pipeline_are_entry_points():
    assert list(entry_points()) == ["main", *SECTIONS]
    for name, entry in entry_points().items():
        for parameter in entry.parameters.values():
            assert parameter.type in ("string", "float", "path"), (name, parameter.name)


def test_the_environment_names_what_there_is():
    content = YAML(typ="safe").load((ROOT / "python_env.yaml").read_text())
    assert content["dependencies"] == ["-c constraints.txt", "."]
    assert tuple(map(int, content["python"].split("."))) >= (3, 11)
    text = (ROOT / "constraints.txt").read_text()
    assert "torch==" in text and "+cpu" not in text  # no local version, which no index has


def mlflow_run(folder: Path, uri: str, *arguments: str, **variables: str):
    dropped = ("MLFLOW_", "SG3FLOW_STATE", "SG3FLOW_TRACKING", "DVC_", "GIT_", "PYTHONPATH")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    environment = (
        kept
        | variables
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
    )
    command = [sys.executable, "-m", "mlflow", "run", uri, *arguments, "--env-manager", "local"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def tiny_set(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            with archive.open(f"00000/img{i:08d}.png", "w") as stream:
                Image.new("RGB", (16, 16), (30 * i, 0, 90)).save(stream, "png")
    return path


TINY = {
    "cfg": "stylegan2", "gamma": "0.1", "batch": "100", "cbase": "64", "cmax": "2",
    "map_depth": "1", "mbstd_group": "5", "aug": "noaug", "kimg": "1", "tick": "1", "snap": "1",
    "workers": "0", "grid": "2x2", "device": "cpu",
}  # fmt: skip


@pytest.mark.slow
def test_train_from_a_git_url(tmp_path, commit_copy):
    source = commit_copy(tmp_path / "a repository")
    tiny_set(tmp_path / "tiny.zip")
    url = "https://project.invalid/sg3flow.git"  # git itself is told where that is
    rewritten = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{source}.insteadOf",
        "GIT_CONFIG_VALUE_0": url,
    }
    settings = [word for name, value in TINY.items() for word in ("-P", f"{name}={value}")]
    # The set counts from here; what is written is named whole, for the clone is temporary.
    places = ["-P", "data=tiny.zip", "-P", f"run_dir={tmp_path / 'out'}"]
    mlflow_run(tmp_path, url, "-e", "train", *places, *settings, **rewritten)
    assert (tmp_path / "out" / "network-snapshot-000001.pkl").exists()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs(["0"])
    assert len(runs) == 2 and all(run.info.status == "FINISHED" for run in runs)
    [trained] = [run for run in runs if run.data.tags.get("sg3flow.stage") == "train"]
    [entry] = [run for run in runs if run is not trained]
    assert trained.data.tags["mlflow.parentRunId"] == entry.info.run_id
    assert trained.data.params["map_depth"] == "1" and entry.data.params["map_depth"] == "1"
    # The code that ran is the clone's, not what is installed here.
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=source, text=True, capture_output=True, check=True
    ).stdout.strip()
    assert trained.data.tags["mlflow.source.git.commit"] == commit
    assert trained.data.tags["mlflow.source.git.repoURL"] == url


PIPELINE_SETTINGS = (
    "fetch.images=40 fetch.resolution=32 pack.resolution=16x16 validate.min_images=30 "
    "validate.min_class_images=10 train.cfg=stylegan2 train.batch=100 train.mbstd_group=5 "
    "train.cbase=64 train.cmax=2 train.map_depth=1 train.kimg=1 train.grid=2x2 train.workers=0 "
    "evaluate.metrics=fd_random20_full evaluate.best_by=fd_random20_full render.video_frames=2"
)


@pytest.mark.slow
def test_the_whole_pipeline_and_a_local_stage(tmp_path, commit_copy):
    source = commit_copy(tmp_path / "a project")
    settings = ("-P", "recipe=starter-scratch", "-P", f"settings={PIPELINE_SETTINGS}")
    done = mlflow_run(source, ".", *settings)
    for stage in SECTIONS:
        assert f"Running stage '{stage}'" in done.stdout
    assert (source / "reports" / "registered.json").exists()
    out = ("-P", "run_dir=runs/other")
    more = [word for name, value in TINY.items() for word in ("-P", f"{name}={value}")]
    mlflow_run(source, ".", "-e", "train", *out, *more, "--experiment-name", "others")
    assert (source / "runs" / "other" / "network-snapshot-000001.pkl").exists()
    client = mlflow.MlflowClient(f"sqlite:///{source / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("others")
    assert len(client.search_runs([experiment.experiment_id])) == 2
