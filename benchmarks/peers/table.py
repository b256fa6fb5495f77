"""The results as a Markdown table, and its place in docs/metrics.md."""

from typing import Any

START = "<!-- peers: written by `make peers` -->"
END = "<!-- peers end -->"


def format_rows(results: dict[str, Any]) -> str:
    """The table of all checks, one line per row."""
    lines = [
        "| case | tool | theirs | ours | name here | relative difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rows in results["checks"].values():
        lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    difference = f"{row['difference']:.1e}" + (f": {row['note']}" if row["note"] else "")
    name = f"`{row['name']}`" if row["name"] else ""
    numbers = [f"{row[side]:.7g}" for side in ("theirs", "ours")]
    cells = [row["case"], f"{row['tool']} {row['version']}", *numbers, name, difference]
    return f"| {' | '.join(cells)} |"


def fill_in(document: str, table: str) -> str:
    """The document with the table between its markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, found, rest = document.partition(START)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"the document has no {START} and {END}")
    return f"{before}{START}\n\n{table}\n{END}{after}"
