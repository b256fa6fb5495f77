"""Files of public weights, and networks that are filled from them by the names of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from sg3flow.errors import MetricError, cut
from sg3flow.metrics.features import load_weights

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class WeightFile:
    """A public file of weights.

    Attributes:
        name: file name in the cache folder.
        url: where it is published.
        sha256: digest of the published file; another file is never used.
        num_bytes: its size.
        what: the network and the size in words, for errors.
    """

    name: str
    url: str
    sha256: str
    num_bytes: int
    what: str


def load_network(make: Callable[[], Network], file: WeightFile) -> Network:
    """Make a network and fill it with the tensors of its names, for evaluation on a CPU.

    The file is mapped into memory: tensors that the network does not have are never read.

    Raises:
        MetricError: the file is not available, or is not the one described: a tensor is missing or
            has another shape or type.
    """
    tensors = load_weights(
        file.url, file.name, file.sha256, file.num_bytes, file.what, is_mapped=True
    )
    with torch.device("meta"):
        network = make()
    wanted = network.state_dict()
    for name, like in wanted.items():
        if problem := _problem(tensors.get(name), like):
            raise MetricError(
                f"{file.name} is no file of weights of {file.what}: its tensor '{name}' {problem}; "
                f"the right file is at {file.url}"
            )
    network.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    return network.eval().requires_grad_(False)


def _problem(found: object, like: torch.Tensor) -> str:
    """What is wrong with a tensor, in words; empty: nothing."""
    if not isinstance(found, torch.Tensor):
        return "is missing" if found is None else f"is a {cut(type(found).__name__)}"
    if found.shape != like.shape or found.dtype != like.dtype:
        kinds = [f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (found, like)]
        return f"is {kinds[0]}, expected {kinds[1]}"
    return ""
