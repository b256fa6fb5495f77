"""Changes of the aliases of a registered model: promotion, rollback, and their history.

MLflow keeps the present version of an alias, not its history. So every change leaves a record on
the version that gets the alias; ``alias_records.py`` has its form. The record is written before the
alias is changed; after an interruption in between, the record and the alias differ.

MLflow has no "change it if it is still at this version": of two changes at once the later one wins,
and the other caller gets a warning.
"""

import getpass
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sg3flow.config import BETTER
from sg3flow.errors import ConfigError, MetricError, TrackingError, nearest
from sg3flow.registry.alias_records import AliasChange, changes_of, merge_records, write_record
from sg3flow.registry.gate import Decision, decide, read_gate_record
from sg3flow.registry.version_terms import terms_of_version
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import (
    CHAMPION,
    Store,
    current_aliases,
    find_version,
    open_registry,
    require_model,
    results_of,
    tracking_errors,
    versions_of,
)

_MAX_REASON = 500

REGISTERED, PROMOTED, ROLLED_BACK = "register", "promote", "rollback"


def change_alias(
    store: Store, name: str, alias: str, target: str, *, how: str, why: str, forced: bool = False
) -> str:
    """Set an alias to a version and record the change; nothing happens if it is there already.

    Returns:
        a warning if somebody else changed the alias at the same time, or the empty string.

    Raises:
        TrackingError: as ``read_alias_changes``; nothing has changed.
    """
    read_alias_changes(store, name)  # a damaged record is an error before anything is changed
    origin = current_aliases(store, name).get(alias)
    if origin == target:
        return ""
    when = datetime.now(UTC).isoformat(timespec="microseconds")
    why = " ".join(why.split())[:_MAX_REASON]
    change = AliasChange(alias, origin, target, how, _who(), why, when, forced)
    record = write_record(store, name, change)
    try:
        store.client.set_registered_model_alias(name, alias, target)
    except Exception:
        with suppress(Exception):  # the first error is the one to report
            store.client.delete_model_version_tag(name, target, record)
        raise
    with suppress(Exception):  # the record is there: a later change merges it
        merge_records(store, name, target, record)
    return _overtaken(store, name, change)


def read_alias_changes(store: Store, name: str) -> list[AliasChange]:
    """All recorded changes, the earliest first.

    Raises:
        TrackingError: a record is damaged.
    """
    changes = _earlier_changes(store, name)
    for version in versions_of(store, name):
        changes += changes_of(name, version)
    return sorted(changes, key=lambda change: change.when)


def _earlier_changes(store: Store, name: str) -> list[AliasChange]:
    """Changes by version 0.2 and before: a tag of the registered model each."""
    tags = store.client.get_registered_model(name).tags
    changes = []
    for key in (key for key in tags if key.startswith(Tag.ALIAS_CHANGE)):
        try:
            changes.append(AliasChange(**json.loads(tags[key])))
        except (ValueError, TypeError):
            raise TrackingError(
                f"tag {key} of {name} is not a record of an alias change; delete it to continue"
            ) from None
    return changes


def past_holders(changes: Sequence[AliasChange], alias: str, now: str | None) -> list[str]:
    """The versions that held an alias and that a rollback can return to, the present one last.

    A rollback removes the version it left, so that two rollbacks go back by two versions.

    Args:
        changes: the earliest first.
        now: the present version of the alias; other tools may have set it.
    """
    line: list[str] = []
    for change in changes:
        if change.alias != alias:
            continue
        if change.origin is not None and line[-1:] != [change.origin]:  # set by another tool
            line.append(change.origin)
        if change.how == ROLLED_BACK and change.target in line:
            del line[_last(line, change.target) + 1 :]
        else:
            line.append(change.target)
    if now is not None and line[-1:] != [now]:
        line.append(now)
    return line


def _last(line: list[str], version: str) -> int:
    return len(line) - 1 - line[::-1].index(version)


def _overtaken(store: Store, name: str, change: AliasChange) -> str:
    now = current_aliases(store, name).get(change.alias)
    others = [
        other
        for other in read_alias_changes(store, name)
        if other.alias == change.alias and other.when > change.when
    ]
    if now == change.target and not others:
        return ""
    who = f" by {others[-1].who}" if others else ""
    return (
        f"{change.alias} of {name} was changed at the same time{who}; it is at version {now}; "
        f"`sg3flow history {name}` shows both changes"
    )


