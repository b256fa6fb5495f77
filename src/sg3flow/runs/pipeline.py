"""The execution of the pipeline that this process belongs to, as DVC started it.

DVC starts a stage as a process of its own and tells it nothing about the others. All stages of one
``dvc repro`` or of one experiment have the same ancestor, though: the process of DVC. It is the
nearest one that was not itself started as a stage.
"""

import hashlib
import os
import platform
from functools import cache

_STAGE, _EXPERIMENT = "DVC_STAGE", "DVC_EXP_NAME"  # variables that DVC sets


def pipeline_uid() -> str:
    """An identifier of this execution of the pipeline; empty: a stage that was started by hand.

    A run of `mlflow run` groups its stages itself, so they have none.
    """
    if not os.environ.get(_STAGE) or os.environ.get("MLFLOW_RUN_ID"):
        return ""
    return _uid_of(os.getpid(), os.environ.get(_EXPERIMENT, ""))


@cache
def _uid_of(pid: int, experiment: str) -> str:
    import psutil

    try:
        for ancestor in psutil.Process(pid).parents():
            if _STAGE not in ancestor.environ():
                known = (platform.node(), ancestor.pid, ancestor.create_time(), experiment)
                return hashlib.sha256(repr(known).encode()).hexdigest()[:32]
    except psutil.Error:  # of another user, or gone: the stages stay on their own
        pass
    return ""


def experiment_name() -> str:
    """The name of the DVC experiment that this process belongs to; empty: none."""
    return os.environ.get(_EXPERIMENT, "")
