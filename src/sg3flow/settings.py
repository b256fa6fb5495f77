"""Where the project is: the folder that holds params, state and the local tracking store."""

import os
from pathlib import Path


def project_root() -> Path:
    """The DVC project's folder: ``DVC_ROOT``, else the nearest parent with ``.dvc``, else here.

    ``DVC_ROOT`` stays the main checkout inside DVC's temporary experiment folders, so what stands
    below this folder (training state, tracking store) is shared by all experiments.
    """
    named = os.environ.get("DVC_ROOT")
    if named:
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return folder
    return here


def state_root() -> Path:
    """Where training state lives: ``SG3FLOW_STATE_DIR``, else ``state/`` of the project."""
    named = os.environ.get("SG3FLOW_STATE_DIR")
    return Path(named).resolve() if named else project_root() / "state"


PROJECT_FILES = ("params.yaml", "dvc.lock")
CODE = ("src", "stages", "dvc.yaml")  # of the project: a change elsewhere makes no other code
