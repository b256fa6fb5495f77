"""Start from a checkpoint: take its weights and, with ``resume_arch``, its architecture."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sg3flow.addresses import without_secrets
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.checkpoints.restricted_unpickler import describe
from sg3flow.errors import CheckpointError, ConfigError, listed
from sg3flow.files import write_json
from sg3flow.training.assembly import (
    NetworkSettings,
    Parts,
    discriminator_kwargs,
    generator_kwargs,
)
from sg3flow.training.checkpoint_fit import (
    ONLY_IN_CHECKPOINT,
    architecture_message,
    facts,
    facts_of,
    misfit_message,
)

# Constructor arguments of G and of D.
Architecture = tuple[dict[str, Any], dict[str, Any]]

_PRECISION = ("num_fp16_res", "conv_clamp", "half_dtype")
_MAX_LISTED = 4
# Buffers that the architecture defines; they are not learned.
_FIXED = ("up_filter", "down_filter", "resample_filter")
# The rounding error of a filter that was stored in half precision.
_FILTER_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TransferSettings:
    """The settings of ``TrainConfig`` about a start from another network."""

    resume: str
    resume_partial: bool
    resume_arch: bool


def check_transfer(settings: TransferSettings, freezed: int, resolution: int) -> None:
    """Check the settings that need another network or a number of layers.

    Args:
        freezed: how many layers of D to freeze.
        resolution: side of the images, which decides how many layers D has.

    Raises:
        ConfigError: ``resume_partial`` or ``resume_arch`` without ``resume``, or ``freezed`` beyond
            the layers of D.
    """
    for name in ("resume_partial", "resume_arch"):
        if getattr(settings, name) and not settings.resume:
            raise ConfigError(
                f"train.{name} needs a network to start from; give --resume FILE|URL too"
            )
    # fromrgb, then conv0, conv1 and skip of the blocks from `resolution` down to 8.
    layers = 1 + 3 * (resolution.bit_length() - 3)
    if not 0 <= freezed <= layers:
        raise ConfigError(
            f"train.freezed must be from 0 to {layers}, the layers of D before its last block at "
            f"{resolution} pixels, not {freezed}"
        )


def check_cbase(cbase: int, resolution: int) -> None:
    """Check that every layer of networks for ``resolution`` pixels has a channel.

    Raises:
        ConfigError: ``cbase`` is too small; the first block of D has cbase / resolution channels.
    """
    if cbase < resolution:
        raise ConfigError(
            f"train.cbase is {cbase}, and layers of {resolution} pixels would have no channels; it "
            f"must be at least {resolution} (default 32768)"
        )


def start_architecture(
    kept: Path,
    networks: Networks | None,
    transfer: TransferSettings,
    settings: NetworkSettings,
    *,
    resolution: int,
    channels: int,
    c_dim: int,
) -> Architecture | None:
    """The architecture of a training with ``resume_arch``; None without: the settings decide.

    A resumed training must not depend on the checkpoint: a registry alias may point to another
    version by then. So the first start writes the architecture to the file ``kept``.

    Args:
        networks: the networks of ``resume``; None when the training resumes from its own state.

    Raises:
        CheckpointError, ConfigError: as ``architecture_of``.
    """
    if not transfer.resume_arch:
        return None
    if networks is None:
        noted = _read_kept(kept)
        if noted is not None:
            return noted
        networks = load_networks(transfer.resume)
    architecture = architecture_of(
        networks, transfer, settings, resolution=resolution, channels=channels, c_dim=c_dim
    )
    write_json(kept, dict(zip("GD", architecture, strict=True)))
    return architecture


def architecture_of(
    networks: Networks,
    transfer: TransferSettings,
    settings: NetworkSettings,
    *,
    resolution: int,
    channels: int,
    c_dim: int,
) -> Architecture:
    """Constructor arguments of G and D of a checkpoint, merged with those that the settings decide.

    The settings decide precision, the decay of the magnitude average, the minibatch groups and
    which layers of D are frozen. A checkpoint without D gets the D of the settings.

    Args:
        networks: the networks of ``resume``.
        resolution, channels, c_dim: of the packed set.

    Raises:
        CheckpointError: resolution, channels or labels differ from the packed set, G belongs to
            another family than ``cfg``, or the checkpoint lacks a network that is needed.
        ConfigError: the checkpoint has no D, and ``cbase`` is too small.
    """
    source = without_secrets(transfer.resume)
    sizes = {"resolution": resolution, "channels": channels, "c_dim": c_dim}
    G_kwargs = generator_kwargs(settings, **sizes)
    D_kwargs = discriminator_kwargs(settings, **sizes)
    ours = {
        "G": facts(G_kwargs, settings.cfg, settings.map_depth),
        "D": facts(D_kwargs),
    }
    members = _members(networks)
    theirs = {n: facts_of(members[n]) for n in ours if members[n] is not None}
    if problem := architecture_message(source, theirs, ours):
        raise CheckpointError(problem)
    _check_complete(networks, source, transfer.resume_partial)
    if members["G"] is not None:
        stored = copy.deepcopy(cast(Any, members["G"]).init_kwargs)
        G_kwargs = _with_settings(stored, G_kwargs, (*_PRECISION, "magnitude_ema_beta"))
    if members["D"] is None:
        check_cbase(settings.cbase, resolution)
    else:
        stored = copy.deepcopy(cast(Any, members["D"]).init_kwargs)
        for part in ("block_kwargs", "epilogue_kwargs"):
            D_kwargs[part] = {**(stored.get(part) or {}), **D_kwargs[part]}
        D_kwargs = _with_settings(
            stored, D_kwargs, (*_PRECISION, "block_kwargs", "epilogue_kwargs")
        )
    return G_kwargs, D_kwargs


def check_training_set(networks: Networks, source: str) -> None:
    """Check that a snapshot of this project describes the images of its own networks.

    Raises:
        CheckpointError: it does not.
    """
    network: Any = networks.G_ema
    if networks.progress is None or network is None:  # only our snapshots have it
        return
    kwargs, described = network.init_kwargs, networks.training_set or {}
    names = {"resolution": "img_resolution", "channels": "img_channels", "label_dim": "c_dim"}
    for name, argument in names.items():
        if name in described and described[name] != kwargs[argument]:
            raise CheckpointError(
                f"{without_secrets(source)} contradicts itself: {name} of its training set is "
                f"{describe(described[name])} and {argument} of its networks {kwargs[argument]}; "
                "use another snapshot"
            )


def transfer(parts: Parts, networks: Networks, source: str, partial: bool) -> str:
    """Copy the weights of a checkpoint to G, D and G_ema; the state of the optimizers is empty.

    Args:
        source: where the networks come from, for messages.
        partial: copy the tensors that fit and leave the others as initialized. If the checkpoint
            has no G, G gets the weights of its G_ema; if it has no D, D keeps its initial weights.

    Returns:
        A summary of the copied tensors, for the user.

    Raises:
        CheckpointError: without ``partial``, a network is missing or does not fit; with it, no
            tensor fits. Then nothing has changed.
    """
    source = without_secrets(source)
    members = _members(networks)
    targets = {"G": parts.G, "D": parts.D, "G_ema": parts.G_ema}
    pairs = {name: (targets[name], other) for name, other in members.items() if other is not None}
    misfits = {name: _misfits(*pair) for name, pair in pairs.items()}
    some_fit = any(_learned(*pair) - set(misfits[name]) for name, pair in pairs.items())
    if not some_fit or (any(misfits.values()) and not partial):
        raise CheckpointError(misfit_message(source, pairs, misfits, some_fit))
    _check_complete(networks, source, partial)
    for name, (network, other) in pairs.items():
        _copy_weights(network, other, skipped=misfits[name])
    return _report(source, networks, targets, misfits)


def _members(networks: Networks) -> dict[str, nn.Module | None]:
    """G, D and G_ema of a checkpoint; G and G_ema replace each other."""
    G, G_ema = networks.G, networks.G_ema
    return {"G": G_ema if G is None else G, "D": networks.D, "G_ema": G if G_ema is None else G_ema}


def _check_complete(networks: Networks, source: str, partial: bool) -> None:
    missing = [name for name in ("G", "D", "G_ema") if getattr(networks, name) is None]
    if missing and not partial:
        raise CheckpointError(
            f"{source} has no {' and no '.join(missing)}, and --resume needs a complete snapshot; "
            "use --resume-partial to take the networks it has (G from G_ema, a new D)"
        )


def _misfits(network: nn.Module, other: nn.Module) -> dict[str, str]:
    """Tensors that only one network has, or that differ in kind: name -> reason."""
    wanted, found = network.state_dict(), other.state_dict()
    gains = {name: _gains(module) for name, module in other.named_modules()}
    rescaled = {n for n, m in network.named_modules() if gains.get(n, _gains(m)) != _gains(m)}
    misfits = {}
    for name, tensor in wanted.items():
        owner, _, kind = name.rpartition(".")
        if name not in found:
            misfits[name] = "not in the checkpoint"
        elif found[name].shape != tensor.shape:
            shapes = list(found[name].shape), list(tensor.shape)
            misfits[name] = f"{shapes[0]} in the checkpoint, {shapes[1]} here"
        elif kind in _FIXED and not _same_filter(found[name], tensor):
            misfits[name] = "other filter taps in the checkpoint"
        elif owner in rescaled and kind in ("weight", "bias"):
            misfits[name] = "another gain in the checkpoint"
    return misfits | {n: ONLY_IN_CHECKPOINT for n in found if n not in wanted}


def _gains(module: nn.Module) -> tuple[float, ...]:
    """The factors of a layer's weight and bias: with other factors, equal numbers mean others."""
    return tuple(getattr(module, name, 1.0) for name in ("weight_gain", "bias_gain"))


