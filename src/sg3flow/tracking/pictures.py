"""Pictures of a run under MLflow's step slider."""

from pathlib import Path
from typing import Any

_FOLDER = "images"  # where MLflow keeps the pictures of the slider


def log_picture(client: Any, run_id: str, path: Path, key: str, kimg: int) -> None:
    """Put a picture under the run's step slider ``key``."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
    client.log_image(run_id, picture, key=key, step=kimg, synchronous=True)


def logged_pictures(client: Any, run_id: str) -> set[tuple[str, int]]:
    """(key, step) of every picture a run has already."""
    found = set()
    for artifact in client.list_artifacts(run_id, _FOLDER):
        # images/<key, with ~ for />+step+<step>+timestamp+<ms>+<uuid>.png
        key, *fields = Path(artifact.path).name.split("+")
        if fields[:1] == ["step"]:
            found.add((key.replace("~", "/"), int(fields[1])))
    return found
