"""Names of metrics: what is measured, and over how many generated images."""

import re
from dataclasses import dataclass

from sg3flow.errors import MetricError, nearest

# Kind -> form of its names; the count stands where the braces are.
_FORMS = {
    "fid": "fid{}_full",
    "fd_random": "fd_random{}_full",
    "eqt_int": "eqt{}_int",
    "eqt_frac": "eqt{}_frac",
    "eqr": "eqr{}",
}
_HIGHER_IS_BETTER = {"eqt_int", "eqt_frac", "eqr"}
_PATTERNS = {
    kind: re.compile("([1-9][0-9]{0,8})(k?)".join(map(re.escape, form.split("{}"))))
    for kind, form in _FORMS.items()
}


@dataclass(frozen=True)
class Metric:
    """A metric as its name says it.

    Attributes:
        name: as written, ``fid50k_full``.
        kind: ``fid``, ``fd_random``, ``eqt_int``, ``eqt_frac`` or ``eqr``.
        num_images: generated images.
    """

    name: str
    kind: str
    num_images: int

    @property
    def higher_is_better(self) -> bool:
        """Equivariance is a ratio in dB, the others are distances."""
        return self.kind in _HIGHER_IS_BETTER

    @property
    def is_frechet(self) -> bool:
        """Whether the metric compares feature clouds, and so needs a detector and a reference."""
        return self.kind in ("fid", "fd_random")


def parse_metric(name: str) -> Metric:
    """``fid50k_full`` -> kind ``fid`` over 50,000 images; ``k`` is a thousand, any count goes.

    Raises:
        MetricError: no such metric; the message has the nearest name and all forms.
    """
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(name):
            return Metric(name, kind, int(match[1]) * (1000 if match[2] else 1))
    known = [form.format("50k") for form in _FORMS.values()]
    forms = ", ".join(form.format("N") for form in _FORMS.values())
    hint = nearest(name, known)
    raise MetricError(
        f"unknown metric '{name}'{hint}; metrics are {forms}, N a count such as 500 or 50k"
    )


def parse_metrics(names: tuple[str, ...]) -> list[Metric]:
    """Parse each name once.

    Raises:
        MetricError: no names, an unknown name, or one that stands twice.
    """
    if not names:
        raise MetricError("no metrics are named; name at least one, for instance fd_random1k_full")
    if len(set(names)) < len(names):
        raise MetricError(f"a metric stands twice in {', '.join(names)}")
    return [parse_metric(name) for name in names]
