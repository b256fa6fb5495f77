"""MLflow's own pages of a finished pipeline, as a browser shows them."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.medium

_RUNS = "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=sg3flow"
_ASK = """\
import json
from sg3flow.tracking.mlflow_store import connect
store = connect()
runs = store.client.search_runs([store.experiment_id], "tags.`sg3flow.stage` = 'train'")
models = store.client.search_logged_models([store.experiment_id])
found = {model.name: model.model_id for model in models}
print(json.dumps({"run": runs[0].info.run_id, "experiment": store.experiment_id} | found))
"""


@dataclass(frozen=True)
class Pages:
    """The pages of a server, and the ids of a pipeline: ``run``, and models by name."""

    browser: Any
    uri: str
    ids: dict[str, str]

    def text(self, page: str, *words: str, width: int = 1280) -> str:
        """The text of a page once all of these words are in it."""
        self.browser.show(f"{self.uri}/{page}", width, 1600)
        for word in words:
            self.browser.wait_for(f"document.body.innerText.includes({json.dumps(word)})")
        return str(self.browser.ask("document.body.innerText"))

    def image(self, address: str) -> bool:
        """Wait for an image whose address has this text; whether it has a picture."""
        images = f"[...document.images].filter((each) => each.src.includes('{address}'))"
        self.browser.wait_for(f"{images}.length > 0 && {images}.every((each) => each.complete)")
        return bool(self.browser.ask(f"{images}.every((each) => each.naturalWidth > 0)"))


@pytest.fixture(scope="module")
def pages(finished_pipeline, browser: Any, tmp_path_factory) -> Iterator[Pages]:
    folder, own = finished_pipeline.folder, finished_pipeline.environment
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        cwd=folder,
        env=own,
        check=True,
        capture_output=True,
        text=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--port", str(port), "-w", "1"]
    log = tmp_path_factory.mktemp("mlflow") / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, cwd=folder, env=own, stdout=stream, stderr=stream)
    try:
        _wait_for_port(port, server, log)
        yield Pages(browser, f"http://127.0.0.1:{port}", json.loads(done.stdout.splitlines()[-1]))
    finally:
        server.terminate()
        server.wait(60)


def _wait_for_port(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def test_the_table_shows_one_row_per_training_and_its_metrics(pages: Pages) -> None:
    assert pages.ids["experiment"] == "1", "as in the printed address"
    # Wide: the page makes only the columns that fit.
    text = pages.text(_RUNS, "t16 · starter", "7 matching runs", width=1900)
    assert "sg3flow trainings" in text and "Error loading" not in text
    for stage in ("fetch", "pack", "validate", "evaluate", "render", "register"):
        assert f"{stage} · starter" not in text, "below its training"
    heads = "[...document.querySelectorAll('[role=columnheader]')]"
    metric, duration = (
        f"({heads}.find((each) => each.innerText.trim() === '{name}')"
        "?.getBoundingClientRect().left ?? NaN)"
        for name in ("metrics/fd_random20_full", "Duration")
    )
    pages.browser.wait_for(f"{metric} < {duration}")  # the page orders its columns late
    places = f"{heads}.map((each) => [each.innerText, each.getBoundingClientRect().left])"
    found = {name.strip(): left for name, left in pages.browser.ask(places) if name.strip()}
    names = [
        "Run Name",
        "metrics/fd_random20_full",
        "metrics/eqt4_int",
        "gamma",
        "kimg",
        "Duration",
    ]
    assert [name for name in sorted(found, key=found.get) if name in names] == names
    assert "Source" not in found


def test_the_charts_open_on_the_metrics_and_the_losses(pages: Pages) -> None:
    text = pages.text(f"{_RUNS}&compareRunsMode=CHART", "metrics/eqt4_int", "loss/G", "time\n")
    places = [text.index(f"\n{name}\n(") for name in ("metrics", "loss", "progress", "time")]
    assert places == sorted(places)
    assert "time/sec_per_kimg" not in text, "the other sections are closed"


def test_the_snapshots_are_a_table(pages: Pages) -> None:
    page = "#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=ARTIFACT"
    text = pages.text(page, "eval/snapshots.json", "fd_random20_full")
    assert "t16 · starter" in text


def test_the_page_of_a_run_describes_it_with_a_picture(pages: Pages) -> None:
    text = pages.text(
        f"#/experiments/1/runs/{pages.ids['run']}", "Best snapshot", "fetch · starter"
    )
    for words in ("StyleGAN3-T, gamma 0.2", "starter 16x16: ", "Apache-2.0", "sg3flow reproduce"):
        assert words in text
    assert "|" not in text.partition("Description")[2][:400], "tables are drawn"
    assert pages.image("get-artifact?path=eval%2Fbest.png")


def test_a_version_has_a_card_with_samples_and_no_json(pages: Pages) -> None:
    text = pages.text("#/models/sg3flow-starter/versions/1", "Description", "sg3flow.aliases")
    card, tags = text.split("sg3flow.aliases")
    start = "StyleGAN3-T, 16 x 16 pixels, 3 classes (cat, dog, wild), trained on starter 16x16."
    assert start in card and "t16 · starter" in card and "{" not in card
    assert "champion - -> 1, register by" in tags and "sg3flow.result." not in text
    assert pages.image("samples.png")


def test_a_model_shows_its_metrics_and_its_data_set(pages: Pages) -> None:
    page = f"#/experiments/1/models/{pages.ids['generator']}"
    text = pages.text(page, "metrics/fd_random20_full", "starter 16x16")
    assert "sg3flow-starter" in text
