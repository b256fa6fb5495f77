"""Fetch raw images into one folder.

In: the name of a dataset (starter, afhq, afhqv2), a folder, a zip, tar or Parquet file, or the URL
of one. Out: the images and SOURCE.json: origin, size, SHA-256, license, citation, counts. Archives
are unpacked; Parquet files, CIFAR-10 and MNIST stay as they are.

    python stages/fetch.py --dataset afhq --dest data/raw

Expected time: starter (600 drawn images) 15 s; AFHQ as long as the download of 730 MB. An
interrupted download resumes; a complete one stays in SG3FLOW_CACHE (~/.cache/sg3flow).
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("fetch", help=__doc__)
