"""Run data from the files of a training, in its folder or in DVC's cache.

Files may be missing, incomplete or from an older version: unreadable parts become notes.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from sg3flow.compare.run_data import Measured, Point, RunData, Snapshot, canonical, read_measured
from sg3flow.errors import DataError
from sg3flow.files import sha256_file
from sg3flow.metrics.estimates import NOT_MEASURED
from sg3flow.runs.best_snapshot import REPORT_NAME, SUMMARY_NAME
from sg3flow.runs.run_folder import (
    NETWORKS,
    OPTIONS,
    PROVENANCE,
    RUN,
    STATS,
    is_metric_file,
    is_run_folder,
    parse_row,
    snapshot_kimg,
    whole_lines,
)
from sg3flow.tracking.mlflow_store import tracking_uri
from sg3flow.tracking.outbox import load_offset

_DEVICE = re.compile(r"^device (\S+), ops (.+)$", re.MULTILINE)

_DIGEST_SHOWN = 12


@dataclass
class TrainingFiles:
    """The readable content of the files of a training.

    Attributes:
        files: path of each file, by its name in the run folder.
        notes: sentences about what could not be read.
    """

    files: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """The content of ``run.json``; for older runs, of ``training_options.json``."""
        if RUN in self.files:
            return self._json(RUN)
        options = self._json(OPTIONS)
        return {"params": options.get("resolved", {}), **options}

    def curves(self) -> dict[str, list[Point]]:
        """The mean values in ``stats.jsonl``, by name."""
        curves: dict[str, list[Point]] = {}
        for row in self._lines(STATS):
            kimg = _kimg_of_row(row)
            if kimg is None:
                continue
            for name, stat in row.items():
                mean = stat.get("mean") if isinstance(stat, dict) else None
                if _is_finite(mean):
                    curves.setdefault(name, []).append(Point(kimg, float(mean)))
        return curves

    def trained_metrics(self) -> dict[str, list[Point]]:
        """Metrics measured during training, by name."""
        found: dict[str, list[Point]] = {}
        for name in sorted(self.files):
            if not is_metric_file(name):
                continue
            for row in self._lines(name):
                kimg, results = _kimg_of_row(row), row.get("results")
                for metric, value in results.items() if isinstance(results, dict) else ():
                    if kimg is not None and _is_finite(value):
                        found.setdefault(metric, []).append(Point(kimg, float(value)))
        return found

    def snapshots(self) -> dict[int, Path]:
        """Snapshot files by kimg, oldest first."""
        kimgs = {name: snapshot_kimg(name) for name in self.files}
        found = {kimg: self.files[name] for name, kimg in kimgs.items() if kimg is not None}
        return dict(sorted(found.items()))

    def device_and_ops(self) -> dict[str, str]:
        """Device and ops, from the last line of ``networks.txt``."""
        match = _DEVICE.search(self._text(NETWORKS))
        return {"device": match[1], "ops": match[2]} if match else {}

    def provenance(self) -> dict[str, str]:
        """Code, ops, GPU, machine and the initial network from ``provenance.json``.

        Older runs have no such file.
        """
        content = self._json(PROVENANCE)
        code, compute, machine = (_part(content, key) for key in ("code", "compute", "machine"))
        gpus = machine.get("gpus")
        known = [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
        names = [str(gpu.get("name", "")) for gpu in known]
        found = {
            "code": code_words(code.get("commit"), code.get("dirty")),
            "sg3flow": code.get("version"),
            "torch": compute.get("torch"),
            "ops": compute.get("ops"),
            "GPU": ", ".join(name for name in names if name),
            "machine": f"{machine.get('system', '')} {machine.get('architecture', '')}".strip(),
            "CPU": machine.get("cpu"),
            "initial network": network_words(_part(content, "network")),
        }
        return {name: str(value) for name, value in found.items() if value}

    def _text(self, name: str) -> str:
        if name not in self.files:
            return ""
        try:
            return self.files[name].read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.notes.append(f"{name} cannot be read ({error.strerror or error})")
            return ""

    def _json(self, name: str) -> dict[str, Any]:
        text = self._text(name)
        try:
            content = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            self.notes.append(f"{name} is damaged")
            return {}
        return content

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = whole_lines(self.files[name]) if name in self.files else []
        except OSError as error:
            self.notes.append(f"{name} cannot be read ({error.strerror or error})")
            return []
        rows = [row for line in lines if (row := parse_row(line)) is not None]
        if len(rows) < len(lines):
            self.notes.append(f"{len(lines) - len(rows)} lines of {name} are damaged")
        return rows


def code_words(commit: Any, dirty: Any) -> str:
    """A short commit, and whether the tree had uncommitted changes."""
    changed = str(dirty).lower() == "true"
    return f"{str(commit)[:12]}{' with changes' * changed}" if commit else ""


def train_params(described: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a training as text, by name: ``train.gamma`` and so on."""
    params = described.get("params")
    items = params.items() if isinstance(params, Mapping) else ()
    return {f"train.{name}": canonical(value) for name, value in items}


