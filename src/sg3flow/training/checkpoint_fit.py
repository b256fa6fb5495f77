"""Why a checkpoint does not fit a training, and what would help: messages only.

Only advice that works is given: it follows from what differs.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sg3flow.errors import listed
from sg3flow.networks import Discriminator, StyleGAN2Generator

ONLY_IN_CHECKPOINT = "only in the checkpoint"
_MAX_LISTED = 2

# Facts that a message names only where they differ.
_CAPACITY = ("cbase", "cmax", "map-depth")


def misfit_message(
    source: str,
    pairs: Mapping[str, tuple[nn.Module, nn.Module]],
    misfits: Mapping[str, Mapping[str, str]],
    some_fit: bool,
) -> str:
    """The message about networks whose tensors do not fit.

    Args:
        source: where the checkpoint comes from.
        pairs: by name, the network of this training and that of the checkpoint.
        misfits: by name of the network, the reason for each tensor that does not fit.
        some_fit: whether weights fit, so that ``resume_partial`` works.
    """
    ours = {name: facts_of(pairs[name][0]) for name in ("G", "D") if name in pairs}
    theirs = {name: facts_of(pairs[name][1]) for name in ours}
    counts = ", ".join(
        _counts(name, len(pairs[name][0].state_dict()), wrong)
        for name, wrong in misfits.items()
        if wrong and (name != "G_ema" or wrong != misfits["G"])
    )
    # G_ema has the architecture of G: its list would repeat that of G.
    shown = [name for name in ("G", "D") if misfits.get(name)] or ["G_ema"]
    examples = "; ".join(
        listed(
            (f"{name}.{tensor}: {reason}" for tensor, reason in misfits[name].items()), _MAX_LISTED
        )
        for name in shown
    )
    rest = "use --resume-partial to take the tensors that fit"
    if not some_fit:
        rest = "leave out --resume to start from scratch"
    whole = _whole_advice(theirs, ours, "use --resume-arch")
    return f"{_both(theirs, ours, source)}: {counts}: {examples}; {whole}, or {rest}"


def architecture_message(source: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Why a training cannot take the architecture of a checkpoint; empty: it can.

    Args:
        theirs, ours: ``facts`` by name of the network.
    """
    if not _steps(theirs, ours):
        return ""
    return f"{_both(theirs, ours, source)}; {_whole_advice(theirs, ours)}"


def _counts(name: str, total: int, wrong: Mapping[str, str]) -> str:
    extra = sum(reason == ONLY_IN_CHECKPOINT for reason in wrong.values())
    differing = len(wrong) - extra
    unused = f" and {extra} of the checkpoint have no place" if extra else ""
    return f"{total - differing} of {total} tensors of {name} fit, {differing} do not{unused}"


def facts(kwargs: Mapping[str, Any], cfg: str = "", map_depth: int = 0) -> dict[str, Any]:
    """What users know a network by, from its constructor arguments; ``cfg`` is empty for D."""
    factor = 2 if cfg == "stylegan3-r" else 1
    return {
        "cfg": cfg,
        "resolution": kwargs["img_resolution"],
        "classes": f"{kwargs['c_dim'] or 'no'} classes",
        "channels": kwargs["img_channels"],
        "cbase": kwargs.get("channel_base", 32768) // factor,
        "cmax": kwargs.get("channel_max", 512) // factor,
        "map-depth": map_depth,
    }


def facts_of(network: Any) -> dict[str, Any]:
    """``facts`` of a network."""
    kwargs = network.init_kwargs
    if isinstance(network, Discriminator):
        return facts(kwargs)
    cfg = "stylegan3-r" if kwargs.get("conv_kernel", 3) == 1 else "stylegan3-t"
    if isinstance(network, StyleGAN2Generator):
        cfg = "stylegan2"
    return facts(kwargs, cfg, network.mapping.num_layers)


def _both(theirs: Mapping[str, Any], ours: Mapping[str, Any], source: str) -> str:
    """The sentence that names both: of the first network that differs, or else of G."""
    name = next((each for each in theirs if theirs[each] != ours[each]), next(iter(theirs)))
    differing = [each for each in _CAPACITY if theirs[name][each] != ours[name][each]]
    words = ["{resolution} px, {classes}, {channels} channels"]
    words += [f"{each} {{{each}}}" for each in differing]
    if name == "G":
        words.insert(0, "{cfg}")
    them, us = (", ".join(words).format_map(each[name]) for each in (theirs, ours))
    if name == "G":
        return f"the checkpoint is {them}; this training is {us} ({source})"
    return f"the discriminator of the checkpoint is {them}, that of this training {us} ({source})"


def _whole_advice(theirs: Mapping[str, Any], ours: Mapping[str, Any], *more: str) -> str:
    """How to use the checkpoint with its own architecture."""
    if any(each["channels"] not in (1, 3) or each["resolution"] < 16 for each in theirs.values()):
        return "use another checkpoint: no packed set for training has such images"
    return f"{' and '.join([*_steps(theirs, ours), *more])} to take all of it"


def _steps(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What to change so that ``resume_arch`` can take the architecture."""
    steps = []
    for name, them in theirs.items():
        us = ours[name]
        if them["resolution"] != us["resolution"]:
            side = them["resolution"]
            steps.append(f"pack the images with --resolution {side}x{side}")
        if them["channels"] != us["channels"]:
            mode = "grey" if them["channels"] == 1 else "rgb"
            steps.append(f"pack the images with --mode {mode}")
        if them["classes"] != us["classes"]:
            labeled = f"use --cond=1 and a set of {them['classes']}"
            steps.append("use --cond=0" if them["classes"] == "no classes" else labeled)
        if them["cfg"] != us["cfg"]:
            steps.append(f"use --cfg {them['cfg']}")
    return list(dict.fromkeys(steps))
