"""What is expected of a packed set and its manifest: every check, in words and as an expectation.

What concerns the look of the images stands in ``look_plan.py``.

Importing this module imports Great Expectations (3 s).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.config import ValidateConfig
from sg3flow.data.validation.expectations import (
    ExpectColumnNonNullCountToBeAtMost,
    ExpectColumnValuesToBePowerOfTwo,
    ExpectColumnValuesToEqualTheMostCommon,
    gxe,
)

Reason = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class PlannedCheck:
    """One check before it is run.

    Attributes:
        name: stable, for machines.
        words: the same for people.
        table: which of ``Tables``: packed, manifest, classes or folders.
        expectation: the expectation of Great Expectations that decides.
        reason: says for one offending row what is wrong with it.
        threshold: the limit that holds; None: there is none to choose.
        partner: column that names an equal or similar image.
        only_warns: a failure is reported but does not count.
        lists_column: every row with a value in the expectation's column offends, where it only
            counts them.
        level: raw (the manifest), packed (the decoded set) or reference (an earlier set).
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
        """What is asked of the manifest is about the raw images, unless it is said otherwise."""
        is_raw = self.table in ("manifest", "folders")
        object.__setattr__(self, "level", self.level or ("raw" if is_raw else "packed"))


def planned_checks(
    config: ValidateConfig, num_classes: int, is_labelled: bool
) -> list[PlannedCheck]:
    """All checks of form, labels and agreement that apply, in the order of the report."""
    checks = [*_decoding(), *_form(), *_content(config), *_agreement(config)]
    if config.source_counts:
        checks += _counts(config)
    if is_labelled:
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
            "every entry is whole (CRC-32) and decodes",
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
        PlannedCheck("one_size", "all images have one size", "packed", same(column="size"), size),
        PlannedCheck(
            "power_of_two",
            "sides are powers of two",
            "packed",
            ExpectColumnValuesToBePowerOfTwo(column="width"),
            size,
        ),
        PlannedCheck(
            "rgb_or_grey",
            "every image is RGB or grey (mode RGB or L)",
            "packed",
            gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=["RGB", "L"]),
            mode,
        ),
        PlannedCheck("one_mode", "all images have one mode", "packed", same(column="mode"), mode),
    ]


def _content(config: ValidateConfig) -> list[PlannedCheck]:
    only_warns = config.duplicates == "warn"
    return [
        PlannedCheck(
            "enough_pictures",
            f"the set has at least {config.min_images} images",
            "packed",
            gxe.ExpectTableRowCountToBeBetween(min_value=config.min_images),
            lambda row: "",
            config.min_images,
        ),
        PlannedCheck(
            "not_blank",
            f"grey values of every image deviate by at least {config.min_contrast:g} of 255",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(column="contrast", min_value=config.min_contrast),
            lambda row: f"contrast {row['contrast']:.2f}",
            config.min_contrast,
        ),
        PlannedCheck(
            "unique",
            "no image stands in the set twice",
            "packed",
            gxe.ExpectColumnValuesToBeUnique(column="pixel_sha256"),
            lambda row: f"same pixels as {row['equal_here']}",
            partner="equal_here",
            only_warns=only_warns,
        ),
        PlannedCheck(
            "not_in_other_split",
            "no image also stands in another split, outside the set",
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
            "every image of the source stands in the manifest once",
            "manifest",
            gxe.ExpectColumnValuesToBeUnique(column="path"),
            lambda row: "listed more than once",
        ),
        PlannedCheck(
            "few_rejects",
            f"packing left out at most {config.max_rejects} images as unreadable or unfit",
            "manifest",
            ExpectColumnNonNullCountToBeAtMost(column="reject", max_value=config.max_rejects),
            lambda row: str(row["reject"]),
            config.max_rejects,
            lists_column=True,
        ),
        PlannedCheck(
            "entries_found",
            "every image that the manifest calls packed is in the set",
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
            "every entry has the pixels that the manifest recorded",
            "packed",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="pixel_sha256",
                column_B="expected_sha256",
                ignore_row_if="either_value_is_missing",
            ),
            lambda row: "other pixels than were packed",
        ),
    ]


def _counts(config: ValidateConfig) -> list[PlannedCheck]:
    return [
        PlannedCheck(
            "source_counts",
            "folders of the source hold as many usable images as they must",
            "folders",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="found", column_B="expected", ignore_row_if="either_value_is_missing"
            ),
            lambda row: f"{row['folder']} holds {row['found']} images, not {row['expected']}",
        )
    ]


def _labels(config: ValidateConfig, num_classes: int) -> list[PlannedCheck]:
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
            "all labels are classes, or all vectors of one length",
            "packed",
            ExpectColumnValuesToEqualTheMostCommon(column="label_kind"),
            lambda row: f"label is {row['label_kind']}",
        ),
        PlannedCheck(
            "labels_in_range",
            "class numbers start at 0 and every one has a name, if any has",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(
                column="label", min_value=0, max_value=max(num_classes - 1, 0)
            ),
            lambda row: f"class {row['label']} of {num_classes}",
        ),
        PlannedCheck(
            "labels_as_packed",
            "every class is the one that the manifest recorded",
            "packed",
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="label", column_B="expected_label", ignore_row_if="either_value_is_missing"
            ),
            lambda row: f"class {row['label']}, recorded {row['expected_label']}",
        ),
        PlannedCheck(
            "enough_a_class",
            f"every class has at least {config.min_class_images} images",
            "classes",
            gxe.ExpectColumnValuesToBeBetween(column="pictures", min_value=config.min_class_images),
            lambda row: f"class {row['class_name']} has {row['pictures']} images",
            config.min_class_images,
        ),
    ]
