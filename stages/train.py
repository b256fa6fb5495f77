r"""Train a GAN on a packed set.

In: a packed set (zip). Out: a folder with snapshots `network-snapshot-<kimg>.pkl`, sample grids,
`stats.jsonl`, `training_options.json` and `run.json`.

    python stages/train.py --outdir mods --cfg stylegan3-t --data data/afhq-256x256.zip \
        --gpus 1 --batch 16 --gamma 8.2 --kimg 10 --snap 10

The same command resumes an interrupted training. Other values of gamma, batch or data start a new
training; other values of kimg, tick or snap continue the same one.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("train", help=__doc__)
