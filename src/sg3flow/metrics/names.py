"""Names of metrics: what is measured, and over how many generated images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sg3flow.errors import MetricError, cut, nearest

_COUNT = "([1-9][0-9]{0,8})(k?)"
_COUNT_AND_NEIGHBOR = "([1-9][0-9]{0,8})(k|_)([1-9][0-9]?)"
_NEIGHBOR = "([1-9][0-9]?)"
_DEFAULT_PAIRS = 50_000  # of path length, whose published name has no count
_HIGHER = (("", True),)
_PR = (("_precision", True), ("_recall", True))
_DC = (("_density", True), ("_coverage", True))
_MEM = (("_authentic", True), ("_distance", True))
_FLD = (("", False), ("_gap", True), ("_memorized", False))
_NEED_A_NETWORK = ("ppl2_wend", "eqt_int", "eqt_frac", "eqr")


@dataclass(frozen=True)
class Kind:
    """A kind of metric.

    Attributes:
        form: form of its names; ``{N}`` is the count, ``{K}`` the number of the neighbor. The
            kinds of ``_WITH_OLDER_NAMES`` have a second form, without ``_full``.
        detector: network that extracts features, a key of ``DETECTORS``, or ``patches``, ``lpips``;
            ``inception_clean`` and the like: with the input rule of another tool; None for metrics
            without features.
        outputs: suffix of each value, and whether higher is better.
        unit: unit of the values in tables; empty: none.
        formula: kind whose computation it shares; empty: its own.
        ddof: a covariance of N images is divided by N - ddof.
    """

    form: str
    detector: str | None
    outputs: tuple[tuple[str, bool], ...] = (("", False),)
    unit: str = ""
    formula: str = ""
    ddof: int = 0


def _of_tool(form: str, detector: str) -> Kind:
    """A Frechet distance as another tool computes it; all of them divide by N - 1."""
    return Kind(form, detector, formula="fid", ddof=1)


def _over(detector: str, spelled: str) -> dict[str, Kind]:
    """Every metric over the features of one detector; ``spelled`` stands before the count."""
    forms = {
        "fd": Kind(f"fd_{spelled}{{N}}_full", detector, formula="fid"),
        "kd": Kind(f"kd_{spelled}{{N}}_full", detector, formula="kid"),
        "pr": Kind(f"pr_{spelled}{{N}}{{K}}_full", detector, _PR, formula="pr"),
        "dc": Kind(f"dc_{spelled}{{N}}{{K}}_full", detector, _DC, formula="dc"),
        "mem": Kind(f"mem_{spelled}{{N}}_full", detector, _MEM, formula="mem"),
        "cmmd": Kind(f"cmmd_{spelled}{{N}}", detector, formula="cmmd"),
        "vendi": Kind(f"vendi_{spelled}{{N}}", detector, _HIGHER, formula="vendi"),
        "fld": Kind(f"fld_{spelled}{{N}}", detector, _FLD, formula="fld"),
    }
    return {f"{name}_{detector}": kind for name, kind in forms.items()}


# Detectors that have every metric; these would be second names of others in the table.
_DETECTORS = ("dinov2", "dinov2_b", "clip", "inception", "vgg16")
_TWICE = (
    *("fd_inception", "kd_inception", "mem_inception", "pr_vgg16", "dc_vgg16"),
    *("vendi_dinov2", "fld_dinov2", "cmmd_clip", "kd_random"),
)
_FAMILIES = {
    name: kind
    for detector in _DETECTORS
    for name, kind in _over(detector, f"{detector}_").items()
    if name not in _TWICE
}

KINDS = {
    "fid": Kind("fid{N}_full", "inception"),
    "kid": Kind("kid{N}_full", "inception"),
    # The protocols of other tools; docs/metrics.md has their versions and differences.
    "clean_fid": _of_tool("clean_fid{N}_full", "inception_clean"),
    "clean_kid": Kind("clean_kid{N}_full", "inception_clean", formula="kid"),
    "pytorch_fid": _of_tool("pytorch_fid{N}_full", "inception_pytorch"),
    "torch_fidelity_fid": _of_tool("torch_fidelity_fid{N}_full", "inception_torch_fidelity"),
    "torch_fidelity_kid": Kind("torch_fidelity_kid{N}_full", "inception_torch_fidelity"),
    "torchmetrics_fid": _of_tool("torchmetrics_fid{N}_full", "inception_torchmetrics"),
    "is": Kind("is{N}", "inception", _HIGHER),
    "pr": Kind("pr{N}{K}_full", "vgg16", _PR),
    "dc": Kind("dc{N}{K}_full", "vgg16", _DC),
    "mem": Kind("mem{N}_full", "inception", _MEM),
    "swd": Kind("swd{N}_full", "patches"),
    "cmmd": Kind("cmmd_{N}", "clip"),
    "vendi": Kind("vendi_{N}", "dinov2", _HIGHER),
    "fld": Kind("fld_{N}", "dinov2", _FLD),
    "kid_random": Kind("kid_random{N}_full", "random", formula="kid"),
    **{name: kind for name, kind in _over("random", "random").items() if name not in _TWICE},
    **_FAMILIES,
    "ppl2_wend": Kind("ppl2_wend{N}", "lpips"),
    "eqt_int": Kind("eqt{N}_int", None, _HIGHER, "dB"),
    "eqt_frac": Kind("eqt{N}_frac", None, _HIGHER, "dB"),
    "eqr": Kind("eqr{N}", None, _HIGHER, "dB"),
}

_ENDINGS = tuple(dict.fromkeys(ending for kind in KINDS.values() for ending, _ in kind.outputs))

# `fid50k_full` compares with all training images. `fid50k`, the older name, is another metric: it
# compares with at most 50,000 of them, and with their flips if the training was mirrored.
_FULL = "_full"
_WITH_OLDER_NAMES = ("fid", "kid", "pr", "fd_random", "kid_random", "pr_random")


@dataclass(frozen=True)
class Metric:
    """A parsed metric name.

    Attributes:
        name: as written, ``pr50k3_full``.
        kind: a key of ``KINDS``.
        num_images: number of generated images; for path length, of pairs.
        neighbor: number of the nearest neighbor that bounds a ball; 0 for metrics without balls.
        is_older: whether it is an older name without ``_full``: the reference has at most 50,000
            images, and their flips if the training was mirrored.
    """

    name: str
    kind: str
    num_images: int
    neighbor: int = 0
    is_older: bool = False

    @property
    def detector(self) -> str | None:
        """Network that extracts the features; None for metrics without features."""
        return KINDS[self.kind].detector

    @property
    def outputs(self) -> dict[str, bool]:
        """Name of each value, and whether higher is better."""
        return {self.name + ending: higher for ending, higher in KINDS[self.kind].outputs}

    @property
    def formula(self) -> str:
        """The kind whose computation it has: ``fid`` for ``fd_random``."""
        return KINDS[self.kind].formula or self.kind

    @property
    def uses_only_images(self) -> bool:
        """Whether images are enough to compute it; otherwise it needs the network."""
        return self.kind not in _NEED_A_NETWORK

    @property
    def finds_pairs(self) -> bool:
        """Whether it finds generated images that are close to training images."""
        return KINDS[self.kind].outputs == _MEM

    @property
    def is_equivariance(self) -> bool:
        """Whether it measures equivariance."""
        return self.detector is None

    @property
    def uses_held_out(self) -> bool:
        """Whether it also compares with images that the training has not seen."""
        return self.formula == "fld"

    @property
    def has_reference(self) -> bool:
        """Whether it compares with a reference set."""
        return self.uses_only_images and self.formula not in ("is", "vendi")


def parse_metric(name: str) -> Metric:
    """``fid50k_full`` -> kind ``fid`` over 50,000 images; ``k`` is a thousand.

    The number of the neighbor follows the count: ``pr50k3_full``, or ``pr500_3_full`` if the count
    has no ``k``. ``ppl2_wend`` is path length over 50,000 pairs, ``ppl2_wend1k`` over 1000.

    Raises:
        MetricError: no such metric; the message suggests the nearest name and lists all forms.
    """
    if name == "ppl2_wend":
        return Metric(name, "ppl2_wend", _DEFAULT_PAIRS)
    for (kind, is_older), pattern in _PATTERNS.items():
        if match := pattern.fullmatch(name):
            count = int(match[1]) * (1000 if match[2] == "k" else 1)
            neighbor = int(match[3]) if pattern.groups == 3 else 0
            return Metric(name, kind, count, neighbor, is_older)
    known = [_spelled(form, "50k", "3") for form in _FORMS.values()]
    alike = [each for each in known if each[:3] == name[:3].lower()]
    hint = nearest(name, alike or known)
    raise MetricError(
        f"unknown metric '{name}'{hint}; known: {_known_forms()}; N is a count such as 500 or 50k, "
        f"K the number of the neighbor: pr50k3_full, pr500_3_full; D is {', '.join(_DETECTORS)}"
    )


def _known_forms() -> str:
    """The forms of all names; those over any detector once, with ``D`` for it."""
    own = [form for (kind, _), form in _FORMS.items() if kind not in _FAMILIES]
    over_any = [kind.form for kind in _over("D", "D_").values()]
    return ", ".join(_spelled(form, "N", "kK") for form in (*own, *over_any))


def unit_of(output: str) -> str:
    """The unit of a value by its name; empty: none, or an unknown name."""
    found = _parsed_output(output)
    return KINDS[found[0].kind].unit if found else ""


def resolve_output(short: str, outputs: Sequence[str]) -> str:
    """The one of several names of values that a name or a short form means.

    Short forms of ``pr_random500_3_full_recall`` are ``recall``, ``pr_random`` with the ending,
    ``pr_random_recall``, and the kind alone, ``pr_random``.

    Raises:
        MetricError: none or several of them fit.
    """
    if short in outputs:
        return short
    fitting = [name for name in outputs if short in _short_forms(name)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(fitting or outputs) or "nothing"
    if fitting:
        raise MetricError(f"'{cut(short)}' fits several measured values: {listed}; give one whole")
    raise MetricError(f"'{cut(short)}' was not measured{nearest(short, outputs)}; known: {listed}")


def _short_forms(output: str) -> set[str]:
    found = _parsed_output(output)
    if found is None:
        return set()
    metric, ending = found
    # The kind alone means the value without an ending, if there is one.
    alone = not ending or metric.name not in metric.outputs
    kinds = {metric.kind, metric.kind + ending} if alone else {metric.kind + ending}
    return kinds | ({ending[1:]} if ending else set())


def _parsed_output(output: str) -> tuple[Metric, str] | None:
    """The metric of a value, and what its name adds; None: an unknown name."""
    for ending in _ENDINGS:
        if output.endswith(ending):
            try:
                metric = parse_metric(output.removesuffix(ending))
            except MetricError:
                continue
            if output in metric.outputs:
                return metric, ending
    return None


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Parse several names.

    Raises:
        MetricError: no names, an unknown name, or a duplicate.
    """
    _require_distinct(names, "fd_random1k_full")
    return [parse_metric(name) for name in names]


