"""Finds the network that a run started from: the same content, wherever it is now."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sg3flow.checkpoints.sources import local_copy
from sg3flow.errors import DataError
from sg3flow.provenance.network import network_digest
from sg3flow.reproduction.record import Record

# Of such a name the fingerprint holds the text; of any other the content of the file.
_NAMED = re.compile(r"~|[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class Start:
    """The network to start from; both empty: none.

    Attributes:
        recorded: the setting that the run's fingerprint was made of.
        here: the file or folder to train from.
    """

    recorded: str
    here: str

    def kept_in(self, folder: Path) -> str:
        """Where it is trained from: of a model that came as a folder, a copy in ``folder``.

        The place of a folder is in the new training's fingerprint: an attempt that goes on after an
        interruption must find it where it was.
        """
        if not self.here or Path(self.here).is_file():
            return self.here
        kept = folder / "network"
        shutil.copytree(self.here, kept, dirs_exist_ok=True)
        return str(kept)


def find_network(record: Record, root: Path, given: str) -> Start:
    """Bring the network here, with the user's own tracking server where that has it.

    Args:
        root: the user's project.
        given: where it is now; empty: where the run had it.

    Raises:
        CheckpointError, TrackingError: it is not there.
        DataError: it is another one, or the run started from none.
    """
    source = str(record.run["params"].get("resume", ""))
    if not source:
        if given:
            raise DataError(f"{record.origin} started from no network; leave out --resume")
        return Start("", "")
    is_named = _NAMED.match(source) is not None
    beside = root / record.provenance.get("folder", ".") / source
    path = local_copy(given or (source if is_named else beside)).resolve()
    digest, expected = network_digest(path), record.network.get("sha256", "")
    if expected and digest != expected:
        raise DataError(
            f"{given or source} is not the network that the run started from: its SHA-256 is "
            f"{digest[:12]}…, recorded is {expected[:12]}…; give --resume with that one"
        )
    return Start(source if is_named else str(path), str(path))
