"""Moving ``champion`` by hand: through the gate or past it, and back."""

from dataclasses import dataclass
from typing import Any

from sg3flow.errors import ConfigError, MetricError, TrackingError, nearest
from sg3flow.tracking.champion import judge
from sg3flow.tracking.moves import (
    PROMOTED,
    ROLLED_BACK,
    line_of_holders,
    move_alias,
    read_moves,
    standing,
)
from sg3flow.tracking.store import Store, tracking_errors
from sg3flow.tracking.versions import (
    CHAMPION,
    find_version,
    open_registry,
    require_model,
    results_of,
    versions_of,
)


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
        warning = move_alias(store, name, CHAMPION, number, how=PROMOTED, why=why, forced=forced)
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
        line = line_of_holders(read_moves(store, name), CHAMPION, now)
        present = {str(version.version) for version in versions_of(store, name)}
        # A version that was deleted since cannot hold it again.
        earlier = [number for number in line[:-1] if number in present and number != now]
        if not earlier:
            raise TrackingError(
                f"no earlier champion of {name} is on record; `sg3flow promote {name} VERSION` "
                "moves it to a version of your choice"
            )
        target, why = earlier[-1], reason.strip() or f"back from version {now}"
        warning = move_alias(store, name, CHAMPION, target, how=ROLLED_BACK, why=why)
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
