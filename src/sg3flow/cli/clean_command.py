"""`sg3flow clean`: removes what nothing needs any more, and says what that frees."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

if TYPE_CHECKING:
    from sg3flow.runs.removal import Finding, Removable

clean_app = stage_app("")
# In the order in which they are shown and removed; caches only on request.
_GROUPS = ("states", "records", "artifacts", "kernels", "temporary", "reproductions", "caches")
_ON_REQUEST = "caches"
_DAYS = 30.0
_REPORT = "reports/metrics.json"


@clean_app.command()
def clean(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="show what would be removed, and remove nothing")
    ] = False,
    days: Annotated[
        float | None,
        typer.Option(min=0, max=36500, help="spare what was changed within so many days; 30"),
    ] = None,
    states: Annotated[bool, typer.Option("--states", help="only states of trainings")] = False,
    records: Annotated[
        bool, typer.Option("--records", help="only records of stages that MLflow has")
    ] = False,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="only artifacts without a run in mlflow.db")
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="only kernels of other versions")
    ] = False,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="only what killed processes left")
    ] = False,
    reproductions: Annotated[
        bool, typer.Option("--reproductions", help="only worktrees of `sg3flow reproduce`")
    ] = False,
    caches: Annotated[
        bool, typer.Option("--caches", help="only downloads and features of reference sets")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="all of these; by default all but the caches")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="also states of trainings that did not end")
    ] = False,
    snapshots: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="only snapshots of --run-dir: keep 'last N' or 'best N' of them; the newest, the "
            "best and registered ones always stay",
        ),
    ] = "",
    run_dir: Annotated[
        Path | None,
        typer.Option(help="with --snapshots: folder of the training run; runs/train"),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="with --snapshots: report of evaluate; reports/metrics.json"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Remove old states, records, artifacts, kernels and leftovers that nothing needs.

    Never removes what a running training, the best or a registered snapshot needs, and nothing that
    MLflow does not have yet.
    """
    flags = (states, records, artifacts, kernels, temporary, reproductions, caches)
    if snapshots or run_dir is not None or metrics is not None:
        with one_line_errors(debug):
            others = any(flags) or everything or unfinished or days is not None
            _refuse_mixture(snapshots, others)
            run_dir, metrics = run_dir or Path("runs/train"), metrics or Path(_REPORT)
            if not _prune(snapshots, run_dir, metrics, dry_run):
                raise typer.Exit(1)
        return
    chosen = [group for group, is_asked in zip(_GROUPS, flags, strict=True) if is_asked]
    if everything or not chosen:
        chosen = [group for group in _GROUPS if everything or group != _ON_REQUEST]
    with one_line_errors(debug):
        finders = _finders(_DAYS if days is None else days, unfinished)
        found, problems = _find({group: finders[group] for group in chosen})
        if not _clean(found, dry_run) or problems:
            raise typer.Exit(1)


def _refuse_mixture(rule: str, has_others: bool) -> None:
    from sg3flow.errors import ConfigError

    if not rule:
        raise ConfigError("--run-dir and --metrics go with --snapshots RULE")
    if has_others:
        raise ConfigError("--snapshots goes with --run-dir, --metrics and --dry-run only")


def _prune(text: str, run_dir: Path, metrics: Path, dry_run: bool) -> bool:
    """Remove snapshots of a run; whether nothing failed."""
    from sg3flow.cli.snapshot_pruning import plan_pruning
    from sg3flow.runs.snapshot_retention import parse_retention

    pruning = plan_pruning(run_dir, metrics, parse_retention(text, "--snapshots"))
    print(pruning.words())
    if dry_run or not pruning.items:
        return _clean(pruning.items, dry_run)
    pruning.require_free()
    pruning.record()
    is_done = _clean(pruning.items, dry_run)
    pruning.finish()
    return is_done


