"""The one table of environment variables, project places and MLflow tag names.

Nothing is read at import: a variable is read whenever its value is asked for. ``docs/settings.md``
lists the same variables for users.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sg3flow.errors import ConfigError, cut, nearest


@dataclass(frozen=True)
class Variable:
    """An environment variable of this project.

    Attributes:
        name: starts with ``SG3FLOW_``.
        default: the value of an unset variable, as text; empty: none, or one that is computed.
        meaning: one line.
        least, most: bounds of a whole number.
        choices: all values that there are; empty: any text.
    """

    name: str
    default: str
    meaning: str
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()

    def is_set(self) -> bool:
        """Whether the environment has it, even if it is empty."""
        return self.name in os.environ

    def text(self) -> str:
        """The value as text."""
        return os.environ.get(self.name, self.default)

    def choice(self) -> str:
        """The value, one of the choices.

        Raises:
            ConfigError: it is none of them.
        """
        text = self.text()
        if text not in self.choices:
            raise ConfigError(
                f"{self.name} is '{cut(text, 40)}'{nearest(text, self.choices)}; it must be one "
                f"of {', '.join(self.choices)}"
            )
        return text

    def path(self) -> Path | None:
        """The value as a path with ``~`` expanded; None: not set, or empty."""
        given = os.environ.get(self.name)
        return Path(given).expanduser() if given else None

    def seconds(self) -> float:
        """The value as a number; one that is no time counts as not set."""
        try:
            given = float(self.text())
        except ValueError:
            given = math.nan
        return given if 0 <= given < math.inf else float(self.default)

    def whole_number(self) -> int:
        """The value as a whole number.

        Raises:
            ConfigError: it is none, or is out of bounds.
        """
        text, low, high = self.text(), self.least, self.most
        if not (re.fullmatch("[0-9]{1,9}", text) and low <= int(text) <= high):
            raise ConfigError(
                f"{self.name} must be a whole number from {low} to {high}, not '{text[:40]}'"
            )
        return int(text)


STATE_DIR = Variable("SG3FLOW_STATE_DIR", "", "folder of training states; unset: state/")
CACHE = Variable("SG3FLOW_CACHE", "", "folder of downloads; unset: sg3flow in the user's cache")
KERNELS = Variable("SG3FLOW_KERNELS", "", "folder of compiled kernels; unset: below the cache")
OPS = Variable(
    *("SG3FLOW_OPS", "auto", "implementation of the ops: auto, torch, cpu or cuda"),
    choices=("auto", "torch", "cpu", "cuda"),
)
CUDA_DRIVER = Variable("SG3FLOW_CUDA_DRIVER", "libcuda.so.1", "library of the CUDA driver")
NVRTC = Variable("SG3FLOW_NVRTC", "", "file of NVRTC, which compiles CUDA kernels; unset: found")
TENSOR_CORES = Variable(
    *("SG3FLOW_TENSOR_CORES", "1", "0: CUDA kernels do not use tensor cores"),
    choices=("0", "1"),
)
BUILD_SEC = Variable("SG3FLOW_BUILD_SEC", "600", "seconds that a build of kernels may take")
TRACKING = Variable("SG3FLOW_TRACKING", "", "off: nothing is sent to MLflow")
NOTIFY = Variable("SG3FLOW_NOTIFY", "", "URL that gets a POST at the end of a training")
DEVICE = Variable("SG3FLOW_DEVICE", "auto", "device of a served model: auto, cpu or cuda")
LAUNCHED = Variable("SG3FLOW_LAUNCHED", "", "set by our launcher in the processes it starts")
SERVE_MAX_PICTURES = Variable("SG3FLOW_SERVE_MAX_PICTURES", "64", "images per request", 1, 4096)
SERVE_MAX_SIDE = Variable(
    "SG3FLOW_SERVE_MAX_SIDE", "0", "largest side in pixels; 0: no limit", 0, 16384
)
SERVE_MAX_PIXEL_MIB = Variable(
    "SG3FLOW_SERVE_MAX_PIXEL_MIB", "64", "MiB of uncompressed pixels per request", 1, 4096
)
SERVE_MAX_BODY_MIB = Variable(
    "SG3FLOW_SERVE_MAX_BODY_MIB", "16", "MiB of the body of a request", 1, 1024
)
SERVE_TOGETHER = Variable(
    "SG3FLOW_SERVE_TOGETHER", "1", "images computed at once, each on a share of the cores", 1, 64
)

VARIABLES = (
    *(STATE_DIR, CACHE, KERNELS, OPS, TENSOR_CORES, CUDA_DRIVER, NVRTC, BUILD_SEC),
    *(TRACKING, NOTIFY, DEVICE, LAUNCHED),
    *(SERVE_MAX_PICTURES, SERVE_MAX_SIDE, SERVE_MAX_PIXEL_MIB, SERVE_MAX_BODY_MIB, SERVE_TOGETHER),
)


# Files of the project that a run records whole.
PROJECT_FILES = ("params.yaml", "dvc.lock")


def project_root() -> Path:
    """The DVC project's folder: ``DVC_ROOT``, else the nearest parent with ``.dvc``, else here.

    ``DVC_ROOT`` stays the main checkout inside DVC's temporary experiment folders, so all
    experiments share what is below this folder (training state, tracking store).
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
    named = os.environ.get(STATE_DIR.name)
    return Path(named).resolve() if named else project_root() / "state"


