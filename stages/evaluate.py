r"""Measure the quality of snapshots, of any one network, or of any set of pictures.

In: a training run with snapshots (or a network from anywhere), and the packed set to compare with;
or two folders or zip files of pictures.
Out: a report with every number, its error and what it compares; a table for plots; pictures of
every metric against kimg, and of generated pictures over the training pictures nearest to them.

    python stages/evaluate.py snapshots --run runs/train --data data/packed.zip \
        --report reports/metrics.json --table reports/metrics.csv --chart reports/metrics.png \
        --params params.yaml
    python stages/evaluate.py network --network NETWORK --data data/packed.zip \
        --metrics fid50k_full
    python stages/evaluate.py images --a FOLDER --b FOLDER --metrics fid,kid

On several GPUs: torchrun --nproc-per-node N -- stages/evaluate.py …, with the same numbers.
Time a snapshot: fd_random1k_full takes what drawing 1000 pictures takes, its features a second on
one CPU core; fid50k_full draws 50,000 pictures and wants a GPU.
"""

from sg3flow.cli.stage_commands import evaluate_app
from sg3flow.cli.stage_options import run

if __name__ == "__main__":
    run(evaluate_app, help=__doc__)
