"""Fetch raw pictures into one folder.

In: the name of a dataset (starter, afhq, afhqv2), a folder, a zip, tar or Parquet file, or the URL
of one. Out: the pictures, and SOURCE.json beside them: where from, size, SHA-256, licence,
citation, counts. Archives are unpacked; Parquet files, CIFAR-10 and MNIST stay as they are.

    python stages/fetch.py --dataset afhq --dest data/raw

Expected time: starter (600 pictures, drawn) in 15 s; AFHQ in the time its 730 MB take. A broken
download goes on where it was; a whole one is kept in SG3FLOW_CACHE (~/.cache/sg3flow).
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run, stage_app, stage_command
from sg3flow.config import FetchConfig

app = stage_app(__doc__)


@stage_command(app, "fetch", FetchConfig)
def fetch(
    config: FetchConfig,
    dest: Annotated[Path, typer.Option(help="folder to put the pictures in")] = Path("data/raw"),
) -> None:
    """Fetch raw pictures into one folder."""
    from sg3flow.addresses import shown_url
    from sg3flow.data.fetch import check_request, fetch_pictures
    from sg3flow.data.source_record import SOURCE_NAME, source_metrics
    from sg3flow.tracking.stage_run import tracked_stage

    check_request(dest, config)  # a misspelt name needs no run in MLflow
    shown = dataclasses.replace(config, dataset=shown_url(config.dataset))
    with tracked_stage("fetch", shown) as tracking:  # without the password in an address
        source = fetch_pictures(dest, config)
        tracking.metrics(source_metrics(source))
        tracking.artifact(dest / SOURCE_NAME)
    print(f"{sum(source['counts'].values())} pictures of {source['dataset']} in {dest}")


if __name__ == "__main__":
    run(app)
