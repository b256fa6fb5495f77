r"""Render images and videos from a generator.

In: a network (our snapshot, a public pickle, a URL, models:/NAME@ALIAS or runs:/…), or with `best`
the best snapshot of a training run. Out: PNGs `seed0002.png`, a labeled `grid.png`, a sheet
`truncation.png`, a looping `interpolation.mp4`.

    python stages/render.py images --network SRC --seeds 2 --trunc 1 --outdir out

    python stages/render.py best --run runs/train --metrics reports/evaluation.json \
        --outdir renders --params params.yaml

About 0.1 s per image of 128 x 128 on one CPU core; a video has hundreds of frames.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("render", help=__doc__)