def cache_folder() -> Path:
    """``SG3FLOW_CACHE``, or ``sg3flow`` in ``XDG_CACHE_HOME``, by default in ``~/.cache``."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return CACHE.path() or user / "sg3flow"


def kernels_folder() -> Path:
    """Where compiled kernels are kept: ``SG3FLOW_KERNELS``, or ``kernels`` in the cache folder."""
    return KERNELS.path() or cache_folder() / "kernels"


def stage_times_path() -> Path:
    """JSON lines with the duration of each stage under ``dvc repro``."""
    return state_root() / "stage-times.jsonl"


def tracking_state() -> Path:
    """Where the run folders of stages other than train are."""
    return state_root() / "tracking"


def offsets_folder() -> Path:
    """Where the tracking keeps how far it has sent each run folder."""
    return state_root() / "sent"


def local_tracking_uri() -> str:
    """The tracking database of a project that names no server."""
    return f"sqlite:///{local_database()}"


def local_database() -> Path:
    """The file of ``local_tracking_uri``."""
    return project_root() / "mlflow.db"


def local_artifacts() -> Path:
    """The artifacts that belong to ``local_tracking_uri``."""
    return project_root() / "mlruns"


class Tag:
    """Names of tags on MLflow runs, models and versions. Servers hold them: never rename one.

    A stored name keeps its spelling too: the tag is ``sg3flow.licence``, although this code writes
    license.

    A name that ends with a dot is the start of names.
    """

    # What a run is.
    UID = "sg3flow.uid"
    STAGE = "sg3flow.stage"
    FINGERPRINT = "sg3flow.fingerprint"
    COMMAND = "sg3flow.command"
    KIMG = "sg3flow.kimg"
    GROUPED = "sg3flow.grouped_metrics"  # the names of its metrics are those of metric_names.py
    NOTE = "sg3flow.note"  # digest of the description as we wrote it
    # The execution of the pipeline that a stage ran in; with a dot and the uid: on a training.
    PIPELINE = "sg3flow.pipeline"
    ERROR = "sg3flow.error"
    # Where it comes from.
    REPRODUCE = "sg3flow.reproduce"
    DVC_EXP = "sg3flow.dvc_exp"
    GIT_DIRTY = "sg3flow.git_dirty"
    VERSION = "sg3flow.version."
    PYTHON = "sg3flow.python"
    MACHINE = "sg3flow.machine"
    CPU = "sg3flow.cpu"
    MEMORY_GIB = "sg3flow.memory_gib"
    GPU = "sg3flow.gpu"
    DRIVER = "sg3flow.driver"
    CUDA = "sg3flow.cuda"
    OPS = "sg3flow.ops"
    THREADS = "sg3flow.threads"
    SEED = "sg3flow.seed"
    DATA = "sg3flow.data"
    LICENSE = "sg3flow.licence"
    SOURCE = "sg3flow.source"
    # Snapshots and registered versions.
    SNAPSHOT = "sg3flow.snapshot"
    PRUNED = "sg3flow.pruned"
    SHA256 = "sg3flow.sha256"
    SNAPSHOT_SHA256 = "sg3flow.snapshot_sha256"
    WEIGHTS_SHA256 = "sg3flow.weights_sha256"
    DIRECTIONS_SHA256 = "sg3flow.directions_sha256"
    METRIC = "sg3flow.metric"
    VALUE = "sg3flow.value"
    RESULTS = "sg3flow.results"
    RESULT = "sg3flow.result."  # in versions of 0.2 and before, one tag per metric
    GATE = "sg3flow.gate"  # of a version: what it had to show to become champion, and what it did
    ERROR_TERMS = "sg3flow.error_terms"  # of a version: digests of its files of error terms
    COMMIT = "sg3flow.commit"
    EXPORT = "sg3flow.export."  # and the format: the last exported file of a version
    # Changes of aliases: on the version that got the alias, and on the models of 0.2 and before.
    ALIASES = "sg3flow.aliases"
    ALIAS_CHANGE = "sg3flow.move."
