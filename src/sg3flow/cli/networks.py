"""The command ``sg3flow networks``: the names that stand for networks."""

from typing import Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

networks_app = stage_app("")


@networks_app.command()
def networks(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """List the names of networks, for --network, --resume and sg3flow.load."""
    with one_line_errors(debug):
        from sg3flow.checkpoints.network_catalog import NETWORKS

        width = max(map(len, NETWORKS))
        for network in NETWORKS.values():
            print(f"{network.name:<{width}}  {network.about}")
        print()
        for line in _notes():
            print(line)


def _notes() -> list[str]:
    from sg3flow.checkpoints.network_catalog import (
        NVIDIA_LICENSE,
        NVIDIA_TERMS,
        STARTER,
    )
    from sg3flow.settings import cache_folder

    return [
        f"{STARTER} comes with sg3flow (Apache-2.0); the others are NVIDIA's, are downloaded to",
        f"{cache_folder()} at their first use, and have the {NVIDIA_LICENSE}, for",
        f"non-commercial use: {NVIDIA_TERMS}",
        "Endings: t, r: StyleGAN3-T and -R. A file or folder of the same name goes before a name.",
    ]
