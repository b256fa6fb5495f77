"""Fetch raw pictures into one folder.

In: the name of a dataset (starter, afhq, afhqv2), a folder, a zip, tar or Parquet file, or the URL
of one. Out: the pictures, and SOURCE.json beside them: where from, size, SHA-256, license,
citation, counts. Archives are unpacked; Parquet files, CIFAR-10 and MNIST stay as they are.

    python stages/fetch.py --dataset afhq --dest data/raw

Expected time: starter (600 pictures, drawn) in 15 s; AFHQ in the time its 730 MB take. A broken
download goes on where it was; a whole one is kept in SG3FLOW_CACHE (~/.cache/sg3flow).
"""

from sg3flow.cli.stage_commands import fetch_app
from sg3flow.cli.stage_options import run

if __name__ == "__main__":
    run(fetch_app, help=__doc__)
