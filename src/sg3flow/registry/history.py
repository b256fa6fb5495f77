"""The versions of a registered model and the moves of its aliases, as tables for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sg3flow.registry.aliases import AliasChange, read_alias_changes
from sg3flow.runs.best_snapshot import BestSnapshot
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import (
    CHAMPION,
    Store,
    open_registry,
    require_model,
    results_of,
    standing,
    tracking_errors,
    versions_of,
    with_error,
)

_OPEN_END = "now"


def print_history(name: str) -> None:
    """Print a table of the versions and one of the moves.

    Raises:
        TrackingError: no such model, or the registry cannot be used.
    """
    from rich.console import Console

    store = open_registry()
    with tracking_errors(store.uri):
        require_model(store, name)
        versions, moves = versions_of(store, name), read_alias_changes(store, name)
        aliases = standing(store, name)
        runs = {str(v.version): _run_name(store, v.run_id) for v in versions}
    console = Console()
    console.print(_versions_table(versions, moves, aliases, runs))
    if moves:
        console.print(_moves_table(moves))
    for line in disagreements(moves, aliases):
        print(f"note: {line}")


def held(moves: Sequence[AliasChange], version: str) -> list[tuple[str, str, str]]:
    """(alias, from, until) of every time a version held an alias; the last one may be ``now``."""
    spans = []
    for i, move in enumerate(moves):
        if move.target == version:
            later = (m.when for m in moves[i + 1 :] if m.alias == move.alias)
            spans.append((move.alias, move.when, next(later, _OPEN_END)))
    return spans


def disagreements(moves: Sequence[AliasChange], aliases: dict[str, str]) -> list[str]:
    """In words, where the aliases do not stand where the last recorded move put them."""
    last = {move.alias: move.target for move in moves}
    lines = []
    for alias in sorted(last.keys() | aliases.keys()):
        if alias not in last:
            lines.append(f"{alias} stands at version {aliases[alias]} by no move of sg3flow")
        elif aliases.get(alias) != last[alias]:
            place = f"at version {aliases[alias]}" if alias in aliases else "nowhere"
            lines.append(
                f"{alias} stands {place}, not at {last[alias]}: another tool moved it, or the "
                "move was cut short"
            )
    return lines


def _versions_table(
    versions: Sequence[Any],
    moves: Sequence[AliasChange],
    aliases: dict[str, str],
    runs: dict[str, str],
) -> Any:
    from rich.table import Column, Table

    result_column = Column("result", overflow="fold")  # a name cut short is no name
    table = Table(
        "version", "registered", "run", "kimg", result_column, "aliases", "champion from, to"
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
                for alias, start, end in held(moves, number)
                if alias == CHAMPION
            ),
        )
    return table


def _moves_table(moves: Sequence[AliasChange]) -> Any:
    from rich.table import Table

    table = Table("when (UTC)", "alias", "from", "to", "by", "who", "why")
    for move in moves:
        how = f"{move.how}, forced" if move.forced else move.how
        origin = move.origin or "-"
        table.add_row(_minute(move.when), move.alias, origin, move.target, how, move.who, move.why)
    return table


def _run_name(store: Store, run_id: str | None) -> str:
    """Name and start of the id of a run; its id alone if the run was deleted."""
    if not run_id:
        return "?"
    found = store.client.search_runs(
        [store.experiment_id], f"attributes.run_id = '{run_id}'", max_results=1
    )
    return f"{found[0].info.run_name} {run_id[:8]}" if found else run_id[:8]


def _minute(when: str) -> str:
    return when if when == _OPEN_END else when[:16].replace("T", " ")


SAMPLES = "samples.png"


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from.

    Attributes:
        run_id: run that made it; ``run_name`` and ``commit`` are that run's, empty if not known.
        model_id: the LoggedModel that holds its files.
    """

    run_id: str
    model_id: str
    run_name: str = ""
    commit: str = ""


def describe(
    name: str,
    version: str,
    best: BestSnapshot,
    training_set: Mapping[str, Any],
    lineage: Lineage,
    snapshot_sha256: str,
) -> str:
    """The description of a version: metrics with their errors, data, license, lineage, samples."""
    lines = [
        f"{best.snapshot}, {best.kimg} kimg, chosen by {best.metric}.",
        "",
        "| metric | value | pictures |",
        "| --- | --- | --- |",
        *(_row(metric, result) for metric, result in sorted(best.results.items())),
        "",
        f"- trained on {training_set.get('num_images', '?')} pictures of "
        f"{training_set.get('name', '?')}, digest {training_set.get('digest') or 'not known'}",
        f"- licence: {training_set.get('licence') or 'not known'}{_citation(training_set)}",
        f"- run {lineage.run_name or 'not named'} ({lineage.run_id}), commit "
        f"{lineage.commit or 'not known'}, snapshot SHA-256 {snapshot_sha256}",
        f"- samples: `mlflow artifacts download -u models:/{name}/{version}/artifacts/{SAMPLES}`",
        "",
        f"![seeds 0 to 11, psi 1]({_picture_address(lineage.model_id)})",
    ]
    return "\n".join(lines)


def _row(metric: str, result: Mapping[str, Any]) -> str:
    return f"| {metric} | {with_error(dict(result))} | {result.get('num_generated', '')} |"


def _citation(training_set: Mapping[str, Any]) -> str:
    return f"; cite: {training_set['citation']}" if training_set.get("citation") else ""


def _picture_address(model_id: str) -> str:
    # Relative: the same text is right on every server, and behind a prefix.
    return (
        f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files?artifact_file_path={_PATH}"
    )


_PATH = f"artifacts%2F{SAMPLES}"
