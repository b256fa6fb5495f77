"""The profile of a packed set, and the expectations that Great Expectations lacks.

Importing this module imports Great Expectations (3 s).
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sg3flow.errors import DataError

# Great Expectations reads this on import; no usage statistics leave the machine.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports modules that Python has deprecated
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import (
        ColumnAggregateExpectation,
        ColumnMapExpectation,
    )
    from great_expectations.expectations.metrics import (
        ColumnAggregateMetricProvider,
        ColumnMapMetricProvider,
        column_aggregate_value,
        column_condition_partial,
    )

__all__ = [
    "PROFILED",
    "ExpectColumnDistributionToBeNear",
    "ExpectColumnMixToBeNear",
    "ExpectColumnNonNullCountToBeAtMost",
    "ExpectColumnValuesToBePowerOfTwo",
    "ExpectColumnValuesToEqualTheMostCommon",
    "gxe",
    "profile_of",
    "read_reference",
    "run_expectations",
]

PROFILED = ("mean", "contrast", "sharpness")
# Gray values of 0 to 255; sharpness is unbounded, so its bins are logarithmic.
_EDGES: dict[str, list[float]] = {
    "mean": [8 * i for i in range(33)],
    "contrast": [4 * i for i in range(33)],
    "sharpness": [0.0, *(round(2 ** (i / 3), 3) for i in range(1, 28))],
}


def profile_of(entries: pd.DataFrame, classes: pd.DataFrame) -> dict[str, Any]:
    """Fractions of images per bin of brightness, contrast and sharpness, and per class.

    Args:
        entries: the table of entries, with the columns ``PROFILED``.
        classes: the table of classes; empty for an unlabeled set.
    """
    counts = dict(zip(classes["class_name"], classes["pictures"], strict=True))
    total = max(sum(counts.values()), 1)
    return {
        "num_images": len(entries),
        **{name: _histogram(entries[name].dropna(), _EDGES[name]) for name in PROFILED},
        "classes": {str(name): round(count / total, 6) for name, count in counts.items()},
    }


def _histogram(values: "pd.Series[float]", edges: list[float]) -> dict[str, Any]:
    shares = binned_shares(values.to_numpy(), edges)
    return {"edges": edges, "shares": [round(float(share), 6) for share in shares]}


def binned_shares(values: np.ndarray, edges: list[float]) -> np.ndarray:
    """Fraction of values per bin; values beyond the edges count in the outer bins."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
    counts, _ = np.histogram(inside, edges)
    shares: np.ndarray = counts / max(len(values), 1)
    return shares


def read_reference(path: str) -> dict[str, Any] | None:
    """Read the profile from the ``validation.json`` of an earlier set; None for an empty path.

    Raises:
        DataError: the file is missing or contains no profile.
    """
    if not path:
        return None
    try:
        profile = json.loads(Path(path).read_text(encoding="utf-8"))["profile"]
        for name in PROFILED:
            edges, shares = profile[name]["edges"], profile[name]["shares"]
            if len(edges) != len(shares) + 1 or sorted(edges) != edges or not shares:
                raise ValueError(name)
            np.asarray([*edges, *shares], np.float64)
        return {**profile, "classes": {str(k): float(v) for k, v in profile["classes"].items()}}
    except OSError as error:
        raise DataError(f"the reference {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"the reference {path} contains no profile; pass the validation.json of an earlier set"
        ) from None


class _PowerOfTwo(ColumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "column_values.power_of_two"

    @column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column: Any, **kwargs: Any) -> Any:
        value = column.astype("int64")
        return (value > 0) & (value & (value - 1) == 0)


class ExpectColumnValuesToBePowerOfTwo(ColumnMapExpectation):  # type: ignore[misc]
    """Expect every value to be 1, 2, 4, 8, ...; missing values are ignored."""

    map_metric = "column_values.power_of_two"
    success_keys = ("mostly",)


