"""Experiments as docs/experiments.md tells people to run them: real commands in a small clone."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WIDTH = 120  # of a terminal, in columns

PARAMS = """\
fetch: {dataset: starter, images: 20, resolution: 16, seed: 0}
pack: {subset: starter/train, resolution: 16x16, labels: folders, duplicates: keep}
validate: {min_images: 10, min_class_images: 2, classes: 3, near_duplicates: "off"}
train:
  cfg: stylegan3-t
  gpus: 1
  batch: 40
  gamma: 0.1
  cond: true
  aug: noaug
  cbase: 64
  cmax: 2
  map_depth: 1
  kimg: 1
  tick: 1
  snap: 1
  workers: 0
  grid: 2x2
evaluate: {metrics: [fd_random20_full], batch: 10}
render: {seeds: 0-1, sweep_seeds: "0", sweep_truncs: "1", video_seeds: 0-1, video_frames: 2}
register: {name: sg3flow-tiny}
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    dropped = ("MLFLOW_", "SG3FLOW_", "DVC_", "GIT_")
    kept = ("SG3FLOW_KERNELS",)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped) or k in kept}
    environment = inherited | {
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "site"),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": str(WIDTH),
    }
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def done(folder: Path, *command: str) -> str:
    """What a command prints, which must succeed."""
    finished = run(folder, *command)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return done(folder, sys.executable, "-m", "dvc", *arguments)


def sg3flow(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "from sg3flow.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone of the project under git, its pipeline run once as far as the metrics."""
    folder = tmp_path_factory.mktemp("experiments") / "a clone"
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "tmp", "cache", "config.local")
    for name in ("stages", "src", "profiles", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "params.yaml").write_text(PARAMS)
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "a")
    git(folder, "config", "user.email", "a@b.org")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "settings")
    dvc(folder, "repro", "evaluate")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first results")
    return folder


def git(folder: Path, *arguments: str) -> str:
    return done(folder, "git", *arguments)


# The pipeline and a sweep take a minute of a CPU.
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(project) -> str:
    """What `sg3flow sweep` printed, its experiments queued and run; the comparison's line."""
    printed = done(project, *sg3flow("sweep", "gamma", "--factors", "1,2"))
    lines = printed.splitlines()
    assert lines[0] == "# gamma 0.1 of params.yaml times 1, 2"
    for line in lines[1:-1]:
        # Only as far as the metrics: the rest has tests of its own.
        words = line.split()
        assert words[0] == "dvc"
        dvc(project, *words[1:], *(["evaluate"] if "--queue" in words else []))
    return lines[-1]


@slow
def test_a_sweep_is_queued_run_and_compared(project, swept):
    assert "Success" in dvc(project, "queue", "status")
    table = dvc(project, "exp", "show", "--only-changed", "--no-pager")
    assert max(map(len, table.splitlines())) <= WIDTH
    for word in ("gamma-0.1", "gamma-0.2", "fd_random20_full", "train.gamma"):
        assert word in table, table
    shown = dvc(project, "exp", "show", "--csv")
    assert "gamma-0.1" in shown and "gamma-0.2" in shown and "train.gamma" in shown
    compared = swept.split()
    assert compared[:4] == ["sg3flow", "compare", "gamma-0.1", "gamma-0.2"]
    told = done(project, *sg3flow(*compared[1:], "--seeds", "0"))
    assert "train.gamma" in told and "fd_random20_full" in told
    page = (project / "reports/sweep-gamma.html").read_text()
    assert page.count("DVC experiment") == 2 and page.count('src="data:image/png') == 2


@slow
def test_dvc_tells_what_differs(project, swept):
    params = json.loads(dvc(project, "params", "diff", "--json", "gamma-0.1", "gamma-0.2"))
    change = params["params.yaml"].pop("train.gamma")
    assert (change["old"], change["new"]) == (0.1, 0.2) and params == {"params.yaml": {}}
    metrics = json.loads(dvc(project, "metrics", "diff", "--json", "gamma-0.1", "gamma-0.2"))
    value = metrics["reports/metrics.json"]["fd_random20_full"]
    assert value["old"] != value["new"]


@slow
def test_a_training_is_found_by_revision_folder_and_tracked_run(project, swept):
    told = done(project, *sg3flow("compare", "HEAD", "runs/train", "gamma-0.1", "--seeds", ""))
    assert "B and C are within noise of A" in told and "train." not in told
    name = json.loads((project / "runs/train/run.json").read_text())["name"]
    told = done(project, *sg3flow("compare", "gamma-0.2", name, "--seeds", "", "--out", "m.html"))
    assert "train.gamma" in told and "MLflow run" in told


