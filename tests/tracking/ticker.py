"""A run that reports as a training does, tick by tick, until the file `stop` is there.

It has no networks and its steps sleep; its reports take the same way as those of a training.
"""

import os
import sys
import time
from pathlib import Path

from PIL import Image

from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import JsonlReporter, Stat
from sg3flow.tracking.upload_process import uploading

folder = Path(sys.argv[1])
reporter = JsonlReporter(folder)
with uploading(folder):
    nimg = 0
    while not Path("stop").exists():
        reporter.stats({"Loss/G/loss": Stat(8, nimg / 1000, 0.0)}, nimg)
        image = folder / f"fakes{nimg // 1000:06d}.png"
        Image.new("RGB", (8, 8), (nimg // 1000 % 256, 0, 0)).save(image)
        reporter.image(image, "samples", nimg)
        if nimg % 20_000 == 0:
            snapshot = folder / f"network-snapshot-{nimg // 1000:06d}.pkl"
            snapshot.write_bytes(os.urandom(1000))
            reporter.snapshot(snapshot, nimg, sha256_file(snapshot))
            reporter.metric(snapshot, "fid", 5.0, nimg)
        print(nimg, flush=True)
        time.sleep(0.25)
        nimg += 1000
