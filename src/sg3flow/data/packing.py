"""Packing: from any source of pictures to a packed set and its manifest.

Every picture of the source is read, also those outside the subset that is packed: the manifest
must know them to find pictures that stand in two splits.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.config import PackConfig
from sg3flow.data.image_decoding import parse_color
from sg3flow.data.image_transform import check_transform, parse_resolution
from sg3flow.data.manifest import (
    REJECTS,
    ManifestRow,
    counted_changes,
    is_manifest,
    write_manifest,
)
from sg3flow.data.packed_form import (
    PackedWriter,
    entry_name,
    is_packed_set,
    labels_json,
    packed_writer,
)
from sg3flow.data.raw_images import Source, SourcePicture, open_source, shown_name, split_of
from sg3flow.data.readers.labels import LABELS_NAME
from sg3flow.data.readers.storage import check_exists
from sg3flow.data.worker_pool import (
    Encoded,
    ScanJob,
    Scanned,
    ScanTask,
    ordered_map,
    scan_picture,
    workers_for,
)
from sg3flow.errors import DataError
from sg3flow.files import atomic_write
from sg3flow.output_checks import check_distinct, check_replaceable
from sg3flow.progress import tracked

OUTSIDE = "outside the subset"


@dataclass(frozen=True)
class PackSummary:
    """What packing made.

    ``left_out`` counts pictures by kind of reason (see ``ManifestRow``), ``changes`` the packed by
    the rule that made them plain; ``mean`` and ``contrast`` are those of the packed pictures' raw
    files, of 255.
    """

    num_source: int
    num_packed: int
    resolution: int
    channels: int
    digest: str
    license: str | None
    citation: str | None
    classes: dict[str, int]
    left_out: dict[str, int]
    changes: dict[str, int]
    mean: float
    contrast: float

    def sentence(self, dest: Path) -> str:
        """One line for people."""
        kind = "colour" if self.channels == 3 else "grey"
        told = "".join(
            f"; {words}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())
            for words, counts in (("left out", self.left_out), ("changed", self.changes))
            if counts
        )
        return (
            f"packed {self.num_packed} of {self.num_source} pictures into {dest} "
            f"({self.resolution}x{self.resolution} {kind}, {len(self.classes) or 'no'} classes, "
            f"SHA-256 {self.digest[:16]}){told}"
        )

    def profile(self) -> dict[str, Any]:
        """The set in numbers, for the tracking of the data set."""
        return {
            "num_images": self.num_packed,
            "resolution": self.resolution,
            "channels": self.channels,
            "classes": self.classes,
            "left_out": self.left_out,
            "changes": self.changes,
            "mean": self.mean,
            "contrast": self.contrast,
            "licence": self.license,
            "citation": self.citation,
        }


def check_request(source: Path, dest: Path, manifest: Path, config: PackConfig) -> None:
    """Find at once, before any work, what can be wrong with the settings and paths alone.

    Raises:
        ConfigError: a transform and a resolution that do not go together, or no color.
        DataError: no source, outputs that would replace it or one another, or that exist and are
            not ours.
    """
    check_transform(config.transform, parse_resolution(config.resolution))
    parse_color(config.background)
    check_exists(source)
    check_distinct({"--dest": dest, "--manifest": manifest})
    _refuse_overlap(source, dest, manifest)
    check_replaceable(dest, is_packed_set, "a packed set", "--dest")
    check_replaceable(manifest, is_manifest, "a manifest", "--manifest")


def pack_images(
    source: Path, dest: Path, manifest: Path, config: PackConfig, *, workers: int = 0
) -> PackSummary:
    """Pack the pictures of a source; the result does not depend on ``workers``.

    Args:
        source: folder, zip or tar file, searched recursively, in the order of the paths; or a form
            of the public sets (see ``listing.py``).
        dest: the packed set to write: a zip file if it ends in ``.zip``, else a folder.
        manifest: the manifest to write.
        config: what to pack, and how.
        workers: processes to use; 0: one a CPU.

    Raises:
        ConfigError: as ``check_request``.
        DataError: also where there is nothing to pack, too many pictures are unusable or some are
            of different form, or the result is not square with a power of two as its side. Nothing
            is written then.
    """
    check_request(source, dest, manifest, config)
    opened = open_source(source, config)
    task = ScanTask(
        opened.storage,
        config.transform,
        parse_resolution(config.resolution),
        config.aspect,
        config.min_side,
        config.mode,
        parse_color(config.background),
    )
    with atomic_write(manifest) as stream, packed_writer(dest) as writer:
        packing = _Packing(opened, config, writer)
        jobs, total = packing.jobs(), len(opened.pictures)
        scanned = ordered_map(scan_picture, task, jobs, workers_for(total, workers))
        with closing(scanned):
            for picture in tracked(scanned, "packing", total):
                packing.take(picture)
        packing.finish()
        write_manifest(stream, packing.rows)
    return packing.summary()


def _refuse_overlap(source: Path, dest: Path, manifest: Path) -> None:
    inner, outer = source.resolve(), dest.resolve()
    if outer == inner or outer in inner.parents:
        raise DataError(f"{dest} would replace its own source {source}; pass another --dest")
    if dest.suffix.lower() != ".zip" and inner in outer.parents:
        raise DataError(f"{dest} lies inside its source {source}; pass a --dest beside it")
    if outer in manifest.resolve().parents:
        raise DataError(f"{manifest} lies inside {dest}; pass a --manifest beside it")


@dataclass
class _Packing:
    """The state of one packing, while the results of the scan come in one by one."""

    source: Source
    config: PackConfig
    writer: PackedWriter
    rows: list[ManifestRow] = field(default_factory=list)
    packed: list[ManifestRow] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    rejects: list[ManifestRow] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    form: tuple[int, int, str] | None = None  # width, height, mode of the first packed picture

    def __post_init__(self) -> None:
        self._pictures = {picture.path: picture for picture in self.source.pictures}
        self._outside: dict[str, list[ManifestRow]] = {}
        self._packed_paths: dict[str, str] = {}
        for name, why in self.source.unlisted.items():
            self._take_unlisted(name, why)

    def jobs(self) -> Iterator[ScanJob]:
        """First what lies outside the subset: a picture of the subset may stand there too."""
        for picture in self.source.pictures:
            if not picture.in_subset:
                yield ScanJob(picture.path, is_wanted=False)
        for picture in self.source.pictures:
            if picture.in_subset:
                yield ScanJob(picture.path, is_wanted=not self._is_full())

    def take(self, scanned: Scanned) -> None:
        """Decide on one picture, and write it if it is to be packed."""
        picture = self._pictures[scanned.name]
        row = _row(picture, scanned)
        self.rows.append(row)
        kind, reason = self._why_not(row, scanned)
        if kind:
            self._leave_out(row, kind, reason)
        else:
            assert scanned.encoded is not None
            self._pack(row, picture, scanned.encoded)

    def _take_unlisted(self, name: str, why: str) -> None:
        """A folder that cannot be looked into counts as one picture that cannot be used."""
        row = ManifestRow(shown_name(name), split_of(name), None, "", False, problem=why)
        row.in_subset = f"{name}/".startswith(self.source.folder)
        self.rows.append(row)
        if row.in_subset:
            self._leave_out(row, "unreadable", f"unreadable: {why}")
        else:
            self._leave_out(row, OUTSIDE, OUTSIDE)

    def _leave_out(self, row: ManifestRow, kind: str, reason: str) -> None:
        self.kinds[kind] += 1
        row.kind, row.left_out = kind, reason
        if kind in REJECTS:
            self.rejects.append(row)

    def _why_not(self, row: ManifestRow, scanned: Scanned) -> tuple[str, str]:
        """Kind of reason and reason to leave a picture out; empty: pack it."""
        if not row.in_subset:
            if row.pixel_sha256:
                self._outside.setdefault(row.pixel_sha256, []).append(row)
            return OUTSIDE, OUTSIDE
        if row.problem:
            return "unreadable", f"unreadable: {row.problem}"
        if self.config.duplicates == "leave-out":
            row.same_as = self._equal_picture(row)
            if row.same_as:
                return "duplicate", f"same picture as {row.same_as}"
        if self._is_full():
            return "beyond max_images", "beyond max_images"
        return scanned.unwanted, scanned.why

    def _equal_picture(self, row: ManifestRow) -> str:
        """Path of an equal picture in a split that is not packed, or packed before; "": none."""
        assert row.pixel_sha256 is not None
        elsewhere = (
            other.path
            for other in self._outside.get(row.pixel_sha256, [])
            if other.split != row.split
        )
        return next(elsewhere, "") or self._packed_paths.get(row.pixel_sha256, "")

    def _is_full(self) -> bool:
        return 0 < self.config.max_images <= len(self.packed)

    def _pack(self, row: ManifestRow, picture: SourcePicture, encoded: Encoded) -> None:
        self._check_form(row, encoded)
        row.packed, row.entry = True, entry_name(len(self.packed))
        row.packed_sha256 = encoded.pixel_sha256
        assert row.pixel_sha256 is not None
        self._packed_paths.setdefault(row.pixel_sha256, row.path)
        self.packed.append(row)
        self.labels.append(picture.label)
        self.writer.add(row.entry, encoded.png)

    def _check_form(self, row: ManifestRow, encoded: Encoded) -> None:
        form = (encoded.width, encoded.height, encoded.mode)
        if self.form is None:
            _check_side(row.path, encoded.width, encoded.height)
            self.form = form
        elif form != self.form:
            first = self.packed[0].path
            raise DataError(
                f"pictures differ: {first} is {_words(self.form)}, {row.path} is {_words(form)}; "
                + _remedy(self.form, form)
            )

    def finish(self) -> None:
        """Settle the labels, write them, and refuse a set with too many unusable pictures."""
        if len(self.rejects) > self.config.max_rejects:
            first = self.rejects[0]
            raise DataError(
                f"{len(self.rejects)} of {len(self.rows)} pictures cannot be used (max_rejects is "
                f"{self.config.max_rejects}), the first is {first.path}: "
                f"{first.problem or first.left_out}; repair or remove them, or raise max_rejects "
                "to leave them out"
            )
        if not self.packed:
            first = next((row for row in self.rows if row.in_subset), self.rows[0])
            raise DataError(
                f"none of the {len(self.rows)} pictures could be packed; the first, {first.path}: "
                f"{first.left_out}"
            )
        labels, class_names = self._final_labels()
        extra = {
            "class_names": class_names,
            "licence": self.source.license,
            "citation": self.source.citation,
        }
        self.writer.add(LABELS_NAME, labels_json(labels, extra))

    def _final_labels(self) -> tuple[list[Any] | None, list[str] | None]:
        class_names = self.source.class_names
        if self.config.labels == "folders":
            class_names = sorted({row.class_name for row in self.packed})
            numbers = {name: number for number, name in enumerate(class_names)}
            for row in self.rows:
                row.label = numbers.get(row.class_name)
            self.labels = [row.label for row in self.packed]
        if self.labels[0] is None:
            return None, None
        entries = [row.entry for row in self.packed]
        return [list(pair) for pair in zip(entries, self.labels, strict=True)], class_names

    def summary(self) -> PackSummary:
        """What was made; to be asked after ``finish``."""
        assert self.form is not None
        names = Counter(row.class_name or str(row.label) for row in self.packed)
        count = len(self.packed)
        return PackSummary(
            num_source=len(self.rows),
            num_packed=count,
            resolution=self.form[0],
            channels=len(self.form[2]),
            digest=self.writer.digest.hexdigest(),
            license=self.source.license,
            citation=self.source.citation,
            classes=dict(sorted(names.items())) if self.packed[0].label is not None else {},
            left_out=dict(self.kinds),
            changes=counted_changes(row.changes for row in self.packed),
            mean=round(sum(row.mean or 0.0 for row in self.packed) / count, 3),
            contrast=round(sum(row.contrast or 0.0 for row in self.packed) / count, 3),
        )


def _row(picture: SourcePicture, scanned: Scanned) -> ManifestRow:
    row = ManifestRow(
        shown_name(picture.path),
        picture.split,
        picture.label if isinstance(picture.label, int) else None,
        picture.class_name,
        picture.in_subset,
        problem=scanned.problem,
        bytes=scanned.num_bytes,
        file_sha256=scanned.file_sha256,
        mode=scanned.mode,
        changes=", ".join(scanned.changes),
    )
    if scanned.measures is not None:
        row.width, row.height = scanned.measures.width, scanned.measures.height
        row.mean, row.contrast = scanned.measures.mean, scanned.measures.contrast
        row.pixel_sha256, row.look = scanned.measures.pixel_sha256, scanned.measures.look
    return row


def _check_side(path: str, width: int, height: int) -> None:
    if width == height and not width & (width - 1):
        return
    side = 1 << (min(width, height).bit_length() - 1)
    crop = "" if width == height else " (with --transform center-crop to keep the aspect)"
    raise DataError(
        f"{path} is {width}x{height}; packed pictures are square with a power of two as their "
        f"side: pass --resolution {side}x{side}{crop}"
    )


def _remedy(first: tuple[int, int, str], other: tuple[int, int, str]) -> str:
    if first[2] != other[2]:
        return "pass --mode rgb or --mode grey"
    return (
        f"pass --resolution {first[0]}x{first[1]} (with --transform center-crop to keep the aspect)"
    )


def _words(form: tuple[int, int, str]) -> str:
    return f"{form[0]}x{form[1]} {'colour' if form[2] == 'RGB' else 'grey'}"
