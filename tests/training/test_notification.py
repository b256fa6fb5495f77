"""Notifications: what is sent, to receivers of every kind, and that no record has the address."""

import dataclasses
import json
import re
import socket
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sg3flow.addresses import shown_host, without_webhooks
from sg3flow.compare.revision_source import _shown
from sg3flow.errors import ConfigError, DataError, DivergedError, TrainingInterruptedError
from sg3flow.git import _SECRET_ADDRESS
from sg3flow.runs.provenance import _copy_project_files
from sg3flow.runs.run_folder import Stat, append_row, describe_run
from sg3flow.training import notification
from sg3flow.training.job import prepare
from sg3flow.training.notification import Notifier, event_of, notify_url

SECRET = "T0KEN-xyz"


class Receiver(BaseHTTPRequestHandler):
    """Remembers each request; its path decides the answer."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.seen.append((self.path, json.loads(self.rfile.read(length)), self.headers))
        if self.path.startswith("/hangs"):
            self.server.released.wait(30)
        status = int(re.match(r"/(\d+)", self.path)[1]) if self.path[1].isdigit() else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"/stolen/{SECRET}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver():
    """A web server; `released` ends a request that hangs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.seen, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def address(receiver):
    """The address of a path on the server, with a secret at its end."""
    return lambda path: f"http://127.0.0.1:{receiver.server_port}/{path}/{SECRET}"


@pytest.fixture
def work(tmp_path):
    """A run folder at 2.4 kimg."""
    folder = tmp_path / "run"
    folder.mkdir()
    described = describe_run(folder, {"name": "cats"})
    for nimg, loss in ((0, 9.0), (2400, 1.25)):
        stats = {"Loss/G/loss": Stat(3, loss, 0.1), "system/cpu": Stat(1, 50.0, 0.0)}
        rows = {name: dataclasses.asdict(stat) for name, stat in stats.items()}
        append_row(folder / "stats.jsonl", {**rows, "nimg": nimg})
    for value in (90.0, 42.5, float("nan")):
        name = "fid50k_full" if value == value else "broken"
        append_row(folder / f"metric-{name}.jsonl", {"results": {name: value}})
    return folder, described["uid"]


def test_the_content_is_the_documented_one(receiver, address, work):
    folder, uid = work
    with Notifier(address("ok"), folder).reporting():
        pass
    [(path, body, headers)] = receiver.seen
    assert path == f"/ok/{SECRET}" and headers["Content-Type"] == "application/json"
    moment = body.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", moment)
    host = body.pop("host")
    assert host == socket.gethostname()
    assert body == {
        "format": "sg3flow-notification-1",
        "event": "end",
        "run": "cats",
        "run_id": uid,
        "kimg": 2.4,
        "message": "the training is complete",
        "metrics": {"Loss/G/loss": 1.25, "fid50k_full": 42.5},
        "text": f"sg3flow end: cats at 2.4 kimg on {host}: the training is complete",
    }


@pytest.mark.parametrize(
    ("error", "event", "words"),
    [
        (TrainingInterruptedError("stopped at 2400"), "interruption", "stopped at 2400"),
        (KeyboardInterrupt(), "interruption", "interrupted"),
        (DivergedError("Loss/G/loss is no longer finite"), "divergence", "no longer finite"),
        (DataError("a picture is broken"), "error", "a picture is broken"),
        (ValueError("https://me:pw@h/x?key=1"), "error", "ValueError: https://h/x"),
    ],
)
def test_how_a_training_ended(receiver, address, work, error, event, words):
    with pytest.raises(type(error)), Notifier(address("ok"), work[0]).reporting():
        raise error
    [(_, body, _)] = receiver.seen
    assert body["event"] == event == event_of(error) and event in notification.EVENTS
    assert words in body["message"] and "pw" not in body["message"]


def test_a_collapse_is_told_while_the_training_goes_on(receiver, address, work):
    notifier = Notifier(address("ok"), work[0])
    with notifier.reporting():
        notifier.send("collapse", "all alike")
    assert sorted(body["event"] for _, body, _ in receiver.seen) == ["collapse", "end"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [("500", "answers 500"), ("302", "answers 302"), ("404", "answers 404")],
)
def test_a_refusing_receiver_costs_one_warning(receiver, address, work, capsys, path, problem):
    with Notifier(address(path), work[0]).reporting():
        pass
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: notification not delivered: http://127.0.0.1:{receiver.server_port}/... "
        f"{problem}; the training is not affected"
    )
    assert len(receiver.seen) == 1  # no redirect is followed


