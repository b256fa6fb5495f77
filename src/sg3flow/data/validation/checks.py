"""Validate a packed set: run all checks on it and its manifest, and collect the report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg3flow.config import ValidateConfig
from sg3flow.data.manifest import REJECTS, check_is_manifest, counted_changes
from sg3flow.data.raw_images import read_source
from sg3flow.data.readers.listing import open_listing
from sg3flow.data.readers.storage import Storage, check_exists
from sg3flow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from sg3flow.data.validation.check_plan import PlannedCheck
    from sg3flow.data.validation.check_tables import Tables

FORMAT = "sg3flow-validation-1"
_EXPECTED_REASONS = ("outside the subset", "beyond max_images")


@dataclass(frozen=True)
class Offender:
    """An image (or class) that violates a check, with the reason.

    ``path`` is that of the raw image, or the name of an entry that the manifest lacks; ``other`` is
    the path of an equal or similar image ("": none).
    """

    path: str
    entry: str
    reason: str
    other: str = ""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    ``status`` is passed, warning, failed, or error if the check itself crashed; ``level`` is raw,
    packed or reference.
    """

    name: str
    level: str
    words: str
    success: bool
    status: str
    observed: str
    threshold: float | None
    offenders: list[Offender]


@dataclass(frozen=True)
class ImageSources:
    """Where to read the images that a report names.

    Attributes:
        packed, raw: the packed set and its source; None: the source was not given.
        entries: entries of the packed set by raw path.
        classes: entries that can be decoded by class name, in class order; "": without a class.
    """

    packed: Storage
    raw: Storage | None
    entries: Mapping[str, str]
    classes: Mapping[str, list[str]]


# The options that decide checks which a user may want to relax.
_THRESHOLDS = {
    "enough_pictures": "--min-images",
    "enough_a_class": "--min-class-images",
    "number_of_classes": "--classes",
    "not_blank": "--min-contrast",
    "few_rejects": "--max-rejects",
}


@dataclass(frozen=True)
class Report:
    """The results of validation.

    ``images`` and ``source`` (the SOURCE.json of the raw images; empty: there is none) serve the
    HTML page only: ``to_json`` leaves them out.
    """

    checks: list[Check]
    summary: dict[str, Any]
    left_out_counts: dict[str, int]
    left_out: list[Offender]
    profile: dict[str, Any]
    images: ImageSources
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        """The checks that make validation fail."""
        return [check for check in self.checks if check.status in ("failed", "error")]

    @property
    def success(self) -> bool:
        """Whether the set passes, so that training may use it."""
        return not self.failed

    def metrics(self) -> dict[str, float]:
        """Numbers of passed, failed and warning checks and of images, for tracking."""
        statuses = Counter(check.status for check in self.checks)
        return {
            "checks_passed": statuses["passed"],
            "checks_warning": statuses["warning"],
            "checks_failed": len(self.failed),
            "num_images": self.summary["num_images"],
        }

    def to_json(self) -> dict[str, Any]:
        """The content of ``validation.json``."""
        return {
            "format": FORMAT,
            "success": self.success,
            "summary": self.summary,
            "profile": self.profile,
            "checks": [asdict(check) for check in self.checks],
            "left_out": {
                "counts": self.left_out_counts,
                "pictures": [asdict(image) for image in self.left_out],
            },
        }


def check_inputs(manifest: Path, packed: Path, raw: Path | None) -> None:
    """Check the inputs before any work starts.

    Raises:
        DataError: an input is missing, or the manifest is something else.
    """
    check_is_manifest(manifest)
    for path in (packed, raw):
        if path is not None:
            check_exists(path)


