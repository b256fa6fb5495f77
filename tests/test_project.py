"""The pipeline's files agree with each other, and commands answer at once."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sg3flow.metrics.names import parse_metrics
from sg3flow.params_file import SECTIONS, load_settings, read_params

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HEAVY = ("torch", "mlflow", "great_expectations", "numpy", "pandas", "scipy", "PIL")


def pipeline():
    return YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())


def test_stages_scripts_and_sections_have_the_same_names():
    code, *stages = pipeline()["stages"]
    assert code == "code"  # `sg3flow code`: a script of this name would hide a standard module
    assert stages == list(SECTIONS)
    scripts = sorted(p.stem for p in (ROOT / "stages").glob("*.py"))
    assert scripts == sorted([*stages, "project"])  # of photos: no stage of the pipeline
    assert list(read_params(ROOT / "params.yaml")) == stages


def test_each_stage_depends_on_its_section_and_on_what_is_there():
    stages = pipeline()["stages"]
    for name in SECTIONS:
        assert stages[name]["params"] == [name]
        for dependency in stages[name]["deps"]:
            is_made = dependency.startswith(("code/", "data/", "reports/", "runs/"))
            assert is_made or (ROOT / dependency).exists()


def test_references_stand_where_the_stage_sees_them_change():
    assert "profiles" in pipeline()["stages"]["validate"]["deps"]
    for path in (ROOT / "params.yaml", *RECIPES):
        reference = read_params(path)["validate"].get("reference", "")
        assert not reference or reference.startswith("profiles/")


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *RECIPES], ids=lambda p: p.stem)
def test_every_recipe_holds_known_settings_of_the_right_type(path):
    assert list(read_params(path)) == list(SECTIONS)
    for section, config_type in SECTIONS.items():
        config = load_settings(config_type, section, path)
        if section == "evaluate":
            parse_metrics(config.metrics)


def test_params_are_the_starter_recipe():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "recipes/starter.yaml").read_bytes()


def test_a_wheel_has_every_file_of_the_package():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = content["tool"]["setuptools"]["package-data"]["sg3flow"]
    package = ROOT / "src" / "sg3flow"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    listed = subprocess.run(["git", "ls-files", "-z", package], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git repository: which files belong to the package is not known")
    names = listed.stdout.decode().split("\0")
    data = {ROOT / name for name in names if name and not name.endswith(".py")}
    assert package / "checkpoints/starter/network.safetensors" in data
    assert data <= packed


@pytest.mark.parametrize("module", ["data.worker_pool", "tracking.upload_process"])
def test_helper_processes_start_without_what_only_others_need(module):
    """One is started for each core, and one for each run."""
    program = (
        f"import sys, sg3flow.{module}\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules and m not in ('numpy', 'PIL')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "module", ["reports.validation_page", "compare.comparison", "serving.gateway"]
)
def test_what_renders_nothing_loads_no_torch(module):
    program = f"import sys, sg3flow.{module}\nprint('torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("name", [*SECTIONS, "project", "sg3flow"])
def test_help_loads_nothing_heavy(name):
    target = str(ROOT / "stages" / f"{name}.py")
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}', '--help']\n"
        "try:\n"
        + (
            "    from sg3flow.cli import main; main()\n"
            if name == "sg3flow"
            else f"    runpy.run_path({target!r}, run_name='__main__')\n"
        )
        + "except SystemExit as end: assert end.code in (0, None), end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert done.stderr.strip() == "[]"
