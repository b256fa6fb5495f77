"""Blends of two networks: layers of one and layers of the other, or a mean of all weights.

By layer: the low-resolution layers of one network decide pose and shape, the high-resolution layers
of the other one colors and texture (Pinkney and Adler 2020, "Resolution Dependent GAN
Interpolation"). Both kinds need networks of which one was trained from the other, or both from a
third: only then does a channel mean the same in both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sg3flow.errors import ConfigError, cut
from sg3flow.latent.architecture_match import architecture_difference
from sg3flow.latent.combined_networks import (
    BY_LAYER,
    BY_WEIGHT,
    MEAN,
    Combination,
    Parent,
    combined,
    joined_training_set,
    rebuilt,
    require_alike,
)

NO_LAYER = "none"
MAPPINGS = ("a", "b")


def layer_names(G: Any) -> list[str]:
    """The layers of a generator, or the blocks of StyleGAN2, the lowest resolution first."""
    return [name for name, _ in G.synthesis.named_children()]


def find_layer(G: Any, text: str) -> int:
    """The position of a layer given by its name, the start of its name (``L5``) or its number.

    Returns:
        -1 for ``none``.

    Raises:
        ConfigError: there is no such layer; the message lists all.
    """
    names = layer_names(G)
    if text == NO_LAYER:
        return -1
    if text in names:
        return names.index(text)
    starts = [i for i, name in enumerate(names) if name.startswith(f"{text}_")]
    if len(starts) == 1:
        return starts[0]
    if text.isascii() and text.isdigit() and len(text) < 4 and int(text) < len(names):
        return int(text)
    known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    raise ConfigError(f"there is no layer '{cut(text)}'; the layers are {known}, or {NO_LAYER}")


def blend_by_layer(first: Parent, second: Parent, up_to: str, mapping: str = "") -> Combination:
    """The layers of ``first`` up to and including ``up_to``, and the other layers of ``second``.

    Args:
        up_to: see ``find_layer``; ``none``: all layers are of ``second``.
        mapping: whose mapping network, with ``w_avg``, the result has, ``a`` or ``b``; empty: that
            of the network with the first layer. The discriminator is that of the network with the
            last layer.

    Raises:
        CheckpointError: the architectures differ.
        ConfigError: there is no such layer, or ``mapping`` is none of these.
    """
    if mapping and mapping not in MAPPINGS:
        raise ConfigError(f"mapping must be {' or '.join(MAPPINGS)}, not '{cut(mapping)}'")
    require_alike(first, second)
    names = layer_names(first.G_ema)
    count = find_layer(first.G_ema, up_to) + 1
    mapped = {"a": first, "b": second}.get(mapping, first if count else second)
    last = first if count == len(names) else second
    networks: dict[str, nn.Module | None] = {"D": last.networks["D"]}
    for role in ("G", "G_ema"):
        ours, theirs = first.networks[role], second.networks[role]
        assert ours is not None and theirs is not None
        networks[role] = _joined(ours, theirs, names[:count], mapped is first)
    made_by = {
        "kind": BY_LAYER,
        "up_to": names[count - 1] if count else NO_LAYER,
        "mapping": "a" if mapped is first else "b",
    }
    described = joined_training_set(mapped, [second if mapped is first else first])
    return Combination(networks, last.augment_p, made_by, (first, second), described)


def _joined(first: nn.Module, second: nn.Module, of_first: Sequence[str], maps: bool) -> nn.Module:
    """The layers ``of_first`` of one generator and the rest of the other.

    Args:
        maps: whether the mapping network is that of ``first``.
    """
    taken = {f"synthesis.{name}" for name in of_first} | ({"mapping"} if maps else set())
    ours, theirs = first.state_dict(), second.state_dict()

    def is_taken(name: str) -> bool:
        top, layer = name.split(".")[:2]
        return (top if top == "mapping" else f"{top}.{layer}") in taken

    return rebuilt(first, {name: (ours if is_taken(name) else theirs)[name] for name in ours})


def blend_by_weight(first: Parent, second: Parent, weight: float) -> Combination:
    """(1 - weight) times all tensors of ``first`` plus weight times those of ``second``.

    The discriminators are blended too, if both have one of the same architecture; else the result
    has that of the network with the greater weight.

    Raises:
        CheckpointError: the architectures differ.
        ConfigError: the weight is not in 0..1.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight must be from 0 (all of A) to 1 (all of B), not {weight}")
    made_by = {"kind": BY_WEIGHT, "weight": weight}
    return _weighted((first, second), (1 - weight, weight), made_by)


def mean_of(parents: Sequence[Parent]) -> Combination:
    """The mean of all tensors of several networks, as that of snapshots of one training.

    Raises:
        CheckpointError: the architectures differ.
        ConfigError: there are fewer than two.
    """
    if len(parents) < 2:
        raise ConfigError(f"a mean needs at least two networks, not {len(parents)}")
    weights = [1 / len(parents)] * len(parents)
    return _weighted(parents, weights, {"kind": MEAN, "networks": len(parents)})


def _weighted(
    parents: Sequence[Parent], weights: Sequence[float], made_by: dict[str, Any]
) -> Combination:
    for parent in parents[1:]:
        require_alike(parents[0], parent)
    networks: dict[str, nn.Module | None] = {"D": _weighted_discriminator(parents, weights)}
    for role in ("G", "G_ema"):
        members = [parent.networks[role] for parent in parents]
        networks[role] = combined([each for each in members if each is not None], weights)
    p = sum(weight * each.augment_p for weight, each in zip(weights, parents, strict=True))
    order = sorted(range(len(parents)), key=lambda i: -weights[i])
    first, *others = (parents[i] for i in order)
    return Combination(networks, p, made_by, parents, joined_training_set(first, others))


def _weighted_discriminator(
    parents: Sequence[Parent], weights: Sequence[float]
) -> nn.Module | None:
    """Their weighted sum, or the one of the greatest weight if they cannot be combined."""
    found = [(parent.networks["D"], w) for parent, w in zip(parents, weights, strict=True)]
    known = [(network, weight) for network, weight in found if network is not None]
    if not known:
        return None
    networks, known_weights = zip(*known, strict=True)
    is_alike = all(architecture_difference(networks[0], each) is None for each in networks[1:])
    if len(known) == len(found) and is_alike:
        return combined(networks, known_weights)
    greatest: nn.Module = max(known, key=lambda each: each[1])[0]
    return greatest


def are_related(first: Parent, second: Parent) -> bool:
    """Whether one network was trained from the other or both from a third, by their constants.

    Each initialization draws the frequencies of StyleGAN3's input or the noise maps of StyleGAN2
    anew, and no training changes them. A StyleGAN2 network without noise maps has no such constant;
    nothing speaks against it.
    """
    states = [parent.G_ema.state_dict() for parent in (first, second)]
    constants = ("synthesis.input.freqs", "synthesis.b4.conv1.noise_const")
    known = [name for name in constants if name in states[0]]
    return all(torch.equal(states[0][name], states[1][name]) for name in known)