@slow
def test_without_dvcs_cache_the_lock_file_still_tells(project, swept):
    cache = project / ".dvc/cache/files/md5"
    shutil.move(cache, project / "away")
    try:
        told = done(project, *sg3flow("compare", "gamma-0.2", "HEAD", "--out", "n.html"))
    finally:
        shutil.move(project / "away", cache)
    # DVC may still know the names of the files: its index lies elsewhere.
    assert "not in DVC's cache" in told and "run dvc fetch" in told
    assert "train.gamma" in told  # dvc.lock alone tells


@slow
def test_a_revision_without_a_training_is_one_line(project):
    first = git(project, "rev-parse", "HEAD~1").strip()
    failed = run(project, *sg3flow("compare", "HEAD", first))
    assert failed.returncode == 1 and "has no dvc.lock" in failed.stderr
    assert failed.stderr.count("\n") == 1


class _Loads(HTMLParser):
    """The addresses that a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


@slow
def test_dvc_plots_draws_its_curves_without_the_network(project, swept):
    dvc(project, "plots", "diff", "gamma-0.1", "gamma-0.2", "-o", "plots")
    page = (project / "plots/index.html").read_text()
    loads = _Loads(page).found
    assert loads and all(re.fullmatch(r"static/[\w.-]+\.png", each) for each in loads), loads
    assert all((project / "plots" / each).is_file() for each in loads)
    assert "function vegaEmbed" in page and "vegaEmbed('#reports_metrics_csv'" in page
    assert "default-src 'none'" in page and "cdn" not in page.replace("from a CDN", "")


@pytest.mark.medium
def test_the_page_of_dvc_plots_draws_by_itself(tmp_path):
    """As the clone's, without a training: what DVC makes of a table and this project's page."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    done(tmp_path, "git", "init", "-q")
    shutil.copytree(ROOT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    (tmp_path / "metrics.csv").write_text("kimg,fid_error,fid\n0,1.5,90\n4,,40.5\n")
    (tmp_path / "losses.csv").write_text("kimg,G_loss,D_loss\n0,,\n1,2,1\n4,1.5,0.5\n")
    (tmp_path / "dvc.yaml").write_text(_PLOTS)
    git(tmp_path, "add", "-A")
    git(tmp_path, *_AUTHOR, "commit", "-qm", "first")
    (tmp_path / "losses.csv").write_text("kimg,G_loss,D_loss\n0,3,2\n4,1,0.1\n")
    dvc(tmp_path, "plots", "show", "-o", "plots")
    dom = _dom(chromium, tmp_path / "plots")
    # A color is a column here; each line has a sample in the legend.
    assert dom.count("<polyline") == 2 * 3 and dom.count("<circle") == 2 + 4
    assert dom.count('stroke-dasharray=""') == 6
    for words in (">workspace</span>", ">workspace G_loss</span>", ">Losses</h2>"):
        assert words in dom, words
    assert ">older</h2><p>No revision shown here has the file of this chart.</p>" in dom
    for words in (">fid</text>", ">kimg</text>", ">of images</text>", ">loss</text>"):
        assert words in dom, words

    dvc(tmp_path, "plots", "diff", "HEAD", "-o", "plots")
    dom = _dom(chromium, tmp_path / "plots")
    # A color is a revision, and a dash a column; a missing value is no point.
    assert dom.count("<polyline") == 2 * (2 + 4) and dom.count("<circle") == 4 + 8
    assert dom.count('stroke-dasharray="7 4"') == 2 * 2
    for words in (">HEAD G_loss</span>", ">workspace D_loss</span>", "HEAD D_loss: 0.50000 at 4"):
        assert words in dom, words


_AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b.org")
_PLOTS = """\
plots:
  - metrics.csv: {x: kimg, y: fid}
  - losses:
      title: Losses
      x: kimg
      y: {losses.csv: [G_loss, D_loss]}
      x_label: of images
      y_label: loss
  - older:
      x: kimg
      y: {none.csv: loss}
"""


def _dom(chromium: str, folder: Path) -> str:
    """What a browser makes of the page of dvc plots."""
    page = folder / "index.html"
    assert _Loads(page.read_text()).found == []
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    quiet += [f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", page.as_uri()]
    return done(folder, chromium, *quiet)
