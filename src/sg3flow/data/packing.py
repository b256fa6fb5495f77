"""Pack the images of any source into a packed set, and write its manifest.

Images outside the packed subset are read too: the manifest lists them, so that images that occur in
two splits are found.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.config import PackConfig
from sg3flow.data.image_decoding import parse_color
from sg3flow.data.image_transform import bit_depth_warnings, check_transform, parse_resolution
from sg3flow.data.manifest import (
    REJECTS,
    ManifestRow,
    counted_changes,
    is_manifest,
    write_manifest,
)
from sg3flow.data.packed_form import (
    ImageForm,
    PackedWriter,
    check_side,
    entry_name,
    is_packed_set,
    labels_json,
    packed_writer,
    refuse_overlap,
)
from sg3flow.data.raw_images import (
    Source,
    SourceImage,
    classes_without_images,
    ignored_record,
    open_source,
    shown_name,
    split_of,
)
from sg3flow.data.readers.labels import LABELS_NAME
from sg3flow.data.readers.listing import count_suffixes, ignored_words
from sg3flow.data.readers.storage import check_exists
from sg3flow.data.worker_pool import (
    Encoded,
    ScanJob,
    Scanned,
    ScanTask,
    ordered_map,
    scan_image,
    workers_for,
)
from sg3flow.errors import DataError, listed
from sg3flow.files import atomic_write
from sg3flow.output_checks import check_distinct, check_replaceable
from sg3flow.progress import tracked

OUTSIDE = "outside the subset"


@dataclass(frozen=True)
class PackSummary:
    """The result of packing.

    ``label_dim`` is the length of labels that are vectors; 0: they are classes, or there are none.
    ``empty_classes`` are those that no packed image has, although a class after them or a name
    makes them classes of the set.
    ``left_out`` counts images by kind of reason (see ``ManifestRow``); ``changes`` counts packed
    images by conversion rule; ``mean`` and ``contrast`` are averages over the raw files of the
    packed images, in gray values of 0 to 255. ``ignored`` counts files that are no images, by
    suffix.
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
    empty_classes: tuple[str, ...] = ()
    ignored: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    label_dim: int = 0

    def sentence(self, dest: Path) -> str:
        """One line for people."""
        kind = "color" if self.channels == 3 else "gray"
        details = "".join(
            f"; {words}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
            for words, counts in (("left out", self.left_out), ("changed", self.changes))
            if counts
        )
        if self.empty_classes:
            details += f"; classes without images: {listed(self.empty_classes, 4)}"
        if self.ignored:
            details += f"; {ignored_words(self.ignored)}"
        return (
            f"packed {self.num_packed} of {self.num_source} images into {dest} "
            f"({self.resolution}x{self.resolution} {kind}, {self._labels()}, "
            f"SHA-256 {self.digest[:16]}){details}"
        )

    def _labels(self) -> str:
        if self.label_dim:
            return f"labels are vectors of {self.label_dim}"
        return f"{len(self.classes) or 'no'} classes"

    def profile(self) -> dict[str, Any]:
        """Figures and terms of the set, as tracking records them."""
        return {
            "num_images": self.num_packed,
            "resolution": self.resolution,
            "channels": self.channels,
            "classes": self.classes,
            **({"label_vectors_of": self.label_dim} if self.label_dim else {}),
            "left_out": self.left_out,
            "changes": self.changes,
            **({"ignored": self.ignored} if self.ignored else {}),
            **({"warnings": self.warnings} if self.warnings else {}),
            "mean": self.mean,
            "contrast": self.contrast,
            "licence": self.license,
            "citation": self.citation,
        }


def check_request(source: Path, dest: Path, manifest: Path, config: PackConfig) -> None:
    """Check settings and paths before any work starts.

    Raises:
        ConfigError: the transform does not fit the resolution, or the background is no color.
        DataError: the source is missing, or an output would overwrite the source, the other output
            or a file that packing did not write.
    """
    check_transform(config.transform, parse_resolution(config.resolution))
    parse_color(config.background)
    check_exists(source)
    check_distinct({"--dest": dest, "--manifest": manifest})
    refuse_overlap(source, dest, manifest)
    check_replaceable(dest, is_packed_set, "a packed set", "--dest")
    check_replaceable(manifest, is_manifest, "a manifest", "--manifest")


