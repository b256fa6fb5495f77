"""The command ``sg3flow explore``: a network in the browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

explore_app = stage_app("")

AllowHost = Annotated[
    list[str] | None, typer.Option(help="host name of the explorer behind a proxy; repeatable")
]


@explore_app.command()
def explore(
    source: Annotated[
        str,
        typer.Argument(help="network: file, URL, models:/…, runs:/… or name, such as starter"),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")
    ] = 5002,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="device to draw on: auto, cpu or cuda")] = "auto",
    directions: Annotated[
        Path | None, typer.Option(help="file of `sg3flow directions`, offered beside those found")
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="path of the page behind a proxy that does not remove it")
    ] = "",
    allow_host: AllowHost = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="open the page, if there is a display")
    ] = True,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Explore a network in the browser.

    Seeds, sliders, style mixing, directions, films and photos; it saves each picture, its w, and
    the command that makes it again.
    """
    with one_line_errors(debug):
        from sg3flow.explorer.server import Place
        from sg3flow.explorer.server import explore as show
        from sg3flow.interrupts import stop_answering

        stop_answering()
        show(source, device, directions, Place(host, port, root_path, allow_host or (), browser))


def explorer_page(target: str, host: str, others: Sequence[str]) -> Any:
    """What opens the explorer of ``sg3flow serve``, see ``alias_server.Page``."""
    from sg3flow.explorer.access import names_of
    from sg3flow.explorer.served_page import served_page

    name = target.partition("@")[0]
    names = names_of(host, others)
    return lambda gateway: served_page(name, lambda: gateway.served, names, others)
