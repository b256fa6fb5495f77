"""What is expected of the look of the images, and of their likeness to an earlier set.

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

_WORDS = {"mean": "brightness", "contrast": "contrast", "sharpness": "sharpness"}


def appearance_checks(config: ValidateConfig) -> list[PlannedCheck]:
    """Warnings about single images, and the near-duplicates."""
    checks = [
        PlannedCheck(
            "not_enlarged",
            "no image had to be enlarged",
            "manifest",
            gxe.ExpectColumnValuesToBeNull(column="enlarged"),
            lambda row: str(row["enlarged"]),
            only_warns=True,
        ),
        PlannedCheck(
            "not_blurred",
            f"edges of every image are sharp (at least {config.min_sharpness:g})",
            "packed",
            gxe.ExpectColumnValuesToBeBetween(column="sharpness", min_value=config.min_sharpness),
            lambda row: f"sharpness {row['sharpness']:.2f}",
            config.min_sharpness,
            only_warns=True,
        ),
        _at_most(
            "no_bars",
            "no image has bars at its borders",
            "bars",
            config.max_bars,
            "of it are bars",
        ),
        _at_most(
            "not_one_colour",
            "no image is mostly of one colour",
            "one_colour",
            config.max_one_color,
            "of it has one colour",
        ),
    ]
    return checks + (_near(config) if config.near_duplicates != "off" else [])


def _at_most(name: str, words: str, column: str, most: float, told: str) -> PlannedCheck:
    return PlannedCheck(
        name,
        f"{words} (at most {most:.0%})",
        "packed",
        gxe.ExpectColumnValuesToBeBetween(column=column, max_value=most),
        lambda row: f"{row[column]:.0%} {told}",
        most,
        only_warns=True,
    )


def _near(config: ValidateConfig) -> list[PlannedCheck]:
    def reason(column: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: (
            f"looks like {row[column]} ({row[f'{column}_bits']} of {HASH_BITS} bits differ)"
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
            ("look_unique", "no two images of the set look the same", "near_here"),
            (
                "look_not_in_other_split",
                "no image looks like one in another split",
                "near_elsewhere",
            ),
        )
    ]


def drift_checks(config: ValidateConfig, profile: Mapping[str, Any]) -> list[PlannedCheck]:
    """The set against the profile of an earlier one."""
    checks = [
        PlannedCheck(
            f"drift_{_WORDS[name]}",
            f"{_WORDS[name]} is distributed as in the reference set",
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
                "the classes are mixed as in the reference set",
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