def _who() -> str:
    known = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if known:
        return " ".join(known.replace(":", " ").split()) or "unknown"  # a colon ends it in a line
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container
        return f"user {os.getuid()}"


@dataclass(frozen=True)
class AliasOutcome:
    """What happened to the alias, as text, and warnings: of another change, of too few images."""

    text: str
    warning: str = ""


def promote(
    name: str, wanted: str, *, metric: str = "", force: bool = False, reason: str = ""
) -> AliasOutcome:
    """Make a version the champion if it is better than the present one, or if forced.

    Args:
        wanted: number of the version, or an alias.
        metric: to be better by; empty: the gate that the version was registered with.
        force: promote even if the gate fails; needs a reason.
        reason: recorded with the change.

    Raises:
        ConfigError: force without a reason, or no such version.
        MetricError: the gate refuses: not better, or not comparable.
        TrackingError: no such model, or the registry cannot be used.
    """
    if force and not reason.strip():
        raise ConfigError("--force needs --reason TEXT: it is recorded with the change")
    store = open_registry()
    with tracking_errors(store.uri):
        version = find_version(store, name, wanted)
        number = str(version.version)
        if version.status != "READY":
            raise TrackingError(f"version {number} of {name} is {version.status}, not READY")
        champion = current_aliases(store, name).get(CHAMPION)
        if champion == number:
            return AliasOutcome(f"version {number} is the champion of {name} already")
        decision = _decide(store, name, version, champion, metric)
        if not decision.passed and not force:
            hint = f"; {decision.warning}" if decision.warning else ""
            raise MetricError(f"{decision.reason}{hint}; --force --reason TEXT overrides the gate")
        forced = force and not decision.passed
        why = "; ".join(part for part in (reason.strip(), decision.reason) if part)
        warning = change_alias(store, name, CHAMPION, number, how=PROMOTED, why=why, forced=forced)
    before = f", before version {champion}" if champion else ""
    how = f"by force, {decision.reason}" if forced else decision.reason
    return AliasOutcome(f"champion of {name} is version {number}{before} ({how})", warning)


def rollback(name: str, *, reason: str = "") -> AliasOutcome:
    """Set ``champion`` to the version that held it before; two rollbacks go back by two.

    Raises:
        TrackingError: no such model, no earlier champion on record, or the registry cannot be used.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        require_model(store, name)
        now = current_aliases(store, name).get(CHAMPION)
        if now is None:
            raise TrackingError(
                f"{name} has no champion; `sg3flow promote {name} VERSION` makes one"
            )
        line = past_holders(read_alias_changes(store, name), CHAMPION, now)
        present = {str(version.version) for version in versions_of(store, name)}
        # A version that was deleted since cannot hold it again.
        earlier = [number for number in line[:-1] if number in present and number != now]
        if not earlier:
            raise TrackingError(
                f"no earlier champion of {name} is on record; `sg3flow promote {name} VERSION` "
                "sets it to a version of your choice"
            )
        target, why = earlier[-1], reason.strip() or f"back from version {now}"
        warning = change_alias(store, name, CHAMPION, target, how=ROLLED_BACK, why=why)
    return AliasOutcome(
        f"champion of {name} is version {target} again, before version {now}", warning
    )


def _decide(store: Store, name: str, version: Any, champion: str | None, metric: str) -> Decision:
    """Whether the version may become champion, and why; without a comparison it may not."""
    results, number = results_of(version), f"version {version.version} of {name}"
    gate = {} if metric else read_gate_record(version.tags.get(Tag.GATE, ""))[0]
    gate = gate or {metric or version.tags.get(Tag.METRIC, ""): BETTER}
    missing = next((each for each in gate if each not in results), None)
    if missing == "":
        return Decision(False, f"{number} has no metric: it was not registered by sg3flow")
    if missing is not None:
        hint, known = nearest(missing, results), ", ".join(sorted(results)) or "nothing"
        return Decision(False, f"{number} was not measured by '{missing}'{hint}, but by {known}")
    if champion is None:
        return Decision(True, "there was no champion")
    present = store.client.get_model_version(name, champion)
    terms = terms_of_version(store, version, gate) | terms_of_version(store, present, gate)
    try:
        return decide(gate, results, champion, results_of(present), terms)
    except MetricError as error:
        return Decision(False, str(error))
