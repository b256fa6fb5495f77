"""An artist with photos of odd sizes and formats: own recipe, transfer, pictures and a video."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.medium

KINDS = ("cups", "keys", "shells")
PER_KIND = 12


def _photo(index: int, kind: int) -> Image.Image:
    """A drawn object on a soft background: every photo has another size, most are not square."""
    random = np.random.default_rng((kind, index))
    width, height = (int(random.integers(24, 90)) for _ in range(2))
    base = random.integers(60, 200, 3)
    shade = np.linspace(-40, 40, width)[None, :, None] + random.normal(0, 6, (height, width, 3))
    photo = Image.fromarray(np.clip(base + shade, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(photo)
    box = [width * 0.2, height * 0.2, width * 0.8, height * 0.8]
    color = tuple(int(c) for c in random.integers(0, 256, 3))
    (pen.ellipse, pen.rectangle, pen.chord)[kind](
        box, *((20, 300) if kind == 2 else ()), fill=color
    )
    return photo


def _save(photo: Image.Image, path: Path, index: int) -> None:
    """Every photo in another format or mode of color."""
    match index % 6:
        case 0:
            sideways = Image.Exif()
            sideways[0x0112] = 6  # the camera was turned by a quarter
            photo.save(path.with_suffix(".JPG"), exif=sideways, quality=95)
        case 1:
            photo.convert("RGBA").save(path.with_suffix(".png"))
        case 2:
            photo.convert("L").save(path.with_suffix(".webp"))
        case 3:
            photo.quantize(64).save(path.with_suffix(".gif"))
        case 4:
            photo.convert("CMYK").save(path.with_suffix(".jpeg"), quality=95)
        case 5:
            photo.save(path.with_suffix(".bmp"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder as it comes from a phone: three kinds, a broken file, a note, a photo twice."""
    folder = tmp_path / "my photos"
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True)
        for index in range(PER_KIND):
            _save(_photo(index, kind), folder / name / f"IMG {index:04d}", index)
    shutil.copy(folder / "cups/IMG 0001.png", folder / "cups/IMG 0001 (copy).png")
    (folder / "keys/IMG 9999.jpg").write_bytes(b"\xff\xd8\xff\xe0 half a photo")
    (folder / "shells/notes.txt").write_text("buy film\n")
    return folder


def test_from_photos_to_pictures_and_a_video(finished_pipeline, terminal, photos, tmp_path):
    project, variables = finished_pipeline.copy(tmp_path)
    starter = tmp_path / "starter network.pkl"
    shutil.copy(project / "runs/best.pkl", starter)
    shell = terminal(project, variables)

    told = shell("sg3flow use own")
    assert "params.yaml is now recipes/own.yaml" in told
    wrong = shell("sg3flow set pack.resolution=16x16 train.gama=1", fails=True)
    assert "did you mean 'gamma'?" in wrong
    shell(
        f"sg3flow set 'fetch.dataset=\"{photos}\"' pack.resolution=16x16 pack.labels=folders "
        "validate.min_images=30 validate.min_class_images=10 validate.classes=3 "
        f"'train.resume=\"{starter}\"' train.resume_arch=true train.cond=true train.batch=100 "
        "train.batch_gpu=20 train.aug=noaug train.kimg=1 train.tick=1 train.snap=1 "
        "train.workers=0 train.gamma=0.2 train.desc=objects register.name=my-objects "
        "evaluate.metrics=[fd_random20_full] evaluate.best_by=fd_random20_full "
        "render.seeds=0-5 render.sweep_seeds=0-1 render.video_frames=4"
    )
    params = (project / "params.yaml").read_text()
    assert params.startswith("# yaml-language-server: ") and "# set this: a folder" in params

    # One unusable photo is too many for a careful recipe; the sentence says what to do.
    shell("sg3flow set pack.max_rejects=0")
    wrong = shell("dvc repro pack", fails=True)
    assert "IMG 9999.jpg" in wrong and "max_rejects" in wrong
    shell("sg3flow set pack.max_rejects=20")
    told = shell("dvc repro")
    assert f"packed {3 * PER_KIND} of {3 * PER_KIND + 2} images" in told
    assert "left out: 1 duplicate, 1 unreadable; changed: 6 CMYK, 6 EXIF orientation" in told
    assert "ignored 1 file that is no known picture: 1 .txt" in told
    assert f"{3 * PER_KIND} images passed " in told and "tick 1 " in told

    checks = json.loads((project / "reports/validation.json").read_text())
    assert checks["success"]
    assert (project / "reports/validation.html").stat().st_size > 10_000
    run = json.loads((project / "runs/train/run.json").read_text())
    assert "objects" in run["name"]
    with Image.open(project / "renders/grid.png") as grid:
        assert grid.width > 6 * 16
    assert (project / "renders/interpolation.mp4").stat().st_size > 1000
    summary = shell("sg3flow summary")
    assert "my-objects version 1 (candidate, champion)" in summary
    assert f"{3 * PER_KIND} images of 16x16" in summary

    # Pictures to keep: by the fixed name of the best snapshot, and by the name in the registry.
    told = shell(
        "sg3flow render images --network runs/best.pkl --seeds 1-3 --class 2 --outdir wall"
    )
    assert "3 images in wall, the last is seed0003.png" in told.splitlines()
    shell(
        "sg3flow render images --network models:/my-objects@champion --seeds 1 --class 2 --outdir b"
    )
    first, second = (project / "wall/seed0001.png", project / "b/seed0001.png")
    assert first.read_bytes() == second.read_bytes()
    shell(
        "sg3flow render video --network runs/best.pkl --seeds 0-3 --grid 2x1 --w-frames 3 "
        "--output wall/loop.mp4"
    )
    assert (project / "wall/loop.mp4").stat().st_size > 1000