def _finders(days: float, unfinished: bool) -> dict[str, Callable[[], Iterable["Finding"]]]:
    """What looks for each group."""
    from sg3flow.kernels.build import find_outdated_builds
    from sg3flow.runs import leftovers, old_states
    from sg3flow.runs.removal import Removable, is_old
    from sg3flow.settings import local_artifacts, local_database, project_root, state_root
    from sg3flow.tracking import unneeded_records as unneeded

    root, database = project_root(), local_database()

    def outdated() -> Iterator[Removable]:
        for path, why in find_outdated_builds():
            if is_old(path, days):
                yield Removable("kernels", path, why)

    return {
        "states": lambda: old_states.find_old_states(
            state_root(),
            days,
            is_sent=unneeded.is_sent,
            shown_uids=old_states.shown_uids(root),
            registered=unneeded.registered_digests(database),
            unfinished=unfinished,
        ),
        "records": lambda: unneeded.find_sent_records(days),
        "artifacts": lambda: unneeded.find_orphaned_artifacts(database, local_artifacts(), days),
        "kernels": outdated,
        "temporary": lambda: leftovers.find_temporary(root, state_root()),
        "reproductions": lambda: leftovers.find_reproductions(root, days),
        "caches": lambda: leftovers.find_caches(days),
    }


def _find(
    finders: dict[str, Callable[[], Iterable["Finding"]]],
) -> tuple[list["Removable"], int]:
    """What is removable, and how many groups could not be read; prints what stays."""
    from sg3flow.errors import Sg3flowError
    from sg3flow.runs.removal import Needed, Removable

    found: list[Removable] = []
    problems = 0
    for group, find in finders.items():
        try:
            for each in find():
                if isinstance(each, Needed):
                    print(f"kept: {_shown(each.path)}: {each.why}")
                elif not any(each.path.is_relative_to(other.path) for other in found):
                    found.append(each)
        except (OSError, Sg3flowError) as error:
            problems += 1
            print(f"error: {group}: {_reason(error)}", file=sys.stderr)
    return found, problems


def _clean(found: list["Removable"], dry_run: bool) -> bool:
    """Remove, or show what would be removed; whether nothing failed."""
    from sg3flow.runs.leftovers import REPRODUCTIONS
    from sg3flow.runs.removal import freed_bytes, is_free, named_bytes, remove

    in_use = [item for item in found if not is_free(item)]
    for item in in_use:
        print(f"kept: {_shown(item.path)}: another process uses it")
    found = [item for item in found if item not in in_use]
    sizes = freed_bytes(found)
    named = named_bytes(found)
    lines: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    failed = 0
    for item, size in zip(found, sizes, strict=True):
        place = _shown(item.path) if item.path.is_dir() else f"{_shown(item.path.parent)}/"
        try:
            if not dry_run and not remove(item):  # since it was looked at
                print(f"kept: {_shown(item.path)}: it is in use or was replaced")
                continue
        except OSError as error:
            failed += 1
            print(f"error: {_shown(item.path)}: {_reason(error)}", file=sys.stderr)
            continue
        lines[item.group, place, item.why].append(size)
    if not dry_run and any(item.group == REPRODUCTIONS for item in found):
        _forget_worktrees()
    total = sum(map(sum, lines.values()))
    for (group, place, why), freed in lines.items():
        count = f"{len(freed)} files, " if len(freed) > 1 else ""
        print(f"{group:<14}{sum(freed):>16,} bytes  {place}: {count}{why}")
    print(f"{'would free' if dry_run else 'freed':<14}{total:>16,} bytes")
    if not failed and named > total:
        print(
            f"{named - total:,} bytes have other names and stay: in runs/, mlruns/ or DVC's cache "
            "(`dvc gc --workspace` removes from it what the present files do not need)"
        )
    return not failed


def _forget_worktrees() -> None:
    """Let git forget the worktrees of removed reproductions."""
    from sg3flow.git import git_or_empty
    from sg3flow.settings import project_root

    git_or_empty(project_root(), "worktree", "prune")


def _shown(path: Path) -> str:
    """A path, relative to the project's folder if it is inside."""
    from sg3flow.settings import project_root

    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