def data_words(training_set: Any) -> str:
    """A training set in one line: name, number of images and short digest."""
    if not isinstance(training_set, Mapping) or not training_set.get("digest"):
        return ""
    count = training_set.get("num_images")
    size = f", {count} images" if count is not None else ""
    digest = str(training_set["digest"])[:_DIGEST_SHOWN]
    return f"{training_set.get('name', 'unnamed')}{size}, {digest}"


def network_words(network: Mapping[str, Any]) -> str:
    """The network that a training started from: source and short digest; empty: unknown or none."""
    digest = str(network.get("sha256") or "")[:_DIGEST_SHOWN]
    return f"{network.get('source', 'unnamed')}, {digest}" if digest else ""


def state_words(kimg: float | None, wanted: Any) -> str:
    """The progress of a training, from its reports and settings."""
    if kimg is None:
        return "no progress recorded"
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        done = kimg >= wanted
        return f"finished at {kimg:g} kimg" if done else f"unfinished: {kimg:g} of {wanted:g} kimg"
    return f"at {kimg:g} kimg"


def last_kimg(curves: Mapping[str, Sequence[Point]]) -> float | None:
    """The kimg of the last report; None: there is none."""
    return max((points[-1].kimg for points in curves.values() if points), default=None)


def _part(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = content.get(key)
    return part if isinstance(part, Mapping) else {}


def _kimg_of_row(row: Mapping[str, Any]) -> float | None:
    nimg = row.get("nimg")
    return nimg / 1000 if _is_finite(nimg) else None


def _is_finite(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_folder(folder: Path, metric: str) -> RunData:
    """The data of a run folder.

    Args:
        metric: metric that selects the best snapshot; empty: that of the report.

    Raises:
        DataError: it is not the run folder of a training.
    """
    if not is_run_folder(folder):
        raise DataError(
            f"{folder} is not a run folder: it has none of {RUN}, {OPTIONS}, {STATS}; name the "
            "folder with the snapshots, for example runs/train"
        )
    training = TrainingFiles({path.name: path for path in folder.iterdir() if path.is_file()})
    notes: list[str] = []
    measured = read_measured(_report_beside(folder), metric, notes)
    measured = _own(measured, folder, notes)
    data = run_data_of_files(training, measured, "run folder", str(folder.resolve()))
    run_id = load_offset(
        folder, tracking_uri()
    ).run_id  # as recorded here, without contacting the server
    return with_notes(replace(data, run_id=run_id), notes)


def run_data_of_files(
    training: TrainingFiles,
    measured: Measured,
    kind: str,
    address: str,
    name: str = "",
) -> RunData:
    """The data of a training from its files and its report; arguments as in ``RunData``."""
    described, curves = training.described(), training.curves()
    params = described.get("params")
    wanted = params.get("kimg") if isinstance(params, dict) else None
    snapshots = training.snapshots()
    return RunData(
        kind=kind,
        name=name or str(described.get("name") or Path(address).name),
        address=address,
        state=state_words(last_kimg(curves), wanted),
        params=train_params(described),
        environment=_file_environment(training, described, measured),
        curves=curves,
        trained=training.trained_metrics(),
        results=measured.results,
        best=measured.best,
        terms=measured.terms,
        snapshot=_snapshot(measured, snapshots),
        notes=tuple(training.notes),
    )


def with_notes(data: RunData, notes: list[str]) -> RunData:
    """The same data with more notes."""
    return replace(data, notes=(*data.notes, *notes))


def _file_environment(
    training: TrainingFiles, described: dict[str, Any], measured: Measured
) -> dict[str, str]:
    """Conditions besides the settings that the files record."""
    environment = {"data set": data_words(described.get("training_set"))}
    environment |= training.device_and_ops() | training.provenance()
    torch = {str(row["torch"]) for row in measured.results if row.get("torch")}
    if len(torch) == 1 and "torch" not in environment:
        environment["torch"] = torch.pop()
    return {name: value for name, value in environment.items() if value}


def _report_beside(folder: Path) -> Path | None:
    """The report in the folder, or that of the project if the folder is its ``runs/train``."""
    folders = (folder, folder.resolve().parent.parent / "reports")
    # The summary first: it may be a report of version 0.2, or it leads to the one beside it.
    places = [place / name for place in folders for name in (SUMMARY_NAME, REPORT_NAME)]
    return next((path for path in places if path.is_file()), None)


def _own(measured: Measured, folder: Path, notes: list[str]) -> Measured:
    """The report if it belongs to the snapshots in this folder, not to another training."""
    if not measured.results:
        return measured
    # Without a best snapshot, the last measured one shows whether the report belongs here.
    rows = list(measured.best.values()) or measured.results[-1:]
    path = folder / Path(str(rows[0].get("snapshot"))).name
    if path.is_file() and {row.get("network_sha256") for row in rows} == {sha256_file(path)}:
        return measured
    notes.append(
        f"{NOT_MEASURED}: the report here is about other snapshots; run stages/evaluate.py"
    )
    return Measured()


def _snapshot(measured: Measured, snapshots: dict[int, Path]) -> Snapshot | None:
    if measured.kimg in snapshots:
        return Snapshot(str(snapshots[measured.kimg]), measured.kimg, measured.chosen)
    if not snapshots:
        return None
    kimg, path = list(snapshots.items())[-1]
    return Snapshot(str(path), kimg, "the last snapshot, as the best is unknown")
