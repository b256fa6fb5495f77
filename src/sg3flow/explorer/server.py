"""``sg3flow explore``: the page of one network at an address of this machine."""

import asyncio
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from sg3flow.addresses import shown_url
from sg3flow.errors import ConfigError, cut
from sg3flow.explorer.access import OwnPagesOnly, WithoutPrefix, names_of
from sg3flow.explorer.application import explorer_application
from sg3flow.explorer.direction_sets import NUM_FOUND, DirectionSets
from sg3flow.explorer.explorer import Explorer
from sg3flow.latent.directions import SEFA, find_directions
from sg3flow.rendering.edits import Directions, read_directions
from sg3flow.rendering.images import Model, load_model
from sg3flow.rendering.mixing import parse_layers
from sg3flow.serving.http_server import http_server, listening

ARRIVE_SEC = 30.0
_NUM_SAMPLES = 10_000  # of w, for the natural steps; the directions do not depend on them


@dataclass(frozen=True)
class Place:
    """Where the page is.

    Attributes:
        host: address to listen on.
        port: 0: a free one.
        root_path: path of the page behind a proxy that does not remove it.
        names: further host names of the page, behind a proxy.
        opens_browser: whether to open it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    root_path: str = ""
    names: Sequence[str] = ()
    opens_browser: bool = False


def explore(source: str, device: str, directions: Path | None, place: Place) -> None:
    """Show a network in the browser until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: the address cannot be used, there is no such device, or the directions are
            for another network.
        CheckpointError, DataError, TrackingError: the network or the directions cannot be read.
    """
    prefix = checked_prefix(place.root_path)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        listening(place.host, place.port) as address,
        opened(source, shown_url(source), device, directions) as explorer,
    ):
        names = names_of(place.host, place.names)
        application = OwnPagesOnly(explorer_application(explorer), names, place.names)
        url = _url(address, prefix)
        print(f"explorer of {shown_url(source)}: {url} (Ctrl-C ends it)", flush=True)
        if names is None:
            print(
                "anyone who can reach this address can use it: it has no password", file=sys.stderr
            )
        if place.opens_browser and _has_display():
            webbrowser.open(url)
        asyncio.run(_serve(WithoutPrefix(application, prefix), address))


@contextmanager
def opened(
    source: str, network: str, device: str, directions: Path | None = None
) -> Iterator[Explorer]:
    """An explorer of a network, until the block ends.

    Args:
        network: what commands are to name as the network.
    """
    model = load_model(source, device)
    file = None if directions is None else _fitting_directions(directions, model)
    find = partial(_found_directions, model)
    sets = DirectionSets(model.G.num_ws, find, file, str(directions or ""))
    explorer = Explorer(model, network, device, sets)
    try:
        yield explorer
    finally:
        explorer.close()


def _fitting_directions(path: Path, model: Model) -> Directions:
    found = read_directions(path)
    sizes = (model.G.num_ws, model.G.w_dim)
    if found.vectors.shape[1:] != sizes:
        raise ConfigError(
            f"{path} is for a network with w of {list(found.vectors.shape[1:])}, this one has "
            f"{list(sizes)}; use the directions of this network"
        )
    return found


def _found_directions(model: Model, layers: str) -> Directions:
    chosen = parse_layers(layers, model.G.num_ws)
    num = min(NUM_FOUND, model.G.w_dim)
    return find_directions(model, SEFA, chosen, num, num_samples=_NUM_SAMPLES)


def checked_prefix(root_path: str) -> str:
    """A path without a slash at its end.

    Raises:
        ConfigError: it is no path.
    """
    prefix = root_path.rstrip("/")
    if prefix and (
        not prefix.startswith("/") or prefix.startswith("//") or not prefix.isprintable()
    ):
        raise ConfigError(f"--root-path must be a path such as /explorer, not '{cut(root_path)}'")
    return prefix


async def _serve(application: ASGIApp, address: socket.socket) -> None:
    await http_server(application, ARRIVE_SEC).serve(sockets=[address])


def _url(address: socket.socket, prefix: str) -> str:
    host, port = address.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{prefix}/"


def _has_display() -> bool:
    """Whether a browser that opens is likely to be seen."""
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