class _MostCommon(ColumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "column_values.equal_most_common"

    @column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column: Any, **kwargs: Any) -> Any:
        # mode() is sorted, so ties are resolved deterministically.
        return column == column.mode().iloc[0] if len(column) else column.astype(bool)


class ExpectColumnValuesToEqualTheMostCommon(ColumnMapExpectation):  # type: ignore[misc]
    """Expect all values to be equal; those unlike the most common one are unexpected."""

    map_metric = "column_values.equal_most_common"
    success_keys = ("mostly",)


class _NumberAtMost:
    """Mixin for expectations that compare one number with ``max_value``."""

    max_value: float

    def number(self, metrics: dict[str, Any]) -> float:
        """The number to compare, from the metrics of the expectation."""
        raise NotImplementedError

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        number = self.number(metrics)
        return {"success": number <= self.max_value, "result": {"observed_value": number}}


class ExpectColumnNonNullCountToBeAtMost(_NumberAtMost, ColumnAggregateExpectation):  # type: ignore[misc]
    """Expect at most ``max_value`` values that are not missing."""

    max_value: int

    metric_dependencies = ("column.non_null_count",)
    success_keys = ("max_value",)

    def number(self, metrics: dict[str, Any]) -> float:
        return int(metrics["column.non_null_count"])


class _BinShares(ColumnAggregateMetricProvider):  # type: ignore[misc]
    metric_name = "column.bin_shares"
    value_keys = ("edges",)

    @column_aggregate_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column: Any, edges: list[float], **kwargs: Any) -> Any:
        return binned_shares(column.dropna().to_numpy("float64"), edges).tolist()


class ExpectColumnDistributionToBeNear(_NumberAtMost, ColumnAggregateExpectation):  # type: ignore[misc]
    """Expect values to be distributed as in a reference.

    The distance is the Kolmogorov-Smirnov statistic over bins: the largest difference between the
    fractions of values below an edge, from 0 (equal) to 1. A column without values passes.
    """

    edges: list[float]
    shares: list[float]  # of the reference, one per bin
    max_value: float

    metric_dependencies = ("column.bin_shares",)
    success_keys = ("edges", "shares", "max_value")

    def number(self, metrics: dict[str, Any]) -> float:
        found = metrics["column.bin_shares"]
        steps = np.cumsum(found) - np.cumsum(self.shares)
        return round(float(np.abs(steps).max()), 6) if sum(found) else 0.0


class _ValueShares(ColumnAggregateMetricProvider):  # type: ignore[misc]
    metric_name = "column.value_shares"

    @column_aggregate_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column: Any, **kwargs: Any) -> Any:
        return {str(k): float(v) for k, v in column.value_counts(normalize=True).items()}


class ExpectColumnMixToBeNear(_NumberAtMost, ColumnAggregateExpectation):  # type: ignore[misc]
    """Expect the frequencies of categorical values, e.g. classes, to be those of a reference.

    The distance is the total variation: the fraction of values that would have to change, 0 to 1.
    """

    shares: dict[str, float]
    max_value: float

    metric_dependencies = ("column.value_shares",)
    success_keys = ("shares", "max_value")

    def number(self, metrics: dict[str, Any]) -> float:
        found = metrics["column.value_shares"]
        names = {*found, *self.shares}
        total = sum(abs(found.get(n, 0.0) - self.shares.get(n, 0.0)) for n in sorted(names))
        return round(float(total) / 2, 6)


def run_expectations(name: str, frame: pd.DataFrame, expectations: list[Any]) -> list[Any]:
    """Run expectations on a table with a column ``row``; returns results in the same order.

    Each is a result of Great Expectations, with all unexpected rows in
    ``result["unexpected_index_list"]``. Nothing is written to disk.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
    for number, expectation in enumerate(expectations):
        expectation.meta = {"number": number}
    suite = gx.ExpectationSuite(name=name, expectations=expectations)
    form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    results = batch.validate(suite, result_format=form).results
    return sorted(results, key=lambda result: result.expectation_config.meta["number"])
