"""Names of metrics in MLflow: in groups, which its pages show as sections.

Files keep the names that StyleGAN users know, such as ``Loss/G/loss`` in ``stats.jsonl``. A run
that an earlier version created keeps those names in MLflow too, so that no curve is cut in two;
``recorded_name`` reads both.
"""

_LOSSES = {
    "Loss/G/loss": "loss/G",
    "Loss/D/loss": "loss/D",
    "Loss/G/reg": "loss/G_reg",
    "Loss/D/reg": "loss/D_reg",
    "Loss/scores/real": "loss/scores_real",
    "Loss/scores/fake": "loss/scores_fake",
    "Loss/signs/real": "loss/signs_real",
    "Loss/signs/fake": "loss/signs_fake",
}
_GROUPS = {
    "Loss/": "loss/",
    "Timing/": "time/",
    "Progress/": "progress/",
    "Resources/": "memory/",
    "Repairs/": "repairs/",
}
QUALITY, _DATA = "metrics/", "data/"
# The stages whose own numbers are about images, not about networks.
_DATA_STAGES = ("fetch", "pack", "validate")

_RECORDED_LOSSES = {grouped: name for name, grouped in _LOSSES.items()}
_RECORDED_GROUPS = {grouped: name for name, grouped in _GROUPS.items()}


def grouped_name(name: str, stage: str = "train") -> str:
    """The name in MLflow of a statistic or a metric, such as ``loss/G`` or ``metrics/fid50k``.

    Args:
        name: as in the files of a run.
        stage: the stage that reports it.
    """
    if name in _LOSSES:
        return _LOSSES[name]
    if stage in _DATA_STAGES:
        return f"{_DATA}{name.replace('/', ' ')}"  # the pages make sections of all but the last
    group, slash, rest = name.partition("/")
    if not slash:
        return f"{QUALITY}{name}"
    return f"{_GROUPS.get(group + slash, group + slash)}{rest}"


def recorded_name(name: str) -> str:
    """The inverse of ``grouped_name``; a name of an earlier version stays as it is."""
    if name in _RECORDED_LOSSES:
        return _RECORDED_LOSSES[name]
    group, slash, rest = name.partition("/")
    if group + slash in (QUALITY, _DATA):
        return rest
    return f"{_RECORDED_GROUPS.get(group + slash, group + slash)}{rest}"
