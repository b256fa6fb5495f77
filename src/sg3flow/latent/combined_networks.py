"""Networks that are made from others: where these come from, and writing the result.

The result is a snapshot, or a safetensors file without G. It keeps a record of its parents: their
addresses, digests and clocks, in ``progress``; their licenses, joined, and a sentence for the model
card in ``training_set``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.bundled_network import SUFFIX, bundled_bytes, is_bundled
from sg3flow.checkpoints.loading import local_copy
from sg3flow.checkpoints.network_entries import build_network, network_entry
from sg3flow.checkpoints.snapshots import is_snapshot_file
from sg3flow.errors import CheckpointError, ConfigError, DataError, cut, listed
from sg3flow.files import write_bytes
from sg3flow.latent.architecture_match import architecture_difference
from sg3flow.output_checks import check_replaceable
from sg3flow.runs.provenance import network_digest

ROLES = ("G", "D", "G_ema")
_MOST_NAMED = 4
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Parent:
    """A source of weights.

    Attributes:
        address: as given, without secrets.
        sha256: of its file; empty: it is a folder of several.
        networks: by role; None: it has none. G and G_ema replace each other.
        augment_p: strength of the augmentation; 0 if it is not known.
        training_set, progress: as in a snapshot; may be empty.
    """

    address: str
    sha256: str
    networks: Mapping[str, nn.Module | None]
    augment_p: float
    training_set: Mapping[str, Any]
    progress: Mapping[str, Any]

    @property
    def G_ema(self) -> Any:
        """The generator."""
        return self.networks["G_ema"]

    def record(self) -> dict[str, Any]:
        """What the result says of this parent."""
        place = self.address if ":/" in self.address else Path(self.address).name
        known = {
            "source": place,
            "sha256": self.sha256,
            "nimg": self.progress.get("nimg"),
            "training_set": self.training_set.get("name"),
            "made_by": self.progress.get("made_by"),
            "parents": self.progress.get("parents"),
        }
        return {key: value for key, value in known.items() if value is not None}


@dataclass(frozen=True)
class Combination:
    """The networks of a result, and what it says of itself.

    Attributes:
        networks: by role; ``D`` may be None.
        made_by: what was done, as primitives.
        parents: in the order in which they were given.
    """

    networks: Mapping[str, nn.Module | None]
    augment_p: float
    made_by: Mapping[str, Any]
    parents: Sequence[Parent]
    training_set: Mapping[str, Any]


def read_parent(source: str) -> Parent:
    """Read a source of weights: anything that ``load_networks`` takes.

    Raises:
        CheckpointError: it cannot be read, has no generator, or a weight is not finite.
        DataError, TrackingError: a download failed.
    """
    address, path = shown_url(source), local_copy(source)
    loaded = load_networks(path)
    G_ema = loaded.G if loaded.G_ema is None else loaded.G_ema
    if G_ema is None:
        raise CheckpointError(f"{address} has no generator")
    networks = {"G": G_ema if loaded.G is None else loaded.G, "D": loaded.D, "G_ema": G_ema}
    for role, network in networks.items():
        _check_finite(network, f"{address}: {role}")
    p = 0.0 if loaded.augment_pipe is None else float(loaded.augment_pipe.p)
    described, progress = loaded.training_set or {}, loaded.progress or {}
    return Parent(address, network_digest(path), networks, p, described, progress)


def combined(networks: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """The network with the weighted sum of all parameters and buffers, computed in float64.

    A weight of 0 leaves its network out, so that a single 1 gives the network back bit for bit.
    """
    states = [network.state_dict() for network in networks]
    return rebuilt(networks[0], weighted_sum(states, weights))


def weighted_sum(states: Sequence[State], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted sum of tensors of the same names, in float64, rounded to float32."""
    used = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    return {name: _sum([(state[name], weight) for state, weight in used]) for name in states[0]}


