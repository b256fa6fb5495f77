"""A notebook user who knows the StyleGAN3 tutorial: an empty folder, the official option names."""

import json

import pytest
from PIL import Image

pytestmark = pytest.mark.medium

RUN = "mods/00000-stylegan3-t-faces-32x32-gpus1-batch20-gamma0.2"
TRAIN = (
    "sg3flow train --outdir mods --gpus 1 --batch 20 --gamma 0.2 --data data/faces-32x32.zip "
    "--cfg stylegan3-t --kimg 1 --tick 1 --snap 1 --cbase 512 --cmax 8 --map-depth 1 --workers 0"
)


def test_from_an_empty_folder_to_a_video(terminal, tmp_path):
    shell = terminal(tmp_path / "my notebook")

    told = shell("sg3flow fetch --dataset starter --images 40 --resolution 32 --dest data/raw")
    assert "40 images of starter in data/raw" in told.splitlines()
    assert "next: sg3flow pack --source data/raw/starter/train" in told
    told = shell(
        "sg3flow pack --source data/raw/starter/train --dest data/faces-32x32.zip "
        "--resolution 32x32 --labels folders"
    )
    assert "packed 37 of 37 images into data/faces-32x32.zip (32x32 color, 3 classes" in told

    # The option that everybody mistypes, and what the official code calls it.
    wrong = shell(TRAIN.replace("--gamma", "--gama"), fails=True)
    assert "No such option: --gama" in wrong and "--gamma" in wrong.replace("--gama ", "")
    wrong = shell(TRAIN.replace("faces-32", "face-32"), fails=True)
    assert "data/face-32x32.zip" in wrong and len(wrong.strip().splitlines()) == 1

    planned = json.loads(shell(f"{TRAIN} --dry-run"))
    assert planned["given"]["batch"] == 20 and planned["given"]["gamma"] == 0.2

    told = shell(f"{TRAIN} --cond 1 --grid 4x3")
    run = shell.folder / RUN
    assert f"snapshots in {RUN}" in told and "tick 1 " in told and "sec/kimg" in told
    for name in ("fakes_init.png", "fakes000001.png", "reals.png"):
        with Image.open(run / name) as sheet:
            assert sheet.size == (4 * 32, 3 * 32), name
    assert (run / "training_options.json").is_file() and (run / "stats.jsonl").is_file()
    header, *rows = (run / "losses.csv").read_text().splitlines()
    assert header.startswith("kimg,G_loss,D_loss") and rows[-1].startswith("1,")

    # The same command does not train again.
    again = shell(f"{TRAIN} --cond 1 --grid 4x3")
    assert f"snapshots in {RUN}" in again and "tick 1 " not in again

    network = f"{RUN}/network-snapshot-000001.pkl"
    pictures = f"sg3flow render images --network {network} --seeds 2,5 --trunc 0.7 --outdir out"
    assert "conditional; give a class from 0 to 2" in shell(pictures, fails=True)
    told = shell(f"{pictures} --class 1")
    assert "2 images in out, the last is seed0005.png" in told.splitlines()
    with Image.open(shell.folder / "out/seed0002.png") as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB"
    shell(
        f"sg3flow render video --network {network} --seeds 0-3 --grid 2x2 --num-keyframes 1 "
        "--w-frames 4 --output out/lerp.mp4"
    )
    assert (shell.folder / "out/lerp.mp4").stat().st_size > 1000
    wrong = shell(f"sg3flow render images --network {RUN} --seeds 2 --outdir out", fails=True)
    assert wrong.startswith("error: ") and RUN in wrong
    told = shell(f"sg3flow evaluate network --network {network} --metrics fd_random20_full")
    assert "fd_random20_full" in told and "±" in told
