"""Quality metrics: distances between feature clouds, and equivariance."""

from sg3flow.metrics.density_coverage import density_coverage
from sg3flow.metrics.equivariance import eqr, eqt, psnr
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.frechet import FeatureStats, RunningStats, frechet_distance
from sg3flow.metrics.kernel import kernel_distance
from sg3flow.metrics.memorisation import memorisation
from sg3flow.metrics.motions import frac_shift, int_shift, pseudo, rot
from sg3flow.metrics.names import Metric, parse_metric, parse_metrics
from sg3flow.metrics.precision_recall import precision_recall
from sg3flow.metrics.ranks import Ranks
from sg3flow.metrics.results import MetricResult

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
    "memorisation",
    "parse_metric",
    "parse_metrics",
    "precision_recall",
    "pseudo",
    "psnr",
    "rot",
]