def _sum(terms: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    first, weight = terms[0]
    total = first.double() * weight
    for tensor, weight in terms[1:]:
        total += tensor.double() * weight
    return total.float()


def rebuilt(like: nn.Module, state: State) -> nn.Module:
    """A network of the same class and arguments with other tensors."""
    return build_network({**network_entry(like), "state_dict": dict(state)}, "the result")


def joined_training_set(first: Parent, others: Sequence[Parent]) -> dict[str, Any]:
    """The description of the training set of a result.

    Labels and classes are those of ``first``, which gives the mapping network. Names and licenses
    of different sets are joined, and the digest is empty: it is no set that can be found.
    """
    described = dict(first.training_set)
    known = [parent.training_set for parent in (first, *others) if parent.training_set]
    if len({each.get("digest") for each in known}) > 1:
        described["digest"] = ""
        described["num_images"] = sum(int(each.get("num_images") or 0) for each in known)
        for key, link in (("name", " + "), ("licence", "; "), ("citation", "; ")):
            texts = dict.fromkeys(str(each[key]) for each in known if each.get(key))
            if texts:
                described[key] = link.join(texts)
    return described


def require_alike(first: Parent, second: Parent) -> None:
    """Check that the generators of two parents have the same architecture.

    Raises:
        CheckpointError: the message names the first difference.
    """
    difference = architecture_difference(first.G_ema, second.G_ema)
    if difference is not None:
        name, one, other = difference
        raise CheckpointError(
            f"{first.address} and {second.address} cannot be combined: {name} is {one} in the "
            f"first and {other} in the second; use networks of one architecture, such as a "
            "training and another one that started from it"
        )


def check_dest(dest: Path) -> None:
    """Check that a result can be written to ``dest``, before any work.

    Raises:
        ConfigError: its suffix is neither .pkl nor .safetensors.
        DataError: it exists and is no such file of sg3flow.
    """
    if dest.suffix not in (".pkl", SUFFIX):
        raise ConfigError(
            f"OUT must end in .pkl (a snapshot) or {SUFFIX} (no G), not '{cut(dest.name)}'"
        )
    is_ours = is_snapshot_file if dest.suffix == ".pkl" else is_bundled
    check_replaceable(dest, is_ours, "a network", "OUT")


def origin_words(result: Combination) -> str:
    """What a model card says of the origin of a result."""
    facts = ", ".join(
        f"{name} {value}"
        for name, value in result.made_by.items()
        if isinstance(value, int | float | str) and name != "kind"
    )
    records = [parent.record() for parent in result.parents]
    parents = (f"{each['source']} (SHA-256 {each['sha256'][:12]})" for each in records)
    return f"{result.made_by['kind']} ({facts}) of {listed(parents, _MOST_NAMED)}"


def write_combination(result: Combination, dest: Path) -> None:
    """Write the networks of ``result`` to a snapshot or a safetensors file.

    Raises:
        CheckpointError: a snapshot without a discriminator.
        DataError: writing failed.
    """
    G, D, G_ema = (result.networks[role] for role in ROLES)
    assert G is not None and G_ema is not None
    progress = {
        "nimg": max(int(parent.progress.get("nimg") or 0) for parent in result.parents),
        "made_by": dict(result.made_by),
        "parents": [parent.record() for parent in result.parents],
    }
    described = {**result.training_set, "made_from": origin_words(result)}
    try:
        if dest.suffix == SUFFIX:
            content = bundled_bytes(G_ema=G_ema, D=D, training_set=described, progress=progress)
            write_bytes(dest, content)
            return
        if D is None:
            raise CheckpointError(
                f"a snapshot needs a discriminator, which {_names(result.parents)} have not: give "
                f"a snapshot of a training as one of them, or an OUT that ends in {SUFFIX}"
            )
        save_snapshot(
            dest,
            G=G,
            D=D,
            G_ema=G_ema,
            augment_p=result.augment_p,
            training_set=described,
            progress=progress,
        )
    except OSError as error:
        raise DataError(f"cannot write {dest}: {error.strerror or error}") from None


def _check_finite(network: nn.Module | None, where: str) -> None:
    for name, tensor in () if network is None else network.state_dict().items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}.{name} has values that are not finite")


def _names(parents: Sequence[Parent]) -> str:
    return " and ".join(parent.address for parent in parents)
