"""The command ``sg3flow average``: a network from several snapshots or averages of a training."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

average_app = stage_app("")


@average_app.command()
def average(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="with --sigma-rel: the folder of a training with phema; with --mean: two or more "
            "networks",
        ),
    ],
    dest: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="file to write: a snapshot (.pkl) or .safetensors"),
    ],
    sigma_rel: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.28,
            help="make the average of G of this relative width, a post-hoc EMA; wider: smoother",
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="KIMG", help="with --sigma-rel: time of the average; default: the last"
        ),
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="make the mean of all weights")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Average the weights of a training over time, with a width chosen after it.

    The result is a network like any other: render, evaluate and register take it.
    """
    with one_line_errors(debug):
        from sg3flow.errors import ConfigError

        if mean == (sigma_rel is not None):
            raise ConfigError("give either --sigma-rel NUMBER or --mean")
        if mean and at is not None:
            raise ConfigError("--at goes with --sigma-rel")
        if sigma_rel is not None and len(sources) != 1:
            raise ConfigError(f"--sigma-rel takes the folder of one training, not {len(sources)}")
        if sigma_rel is None:
            _write_mean(sources, dest)
        else:
            _write_posthoc(Path(sources[0]), dest, sigma_rel, at)


def _write_mean(sources: list[str], dest: Path) -> None:
    from sg3flow.latent.blending import mean_of
    from sg3flow.latent.combined_networks import check_dest, read_parent, write_combination

    check_dest(dest)
    write_combination(mean_of([read_parent(source) for source in sources]), dest)
    print(f"{dest}: mean of {len(sources)} networks")


def _write_posthoc(run_dir: Path, dest: Path, sigma_rel: float, at: int | None) -> None:
    from sg3flow.latent.combined_networks import check_dest, write_combination
    from sg3flow.latent.posthoc_ema import reconstruct

    check_dest(dest)
    made = reconstruct(run_dir, sigma_rel, at)
    facts = made.result.made_by
    if made.is_far:
        print(
            f"warning: the stored averages give this width only roughly (relative error "
            f"{made.error**0.5:.1%}); more snapshots, or widths on both sides of it, come nearer",
            file=sys.stderr,
        )
    if made.is_noisy:
        print(
            f"warning: this width takes differences of the stored averages, and {made.gain:.0f} "
            "times their rounding to float16; a width between the stored ones does not",
            file=sys.stderr,
        )
    write_combination(made.result, dest)
    print(
        f"{dest}: average of width {facts['sigma_rel']} at {facts['nimg'] // 1000} kimg, from "
        f"{made.num_stored} stored averages"
    )