def validate_packed(
    manifest: Path, packed: Path, raw: Path | None, config: ValidateConfig, *, workers: int = 0
) -> Report:
    """Decode a whole packed set, and check it and its manifest with Great Expectations.

    Args:
        manifest: the manifest that packing wrote.
        packed: the packed set, a zip file or a folder.
        raw: the source of the set, used only for the thumbnails and the name in the report; None:
            leave these out.
        config: the thresholds.
        workers: number of decoding processes; 0: one per CPU. The report does not depend on it.

    Raises:
        ConfigError: ``source_counts`` is not of the form FOLDER=NUMBER.
        DataError: an input is missing or of the wrong kind. A failed check raises nothing here.
    """
    check_inputs(manifest, packed, raw)  # before the imports, which take seconds
    from sg3flow.data.validation.check_plan import appearance_checks, drift_checks, planned_checks
    from sg3flow.data.validation.check_tables import read_tables
    from sg3flow.data.validation.expectations import profile_of, read_reference

    reference = read_reference(config.reference)
    sources = open_listing(raw).storage if raw else None  # before the long work
    tables = read_tables(manifest, packed, config, workers)
    reasons = zip(tables.manifest["kind"], tables.manifest["left_out"], strict=True)
    tables.manifest["reject"] = [reason if kind in REJECTS else None for kind, reason in reasons]
    plan = planned_checks(config, tables.num_classes, tables.is_labeled) + appearance_checks(config)
    plan += drift_checks(config, reference) if reference else []
    checks = _run(plan, tables)
    counts, left_out = _left_out(tables.manifest)
    profile = profile_of(tables.packed, tables.classes)
    images = _sources(tables, sources)
    source = (read_source(raw) if raw else None) or {}
    return Report(checks, _summary(packed, tables), counts, left_out, profile, images, source)


def require_success(report: Report, html_path: Path) -> str:
    """Summarize a successful validation in one line.

    Raises:
        DataError: validation failed; the message names the failed checks and the first offender.
    """
    if report.success:
        warnings = [check.name for check in report.checks if check.status == "warning"]
        warned = f", warnings: {', '.join(warnings)}" if warnings else ""
        count = report.summary["num_images"]
        return f"{count} images passed {len(report.checks)} checks{warned}; see {html_path}"
    names = ", ".join(check.name for check in report.failed)
    # One image, and one number that a setting decides, such as the least number of images.
    images = [each for check in report.failed for each in check.offenders]
    found = [f"{each.path}: {each.reason}" for each in images[:1]]
    counted = [check for check in report.failed if not check.offenders]
    found += [f"required: {check.words}; found: {check.observed}" for check in counted[:1]]
    options = [_THRESHOLDS[check.name] for check in report.failed if check.name in _THRESHOLDS]
    limits = f"; limits: {', '.join(options)}" if options else ""
    raise DataError(
        f"validation failed ({names}); first: {'; '.join(found)}; all results and images: "
        f"{html_path}{limits}"
    )


def _sources(tables: "Tables", raw: Storage | None) -> ImageSources:
    entries = tables.packed
    classes: dict[str, list[str]] = {str(name): [] for name in tables.classes["class_name"]}
    for row in entries[entries["problem"].isna()].to_dict("records"):
        classes.setdefault(_text(row["class_name"]), []).append(str(row["entry"]))
    paths = zip(entries["path"], entries["entry"], strict=True)
    return ImageSources(
        tables.storage,
        raw,
        {str(path): str(entry) for path, entry in paths if path},
        {name: own for name, own in classes.items() if own},
    )


def _run(plan: "list[PlannedCheck]", tables: "Tables") -> list[Check]:
    from sg3flow.data.validation.expectations import run_expectations

    results: dict[str, Any] = {}
    for name in ("packed", "manifest", "classes", "folders"):
        planned = [check for check in plan if check.table == name]
        if planned:
            outcomes = run_expectations(
                name, getattr(tables, name), [check.expectation for check in planned]
            )
            results |= {check.name: result for check, result in zip(planned, outcomes, strict=True)}
    return [_check(planned, results[planned.name], tables) for planned in plan]


def _check(planned: "PlannedCheck", result: Any, tables: "Tables") -> Check:
    crash = _crash(result.exception_info)
    frame = getattr(tables, planned.table)
    offenders = [] if result.success else _offenders(planned, result.result, frame)
    failure = "error" if crash else "warning" if planned.only_warns else "failed"
    observed = result.result.get("observed_value")
    return Check(
        planned.name,
        planned.level,
        planned.words,
        bool(result.success),
        "passed" if result.success else failure,
        crash
        or (f"{len(offenders)} of {len(frame)} violate it" if observed is None else str(observed)),
        planned.threshold,
        offenders,
    )


