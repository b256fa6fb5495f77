"""The command ``sg3flow blend``: a network from two others."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

blend_app = stage_app("")


@blend_app.command()
def blend(
    first: Annotated[
        str, typer.Argument(metavar="A", help="network: file, URL, models:/…, runs:/… or name")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="network of the same architecture")],
    dest: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="file to write: a snapshot (.pkl) or .safetensors"),
    ],
    up_to: Annotated[
        str,
        typer.Option(
            metavar="LAYER",
            help="take the layers of A up to this one, the lowest resolution first, and the "
            "others of B; a name, its start (L5) or a number; none: all of B",
        ),
    ] = "",
    weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="take (1 - weight) A + weight B of all weights"),
    ] = None,
    mapping: Annotated[
        str,
        typer.Option(
            metavar="a|b",
            help="with --up-to: whose mapping network; default: of the network with the first "
            "layer",
        ),
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Blend two networks of which one was trained from the other, by layer or by weight.

    The result is a network like any other: render, evaluate and register take it.
    """
    with one_line_errors(debug):
        from sg3flow.errors import ConfigError

        if bool(up_to) == (weight is not None):
            raise ConfigError("give either --up-to LAYER or --weight NUMBER")
        if mapping and not up_to:
            raise ConfigError("--mapping goes with --up-to")
        from sg3flow.latent.blending import are_related, blend_by_layer, blend_by_weight
        from sg3flow.latent.combined_networks import check_dest, read_parent, write_combination

        check_dest(dest)
        parents = read_parent(first), read_parent(second)
        if weight is None:
            result = blend_by_layer(*parents, up_to, mapping)
        else:
            result = blend_by_weight(*parents, weight)
        if not are_related(*parents):
            print(
                "warning: A and B do not come from one training: their layers do not fit together, "
                "and the result may draw nothing",
                file=sys.stderr,
            )
        write_combination(result, dest)
        done = ", ".join(f"{key} {value}" for key, value in result.made_by.items() if key != "kind")
        print(f"{dest}: {result.made_by['kind']}, {done}")