def pack_images(
    source: Path, dest: Path, manifest: Path, config: PackConfig, *, workers: int = 0
) -> PackSummary:
    """Pack the images of a source; the result does not depend on ``workers``.

    Args:
        source: folder, zip or tar file, searched recursively and read in path order; or a public
            data set in its own format (see ``listing.py``).
        dest: the packed set to write: a zip file if the name ends in ``.zip``, else a folder.
        manifest: the manifest to write.
        config: what to pack, and how.
        workers: number of processes; 0: one per CPU.

    Raises:
        ConfigError: as ``check_request``.
        DataError: as ``check_request``; also if there is nothing to pack, too many images are
            unusable, images differ in size or mode, or the result is not a square whose side is a
            power of two. Nothing is written then.
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
        jobs, total = packing.jobs(), len(opened.images)
        scanned = ordered_map(scan_image, task, jobs, workers_for(total, workers))
        with closing(scanned):
            for image in tracked(scanned, "packing", total):
                packing.take(image)
        packing.finish()
        write_manifest(stream, packing.rows, packing.notes())
    return packing.summary()


@dataclass
class _Packing:
    """Collects the scanned images one by one and writes the packed set."""

    source: Source
    config: PackConfig
    writer: PackedWriter
    rows: list[ManifestRow] = field(default_factory=list)
    packed: list[ManifestRow] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    rejects: list[ManifestRow] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    form: ImageForm | None = None  # of the first packed image
    empty_classes: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)  # of packed images of 16 bits

    def __post_init__(self) -> None:
        self._images = {image.path: image for image in self.source.images}
        self._outside: dict[str, list[ManifestRow]] = {}
        self._packed_paths: dict[str, str] = {}
        for name, why in self.source.unlisted.items():
            self._take_unlisted(name, why)

    def jobs(self) -> Iterator[ScanJob]:
        """Images outside the subset first: images of the subset may be duplicates of them."""
        for image in self.source.images:
            if not image.in_subset:
                yield ScanJob(image.path, is_wanted=False)
        for image in self.source.images:
            if image.in_subset:
                yield ScanJob(image.path, is_wanted=not self._is_full())

    def take(self, scanned: Scanned) -> None:
        """Decide whether to pack one image, and write it if so."""
        image = self._images[scanned.name]
        row = _row(image, scanned)
        self.rows.append(row)
        kind, reason = self._reason_to_leave_out(row, scanned)
        if kind:
            self._leave_out(row, kind, reason)
        else:
            assert scanned.encoded is not None
            self._pack(row, image, scanned.encoded)
            if scanned.span is not None and "16 bits" in scanned.changes:
                self.spans.append(scanned.span)

    def _take_unlisted(self, name: str, why: str) -> None:
        """Count a folder or link that cannot be read as one unusable image."""
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

    def _reason_to_leave_out(self, row: ManifestRow, scanned: Scanned) -> tuple[str, str]:
        """The kind of reason to leave an image out, and the reason; empty: pack it."""
        if not row.in_subset:
            if row.pixel_sha256:
                self._outside.setdefault(row.pixel_sha256, []).append(row)
            return OUTSIDE, OUTSIDE
        if row.problem:
            return "unreadable", f"unreadable: {row.problem}"
        if self.config.duplicates == "leave-out":
            row.same_as = self._equal_image(row)
            if row.same_as:
                return "duplicate", f"same picture as {row.same_as}"
        if self._is_full():
            return "beyond max_images", "beyond max_images"
        return scanned.unwanted, scanned.why

    def _equal_image(self, row: ManifestRow) -> str:
        """Path of an equal image in another split, or already packed; empty: none."""
        assert row.pixel_sha256 is not None
        in_other_split = (
            other.path
            for other in self._outside.get(row.pixel_sha256, [])
            if other.split != row.split
        )
        return next(in_other_split, "") or self._packed_paths.get(row.pixel_sha256, "")

    def _is_full(self) -> bool:
        return 0 < self.config.max_images <= len(self.packed)

    def _pack(self, row: ManifestRow, image: SourceImage, encoded: Encoded) -> None:
        self._check_form(row, encoded)
        row.packed, row.entry = True, entry_name(len(self.packed))
        row.packed_sha256 = encoded.pixel_sha256
        assert row.pixel_sha256 is not None
        self._packed_paths.setdefault(row.pixel_sha256, row.path)
        self.packed.append(row)
        self.labels.append(image.label)
        self.writer.add(row.entry, encoded.png)

    def _check_form(self, row: ManifestRow, encoded: Encoded) -> None:
        form = ImageForm(encoded.width, encoded.height, encoded.mode)
        if self.form is None:
            check_side(row.path, form)
            self.form = form
        elif form != self.form:
            first = self.packed[0].path
            raise DataError(
                f"images differ: {first} is {self.form}, {row.path} is {form}; "
                f"{self.form.remedy(form)}"
            )

    def finish(self) -> None:
        """Check the number of unusable images, then assign and write the labels."""
        if len(self.rejects) > self.config.max_rejects:
            first = self.rejects[0]
            raise DataError(
                f"{len(self.rejects)} of {len(self.rows)} images cannot be used (max_rejects is "
                f"{self.config.max_rejects}); the first is {first.path}: "
                f"{first.problem or first.left_out}; repair or remove them, or raise max_rejects "
                "to leave them out"
            )
        if not self.packed:
            first = next((row for row in self.rows if row.in_subset), self.rows[0])
            raise DataError(
                f"none of the {len(self.rows)} images could be packed (the first, {first.path}: "
                f"{first.left_out}); change the settings of pack, or the source"
            )
        labels, class_names = self._final_labels()
        self.empty_classes = classes_without_images(self.labels, class_names)
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

    def notes(self) -> dict[str, Any]:
        """What the manifest records about the whole source."""
        warnings = bit_depth_warnings(self.spans)
        notes = {"ignored": ignored_record(self.source.ignored), "warnings": warnings}
        return {key: value for key, value in notes.items() if value}

    def summary(self) -> PackSummary:
        """The result; call it after ``finish``."""
        assert self.form is not None
        names = Counter(row.class_name or str(row.label) for row in self.packed)
        count = len(self.packed)
        return PackSummary(
            num_source=len(self.rows),
            num_packed=count,
            resolution=self.form.width,
            channels=len(self.form.mode),
            digest=self.writer.digest.hexdigest(),
            license=self.source.license,
            citation=self.source.citation,
            classes=dict(sorted(names.items())) if self.packed[0].label is not None else {},
            left_out=dict(self.kinds),
            changes=counted_changes(row.changes for row in self.packed),
            mean=round(sum(row.mean or 0.0 for row in self.packed) / count, 3),
            contrast=round(sum(row.contrast or 0.0 for row in self.packed) / count, 3),
            label_dim=len(self.labels[0]) if isinstance(self.labels[0], list) else 0,
            empty_classes=tuple(self.empty_classes),
            ignored=count_suffixes(self.source.ignored),
            warnings=bit_depth_warnings(self.spans),
        )


def _row(image: SourceImage, scanned: Scanned) -> ManifestRow:
    row = ManifestRow(
        shown_name(image.path),
        image.split,
        image.label if isinstance(image.label, int) else None,
        image.class_name,
        image.in_subset,
        problem=scanned.problem,
        bytes=scanned.num_bytes,
        file_sha256=scanned.file_sha256,
        mode=scanned.mode,
        changes=", ".join(scanned.changes),
    )
    if scanned.measures is not None:
        row.width, row.height = scanned.measures.width, scanned.measures.height
        row.mean, row.contrast = scanned.measures.mean, scanned.measures.contrast
        row.pixel_sha256, row.look = scanned.measures.pixel_sha256, scanned.measures.perceptual_hash
    return row
