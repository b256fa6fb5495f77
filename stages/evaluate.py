r"""Measure the quality of snapshots, of one network, or of any set of images.

In: a training run with snapshots (or a network from any source) and the packed set to compare with;
or two folders or zip files of images.
Out: a JSON report with every value, its standard error and what it was measured against; a short
JSON file with the values of the best snapshot, for DVC; a CSV table for plots; charts of every
metric over kimg, the generated images beside their nearest training images, and the best snapshot.

    python stages/evaluate.py snapshots --run runs/train --data data/packed.zip \
        --report reports/evaluation.json --summary reports/metrics.json --best runs/best.pkl \
        --table reports/metrics.csv --chart reports/metrics.png --params params.yaml
    python stages/evaluate.py network --network NETWORK --data data/packed.zip \
        --metrics fid50k_full
    python stages/evaluate.py images --a FOLDER --b FOLDER --metrics fid,kid
    python stages/evaluate.py spectra --source NETWORK --data data/packed.zip

On several GPUs: torchrun --nproc-per-node N -- stages/evaluate.py …; the values are the same.
Time per snapshot: fd_random1k_full takes the time to generate 1000 images, plus a second on one CPU
core for their features; fid50k_full generates 50,000 images and needs a GPU.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("evaluate", help=__doc__)
