"""The results as Markdown tables, and their places in docs/metrics.md."""

from typing import Any

START = "<!-- peers: written by `make peers` -->"
END = "<!-- peers end -->"
SPEED_MARKS = ("<!-- speed: written by `make peers-speed` -->", "<!-- speed end -->")
_OURS = "sg3flow"
_TASKS = {
    "fid": "Inception features of 2,000 images of {side} px in batches of {batch}, and FID",
    "kid-2000": "KID, 100 subsets of 1,000 of 2,000 x 2,048 features",
    "kid-5000": "KID, 100 subsets of 1,000 of 5,000 x 2,048 features",
}


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


def format_speed(content: dict[str, Any]) -> str:
    """The table of times and memory, one line per tool."""
    ours = {row["task"]: row for row in content["results"] if row["tool"] == _OURS}
    lines = [
        "| work | tool | seconds | times ours | peak memory | times ours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in content["results"]:
        own = ours[row["task"]]
        is_own = row["tool"] == _OURS
        name = _OURS if is_own else f"{row['tool']} {content['machine'][row['tool']]}"
        ratios = ["", ""]
        if not is_own:
            ratios = [f"{row[key] / own[key]:.2f}" for key in ("seconds", "peak_mib")]
        numbers = [f"{row['seconds']:.1f}", ratios[0], f"{row['peak_mib']:,} MiB", ratios[1]]
        lines.append(f"| {' | '.join([_TASKS[row['task']].format(**content), name, *numbers])} |")
    return "\n".join(lines) + "\n"


def fill_in(document: str, table: str, marks: tuple[str, str] = (START, END)) -> str:
    """The document with the table between its markers.

    Raises:
        ValueError: the markers are not there.
    """
    start, end = marks
    before, found, rest = document.partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the document has no {start} and {end}")
    return f"{before}{start}\n\n{table}\n{end}{after}"