def _crash(info: dict[str, Any]) -> str:
    """Why an expectation could not be evaluated; "": it was. Its result would only say 'failed'."""
    # Flat for an expectation that ran, nested by metric for one that crashed.
    nested = [value for value in info.values() if isinstance(value, dict)]
    for details in nested or [info]:
        if details.get("raised_exception"):
            return f"could not be evaluated: {details.get('exception_message')}"
    return ""


def _offenders(
    planned: "PlannedCheck", result: dict[str, Any], frame: "pd.DataFrame"
) -> list[Offender]:
    column = getattr(planned.expectation, "column", None)
    if "unexpected_index_list" in result:
        numbers = sorted(int(item["row"]) for item in result["unexpected_index_list"] or [])
    elif planned.lists_column:
        numbers = frame["row"][frame[column].notna()].tolist()
    else:
        numbers = []
    return [_offender(planned, row) for row in frame.iloc[numbers].to_dict("records")]


def _offender(planned: "PlannedCheck", row: Mapping[Any, Any]) -> Offender:
    entry = _text(row.get("entry"))
    group = _text(row.get("class_name")) or _text(row.get("folder"))
    path = _text(row.get("path")) or entry or group
    other = _text(row[planned.partner]) if planned.partner else ""
    return Offender(path, entry, planned.reason(row), other)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _left_out(manifest: "pd.DataFrame") -> tuple[dict[str, int], list[Offender]]:
    """Number of images that were not packed, by kind, and those with unexpected reasons."""
    counts: Counter[str] = Counter()
    listed = []
    for row in manifest[~manifest["packed"]].to_dict("records"):
        reason = str(row["left_out"])
        counts[row["kind"]] += 1
        if row["problem"] and not row["in_subset"]:
            reason = f"{reason}, and unreadable: {row['problem']}"
        if reason not in _EXPECTED_REASONS:
            listed.append(Offender(str(row["path"]), "", reason, str(row["same_as"])))
    return dict(sorted(counts.items())), listed


def _summary(packed: Path, tables: "Tables") -> dict[str, Any]:
    entries, manifest = tables.packed, tables.manifest
    sizes = Counter(
        f"{size} {mode}"
        for size, mode in zip(entries["size"], entries["mode"], strict=True)
        if isinstance(mode, str)
    )
    raw = manifest[manifest["width"].notna() & manifest["packed"]]
    raw_sizes = Counter(f"{w}x{h}" for w, h in zip(raw["width"], raw["height"], strict=True))
    splits = {
        str(split) or "none": {"pictures": len(group), "packed": int(group["packed"].sum())}
        for split, group in manifest.groupby("split")
    }
    classes = zip(tables.classes["class_name"], tables.classes["pictures"], strict=True)
    return {
        "name": packed.name,
        "digest": tables.digest,
        "num_images": len(entries),
        "num_source": len(manifest),
        "sizes": dict(sizes.most_common()),
        "raw_sizes": dict(raw_sizes.most_common(20)),
        "classes": {str(name): int(count) for name, count in classes},
        "splits": splits,
        "changes": counted_changes(manifest["changes"][manifest["packed"]]),
        **{key: tables.notes[key] for key in ("ignored", "warnings") if key in tables.notes},
        "licence": tables.license,
        "mean": _spread(entries["mean"]),
        "contrast": _spread(entries["contrast"]),
        "sharpness": _spread(entries["sharpness"]),
    }


def _spread(values: "pd.Series[float]") -> dict[str, Any]:
    """Minimum, median and maximum of values, and their counts in 16 equal bins of 0 to 255."""
    known = values.dropna()
    if known.empty:
        return {"min": None, "median": None, "max": None, "counts": [0] * 16}
    counts = Counter(min(int(value // 16), 15) for value in known)
    return {
        "min": round(float(known.min()), 3),
        "median": round(float(known.median()), 3),
        "max": round(float(known.max()), 3),
        "counts": [counts.get(i, 0) for i in range(16)],
    }
