"""The table of faults fits the sources, and the program tells what became of each fault."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.fixture(scope="module", autouse=True)
def programs():
    """As the script finds them: beside itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


def test_every_fault_fits_the_sources():
    from faults import FAULTS
    from plant import misfits

    assert misfits(ROOT, FAULTS) == []
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)
    kinds = ("training/losses", "training/step", "training/assembly", "networks/augment.",
             "networks/augment_geometry", "networks/layers", "networks/layer_schedule",
             "networks/discriminator", "networks/stylegan2", "networks/stylegan3",
             "data/dataset", "metrics/distances", "metrics/neighborhoods",
             "metrics/equivariance", "metrics/feature_collector", "metrics/sliced_wasserstein",
             "metrics/estimates", "metrics/features/inception")  # fmt: skip
    for kind in kinds:
        planted = [fault for fault in FAULTS if fault.file.startswith(f"src/sg3flow/{kind}")]
        assert len([fault for fault in planted if not fault.same]) >= 4, kind


def test_what_cannot_be_planted_is_named(tmp_path):
    from plant import Fault, misfits

    (tmp_path / "area.py").write_text("a = 1\nb = 1\n")
    lines = [("a = 1", "a = 2"), ("= 1", "= 2"), ("c", "d"), ("a", "a"), ("b = 1", "b\n= 1")]
    faults = [Fault("area.py", ("test_area.py",), old, new, "wrong") for old, new in lines]
    found = misfits(tmp_path, faults)
    assert [line for line in found if not line.endswith("no test_area.py")] == [
        "area.py: wrong: '= 1' occurs 2 times, not once",
        "area.py: wrong: 'c' occurs 0 times, not once",
        "area.py: wrong: it must change one line",
        "area.py: wrong: it must change one line",
    ]
    assert len(found) == 4 + len(faults)
    (tmp_path / "test_area.py").touch()
    assert misfits(tmp_path, faults[:1]) == []


_TREE = {
    "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['gpu: a', 'slow: b', 'medium: c']\n",
    "src/area.py": "def area(width, height):\n    size = width * height\n    return size + 0\n",
    "tests/test_area.py": (
        "import pytest\nfrom area import area\n\n"
        "def test_area():\n    assert area(2, 2) == 4\n\n"
        "@pytest.mark.slow\ndef test_more():\n    assert area(2, 3) == 6\n"
    ),
    "tests/mutants/faults.py": (
        "from plant import Fault\n"
        "LIBRARIES = ('pytest',)\n"
        "LINES = [('width * height', 'width - height', 'no product'),\n"
        "    ('width * height', 'width + height', 'a sum'),\n"
        "    ('size + 0', 'size - 0', 'nothing', 'zero is zero'),\n"
        "    ('size + 0', 'size + 1', 'one more', 'a wrong reason'),\n"
        "    ('size + 0', 'seize', 'a crash'),\n"
        "    ('size + 0', 'size +', 'no Python')]\n"
        "FAULTS = [Fault('src/area.py', ('tests/test_area.py',), *line) for line in LINES]\n"
    ),
}


@pytest.fixture
def small_tree(tmp_path):
    for name, text in _TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(FOLDER / "plant.py", tmp_path / "tests/mutants")
    return tmp_path


def planted(tree: Path, *options: str) -> tuple[int, list[str]]:
    """Exit status and the words of the printed faults, the last line last."""
    command = [sys.executable, str(tree / "tests/mutants/plant.py"), *options]
    quick = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quick)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    return done.returncode, [line.partition("src/")[0].strip() for line in lines]


@pytest.mark.medium
def test_faults_are_told_apart(small_tree):
    before = {name: (small_tree / name).read_text() for name in _TREE}
    status, words = planted(small_tree, "--jobs", "2")
    assert status == 1
    assert words == [
        "caught",
        "SURVIVED",  # 2 + 2 is 2 * 2, and slow tests do not count
        "changes nothing",
        "BROKEN",  # it was said to change nothing
        "BROKEN",  # a NameError
        "BROKEN",  # a SyntaxError
        "1 caught, 1 SURVIVED, 1 changes nothing, 3 BROKEN",
    ]
    assert {name: (small_tree / name).read_text() for name in _TREE} == before
    status, words = planted(small_tree, "--only", "no product|nothing")
    assert (status, words[-1]) == (0, "1 caught, 1 changes nothing")


@pytest.mark.medium
def test_a_table_or_tests_that_do_not_fit_plant_nothing(small_tree):
    assert planted(small_tree, "--only", "no such fault")[0] == 1
    assert planted(small_tree, "--check") == (0, ["6 faults fit the sources"])
    source = small_tree / "src/area.py"
    source.write_text(source.read_text().replace("+ 0", ""))
    assert planted(small_tree, "--only", "no product")[1] == ["caught", "1 caught"]
    assert planted(small_tree) == (1, [])
    (small_tree / "tests/test_area.py").write_text("def test_area():\n    assert False\n")
    assert planted(small_tree, "--only", "no product")[0] == 1
