"""The record of an alias change: a line in one tag of the version that got the alias.

A line is first written to a tag of its own, then merged into the one tag, and then its own tag is
deleted: but only if no other change is being merged meanwhile, which may have read the one tag
before. So two changes at once both leave their record, although MLflow cannot append to a tag.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sg3flow.errors import TrackingError, cut
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import Store

_OWN = f"{Tag.ALIASES}."
# Each request of a merge ends within 10 s: a tag that is older was left by a killed process.
_MERGED_WITHIN = timedelta(seconds=60)
_LINE = re.compile(r"(\S+) (\S+) (\S+) -> (\S+), (\w+)( --force)? by ([^:]*): (.*)")


@dataclass(frozen=True)
class AliasChange:
    """One change of an alias.

    Attributes:
        when: UTC, ISO 8601 with microseconds; the changes are ordered by it.
        origin: the version before; None: the alias did not exist.
        target: the version after.
        how: register, promote or rollback.
        who: user of the machine, or of the tracking server.
        why: the reason that the user gave, and that of the gate.
        forced: whether the gate was overridden.
    """

    alias: str
    origin: str | None
    target: str
    how: str
    who: str
    why: str
    when: str
    forced: bool = False

    def line(self) -> str:
        """The change as a line of text, the inverse of ``from_line``."""
        how = f"{self.how} --force" if self.forced else self.how
        who = " ".join(self.who.replace(":", " ").split()) or "unknown"  # a colon ends it
        versions = f"{self.origin or '-'} -> {self.target}"
        return f"{self.when} {self.alias} {versions}, {how} by {who}: {' '.join(self.why.split())}"

    @classmethod
    def from_line(cls, line: str) -> "AliasChange":
        """Read a line that ``line`` gave.

        Raises:
            ValueError: it is none.
        """
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError("not a record of an alias change")
        when, alias, origin, target, how, force, who, why = found.groups()
        before = None if origin == "-" else origin
        return cls(alias, before, target, how, who, why, when, bool(force))


def changes_of(name: str, version: Any) -> list[AliasChange]:
    """The recorded changes that gave an alias to a version.

    Args:
        name: of the registered model.
        version: as MLflow gives it.

    Raises:
        TrackingError: a line is damaged.
    """
    changes = []
    for line in sorted({line for text in _texts(version.tags) for line in text.splitlines()}):
        try:
            changes.append(AliasChange.from_line(line))
        except ValueError:
            raise TrackingError(
                f"tag {Tag.ALIASES} of {name} version {version.version} has a line that is not a "
                f"record of an alias change: '{cut(line)}'; delete it to continue"
            ) from None
    return changes


def write_record(store: Store, name: str, change: AliasChange) -> str:
    """Write the record of a change that is about to happen; returns the key of its tag."""
    stamp = datetime.fromisoformat(change.when).strftime("%Y%m%dT%H%M%S.%f")
    key = f"{_OWN}{stamp}-{secrets.token_hex(3)}"
    store.client.set_model_version_tag(name, change.target, key, change.line())
    return key


def merge_records(store: Store, name: str, version: str, own: str) -> None:
    """Merge the tags of changes into the one tag of a version.

    Args:
        own: key of the tag that ``write_record`` has written.
    """
    tags = store.client.get_model_version(name, version).tags
    lines = sorted({line for text in _texts(tags) for line in text.splitlines()})
    store.client.set_model_version_tag(name, version, Tag.ALIASES, "\n".join(lines))
    now = store.client.get_model_version(name, version).tags
    keys = [key for key in now if key.startswith(_OWN)]
    if any(key != own and not _is_left(key) for key in keys):
        return
    merged = now.get(Tag.ALIASES, "").splitlines()
    for key in keys:
        if now[key] in merged:
            store.client.delete_model_version_tag(name, version, key)


def _texts(tags: Any) -> list[str]:
    return [str(tags[key]) for key in tags if key == Tag.ALIASES or key.startswith(_OWN)]


def _is_left(key: str) -> bool:
    """Whether the process that wrote a tag has ended without merging it."""
    stamp = key.removeprefix(_OWN).partition("-")[0]
    try:
        written = datetime.strptime(stamp, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - written > _MERGED_WITHIN
