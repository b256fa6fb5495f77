"""Quality metrics: distances between distributions of features, and equivariance."""

from sg3flow.distributed import Ranks
from sg3flow.metrics.distances import FeatureStats, RunningStats, frechet_distance, kernel_distance
from sg3flow.metrics.equivariance import eqr, eqt, frac_shift, int_shift, pseudo, psnr, rot
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.names import Metric, parse_metric, parse_metrics
from sg3flow.metrics.neighborhoods import density_coverage, memorization, precision_recall
from sg3flow.metrics.report import MetricResult

__all__ = [
    "Evaluator",
    "FeatureStats",
    "Metric",
    "MetricResult",
    "Ranks",
    "RunningStats",
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
