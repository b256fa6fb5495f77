"""Checks of visible defects, near duplicates, and drift from a reference set.

Importing this module imports Great Expectations (3 s).
"""

from collections.abc import Callable, Mapping
from typing import Any

from sg3flow.config import ValidateConfig
from sg3flow.data.perceptual_hash import HASH_BITS
from sg3flow.data.validation.check_plan import PlannedCheck
from sg3flow.data.validation.expectations import (
    PROFILED,
    ExpectColumnDistributionToBeNear,
    ExpectColumnMixToBeNear,
    gxe,
)

_DISPLAY_NAMES = {"mean": "brightness", "contrast": "contrast", "sharpness": "sharpness"}


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
