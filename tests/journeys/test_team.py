"""An ML engineer in a team with DVC and MLflow: clone, remote, experiment, registry, serving."""

import base64
import io
import json
import socket
import time
import urllib.request
from contextlib import suppress

import pytest
from PIL import Image

pytestmark = pytest.mark.medium

WIDTH = 120  # columns of a terminal


@pytest.fixture
def team(finished_pipeline, terminal, tmp_path):
    """The shell of a colleague in an empty folder: code in git, data in DVC's remote.

    Whoever set it up ran the pipeline and registered its model in the registry of the team.
    """
    author, variables = finished_pipeline.copy(tmp_path / "author")
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/team.db"}
    first = terminal(author, variables | tracking)
    first(f"dvc remote add -d store {tmp_path}/store && dvc push -q")
    first("git add -A && git commit -q -m 'A remote for the team'")
    first(f"git clone -q --bare . {tmp_path}/team.git")
    assert "champion: there was none yet" in first("sg3flow register --params params.yaml")
    folder = tmp_path / "colleague"
    return terminal(folder, variables | tracking | {"PYTHONPATH": f"{folder}/clone/src"})


def test_from_a_clone_to_a_rollback(team, tmp_path):
    team(f"git clone -q {tmp_path}/team.git clone")
    team.folder /= "clone"
    assert "Running stage" not in team("dvc pull -q && dvc repro")
    params = team.folder / "params.yaml"
    params.write_text("# a comment of mine\n" + params.read_text())
    assert "up to date" in team("dvc status"), "a comment makes nothing run again"
    team("git checkout -q params.yaml")

    shown = team("dvc metrics show").splitlines()
    assert shown[0].split() == ["Path", "eqt4_int", "fd_random20_full", "kimg"]
    assert max(map(len, shown)) <= WIDTH

    told = team("dvc exp run --name gamma-0.4 -S train.gamma=0.4")
    assert "Running stage 'train'" in told and "Running stage 'pack'" not in told
    told = team("dvc metrics diff HEAD gamma-0.4")
    rows = [line.split() for line in told.splitlines() if "reports/metrics.json" in line]
    assert {row[1] for row in rows} <= {"eqt4_int", "fd_random20_full", "kimg"} and rows
    assert max(map(len, told.splitlines())) <= WIDTH
    table = team(f"COLUMNS={WIDTH} dvc exp show --only-changed --no-pager")
    assert max(map(len, table.splitlines())) <= WIDTH
    for word in ("gamma-0.4", "fd_random20_full", "eqt4_int", "train.gamma"):
        assert word in table, table
    drawn = team("dvc plots diff HEAD gamma-0.4 -o plots")
    assert "plots/index.html" in drawn
    page = (team.folder / "plots/index.html").read_text()
    for title in ("Losses", "R1 penalty", "Scores of D", "Quality of the snapshots"):
        assert f'"text": "{title}"' in page, title
    told = team("sg3flow compare HEAD gamma-0.4 --seeds 0-2")
    assert "train.gamma" in told and "page: reports/compare.html" in told

    # The experiment registered its model; the gate decided about the champion.
    told = team("sg3flow history sg3flow-starter")
    assert "candidate" in told and "champion" in told
    wrong = team("sg3flow promote sg3flow-starter 7", fails=True)
    assert wrong.startswith("error: ") and "7" in wrong
    told = team("sg3flow promote sg3flow-starter 2 --force --reason 'nicer whiskers'")
    assert "version 2" in told
    assert _served(team)[:2] == ("2", (16, 16))
    told = team("sg3flow rollback sg3flow-starter --reason 'too dark'")
    assert "version 1" in told
    history = team("COLUMNS=200 sg3flow history sg3flow-starter")
    assert "nicer whiskers" in history and "too dark" in history

    # The model travels by git and DVC, too.
    team("dvc exp apply -q gamma-0.4; git add -A; git commit -q -m 'gamma 0.4'; dvc push -q")
    team("gto register generator --version v0.1.0 && git push -q origin HEAD --tags")
    assert "v0.1.0" in team("gto show")
    told = team(f"cd .. && dvc artifacts get {tmp_path}/team.git generator --rev v0.1.0")
    assert "Downloaded 1 file(s) to 'best.pkl'" in told
    got = (team.folder.parent / "best.pkl").read_bytes()
    assert got == (team.folder / "runs/best.pkl").read_bytes()


def _served(team) -> tuple[str, tuple[int, int], str]:
    """Version, size and form of the picture that the server of the champion sends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = team.start(f"sg3flow serve sg3flow-starter@champion --port {port}")
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, "the server ended"
            with suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                break
            time.sleep(0.1)
        body = json.dumps({"dataframe_records": [{"seed": 1, "class": 0}]}).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/invocations", body, head)
        with urllib.request.urlopen(request, timeout=60) as answer:
            [row] = json.load(answer)["predictions"]
            version = answer.headers["X-Sg3flow-Version"]
        with Image.open(io.BytesIO(base64.b64decode(row["png"]))) as picture:
            return version, picture.size, picture.format or ""
    finally:
        server.terminate()
        server.wait(30)
