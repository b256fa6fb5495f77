"""Moves of an alias of a registered model, each recorded for good beside the model.

MLflow keeps where an alias stands, not where it stood. So every move leaves a tag of its own on the
registered model: two that move at once both leave their record, for neither rewrites the other's.
The record is written before the alias is moved; a move that was cut short in between shows as a
record that the alias does not agree with.

What MLflow does not offer is "move it if it still stands there": of two moves at the same moment
the later one stands. Whoever was overtaken is told so.
"""

import getpass
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sg3flow.errors import TrackingError
from sg3flow.tracking.store import Store

_PREFIX = "sg3flow.move."
_MAX_REASON = 500

REGISTERED, PROMOTED, ROLLED_BACK = "register", "promote", "rollback"


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        when: UTC, ISO 8601 with microseconds; their order is that of the moves.
        origin: version the alias was taken from; None: it did not exist.
        target: version it was given to.
        how: register, promote or rollback.
        who: user of the machine, or of the tracking server.
        why: what the gate said, and what the person did.
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


def move_alias(
    store: Store, name: str, alias: str, target: str, *, how: str, why: str, forced: bool = False
) -> str:
    """Give an alias to a version and record it; nothing happens where it stands there already.

    Returns:
        a warning if somebody else moved the alias at the same time, or the empty string.

    Raises:
        TrackingError: as ``read_moves``; nothing has moved.
    """
    read_moves(store, name)  # a damaged record is told before anything is moved
    origin = standing(store, name).get(alias)
    if origin == target:
        return ""
    when = datetime.now(UTC).isoformat(timespec="microseconds")
    why = " ".join(why.split())[:_MAX_REASON]
    move = Move(alias, origin, target, how, _who(), why, when, forced)
    key = f"{_PREFIX}{when.replace('+00:00', 'Z').replace(':', '')}-{secrets.token_hex(3)}"
    store.client.set_registered_model_tag(name, key, json.dumps(asdict(move)))
    try:
        store.client.set_registered_model_alias(name, alias, target)
    except Exception:
        with suppress(Exception):  # the store is in trouble: the first error is the one to tell
            store.client.delete_registered_model_tag(name, key)
        raise
    return _overtaken(store, name, move)


def read_moves(store: Store, name: str) -> list[Move]:
    """All recorded moves, the earliest first.

    Raises:
        TrackingError: a record that somebody changed by hand.
    """
    tags = store.client.get_registered_model(name).tags
    moves = []
    for key in (key for key in tags if key.startswith(_PREFIX)):
        try:
            moves.append(Move(**json.loads(tags[key])))
        except (ValueError, TypeError):
            raise TrackingError(
                f"tag {key} of {name} is no record of a move; delete that tag to go on"
            ) from None
    return sorted(moves, key=lambda move: move.when)


def standing(store: Store, name: str) -> dict[str, str]:
    """Where the aliases stand: version by alias."""
    # Versions are numbers from a database and texts from a server.
    found = store.client.get_registered_model(name).aliases
    return {str(alias): str(version) for alias, version in found.items()}


def line_of_holders(moves: Sequence[Move], alias: str, now: str | None) -> list[str]:
    """The versions a rollback goes back through, the present holder last.

    A rollback takes its version off the line, so that two of them go back by two.

    Args:
        moves: the earliest first.
        now: where the alias stands; it may have been moved by other tools.
    """
    line: list[str] = []
    for move in moves:
        if move.alias != alias:
            continue
        if move.origin is not None and line[-1:] != [move.origin]:  # moved there by another tool
            line.append(move.origin)
        if move.how == ROLLED_BACK and move.target in line:
            del line[_last(line, move.target) + 1 :]
        else:
            line.append(move.target)
    if now is not None and line[-1:] != [now]:
        line.append(now)
    return line


def _last(line: list[str], version: str) -> int:
    return len(line) - 1 - line[::-1].index(version)


def _overtaken(store: Store, name: str, move: Move) -> str:
    now = standing(store, name).get(move.alias)
    others = [
        other
        for other in read_moves(store, name)
        if other.alias == move.alias and other.when > move.when
    ]
    if now == move.target and not others:
        return ""
    who = f" by {others[-1].who}" if others else ""
    return (
        f"{move.alias} of {name} was moved at the same time{who}; it stands at version {now}; "
        f"`sg3flow history {name}` shows both moves"
    )


def _who() -> str:
    known = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if known:
        return known
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        return f"user {os.getuid()}"
