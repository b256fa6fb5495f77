r"""Project photos into the latent space of a network.

In: a network (our snapshot, a public pickle, a URL, models:/NAME@ALIAS, a name) and photos of any
size and format. Out: a folder per photo with target.png, proj.png, projected_w.npz and proj.mp4;
with --pti-steps also a network tuned to the photo (pti.pkl) and proj-pti.png. No stage of the
pipeline depends on it.

    python stages/project.py --network NETWORK --target photo.jpg --outdir out --pti-steps 350

A step takes what drawing about three images takes; the default is 1000 steps. On a CPU only small
networks are quick: try --steps 200 first.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("projection", help=__doc__, module="projection_command")
