"""The command ``sg3flow explore``: what it refuses, in one line, before it shows anything."""

import socket

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.explorer import server


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    """A command that is not refused would never end; signals are left to pytest."""

    async def served(*_):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(server, "_serve", served)
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    monkeypatch.setattr("sg3flow.interrupts.stop_answering", lambda: None)


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["explore", "--port", "0", "--no-browser", *arguments])
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_port_that_is_taken_is_told_before_the_network_is_read():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in refused("nothing.pkl", "--port", port)


def test_sources_devices_prefixes_and_files_that_there_are_not(package, tmp_path):
    source = str(package())
    assert "no file and no network is called startr (did you mean" in refused("startr")
    assert "device must be one of" in refused(source, "--device", "tpu")
    assert "--root-path must be a path" in refused(source, "--root-path", "lab")
    missing = str(tmp_path / "none.npz")
    assert "none.npz" in refused(source, "--directions", missing)


def test_directions_of_another_network_are_refused(package, tmp_path):
    path = str(tmp_path / "other.npz")
    other = ["--network", str(package("stylegan2", 0)), "--num", "1", "--output", path]
    done = CliRunner().invoke(app, ["directions", *other])
    assert done.exit_code == 0, done.output
    assert "use the directions of this network" in refused(str(package()), "--directions", path)


def test_an_explorer_prints_its_address_and_who_can_reach_it(package, monkeypatch):
    opened: list[str] = []

    async def served(application, address):
        assert address.getsockname()[1] > 0

    monkeypatch.setattr(server, "_serve", served)
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    monkeypatch.setattr(server, "_has_display", lambda: True)
    command = ["explore", str(package()), "--port", "0", "--root-path", "/lab"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "/lab/ (Ctrl-C ends it)" in done.stdout
    assert len(opened) == 1 and opened[0] in done.stdout and "no password" not in done.stderr
    done = CliRunner().invoke(app, [*command, "--host", "0.0.0.0", "--no-browser"])
    assert done.exit_code == 0 and "it has no password" in done.stderr and len(opened) == 1


@pytest.mark.parametrize(
    ("variables", "is_seen"),
    [({}, False), ({"DISPLAY": ":0"}, True), ({"WAYLAND_DISPLAY": "wayland-0"}, True)],
)
def test_a_browser_opens_only_where_it_can_be_seen(variables, is_seen, monkeypatch):
    monkeypatch.setattr(server.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert server._has_display() is is_seen
