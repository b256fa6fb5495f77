"""The versions of a registered model and the changes of its aliases, as tables."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sg3flow.registry.alias_records import AliasChange
from sg3flow.registry.aliases import read_alias_changes
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import (
    CHAMPION,
    Store,
    current_aliases,
    open_registry,
    require_model,
    results_of,
    tracking_errors,
    versions_of,
    with_error,
)
from sg3flow.tracking.tracked_runs import find_run_by_id

_OPEN_END = "now"
_SHORT_ID = 8  # characters of the id of a run: enough to find it


def print_history(name: str) -> None:
    """Print a table of the versions and one of the alias changes.

    Raises:
        TrackingError: no such model, or the registry cannot be used.
    """
    from rich.console import Console

    store = open_registry()
    with tracking_errors(store.uri):
        require_model(store, name)
        versions, changes = versions_of(store, name), read_alias_changes(store, name)
        aliases = current_aliases(store, name)
        runs = {str(v.version): _run_name(store, v.run_id) for v in versions}
    console = Console()
    console.print(_versions_table(versions, changes, aliases, runs))
    if changes:
        console.print(_changes_table(changes))
    for line in mismatches(changes, aliases):
        print(f"note: {line}")


def holding_times(changes: Sequence[AliasChange], version: str) -> list[tuple[str, str, str]]:
    """(alias, from, until) of each time that a version held an alias; the end may be ``now``."""
    spans = []
    for i, change in enumerate(changes):
        if change.target == version:
            later = (m.when for m in changes[i + 1 :] if m.alias == change.alias)
            spans.append((change.alias, change.when, next(later, _OPEN_END)))
    return spans


def mismatches(changes: Sequence[AliasChange], aliases: dict[str, str]) -> list[str]:
    """A sentence for each alias that is not at the version of its last recorded change."""
    last = {change.alias: change.target for change in changes}
    lines = []
    for alias in sorted(last.keys() | aliases.keys()):
        if alias not in last:
            lines.append(f"{alias} is at version {aliases[alias]}, which sg3flow did not set")
        elif aliases.get(alias) != last[alias]:
            state = f"is at version {aliases[alias]}" if alias in aliases else "does not exist"
            lines.append(
                f"{alias} {state}, and the last recorded change set it to {last[alias]}: another "
                "tool changed it, or the change was interrupted"
            )
    return lines


def _versions_table(
    versions: Sequence[Any],
    changes: Sequence[AliasChange],
    aliases: dict[str, str],
    runs: dict[str, str],
) -> Any:
    from rich.table import Column, Table

    result_column = Column("result", overflow="fold")  # names must not be truncated
    run_column = Column("run", overflow="fold", min_width=_SHORT_ID)  # an id stays in one piece
    table = Table(
        *("version", "registered", run_column, "kimg", result_column, "aliases"),
        "champion from, to",
    )
    for version in versions:
        number, tags = str(version.version), version.tags
        metric = tags.get(Tag.METRIC, "")
        result = results_of(version).get(metric)
        registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        table.add_row(
            number,
            _minute(registered.isoformat()),
            runs[number],
            tags.get(Tag.KIMG, "?"),
            f"{metric}\n{with_error(result)}" if result else "?",
            ", ".join(sorted(alias for alias, at in aliases.items() if at == number)),
            "\n".join(
                f"{_minute(start)}, {_minute(end)}"
                for alias, start, end in holding_times(changes, number)
                if alias == CHAMPION
            ),
        )
    return table


def _changes_table(changes: Sequence[AliasChange]) -> Any:
    from rich.table import Table

    table = Table("when (UTC)", "alias", "from", "to", "by", "who", "why")
    for change in changes:
        how = f"{change.how}, forced" if change.forced else change.how
        origin = change.origin or "-"
        table.add_row(
            _minute(change.when), change.alias, origin, change.target, how, change.who, change.why
        )
    return table


def _run_name(store: Store, run_id: str | None) -> str:
    """Name and start of the id of a run; its id alone if the run was deleted."""
    run = find_run_by_id(store, run_id) if run_id else None
    if not run_id or run is None or run.info.lifecycle_stage != "active":
        return run_id[:_SHORT_ID] if run_id else "?"
    return f"{run.info.run_name}\n{run_id[:_SHORT_ID]}"


def _minute(when: str) -> str:
    return when if when == _OPEN_END else when[:16].replace("T", " ")
