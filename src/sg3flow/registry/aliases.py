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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sg3flow.errors import ConfigError, MetricError, TrackingError, nearest
from sg3flow.metrics.estimates import BETTER, NOISE, compare_results
from sg3flow.runs.best_snapshot import differing_meaning
from sg3flow.tracking.mlflow_store import (
    CHAMPION,
    Store,
    find_version,
    open_registry,
    require_model,
    results_of,
    standing,
    tracking_errors,
    versions_of,
)

_PREFIX = "sg3flow.move."
_MAX_REASON = 500

REGISTERED, PROMOTED, ROLLED_BACK = "register", "promote", "rollback"


@dataclass(frozen=True)
class AliasChange:
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


def change_alias(
    store: Store, name: str, alias: str, target: str, *, how: str, why: str, forced: bool = False
) -> str:
    """Give an alias to a version and record it; nothing happens where it stands there already.

    Returns:
        a warning if somebody else moved the alias at the same time, or the empty string.

    Raises:
        TrackingError: as ``read_alias_changes``; nothing has moved.
    """
    read_alias_changes(store, name)  # a damaged record is told before anything is moved
    origin = standing(store, name).get(alias)
    if origin == target:
        return ""
    when = datetime.now(UTC).isoformat(timespec="microseconds")
    why = " ".join(why.split())[:_MAX_REASON]
    move = AliasChange(alias, origin, target, how, _who(), why, when, forced)
    key = f"{_PREFIX}{when.replace('+00:00', 'Z').replace(':', '')}-{secrets.token_hex(3)}"
    store.client.set_registered_model_tag(name, key, json.dumps(asdict(move)))
    try:
        store.client.set_registered_model_alias(name, alias, target)
    except Exception:
        with suppress(Exception):  # the store is in trouble: the first error is the one to tell
            store.client.delete_registered_model_tag(name, key)
        raise
    return _overtaken(store, name, move)


def read_alias_changes(store: Store, name: str) -> list[AliasChange]:
    """All recorded moves, the earliest first.

    Raises:
        TrackingError: a record that somebody changed by hand.
    """
    tags = store.client.get_registered_model(name).tags
    moves = []
    for key in (key for key in tags if key.startswith(_PREFIX)):
        try:
            moves.append(AliasChange(**json.loads(tags[key])))
        except (ValueError, TypeError):
            raise TrackingError(
                f"tag {key} of {name} is no record of a move; delete that tag to go on"
            ) from None
    return sorted(moves, key=lambda move: move.when)


def line_of_holders(moves: Sequence[AliasChange], alias: str, now: str | None) -> list[str]:
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


