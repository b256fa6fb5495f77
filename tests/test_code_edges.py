"""What a stage depends on: exactly the code that decides its outputs, by real DVC."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sg3flow.files import write_bytes
from sg3flow.runs.code_state import (
    PAGE_FILES,
    STAGE_FILES,
    TRAINING_NUMERICS,
    files_of,
    meaning_digest,
)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sg3flow"

# What code that decides numbers may import without being part of it, and why.
NOT_DECIDING = {
    "__init__": "names of the public API",
    "addresses": "shows addresses without secrets",
    "config": "its defaults are in the digests as values",
    "downloads": "brings a file whose digest is checked",
    "errors": "messages",
    "files": "writes what it is given",
    "git": "provenance",
    "interrupts": "answers Ctrl-C",
    "params_file": "reads settings, which are in the fingerprint as values",
    "progress": "shows progress",
    "resources": "how many processes work at once; messages about a GPU",
    "settings": "places and names",
    "transfers": "brings a file whose digest is checked",
    "checkpoints": "reads tensors as they are, or fails",
    "data.packed_form": "the packed set's own digest covers what it writes",
    "data.readers": "reads bytes as they are, or fails",
    "kernels.build": "builds by the plan; a wrong library fails its self-check",
    "kernels.cuda_driver": "loads and launches what it is given",
    "kernels.nvrtc": "compiles what it is given; wrong code fails the self-check",
    "kernels.nvrtc_search": "places",
    "kernels.watchdog": "ends a build that hangs; an error in processes that load data",
    "registry.alias_records": "the form of a record",
    "registry.model_card": "describes a version",
    "output_checks": "decides what may be replaced, not what is written",
    "runs.provenance": "finds a packed set by its digest",
    "runs.run_folder": "the form of a statistic in a report",
    "serving": "a version carries a copy of the whole package, whatever its weights are",
    "training.checkpoint_fit": "messages",
    "tracking": "sends what is there to MLflow",
}


def pipeline():
    return YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def test_each_stage_depends_on_its_digests_and_on_no_other_source():
    stages = pipeline()
    assert list(STAGE_FILES) == [name for name in stages if name != "code"]
    for name in STAGE_FILES:
        deps = stages[name]["deps"]
        sources = [dep for dep in deps if dep.startswith(("src/", "stages/"))]
        assert f"code/{name}.txt" in deps and sources == []
    assert "code/validation-page.txt" in stages["validate"]["deps"]
    assert stages["code"]["outs"] == [
        f"code/{name}.txt" for name in ("fetch", "pack", "validate", "validation-page")
    ] + [f"code/{name}.txt" for name in ("train", "evaluate", "render", "register")]


def test_the_digests_are_made_anew_when_any_listed_file_changes():
    deps = [ROOT / dep for dep in pipeline()["code"]["deps"]]
    everything = [*STAGE_FILES.values(), *PAGE_FILES.values()]
    listed = {path for patterns in everything for path in files_of(patterns)}
    assert [p for p in listed if not any(p.is_relative_to(dep) for dep in deps)] == []
    below = {p for dep in deps for p in (dep.rglob("*") if dep.is_dir() else [dep]) if p.is_file()}
    sources = {p for p in below if p.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")}
    also = {PACKAGE / "config.py", PACKAGE / "runs/code_state.py"}
    packages = {p for p in sources if p.name == "__init__.py"}
    assert sources - listed - also - packages - set((ROOT / "stages").glob("*.py")) == set()


def module_file(name: str) -> Path | None:
    base = ROOT / "src" / Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported(path: Path) -> set[Path]:
    """The files of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sg3flow"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            files = [module_file(name) or module_file(str(node.module)) for name in names]
            found |= {file for file in files if file is not None}
    return found


