"""The description of a training's run in Markdown: what, data, license, best snapshot.

It is written from what MLflow has of the run. A description that somebody has edited stays.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import Store, with_error

NOTE = "mlflow.note.content"
FAMILY_NAMES = {
    "stylegan3-t": "StyleGAN3-T",
    "stylegan3-r": "StyleGAN3-R",
    "stylegan2": "StyleGAN2",
}
_MOST_CLASSES = 6
_SHOWN = 12  # digits of a digest


def write_note(store: Store, run_id: str, best: Mapping[str, Any] | None = None) -> None:
    """Describe a training's run, unless somebody has edited its description.

    Args:
        best: the best snapshot as an evaluation recorded it: ``snapshot``, ``kimg``, ``metric``,
            ``results`` (rows by metric) and ``picture`` (an artifact of the run, or empty). None:
            it is not known, so a description that is there already stays.
    """
    run = store.client.get_run(run_id)
    present = run.data.tags.get(NOTE, "")
    if present and (best is None or run.data.tags.get(Tag.NOTE) != _mark(present)):
        return
    text = "\n\n".join([_facts(run, best), *(_best(run_id, best) if best else [])])
    if text != present:
        store.client.set_tag(run_id, Tag.NOTE, _mark(text))
        store.client.set_tag(run_id, NOTE, text)


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(run: Any, best: Mapping[str, Any] | None) -> str:
    """A table; what is in its first lines can be read without opening the description."""
    tags, params = run.data.tags, run.data.params
    rows = {
        "what": _what(params, tags),
        "best": _best_words(best) if best else "",
        "data": _data(run),
        "license": tags.get(Tag.LICENSE) or "unknown",
        "code": _code(tags),
        "reproduce": f"`{tags[Tag.REPRODUCE]}`" if tags.get(Tag.REPRODUCE) else "",
    }
    return table(("", ""), [(f"**{name}**", words) for name, words in rows.items() if words])


def _what(params: Mapping[str, str], tags: Mapping[str, str]) -> str:
    network = FAMILY_NAMES.get(params.get("cfg", ""), params.get("cfg", "training"))
    known = {name: params.get(name, "") for name in ("gamma", "batch")}
    known["kimg"] = tags.get(Tag.KIMG) or params.get("kimg", "")
    words = [network, *(f"{name} {value}" for name, value in known.items() if value)]
    if params.get("resume"):
        words.append(f"from {params['resume']}")
    return ", ".join(words)


def _data(run: Any) -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return ""
    dataset = inputs[0].dataset
    profile = _profile(dataset)
    # The stage that names a set first decides the profile that MLflow keeps of it.
    counts = profile.get("class_counts") or profile.get("classes") or {}
    words = [f"{dataset.name}: {profile.get('num_images', '?')} images"]
    if 0 < len(counts) <= _MOST_CLASSES:
        words.append(", ".join(f"{number} {name}" for name, number in counts.items()))
    elif counts:
        words.append(f"{len(counts)} classes")
    return "; ".join([*words, f"digest `{dataset.digest[:_SHOWN]}`"])


def _profile(dataset: Any) -> dict[str, Any]:
    try:
        content = json.loads(dataset.profile or "{}")
    except ValueError:  # another tool may have named the set first
        content = None
    return content if isinstance(content, dict) else {}


def _code(tags: Mapping[str, str]) -> str:
    commit = tags.get("mlflow.source.git.commit", "")[:_SHOWN]
    changed = " with changes" if tags.get(Tag.GIT_DIRTY) == "true" else ""
    return f"`{commit}`{changed}" if commit else ""


def _best_words(best: Mapping[str, Any]) -> str:
    value = with_error(dict(best["results"][best["metric"]]))
    return f"{best['metric']} {value} at {best['kimg']} kimg"


def _best(run_id: str, best: Mapping[str, Any]) -> list[str]:
    title = f"**Best snapshot** {best['snapshot']} at {best['kimg']} kimg, by {best['metric']}"
    parts = [title, metrics_table(best["results"].values(), best["metric"])]
    if best.get("picture"):
        # Relative: valid on every server, and behind a prefix.
        address = f"get-artifact?path={quote(best['picture'], safe='')}&run_uuid={run_id}"
        parts.append(f"![samples of the best snapshot]({address})")
    return parts


def metrics_table(rows: Any, first: str) -> str:
    """Rows of ``reports/metrics.json`` as a table in Markdown; the metric ``first`` on top."""
    ordered = sorted(rows, key=lambda row: (row["metric"] != first, row["metric"]))
    cells = [
        (row["metric"], with_error(dict(row)), str(row.get("num_generated", ""))) for row in ordered
    ]
    return table(("metric", "value", "images"), cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the cells are text of one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