def _overtaken(store: Store, name: str, move: AliasChange) -> str:
    now = standing(store, name).get(move.alias)
    others = [
        other
        for other in read_alias_changes(store, name)
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


def require_comparable(
    result: Mapping[str, Any], champion: str, champion_result: Mapping[str, Any] | None
) -> None:
    """Refuse to compare what was measured against other pictures or by another detector.

    Arguments are those of ``judge``.

    Raises:
        MetricError: the reference set or the detector differs; says what to do.
    """
    differing = differing_meaning(result, champion_result) if champion_result is not None else []
    if differing:
        raise MetricError(
            f"{result['metric']} cannot be compared with the champion, version {champion}: "
            f"{' and '.join(differing)} differ; register under another name, or take the alias "
            "champion from that version first"
        )


def judge(
    result: Mapping[str, Any], champion: str, champion_result: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Compare a version with the champion; returns whether it takes its place, and why.

    It does where it is better by ``compare_results``: beyond the error of the difference.

    Args:
        result: the new version's row of ``reports/metrics.json`` for the chosen metric.
        champion: version number of the champion.
        champion_result: the champion's row for the same metric; None if it was not measured by it.

    Raises:
        MetricError: as ``require_comparable``.
    """
    metric, stays = result["metric"], f"version {champion} stays champion"
    if champion_result is None:
        return False, f"{stays}: not comparable, it was not measured by {metric}"
    require_comparable(result, champion, champion_result)
    verdict = compare_results(result, champion_result)
    if not verdict.is_compared:
        return False, f"{stays}: not comparable by {metric}, for {verdict.reason}"
    new, old = float(result["value"]), float(champion_result["value"])
    if verdict.word == BETTER:
        return True, f"champion: {metric} {new:g} is better than the {old:g} of version {champion}"
    words = f"{stays}: {metric} {new:g} is not better than its {old:g}"
    return False, f"{words} ({verdict.reason})" if verdict.word == NOISE else words


@dataclass(frozen=True)
class Moved:
    """What became of the alias, in words, and a warning if somebody else moved it too."""

    text: str
    warning: str = ""


def promote(
    name: str, wanted: str, *, metric: str = "", force: bool = False, reason: str = ""
) -> Moved:
    """Make a version the champion if it is better than the present one, or by force.

    Args:
        wanted: number of the version, or an alias.
        metric: what to compare by; empty: what the version was chosen by.
        force: move whatever the gate says; needs a reason, which is recorded with what it said.
        reason: recorded with the move.

    Raises:
        ConfigError: force without a reason, or no such version.
        MetricError: the gate refuses: not better, or not comparable.
        TrackingError: no such model, or the registry cannot be used.
    """
    if force and not reason.strip():
        raise ConfigError("--force needs --reason TEXT: it is recorded with the move")
    store = open_registry()
    with tracking_errors(store.uri):
        version = find_version(store, name, wanted)
        number = str(version.version)
        if version.status != "READY":
            raise TrackingError(f"version {number} of {name} is {version.status}, not READY")
        champion = standing(store, name).get(CHAMPION)
        if champion == number:
            return Moved(f"version {number} is the champion of {name} already")
        wins, verdict = _gate(store, name, version, champion, metric)
        if not wins and not force:
            raise MetricError(f"{verdict}; to promote it anyway: --force --reason TEXT")
        forced = force and not wins
        why = "; ".join(part for part in (reason.strip(), verdict) if part)
        warning = change_alias(store, name, CHAMPION, number, how=PROMOTED, why=why, forced=forced)
    before = f", before version {champion}" if champion else ""
    how = f"by force, {verdict}" if forced else verdict
    return Moved(f"champion of {name} is version {number}{before} ({how})", warning)


def rollback(name: str, *, reason: str = "") -> Moved:
    """Give ``champion`` back to the version that held it before; twice goes back by two.

    Raises:
        TrackingError: no such model, no earlier champion on record, or the registry cannot be used.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        require_model(store, name)
        now = standing(store, name).get(CHAMPION)
        if now is None:
            raise TrackingError(
                f"{name} has no champion; `sg3flow promote {name} VERSION` makes one"
            )
        line = line_of_holders(read_alias_changes(store, name), CHAMPION, now)
        present = {str(version.version) for version in versions_of(store, name)}
        # A version that was deleted since cannot hold it again.
        earlier = [number for number in line[:-1] if number in present and number != now]
        if not earlier:
            raise TrackingError(
                f"no earlier champion of {name} is on record; `sg3flow promote {name} VERSION` "
                "moves it to a version of your choice"
            )
        target, why = earlier[-1], reason.strip() or f"back from version {now}"
        warning = change_alias(store, name, CHAMPION, target, how=ROLLED_BACK, why=why)
    return Moved(f"champion of {name} is version {target} again, before version {now}", warning)


def _gate(
    store: Store, name: str, version: Any, champion: str | None, metric: str
) -> tuple[bool, str]:
    """Whether the version may become champion, and why; what cannot be judged may not."""
    results = results_of(version)
    metric = metric or version.tags.get("sg3flow.metric", "")
    if metric not in results:
        known = ", ".join(sorted(results)) or "nothing"
        hint = nearest(metric, results)
        verdict = (
            f"was not measured by '{metric}'{hint}, but by {known}"
            if metric
            else ("carries no metric: it was not registered by sg3flow")
        )
        return False, f"version {version.version} of {name} {verdict}"
    if champion is None:
        return True, "there was no champion"
    row = results_of(store.client.get_model_version(name, champion)).get(metric)
    try:
        return judge(results[metric], champion, row)
    except MetricError as error:
        return False, str(error)