@pytest.mark.parametrize("stage", STAGE_FILES)
def test_what_deciding_code_imports_decides_too_or_is_known_not_to(stage):
    listed = {path for path in files_of(STAGE_FILES[stage]) if path.suffix == ".py"}
    forgotten = set()
    for path in listed:
        for other in imported(path) - listed:
            name = ".".join(other.relative_to(PACKAGE).with_suffix("").parts)
            elsewhere = any(other in files_of(patterns) for patterns in STAGE_FILES.values())
            known = any(name == each or name.startswith(f"{each}.") for each in NOT_DECIDING)
            if not known and not (elsewhere and stage not in ("train", "evaluate", "render")):
                forgotten.add(name)
    assert forgotten == set(), f"list them in code_state.py for {stage}, or here with a reason"


@pytest.mark.medium
def test_a_training_imports_no_numerics_that_are_not_listed():
    """By real imports: of the packages that compute, all that a training loads is listed."""
    program = (
        "import sys\n"
        "import sg3flow.training.training_run, sg3flow.ops.product_registration\n"
        "print(*(m for m in sys.modules if m.startswith('sg3flow.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    listed = set(files_of(TRAINING_NUMERICS))
    loaded = {module_file(name) for name in done.stdout.split()}
    computing = {p for p in loaded if p is not None and p.parent.name in ("ops", "networks")}
    assert computing and computing <= listed


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("x = 1  # one\n", "x = 1\n", True),
        ('def f():\n    """Doc."""\n    return 1\n', "def f():\n    return 1\n", True),
        (
            'def f():\n    """Doc."""\n    return 1\n',
            'def f():\n    """Other."""\n    return 1\n',
            True,
        ),
        ("raise ValueError(f'no {x}')\n", "raise ValueError(f'{x} is missing')\n", True),
        ("raise ValueError('no')\n", "raise ValueError('none')\n", True),
        ("raise ValueError('no')\n", "raise TypeError('no')\n", False),
        ("print('a', x)\n", "print('b', x)\n", True),
        ("with progress('packing', 3): pass\n", "with progress('images', 3): pass\n", True),
        ("with progress('packing', 3): pass\n", "with progress('packing', 4): pass\n", False),
        ("x = y['a']\n", "x = y['b']\n", False),
        ("x = 1.0\n", "x = 2.0\n", False),
    ],
)
def test_only_what_a_file_does_counts(tmp_path, before, after, same):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text(before)
    second.write_text(after)
    assert (meaning_digest(first) == meaning_digest(second)) is same


@pytest.mark.parametrize("name", ["page.html", "page.css", "page.js"])
def test_every_character_of_a_template_counts(tmp_path, name):
    """What looks like a comment of C++ may be text: an address, or what follows an apostrophe."""
    first, second = tmp_path / f"a{name}", tmp_path / f"b{name}"
    first.write_text("see http://example.org/a and don't /* stop */\n")
    second.write_text("see http://example.org/b and don't /* stop */\n")
    assert meaning_digest(first) != meaning_digest(second)


