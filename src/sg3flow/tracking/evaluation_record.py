"""What an evaluation adds to the run of its training: a table of snapshots, and the best one."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg3flow.errors import Sg3flowError
from sg3flow.runs.best_snapshot import BestSnapshot, best_of_run
from sg3flow.runs.run_folder import fakes_name
from sg3flow.tracking.outbox import StageRun

TABLE = "eval/snapshots.json"
PICTURE = "eval/best.png"
_WIDEST = 1024  # pixels


def record_evaluation(stage_run: StageRun, run_dir: Path, report: Path) -> None:
    """Add the results of ``evaluate`` to the training's run.

    Args:
        stage_run: of the evaluation that has ended.
        run_dir: the training folder.
        report: ``reports/metrics.json``.
    """
    try:
        best, _, _ = best_of_run(run_dir, report)
    except Sg3flowError:  # the folder has changed meanwhile; tracking fails no stage
        return
    stage_run.training_table(TABLE, _table(stage_run.measured, best))
    picture = _samples(run_dir / fakes_name(best.kimg * 1000))
    if picture:
        stage_run.training_file(PICTURE, picture)
    stage_run.training_best(_described(best, PICTURE if picture else ""))


def _table(measured: Mapping[str, Mapping[str, Any]], best: BestSnapshot) -> bytes:
    """One row per snapshot, in the form of MLflow's ``log_table``."""
    metrics = sorted({name for row in measured.values() for name in row["values"]})
    metrics.sort(key=lambda name: name != best.metric)
    rows = [
        [row["kimg"], *(row["values"].get(name) for name in metrics), name == best.snapshot, name]
        for name, row in sorted(measured.items(), key=lambda item: item[1]["kimg"])
    ]
    content = {"columns": ["kimg", *metrics, "best", "snapshot"], "data": rows}
    return json.dumps(content).encode()


def _described(best: BestSnapshot, picture: str) -> dict[str, Any]:
    keys = ("metric", "value", "standard_error", "num_generated")
    results = {
        name: {key: row[key] for key in keys if row.get(key) is not None}
        for name, row in best.results.items()
    }
    known = {"snapshot": best.snapshot, "kimg": best.kimg, "metric": best.metric}
    return known | {"results": results, "picture": picture}


def _samples(grid: Path) -> bytes:
    """A grid of samples, made smaller if it is wide; empty: there is none."""
    from PIL import Image

    try:
        with Image.open(grid) as image:
            image.thumbnail((_WIDEST, _WIDEST))
            stream = io.BytesIO()
            image.save(stream, "PNG")
            return stream.getvalue()
    except OSError:  # missing or damaged
        return b""
