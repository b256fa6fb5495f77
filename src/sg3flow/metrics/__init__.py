"""Quality metrics: distances between distributions of features, and equivariance."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sg3flow.distributed import Ranks
    from sg3flow.metrics.computed import MetricValues, compute
    from sg3flow.metrics.distances import (
        FeatureStats,
        RunningStats,
        frechet_distance,
    )
    from sg3flow.metrics.equivariance import eqr, eqt, frac_shift, int_shift, pseudo, psnr, rot
    from sg3flow.metrics.evaluator import Evaluator
    from sg3flow.metrics.names import Metric, parse_metric, parse_metrics
    from sg3flow.metrics.neighborhoods import density_coverage, memorization, precision_recall
    from sg3flow.metrics.polynomial_mmd import kernel_distance
    from sg3flow.metrics.report import MetricResult

# Imported at their first use: most need torch, which who reads a report does not.
_MODULES = {
    "sg3flow.distributed": ("Ranks",),
    "sg3flow.metrics.computed": ("MetricValues", "compute"),
    "sg3flow.metrics.distances": (
        "FeatureStats",
        "RunningStats",
        "frechet_distance",
    ),
    "sg3flow.metrics.equivariance": (
        "eqr",
        "eqt",
        "frac_shift",
        "int_shift",
        "pseudo",
        "psnr",
        "rot",
    ),
    "sg3flow.metrics.evaluator": ("Evaluator",),
    "sg3flow.metrics.names": ("Metric", "parse_metric", "parse_metrics"),
    "sg3flow.metrics.neighborhoods": ("density_coverage", "memorization", "precision_recall"),
    "sg3flow.metrics.polynomial_mmd": ("kernel_distance",),
    "sg3flow.metrics.report": ("MetricResult",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Evaluator",
    "FeatureStats",
    "Metric",
    "MetricResult",
    "MetricValues",
    "Ranks",
    "RunningStats",
    "compute",
    "density_coverage",
    "eqr",
    "eqt",
    "frac_shift",
    "frechet_distance",
    "int_shift",
    "kernel_distance",
    "memorization",
    "parse_metric",
    "parse_metrics",
    "precision_recall",
    "pseudo",
    "psnr",
    "rot",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
