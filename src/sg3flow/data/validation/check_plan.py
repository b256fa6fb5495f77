"""The checks of a packed set, as expectations: form, content, labels, manifest, looks, and drift.

Longer than most files: it is the one list of all checks.

Importing this module imports Great Expectations (3 s).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.config import ValidateConfig
from sg3flow.data.perceptual_hash import HASH_BITS
from sg3flow.data.validation.expectations import (
    PROFILED,
    ExpectColumnDistributionToBeNear,
    ExpectColumnMixToBeNear,
    ExpectColumnNonNullCountToBeAtMost,
    ExpectColumnValuesToBePowerOfTwo,
    ExpectColumnValuesToEqualTheMostCommon,
    gxe,
)

Reason = Callable[[Mapping[str, Any]], str]
_DISPLAY_NAMES = {"mean": "brightness", "contrast": "contrast", "sharpness": "sharpness"}


@dataclass(frozen=True)
class PlannedCheck:
    """One check before it runs.

    Attributes:
        name: stable identifier.
        words: what the check requires, as a phrase for people.
        table: the table of ``Tables`` to check: packed, manifest, classes or folders.
        expectation: the expectation of Great Expectations that decides.
        reason: describes what is wrong with one offending row.
        threshold: the limit from the settings; None: the check has none.
        partner: column with the path of an equal or similar image; None: there is no such column.
        only_warns: a failure is a warning and does not fail validation.
        lists_column: for an expectation that only counts values: every row with a value in its
            column is an offender.
        level: raw (the manifest), packed (the decoded set) or reference (an earlier set); empty:
            follows from the table.
    """

    name: str
    words: str
    table: str
    expectation: Any
    reason: Reason
    threshold: float | None = None
    partner: str | None = None
    only_warns: bool = False
    lists_column: bool = False
    level: str = ""

    def __post_init__(self) -> None:
        """Checks of the manifest are about the raw images unless ``level`` says otherwise."""
        is_raw = self.table in ("manifest", "folders")
        object.__setattr__(self, "level", self.level or ("raw" if is_raw else "packed"))


def planned_checks(
    config: ValidateConfig, num_classes: int, is_labeled: bool
) -> list[PlannedCheck]:
    """All checks of form, content, labels and manifest that apply, in report order."""
    checks = [*_decoding(), *_form(), *_content(config), *_agreement(config)]
    if config.source_counts:
        checks += _counts(config)
    if is_labeled:
        checks += _labels(config, num_classes)
    if config.classes:
        checks.append(
            PlannedCheck(
                "number_of_classes",
                f"the set has {config.classes} classes",
                "classes",
                gxe.ExpectTableRowCountToEqual(value=config.classes),
                lambda row: "",
                config.classes,
            )
        )
    return checks


def _decoding() -> list[PlannedCheck]:
    return [
        PlannedCheck(
            "entries_decode",
            "every entry is intact (CRC-32) and can be decoded",
            "packed",
            gxe.ExpectColumnValuesToBeNull(column="problem"),
            lambda row: str(row["problem"]),
        )
    ]


def _form() -> list[PlannedCheck]:
    def size(row: Mapping[str, Any]) -> str:
        return f"{row['width']}x{row['height']}"

    def mode(row: Mapping[str, Any]) -> str:
        return f"mode {row['mode']}"

    same = ExpectColumnValuesToEqualTheMostCommon
    return [
        PlannedCheck(
            "square",
            "every image is square",
            "packed",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="width", column_B="height", ignore_row_if="either_value_is_missing"
            ),
            size,
        ),
        PlannedCheck(
            "one_size", "all images have the same size", "packed", same(column="size"), size
        ),
        PlannedCheck(
            "power_of_two",
            "the sides are powers of two",
            "packed",
            ExpectColumnValuesToBePowerOfTwo(column="width"),
            size,
        ),
        PlannedCheck(
            "rgb_or_grey",
            "every image is RGB or gray (mode RGB or L)",
            "packed",
            gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=["RGB", "L"]),
            mode,
        ),
        PlannedCheck(
            "one_mode", "all images have the same mode", "packed", same(column="mode"), mode
        ),
    ]


def _content(config: ValidateConfig) -> list[PlannedCheck]:
    only_warns = config.duplicates == "warn"
    return [
        PlannedCheck(
            "enough_pictures",
            f"the set has at least {_images(config.min_images)}",
            "packed",
            gxe.ExpectTableRowCountToBeBetween(min_value=config.min_images),
            lambda row: "",
            config.min_images,
        ),
        PlannedCheck(
            "not_blank",
            f"no image is blank (contrast at least {config.min_contrast:g})",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(column="contrast", min_value=config.min_contrast),
            lambda row: f"contrast {row['contrast']:.2f}",
            config.min_contrast,
        ),
        PlannedCheck(
            "unique",
            "no two images have the same pixels",
            "packed",
            gxe.ExpectColumnValuesToBeUnique(column="pixel_sha256"),
            lambda row: f"same pixels as {row['equal_here']}",
            partner="equal_here",
            only_warns=only_warns,
        ),
        PlannedCheck(
            "not_in_other_split",
            "no image is also in another split, outside the set",
            "packed",
            gxe.ExpectColumnValuesToBeNull(column="equal_elsewhere"),
            lambda row: f"same pixels as {row['equal_elsewhere']}",
            partner="equal_elsewhere",
            only_warns=only_warns,
        ),
    ]


def _agreement(config: ValidateConfig) -> list[PlannedCheck]:
    return [
        PlannedCheck(
            "paths_unique",
            "every image of the source is in the manifest exactly once",
            "manifest",
            gxe.ExpectColumnValuesToBeUnique(column="path"),
            lambda row: "listed more than once",
        ),
        PlannedCheck(
            "few_rejects",
            f"packing left out at most {config.max_rejects} images as unusable",
            "manifest",
            ExpectColumnNonNullCountToBeAtMost(column="reject", max_value=config.max_rejects),
            lambda row: str(row["reject"]),
            config.max_rejects,
            lists_column=True,
        ),
        PlannedCheck(
            "entries_found",
            "every image that the manifest lists as packed is in the set",
            "manifest",
            gxe.ExpectColumnValuesToBeInSet(column="found", value_set=[True]),
            lambda row: f"{row['entry']} is not in the set",
        ),
        PlannedCheck(
            "entries_known",
            "every entry of the set is in the manifest",
            "packed",
            gxe.ExpectColumnValuesToNotBeNull(column="path"),
            lambda row: "not in the manifest",
        ),
        PlannedCheck(
            "pixels_as_packed",
            "the pixels of every entry match the manifest",
            "packed",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="pixel_sha256",
                column_B="expected_sha256",
                ignore_row_if="either_value_is_missing",
            ),
            lambda row: "pixels differ from the packed ones",
        ),
    ]


def _counts(config: ValidateConfig) -> list[PlannedCheck]:
    return [
        PlannedCheck(
            "source_counts",
            "folders of the source hold the expected number of usable images",
            "folders",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="found", column_B="expected", ignore_row_if="either_value_is_missing"
            ),
            lambda row: f"{row['folder']} holds {row['found']} images, not {row['expected']}",
        )
    ]


def _labels(config: ValidateConfig, num_classes: int) -> list[PlannedCheck]:
    def too_few(row: Mapping[str, Any]) -> str:
        words = f"class {row['class_name']} has {_images(row['pictures'])}"
        if row["pictures"] or row["class_name"] != str(row["row"]):
            return words
        # The greatest number is named too: it may be the wrong one.
        return f"{words}, but class {num_classes - 1} has; number the classes from 0 without gaps"

    return [
        PlannedCheck(
            "labels_complete",
            "every image has a label",
            "packed",
            gxe.ExpectColumnValuesToNotBeNull(column="label_kind"),
            lambda row: "no label",
        ),
        PlannedCheck(
            "labels_one_kind",
            "labels are all classes, or all vectors of the same length",
            "packed",
            ExpectColumnValuesToEqualTheMostCommon(column="label_kind"),
            lambda row: f"the kind of its label is {row['label_kind']}",
        ),
        PlannedCheck(
            "labels_in_range",
            "class numbers are below the number of classes",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(
                column="label", min_value=0, max_value=max(num_classes - 1, 0)
            ),
            lambda row: f"class {row['label']}, but the classes are 0 to {num_classes - 1}",
        ),
        PlannedCheck(
            "labels_as_packed",
            "the class of every image matches the manifest",
            "packed",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="label", column_B="expected_label", ignore_row_if="either_value_is_missing"
            ),
            lambda row: f"class {row['label']}, but {row['expected_label']} in the manifest",
        ),
        PlannedCheck(
            "enough_a_class",
            f"every class has at least {_images(config.min_class_images)}",
            "classes",
            gxe.ExpectColumnValuesToBeBetween(column="pictures", min_value=config.min_class_images),
            too_few,
            config.min_class_images,
        ),
    ]


def appearance_checks(config: ValidateConfig) -> list[PlannedCheck]:
    """Checks of visible defects and near duplicates; they warn by default."""
    checks = [
        PlannedCheck(
            "not_enlarged",
            "no image was enlarged",
            "manifest",
            gxe.ExpectColumnValuesToBeNull(column="enlarged"),
            lambda row: str(row["enlarged"]),
            only_warns=True,
        ),
        PlannedCheck(
            "not_blurred",
            f"every image is sharp (sharpness at least {config.min_sharpness:g})",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(column="sharpness", min_value=config.min_sharpness),
            lambda row: f"sharpness {row['sharpness']:.2f}",
            config.min_sharpness,
            only_warns=True,
        ),
        _at_most(
            "no_bars",
            "no image has uniform bars at its borders",
            "bars",
            config.max_bars,
            "of the image are bars",
        ),
        _at_most(
            "not_one_colour",
            "no image consists mostly of one color",
            "one_colour",
            config.max_one_color,
            "of the image has one color",
        ),
    ]
    return checks + (_near(config) if config.near_duplicates != "off" else [])


def _at_most(name: str, words: str, column: str, most: float, finding: str) -> PlannedCheck:
    return PlannedCheck(
        name,
        f"{words} (at most {most:.0%})",
        "packed",
        gxe.ExpectColumnValuesToBeBetween(column=column, max_value=most),
        lambda row: f"{row[column]:.0%} {finding}",
        most,
        only_warns=True,
    )


def _near(config: ValidateConfig) -> list[PlannedCheck]:
    def reason(column: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: (
            f"similar to {row[column]} ({row[f'{column}_bits']} of {HASH_BITS} bits differ)"
        )

    return [
        PlannedCheck(
            name,
            words,
            "packed",
            gxe.ExpectColumnValuesToBeNull(column=column),
            reason(column),
            config.near_distance,
            column,
            only_warns=config.near_duplicates == "warn",
        )
        for name, words, column in (
            ("look_unique", "no two images of the set look alike", "near_here"),
            (
                "look_not_in_other_split",
                "no image looks like one in another split",
                "near_elsewhere",
            ),
        )
    ]


def drift_checks(config: ValidateConfig, profile: Mapping[str, Any]) -> list[PlannedCheck]:
    """Checks that the set is distributed like a reference set, given by its profile."""
    checks = [
        PlannedCheck(
            f"drift_{_DISPLAY_NAMES[name]}",
            f"the distribution of {_DISPLAY_NAMES[name]} is close to the reference",
            "packed",
            ExpectColumnDistributionToBeNear(
                column=name, **profile[name], max_value=config.max_drift
            ),
            lambda row: "",
            config.max_drift,
            level="reference",
        )
        for name in PROFILED
    ]
    if profile["classes"]:
        checks.append(
            PlannedCheck(
                "drift_classes",
                "the class distribution is close to the reference",
                "packed",
                ExpectColumnMixToBeNear(
                    column="class_name",
                    shares=profile["classes"],
                    max_value=config.max_class_drift,
                ),
                lambda row: "",
                config.max_class_drift,
                level="reference",
            )
        )
    return checks


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