def _same_filter(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    limit = _FILTER_TOLERANCE * float(wanted.abs().max())
    return bool((found.cpu() - wanted.cpu()).abs().max() <= limit)


def _learned(network: nn.Module, other: nn.Module) -> set[str]:
    """Names of weight tensors, frozen ones included; copying only biases does not count."""
    both = (*network.named_parameters(), *other.named_parameters())
    return {name for name, parameter in both if parameter.ndim > 1}


@torch.no_grad()
def _copy_weights(network: nn.Module, other: nn.Module, skipped: Mapping[str, str]) -> None:
    found = other.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in skipped:
            tensor.copy_(found[name])


def _report(
    source: str,
    networks: Networks,
    targets: Mapping[str, nn.Module],
    misfits: Mapping[str, Mapping[str, str]],
) -> str:
    lines = [f"starting from {source}:"]
    for name, network in targets.items():
        names = list(network.state_dict())
        left = [each for each in names if each in misfits.get(name, names)]
        line = f"  {name}: {len(names) - len(left)} of {len(names)} tensors taken"
        stand_in = {"G": "G_ema", "G_ema": "G"}.get(name)
        if name not in misfits:
            line = f"  {name}: initialized, the checkpoint has none"
        elif getattr(networks, name) is None:
            line += f" from {stand_in}, the checkpoint has no {name}"
        if name in misfits and left:
            line += f"; initialized: {listed(left, _MAX_LISTED)}"
        lines.append(line)
    return "\n".join(lines)


def _with_settings(
    stored: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str]
) -> dict[str, Any]:
    """``stored`` with the arguments ``names`` taken from ``ours``, or dropped if it has none."""
    kept = {key: value for key, value in stored.items() if key not in names}
    return kept | {key: ours[key] for key in names if key in ours}


def _read_kept(path: Path) -> Architecture | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        G_kwargs, D_kwargs = content["G"], content["D"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return G_kwargs, D_kwargs
