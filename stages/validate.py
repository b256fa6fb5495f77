"""Validate a packed set before training.

In: the packed set, its manifest and, for thumbnails, the raw images; with --reference, the
``validation.json`` of an earlier set. Out: ``validation.json`` and ``validation.html``, which are
written even if the set fails. If an expectation fails, the command ends with an error that names
it, and ``dvc repro`` stops.

    python stages/validate.py --manifest data/manifest.parquet --packed data/packed.zip

Expected time: 600 images of 128 px in 6 s; 16,000 of 256 px in 1 to 3 min on 2 cores.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("validate", help=__doc__)