def test_nobody_listens(work, capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with Notifier(f"http://127.0.0.1:{port}/{SECRET}", work[0]).reporting():
        pass
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot be reached (ConnectionError)" in line and SECRET not in line


def test_a_receiver_that_hangs_blocks_nothing(receiver, address, work, capsys, monkeypatch):
    monkeypatch.setattr(notification, "_LAST_WAIT_SEC", 0.05)
    notifier = Notifier(address("hangs"), work[0])
    with notifier.reporting():
        for _ in range(3):
            notifier.send("collapse", "all alike")
        assert all(thread.is_alive() for thread in notifier._threads)  # send has returned
    assert "takes too long to answer" in capsys.readouterr().err
    receiver.released.set()
    for thread in notifier._threads:
        thread.join()


def test_the_answer_has_a_time_limit(receiver, address, work, capsys, monkeypatch):
    monkeypatch.setattr(notification, "_ANSWER_SEC", 0.05)
    with Notifier(address("hangs"), work[0]).reporting():
        pass
    assert "does not answer within 0.05 s" in capsys.readouterr().err


def test_a_damaged_record_does_not_hide_the_error(receiver, address, work, capsys):
    (work[0] / "stats.jsonl").write_text('{"Loss/G/loss": 3, "nimg": "a"}\n')
    with (
        pytest.raises(DataError, match="the disk is full"),
        Notifier(address("ok"), work[0]).reporting(),
    ):
        raise DataError("the disk is full")
    assert receiver.seen == []
    assert "cannot be told (TypeError)" in capsys.readouterr().err


def test_without_an_address_nothing_happens(work):
    notifier = Notifier("", work[0])
    with notifier.reporting():
        notifier.send("collapse", "all alike")
    assert notifier._threads == []


def test_the_setting_comes_before_the_variable(monkeypatch):
    assert notify_url("") == ""
    monkeypatch.setenv("SG3FLOW_NOTIFY", "https://a.example/1")
    assert notify_url("") == "https://a.example/1"
    assert notify_url("http://b.example") == "http://b.example"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"ftp://host/{SECRET}", r"http:// or https:// \(ftp:// was given\)"),
        (f"file:///{SECRET}", r"\(file:// was given\)"),
        (SECRET, r"\(another text was given\)"),
        (f"{SECRET}://x", r"\(another text was given\)"),
        (f"https:///{SECRET}", "is not a URL"),
        (f"https://host:99999/{SECRET}", "is not a URL"),
        (f"https://host:0/{SECRET}", "is not a URL"),
        (f"https://[host/{SECRET}", "is not a URL"),
        (f"https://host/{SECRET}\n", "is not a URL"),
        (f"https://host/ {SECRET}", "is not a URL"),
        (f"https://hö.example/{SECRET}", "is not a URL"),
        ("https://hooks.example/...", "from the record of a training"),
    ],
)
def test_what_is_no_address_is_refused_before_the_training_without_showing_it(url, words):
    with pytest.raises(ConfigError, match=f"train.notify .*{words}") as caught:
        notify_url(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.example/services/T/B/x", "https://hooks.example/..."),
        ("http://me:pw@h:81/x?token=1#f", "http://h:81/..."),
        ("http://[::1]:8/x", "http://[::1]:8/..."),
        ("http://h:port/x", "a URL"),
        ("nothing", "a URL"),
    ],
)
def test_only_the_host_is_shown(url, shown):
    assert shown_host(url) == shown


URL = f"https://hooks.example/a,b/{SECRET}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"train:\n  notify: {URL}\n", "train:\n  notify: https://hooks.example/...\n"),
        (f"notify: '{URL}' # mine", "notify: 'https://hooks.example/...' # mine"),
        (f'"notify": "{URL}", "a": 1', '"notify": "https://hooks.example/...", "a": 1'),
        (f"{{notify: {URL}, kimg: 3}}", "{notify: https://hooks.example/..., kimg: 3}"),
        (f"{{kimg: 3, notify: {URL}}}", "{kimg: 3, notify: https://hooks.example/...}"),
        (f"notify: >-\n    {URL}\nkimg: 1", "notify: >-\n    https://hooks.example/...\nkimg: 1"),
        ("dataset: https://host/a/b", "dataset: https://host/a/b"),
    ],
)
def test_files_that_a_run_records_have_the_host_only(text, shown):
    assert without_webhooks(text) == shown


def test_no_record_of_a_training_has_the_address(
    cheap_config, tiny_set, tmp_path, monkeypatch, capsys
):
    config = dataclasses.replace(cheap_config, notify=URL)
    monkeypatch.setattr(sys, "argv", ["sg3flow", "train", "--notify", URL, f"--notify={URL}"])
    job = prepare(config, tiny_set)
    assert job.key == prepare(cheap_config, tiny_set).key
    texts = json.dumps([job.options(), job.description(), job.provenance()])
    assert SECRET not in texts and texts.count("https://hooks.example/...") >= 4
    project, work = tmp_path / "project", tmp_path / "work"
    project.mkdir()
    work.mkdir()
    (project / "params.yaml").write_text(f"train: {{notify: {URL}}}\n")
    (project / "dvc.lock").write_text(f"stages:\n  train:\n    params:\n      notify: {URL}\n")
    assert set(_copy_project_files(work, project)) == {"params.yaml", "dvc.lock"}
    for path in work.iterdir():
        assert "https://hooks.example/..." in path.read_text() and SECRET not in path.read_text()
    assert _shown("notify", URL) == "https://hooks.example/..."  # of a revision, in a comparison
    assert _shown("notify", "") == "" and _shown("dataset", URL) == URL
    # A recipe with the setting is left out of the recorded changes.
    assert _SECRET_ADDRESS.search(f"+  notify: {URL}\n".encode())
    assert not _SECRET_ADDRESS.search(b"+  notify: ''\n+  dataset: https://host/a\n")
    assert SECRET not in capsys.readouterr().out