def parse_set_metrics(names: Sequence[str], num_images: int) -> list[Metric]:
    """Metrics between two sets of images: ``fid``, ``kid``, ``pr3``…, over all images of both.

    Args:
        num_images: number of images in the set to measure.

    Raises:
        MetricError: no names, an unknown name, or a duplicate.
    """
    _require_distinct(names, "fd_random")
    return [_parse_set_metric(name, num_images) for name in names]


def _parse_set_metric(name: str, num_images: int) -> Metric:
    for kind in KINDS:
        plain = _without_count(KINDS[kind].form)
        found = re.fullmatch(plain.replace("{K}", _NEIGHBOR), name)
        if found and kind not in _NEED_A_NETWORK:
            return Metric(name, kind, num_images, int(found[1]) if found.groups() else 0)
    forms = {kind: _without_count(KINDS[kind].form) for kind in KINDS}
    known = {kind: form.replace("{K}", "3") for kind, form in forms.items()}
    known = {kind: form for kind, form in known.items() if kind not in _NEED_A_NETWORK}
    own = [form for kind, form in known.items() if kind not in _FAMILIES]
    over_any = [_without_count(kind.form).replace("{K}", "3") for kind in _over("D", "D_").values()]
    raise MetricError(
        f"no metric '{name}' between two sets of images{nearest(name, list(known.values()))}; "
        f"known: {', '.join([*own, *over_any])}; D is {', '.join(_DETECTORS)}"
    )


