"""Names of networks: the table, what goes before a name, and the files behind the names."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.loading import cached_name, is_network, local_copy
from sg3flow.checkpoints.network_catalog import (
    NETWORKS,
    NamedNetwork,
    named_network,
    near_names,
)
from sg3flow.cli.commands import app
from sg3flow.downloads import RetryPolicy
from sg3flow.errors import CheckpointError, DataError
from sg3flow.files import sha256_file

# As the README of NVlabs/stylegan3 lists them.
STYLEGAN3 = """
stylegan3-t-ffhq-1024x1024.pkl stylegan3-t-ffhqu-1024x1024.pkl stylegan3-t-ffhqu-256x256.pkl
stylegan3-r-ffhq-1024x1024.pkl stylegan3-r-ffhqu-1024x1024.pkl stylegan3-r-ffhqu-256x256.pkl
stylegan3-t-metfaces-1024x1024.pkl stylegan3-t-metfacesu-1024x1024.pkl
stylegan3-r-metfaces-1024x1024.pkl stylegan3-r-metfacesu-1024x1024.pkl
stylegan3-t-afhqv2-512x512.pkl stylegan3-r-afhqv2-512x512.pkl
""".split()
STYLEGAN2 = """
stylegan2-ffhq-1024x1024.pkl stylegan2-ffhq-512x512.pkl stylegan2-ffhq-256x256.pkl
stylegan2-ffhqu-1024x1024.pkl stylegan2-ffhqu-256x256.pkl
stylegan2-metfaces-1024x1024.pkl stylegan2-metfacesu-1024x1024.pkl
stylegan2-afhqv2-512x512.pkl
stylegan2-afhqcat-512x512.pkl stylegan2-afhqdog-512x512.pkl stylegan2-afhqwild-512x512.pkl
stylegan2-brecahad-512x512.pkl stylegan2-cifar10-32x32.pkl
stylegan2-celebahq-256x256.pkl stylegan2-lsundog-256x256.pkl
""".split()


def test_the_table_has_every_public_network_at_its_address():
    files = {"stylegan3": STYLEGAN3, "stylegan2": STYLEGAN2}
    base = "https://api.ngc.nvidia.com/v2/models/nvidia/research"
    public = {f"{base}/{kind}/versions/1/files/{f}" for kind in files for f in files[kind]}
    others = [network for network in NETWORKS.values() if network.bundled is None]
    assert {network.address for network in others} == public
    assert len(others) == len(public) == 27
    for network in NETWORKS.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", network.name)
        assert network.license and network.about
    assert all("Nvidia" in network.license and network.terms for network in others)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("afhqv2-512-t", "stylegan3-t-afhqv2-512x512.pkl"),
        ("ffhqu-256-r", "stylegan3-r-ffhqu-256x256.pkl"),
        ("afhqcat-512-stylegan2", "stylegan2-afhqcat-512x512.pkl"),
    ],
)
def test_a_name_stands_for_its_file(name, file):
    assert NETWORKS[name].file_name == file
    assert named_network(name) is NETWORKS[name]
    assert near_names(file)[0] == name


def test_what_is_there_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_copy("starter") == NETWORKS["starter"].bundled
    assert named_network("./starter") is None and named_network("Starter") is None
    Path("starter").write_bytes(b"something")
    assert named_network("starter") is None
    assert local_copy("starter") == Path("starter")
    Path("starter").unlink()
    Path("starter").mkdir()
    with pytest.raises(CheckpointError, match="a folder here, which goes before the network"):
        load_networks("starter")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("afhq-512-t", "afhqv2-512-t"),
        ("startr", "starter"),
        ("FFHQ-1024-T", "ffhq-1024-t"),
        ("stylegan3-r-ffhqu-256x256", "ffhqu-256-r"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_near_names(wrong, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"called {wrong}; .*\b{near}\b.*sg3flow networks"):
        load_networks(wrong)
    assert near_names("x" * 100_000) == near_names("nothing like it") == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def public(networks, tmp_path, monkeypatch):
    """A named network at an address of this machine, and the server to shut down."""
    G, D = networks("stylegan3-t")
    path = tmp_path / "public" / "a.pkl"
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0, training_set={}, progress={})
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(_Quiet, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.pkl"
        network = NamedNetwork("toy-16-t", "a toy", "CC0", "http://terms", address)
        monkeypatch.setitem(NETWORKS, network.name, network)
        yield network, path, server
        server.shutdown()


def test_the_first_download_records_the_digest_and_says_so(public, tmp_path, capsys):
    network, path, server = public
    kept = local_copy("toy-16-t")
    said = capsys.readouterr().err
    assert kept == tmp_path / "cache" / cached_name(network.address)
    assert f"toy-16-t: CC0, http://terms; SHA-256 {sha256_file(path)}, recorded at this" in said
    server.shutdown()
    assert local_copy("toy-16-t") == kept and "SHA-256" not in capsys.readouterr().err
    assert load_networks(network.address).G is not None  # the address and the name share a file


def test_a_published_digest_is_checked(public, monkeypatch):
    network, _, _ = public
    other = NamedNetwork("toy-16-t", "", "CC0", "", network.address, sha256="0" * 64)
    monkeypatch.setitem(NETWORKS, "toy-16-t", other)
    with pytest.raises(DataError, match="its SHA-256 is"):
        local_copy("toy-16-t")


def test_without_the_network_the_error_gives_address_and_place(public, monkeypatch, tmp_path):
    network, _, server = public
    server.shutdown()
    server.server_close()
    monkeypatch.setattr("sg3flow.downloads.RetryPolicy", lambda: RetryPolicy(tries=1))
    with pytest.raises(DataError) as caught:
        local_copy("toy-16-t")
    assert network.address in str(caught.value)
    kept = tmp_path / "cache" / cached_name(network.address)
    assert f"or put the file at {kept} by hand" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_lists_every_name_with_license_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "kept here"))
    result = CliRunner().invoke(app, ["networks"])
    assert result.exit_code == 0
    listed = {line.split()[0] for line in result.output.splitlines() if line}
    assert set(NETWORKS) <= listed
    for words in ("Apache-2.0", "Nvidia Source Code License", "kept here", "non-commercial"):
        assert words in result.output


def test_listing_the_names_loads_no_torch():
    program = "import sys, sg3flow.checkpoints.network_catalog; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_networks_are_told_from_images_by_their_form(tmp_path, networks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.pkl").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    for source in ("starter", "a.pkl", "b.safetensors", "models:/cats@champion", "run"):
        assert is_network(source), source
    for source in ("images", "a.zip", "nowhere", "images/starter"):
        assert not is_network(source), source
