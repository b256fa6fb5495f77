"""Pictures of a run under MLflow's step slider."""

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

_FOLDER = "images"  # where MLflow keeps the pictures of the slider
_THUMBNAIL_SIDE = 256


def log_picture(client: Any, run_id: str, path: Path, key: str, kimg: int, time_ms: int) -> None:
    """Put a picture under the run's step slider ``key``; the same one twice is one.

    MLflow's own ``log_image`` gives every call a random name: a picture whose upload was answered
    too late would be there twice. Under a name of its content it takes its own place.

    Args:
        time_ms: when it was made; part of the name, as MLflow has it.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
    from PIL import Image

    mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{key}/{kimg}/{time_ms}")
    name = f"{key.replace('/', '~')}+step+{kimg}+timestamp+{time_ms}+{mark}"
    with tempfile.TemporaryDirectory() as folder, Image.open(path) as picture:
        full, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
        if picture.format == "PNG":
            shutil.copyfile(path, full)
        else:
            picture.save(full)
        picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        picture.save(small)
        for each in (full, small):
            client.log_artifact(run_id, str(each), _FOLDER)
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