def _without_count(form: str) -> str:
    """``pr_dinov2_{N}{K}_full`` -> ``pr_dinov2_{K}``, ``vendi_{N}`` -> ``vendi``."""
    return form.replace("{N}", "").removesuffix(_FULL).removesuffix("_")


def counted_name(name: str, num_images: int) -> str:
    """A name between sets, such as ``pr3``, as that of a network: ``pr500_3_full``.

    Args:
        num_images: number of images to generate; names that have a count keep theirs.

    Raises:
        MetricError: no such metric.
    """
    for kind in KINDS.values():
        found = re.fullmatch(_without_count(kind.form).replace("{K}", _NEIGHBOR), name)
        if found and name != "ppl2_wend":
            count = f"{num_images}_{found[1]}" if found.groups() else str(num_images)
            return kind.form.replace("{N}", count).replace("{K}", "")
    return parse_metric(name).name


def _require_distinct(names: Sequence[str], example: str) -> None:
    if not names:
        raise MetricError(f"no metric given; name at least one, for example {example}")
    if len(set(names)) < len(names):
        raise MetricError(f"a metric is given twice: {', '.join(names)}")


def _spelled(form: str, count: str, neighbor: str) -> str:
    return form.replace("{N}", count).replace("{K}", neighbor)


# By kind, and whether it is the older form.
_FORMS = {(name, False): kind.form for name, kind in KINDS.items()} | {
    (name, True): KINDS[name].form.removesuffix(_FULL) for name in _WITH_OLDER_NAMES
}
_PATTERNS = {
    key: re.compile(form.replace("{N}{K}", _COUNT_AND_NEIGHBOR).replace("{N}", _COUNT))
    for key, form in _FORMS.items()
}
