"""How far a run folder has been sent to a tracking server, and who is sending it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sg3flow.addresses import without_secrets
from sg3flow.files import file_lock, try_lock, write_json
from sg3flow.project import state_root
from sg3flow.reporting import read_run
from sg3flow.tracking.journal import EVENTS, FILE_KINDS, STATS, whole_lines


@dataclass
class Position:
    """What a server has of a folder.

    Kept in ``state/sent/``, not in the folder: that may be an output of DVC's, or a copy on a disk
    that cannot be written. Losing it costs time alone: everything goes again and adds nothing.

    Attributes:
        folder: the run folder.
        uri: the server, without its password.
        run_id: the run there.
        stats: bytes of ``stats.jsonl`` that it has.
        events: bytes of ``events.jsonl`` that it has.
        ahead: begin and end of lines after that which it has too: one it refuses stops no other.
        status: the status it was told.
    """

    folder: str
    uri: str
    run_id: str = ""
    stats: int = 0
    events: int = 0
    ahead: list[list[int]] = field(default_factory=list)
    status: str = ""

    def save(self) -> None:
        """Remember it."""
        write_json(_place(Path(self.folder), self.uri, "json"), asdict(self))

    def is_for(self, folder: Path, uri: str) -> bool:
        """Whether this is about that folder and that server."""
        return (self.folder, self.uri) == (str(folder.resolve()), without_secrets(uri))

    def restart(self, run_id: str) -> None:
        """Begin anew, with a run that has nothing yet as far as we know."""
        self.run_id, self.stats, self.events = run_id, 0, 0
        self.ahead, self.status = [], ""

    def events_left(self) -> list[tuple[int, bytes]]:
        """Lines of ``events.jsonl`` that the server lacks, each with the byte it begins at."""
        left, start = [], self.events
        known = {begin for begin, _ in self.ahead}
        for line in whole_lines(Path(self.folder) / EVENTS, start):
            if start not in known:
                left.append((start, line))
            start += len(line)
        return left

    def sent(self, start: int, line: bytes) -> None:
        """Note that the line which begins at ``start`` is there."""
        self.ahead.append([start, start + len(line)])
        ends = {begin: end for begin, end in self.ahead}
        while self.events in ends:
            self.events = ends.pop(self.events)
        self.ahead = [list(item) for item in ends.items()]
        self.save()

    def unsent(self) -> tuple[int, int]:
        """Lines that the server lacks, and how many of them are files."""
        events = [line for _, line in self.events_left()]
        files = [line for line in events if _is_file(line)]
        stats = whole_lines(Path(self.folder) / STATS, self.stats)
        return len(events) + len(stats), len(files)


def load_position(folder: Path, uri: str) -> Position:
    """How far ``folder`` was sent to the server ``uri``, as far as this machine knows."""
    shown = without_secrets(uri)
    blank = Position(str(folder.resolve()), shown)
    try:
        text = _place(folder, shown, "json").read_text(encoding="utf-8")
        known = Position(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return blank
    return known if known.is_for(folder, uri) else blank


@contextmanager
def sole_sender(folder: Path, uri: str) -> Iterator[bool]:
    """Whether this process alone sends ``folder`` to ``uri`` while the block runs."""
    lock = file_lock(_place(folder, without_secrets(uri), "lock"))
    is_ours = try_lock(lock)
    try:
        yield is_ours
    finally:
        lock.release()


def _place(folder: Path, uri: str, suffix: str) -> Path:
    described = read_run(folder) or {}  # made anew at the same path, a folder is another run
    identity = (str(described.get("uid")), uri, str(folder.resolve()))
    mark = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]
    return state_root() / "sent" / f"{mark}.{suffix}"


def _is_file(line: bytes) -> bool:
    try:
        return json.loads(line)["kind"] in FILE_KINDS
    except (ValueError, KeyError, TypeError):
        return False