class Clone:
    """A clone whose pipeline counts as run: every output stands, and DVC has recorded it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run([sys.executable, "-m", "sg3flow", "code", "--dest", "code"], **self.run_in)
        for stage in pipeline().values():
            for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
                path = root / (out if isinstance(out, str) else next(iter(out)))
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("{}\n")
        with self.open() as repo:
            repo.commit(force=True)

    @contextmanager
    def open(self):
        from dvc.repo import Repo  # slow to import

        with chdir(self.root), Repo() as repo:
            yield repo

    @property
    def run_in(self) -> dict:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {"PYTHONPATH": str(self.root / "src"), "PATH": path}
        return {"cwd": self.root, "check": True, "env": os.environ | variables}

    def status(self) -> set[str]:
        """The stages that ``dvc status`` names."""
        with self.open() as repo:
            return set(repo.status())

    def reproduce_code(self) -> None:
        command = ["dvc", "repro", "--quiet", "code"]
        subprocess.run(command, **self.run_in)

    @contextmanager
    def edited(self, *edits: tuple[str, str, str]) -> Iterator[None]:
        """Each edit is a file of the package, and what in it is replaced once."""
        saved = {path: path.read_bytes() for path in (self.root / "code").iterdir()}
        saved[self.root / "dvc.lock"] = (self.root / "dvc.lock").read_bytes()
        for name, before, after in edits:
            path = self.root / "src" / "sg3flow" / name
            saved[path] = path.read_bytes()
            assert before in path.read_text(), f"{name} has no {before!r} any more"
            path.write_text(path.read_text().replace(before, after, 1))
        try:
            yield
        finally:
            for path, content in saved.items():
                write_bytes(path, content)  # a new file: the old one may be linked to DVC's cache


@pytest.fixture(scope="module")
def clone(commit_copy, tmp_path_factory):
    clone = Clone(commit_copy(tmp_path_factory.mktemp("edges")))
    assert clone.status() == set()
    return clone


@pytest.mark.medium  # real DVC
def test_edits_that_decide_no_output_concern_no_stage(clone):
    edits = (
        ("tracking/uploader.py", '"""', '"""Changed. '),
        ("progress.py", "_RATE_PERIOD_SEC = ", "_RATE_PERIOD_SEC = 1 + "),
        ("errors.py", "did you mean", "perhaps"),
        ("transfers.py", "_CHUNK_BYTES = ", "_CHUNK_BYTES = 1 + "),
        ("cli/status.py", '"""', '"""Changed. '),
        ("training/recorder.py", '"""', '"""Changed. '),
    )
    with clone.edited(*edits):
        assert clone.status() == set()


@pytest.mark.medium  # real DVC
def test_a_digit_in_a_report_concerns_at_most_the_stage_that_draws_it(clone):
    package = clone.root / "src" / "sg3flow"
    files = [path for path in sorted((package / "reports").rglob("*")) if path.is_file()]
    drawing = {package / name for name in PAGE_FILES["validation-page"]}
    for path in (each for each in files if each.suffix != ".pyc"):
        digit = re.search(r"\d", path.read_text())
        if digit is not None:
            other = str((int(digit[0]) + 1) % 10)
            with clone.edited((str(path.relative_to(package)), digit[0], other)):
                assert clone.status() == ({"code"} if path in drawing else set())


@pytest.mark.medium  # real DVC
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("reports/validation_page.py", "_MAX_ROWS = 200", "_MAX_ROWS = 100"),
        ("reports/templates/pages.css", "margin: 0", "margin: 1px"),
    ],
)
def test_another_drawing_of_a_page_concerns_the_stage_that_draws_it(clone, name, before, after):
    with clone.edited((name, before, after)):
        clone.reproduce_code()
        assert clone.status() == {"validate"}


@pytest.mark.medium  # real DVC
def test_another_network_in_the_package_concerns_a_training_that_starts_from_it(clone):
    network = clone.root / "src/sg3flow/checkpoints/starter/network.safetensors"
    content = network.read_bytes()
    assert "  resume: starter\n" in (clone.root / "params.yaml").read_text()
    with clone.edited():
        write_bytes(network, b"another network")
        try:
            assert clone.status() == {"code"}
            clone.reproduce_code()
            assert clone.status() == {"train"}
        finally:
            write_bytes(network, content)
    assert clone.status() == set()


@pytest.mark.medium  # real DVC
@pytest.mark.parametrize(
    ("name", "before", "after", "stages"),
    [
        ("training/losses.py", "import ", "# a comment\nimport ", set()),
        ("training/losses.py", "pl_decay: float = 0.01", "pl_decay: float = 0.02", {"train"}),
        (
            "ops/bias_act.py",
            "_SLOPE = 0.2",
            "_SLOPE = 0.3",
            {"train", "evaluate", "render", "register"},
        ),
        ("data/packing.py", "OUTSIDE = ", "OUTSIDE = 1 and ", {"pack"}),
        (
            "config.py",
            "batch: int = setting(\n        32,",
            "batch: int = setting(\n        16,",
            {"evaluate"},
        ),
    ],
    ids=["comment", "loss", "op", "packing", "default"],
)
def test_an_edit_reruns_what_it_decides_and_nothing_else(clone, name, before, after, stages):
    with clone.edited((name, before, after)):
        assert clone.status() == {"code"}
        clone.reproduce_code()
        assert clone.status() == stages
    assert clone.status() == set()
