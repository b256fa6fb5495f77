"""The sg3flow command."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sg3flow
from sg3flow.cli import main
from sg3flow.cli.commands import app

ROOT = Path(__file__).parents[1]
STAGES = ("code", "fetch", "pack", "validate", "train", "evaluate", "render", "register")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    for name in ("starter", "afhq-cat-256"):
        text = (ROOT / "recipes" / f"{name}.yaml").read_text()
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    (tmp_path / "params.yaml").write_text((ROOT / "recipes/starter.yaml").read_text())
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def test_use_copies_a_recipe(project):
    result = invoke("use", "afhq-cat-256")
    assert result.exit_code == 0
    wanted = (project / "recipes/afhq-cat-256.yaml").read_bytes()
    assert (project / "params.yaml").read_bytes() == wanted


def test_use_names_the_nearest_recipe(project):
    result = invoke("use", "afhq-cat-265")
    assert result.exit_code == 1
    assert "did you mean 'afhq-cat-256'" in result.stderr


def test_use_never_loses_settings_made_by_hand(project):
    params = project / "params.yaml"
    params.write_text(params.read_text() + "# mine\n")
    result = invoke("use", "afhq-cat-256")
    assert result.exit_code == 1 and "uncommitted settings" in result.stderr
    assert "# mine" in params.read_text()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "params.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "params"], check=True)
    assert invoke("use", "afhq-cat-256").exit_code == 0
    assert invoke("use", "starter", "--force").exit_code == 0


TRAIN = "train --cfg stylegan2 --gpus 1 --batch 4 --gamma 1 --data x.zip --dry-run".split()
DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*TRAIN, "--seed", "8589934592"), "train.seed must be at most 4294967295, not 8589934592"),
        ((*TRAIN, "--gamma", "1e308"), "train.gamma must be at most 1000000, not 1e+308"),
        ((*TRAIN, "--gamma", "nan"), "train.gamma must be a finite number, not nan"),
        ((*TRAIN, "--glr", "1e300"), "train.glr must be at most 1, not 1e+300"),
        ((*TRAIN, "--kimg", "1" + "0" * 30), "train.kimg must be at most 1000000, not 1000000"),
        ((*TRAIN, "--workers", "10000"), "train.workers must be at most 256, not 10000"),
        ((*TRAIN, "--seed", DIGITS), "Invalid value for '--seed'"),
        ((*TRAIN, "--batch-gpu", DIGITS), "a whole number or auto, not '999"),
        ((*TRAIN, "--metrics", DIGITS), "unknown metric '999"),
        ("pack --source x --dest o.zip --workers 10000".split(), "Invalid value for '--workers'"),
        ([*"pack --source . --dest o.zip --resolution".split(), f"{DIGITS}x1"], "WIDTHxHEIGHT"),
        ("compare a b --psi 1e300".split(), "Invalid value for '--psi'"),
        ("serve a@b --poll nan".split(), "Invalid value for '--poll'"),
        (("set", f"train.kimg={DIGITS}"), "an integer of 5000 digits; at most 100 are read"),
        (("set", f"train.{DIGITS}=1"), "unknown parameter '9999"),
        (("set", "train.desc=\udcff"), "is not valid YAML: unacceptable character"),
        (("use", DIGITS), "no recipe '9999"),
        (("sweep", DIGITS), "is not a number in"),
        (("fetch", "--dataset", DIGITS), "File name too long: 999"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-2],
)
def test_an_odd_value_is_one_sentence_and_never_a_bug(
    project, monkeypatch, capsys, arguments, words
):
    before = (project / "params.yaml").read_bytes()
    monkeypatch.setattr(sys, "argv", ["sg3flow", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    message = capsys.readouterr().err
    assert stop.value.code in (1, 2) and words in message
    assert message.startswith("error: ") and message.count("\n") == 1 and len(message) < 1020
    assert "this is a bug" not in message
    assert (project / "params.yaml").read_bytes() == before


def test_summary_outside_a_project_is_one_line(project):
    (project / "params.yaml").unlink()
    result = invoke("summary")
    assert result.exit_code == 1 and result.stdout == ""
    assert "go to a project, or make one: `sg3flow init DIR`" in result.stderr


def test_summary_says_what_has_not_run_yet(project):
    result = invoke("summary")
    assert result.exit_code == 0
    assert result.stdout.count("not run yet") == 7
    assert "models:/sg3flow-starter@champion" in result.stdout


@pytest.mark.parametrize(
    ("more", "row"),
    [
        ({"label_dim": 0}, {"seed": 1}),
        ({"label_dim": 2}, {"seed": 1, "class": 0}),
        ({"label_dim": 2, "label_kind": "classes"}, {"seed": 1, "class": 0}),
        ({"label_dim": 2, "label_kind": "vectors"}, {"seed": 1, "label": [0.5, -1.0]}),
    ],
)
def test_summary_shows_a_request_that_the_trained_model_answers(project, more, row):
    run = project / "runs/train"
    run.mkdir(parents=True)
    (run / "training_options.json").write_text(json.dumps({"training_set": more}))
    data = {"format": "sg3flow-provenance-1", "data": {"path": "packed.zip"}}
    (run / "provenance.json").write_text(json.dumps(data))
    with zipfile.ZipFile(project / "packed.zip", "w") as packed:
        labels = {"labels": [["00000/img00000000.png", [0.5, -1]]]}
        packed.writestr("dataset.json", json.dumps(labels))
    assert json.dumps(row) in invoke("summary").stdout


def test_sync_without_runs_is_an_error(project):
    result = invoke("sync", str(project))
    assert result.exit_code == 1 and "no run folder" in result.stderr


def test_without_arguments_the_help_is_printed():
    bare, asked = invoke(), invoke("--help")
    assert bare.exit_code == 0 and "dvc repro" in bare.stdout
    assert bare.stdout.split() == asked.stdout.split()
    listed = [line.split()[0] for line in bare.stdout.partition("Commands:")[2].splitlines()[1:]]
    assert listed[:8] == list(STAGES)
    assert {"compare", "doctor", "reproduce", "serve", "summary", "sweep", "sync"} <= {*listed}


def test_version():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"sg3flow {sg3flow.__version__}\n")


@pytest.mark.parametrize("name", [*STAGES, "reproduce", "compare"])
def test_h_is_help(name):
    short, long = invoke(name, "-h"), invoke(name, "--help")
    assert short.exit_code == long.exit_code == 0 and "Usage:" in short.stdout
    assert short.stdout == long.stdout


@pytest.mark.parametrize("name", [name for name in STAGES if name != "code"])
def test_a_script_and_its_command_have_the_same_options(name):
    script = [sys.executable, str(ROOT / "stages" / f"{name}.py"), "-h"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    texts = (done.stdout, invoke(name, "-h").stdout)  # wrapped at different widths
    options, same = ("".join(text.partition("Options:")[2].split()) for text in texts)
    assert options and options == same


@pytest.mark.parametrize("name", ["fetch", "pack", "validate", "train", "register", "evaluate"])
def test_the_help_of_a_script_is_its_docstring(name):
    path = ROOT / "stages" / f"{name}.py"
    script = [sys.executable, str(path), "--help"]
    help = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert "".join(docstring.split()) in "".join(help.split())  # lines may break at hyphens
    examples = [line.strip() for line in docstring.splitlines() if line.startswith("    ")]
    assert examples and {*examples} <= {line.strip() for line in help.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "x", "--anew"], "--anew is now --clean"),
        (["reproduce", "x", "--anyway"], "--anyway is now --force"),
        (["train", "--max-repairs", "3"], "--max-repairs is now --max-nonfinite-updates"),
        (["train", "--max_repairs=3"], "--max-repairs is now --max-nonfinite-updates"),
        (["validate", "--max-one-colour", "0.5"], "--max-one-colour is now --max-one-color"),
        (["summary", "--anyway"], "No such option: --anyway"),
    ],
)
def test_an_option_of_version_0_1_leads_to_its_present_name(
    monkeypatch, capsys, arguments, message
):
    monkeypatch.setattr(sys, "argv", ["sg3flow", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("dest", ["taken", "taken/below", ""])
def test_code_writes_into_a_folder_only(project, dest):
    (project / "taken").write_text("mine")
    result = invoke("code", "--dest", dest)
    reason = "--dest is empty" if not dest else f"--dest {dest}: taken is not a folder"
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {reason};")
    assert (project / "taken").read_text() == "mine"
    assert not list(project.glob("*.txt"))


def test_code_writes_into_the_current_folder_if_asked(project):
    assert invoke("code", "--dest", ".").exit_code == 0
    assert {f"{name}.txt" for name in STAGES[1:]} <= {path.name for path in project.iterdir()}


def test_options_of_reproduce():
    shown = invoke("reproduce", "-h").stdout
    assert "--clean" in shown and "--force" in shown and "--any" not in shown


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["sg3flow", "train", "--desc=a b"], "sg3flow train '--desc=a b'"),
        (["stages/train.py", "--gpus=1"], "python stages/train.py --gpus=1"),
    ],
)
def test_the_recorded_command_is_the_one_that_was_given(monkeypatch, arguments, command):
    from sg3flow.config import TrainConfig
    from sg3flow.training.job import Job

    monkeypatch.setattr(sys, "argv", arguments)
    config = TrainConfig(cfg="stylegan3-t", gpus=1, batch=4, gamma=1.0)
    assert Job(config, config, None, "").command == command


def test_the_command_is_called_by_its_name_not_by_its_path(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sg3flow", "train", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and sys.argv[0] == "sg3flow"
    assert capsys.readouterr().out.startswith("Usage: sg3flow train ")
