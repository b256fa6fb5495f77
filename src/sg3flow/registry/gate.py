"""The gate before ``champion``: what a version must show, metric by metric.

``better`` asks for a gain larger than twice the error of the difference. ``not worse`` asks only
that the loss, if there is one, is not larger than that. A version passes if it passes in all
metrics of the gate.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sg3flow.config import BETTER, GATE_WORDS, NOT_WORSE
from sg3flow.errors import ConfigError, MetricError
from sg3flow.metrics.error_terms import NO_TERMS, Terms
from sg3flow.metrics.estimates import WORSE, compare_results, too_few_images
from sg3flow.metrics.names import resolve_output, unit_of
from sg3flow.runs.best_snapshot import differing_meaning

Rows = Mapping[str, Mapping[str, Any]]  # of reports/evaluation.json, by metric
Gate = Mapping[str, str]  # what it asks, by metric


@dataclass(frozen=True)
class Verdict:
    """The outcome in one metric.

    Attributes:
        metric: name of the value.
        wanted: ``better`` or ``not worse``.
        passed: whether the version showed it.
        text: the values and the noise, for people.
    """

    metric: str
    wanted: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion.

    Attributes:
        passed: in all metrics.
        reason: a sentence about all of them.
        verdicts: one per metric; empty: there was nothing to compare.
        warning: how many images would be needed to see a difference; empty: they suffice.
    """

    passed: bool
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    warning: str = ""


def resolve_gate(asked: Sequence[str], metric: str, measured: Sequence[str]) -> dict[str, str]:
    """The gate of a registration.

    Args:
        asked: the setting ``register.gate``; empty: better by ``metric``.
        metric: the one that picked the snapshot.
        measured: the names of its values, which short names are resolved among.

    Raises:
        MetricError: a name fits none of them, or several.
        ConfigError: two names mean the same value.
    """
    gate: dict[str, str] = {}
    for name, _, wanted in (each.partition("=") for each in asked):
        try:
            found = resolve_output(name, measured)
        except MetricError as error:
            raise MetricError(f"register.gate: {error}") from None
        if found in gate:
            raise ConfigError(f"register.gate names {found} twice; keep one of them")
        gate[found] = wanted
    return gate or {metric: BETTER}


def require_comparable(gate: Gate, results: Rows, champion: str, champion_results: Rows) -> None:
    """Check that a version and the champion were measured alike; arguments as in ``decide``.

    Raises:
        MetricError: the reference set or the detector of a metric differs.
    """
    for metric in gate:
        base = champion_results.get(metric)
        differing = differing_meaning(results[metric], base) if base is not None else []
        if differing:
            raise MetricError(
                f"{metric} cannot be compared with the champion, version {champion}: "
                f"{' and '.join(differing)} differ; register under another name, or remove the "
                "alias champion from that version first"
            )


def decide(
    gate: Gate,
    results: Rows,
    champion: str,
    champion_results: Rows,
    terms: Terms = NO_TERMS,
) -> Decision:
    """Compare a version with the champion in every metric of the gate.

    Args:
        results: the rows of the new version; it has all metrics of the gate.
        champion: version number of the champion.
        champion_results: its rows.
        terms: error terms of both by digest, as far as they are known.

    Raises:
        MetricError: as ``require_comparable``.
    """
    require_comparable(gate, results, champion, champion_results)
    verdicts, warnings = [], []
    for metric, wanted in gate.items():
        base = champion_results.get(metric)
        verdicts.append(_verdict(wanted, results[metric], champion, base, terms))
        if base is not None:
            outcome = compare_results(results[metric], base, terms)
            warnings.append(too_few_images(results[metric], outcome))
    warning = next(filter(None, warnings), "")
    failed = [each.text for each in verdicts if not each.passed]
    if not failed:
        reason = f"champion: {'; '.join(each.text for each in verdicts)}"
        return Decision(True, reason, tuple(verdicts), warning)
    passed = [each.metric for each in verdicts if each.passed]
    parts = [*failed, *([f"passed in {', '.join(passed)}"] if passed else [])]
    reason = f"version {champion} stays champion: {'; '.join(parts)}"
    return Decision(False, reason, tuple(verdicts), warning)


def _verdict(
    wanted: str,
    result: Mapping[str, Any],
    champion: str,
    base: Mapping[str, Any] | None,
    terms: Terms,
) -> Verdict:
    metric = str(result["metric"])
    if base is None:
        text = f"not comparable, it was not measured by {metric}"
        return Verdict(metric, wanted, False, text)
    outcome = compare_results(result, base, terms)
    if not outcome.is_compared:
        text = f"not comparable by {metric}, for {outcome.reason}"
        return Verdict(metric, wanted, False, text)
    passed = outcome.word == BETTER if wanted == BETTER else outcome.word != WORSE
    words = {(BETTER, True): "better", (BETTER, False): "not better"}
    words |= {(NOT_WORSE, True): "not worse", (NOT_WORSE, False): "worse"}
    new, old = _valued(result), _valued(base)
    other = f"the {old} of version {champion}" if passed else f"its {old}"
    text = f"{metric} {new} is {words[wanted, passed]} than {other} ({outcome.reason})"
    return Verdict(metric, wanted, passed, text)


def _valued(row: Mapping[str, Any]) -> str:
    unit = unit_of(str(row["metric"]))
    return f"{float(row['value']):g}" + (f" {unit}" if unit else "")


def gate_record(gate: Gate, verdicts: Sequence[Verdict]) -> str:
    """A gate and its verdicts as the text of a tag."""
    return json.dumps({"gate": dict(gate), "verdicts": [asdict(each) for each in verdicts]})


def read_gate_record(text: str) -> tuple[dict[str, str], list[Verdict]]:
    """Gate and verdicts of ``gate_record``; both empty: the text is none, as of older versions."""
    try:
        content = json.loads(text)
        gate = {str(name): str(wanted) for name, wanted in content["gate"].items()}
        verdicts = [Verdict(**each) for each in content["verdicts"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, []
    return (gate, verdicts) if set(gate.values()) <= set(GATE_WORDS) else ({}, [])
