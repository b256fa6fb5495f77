"""Networks in a pickle that names the classes of NVlabs/stylegan3 instead of containing them.

``nvidia_pickle.py`` writes this form: the functions that such a file names, and the handlers that
stand for them when it is read as data.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from sg3flow.checkpoints.restricted_unpickler import GlobalName, Handler, StoredObject, describe
from sg3flow.errors import CheckpointError

# The classes of the official repository, and which of ours each of them is.
CLASSES = {
    GlobalName("training.networks_stylegan3", "Generator"): "StyleGAN3Generator",
    GlobalName("training.networks_stylegan2", "Generator"): "StyleGAN2Generator",
    GlobalName("training.networks_stylegan2", "Discriminator"): "Discriminator",
}
PARTIAL = GlobalName("functools", "partial")
LOAD_STATE_DICT = GlobalName("torch.nn.modules.module", "Module.load_state_dict")
EVAL = GlobalName("torch.nn.modules.module", "Module.eval")
REQUIRES_GRAD = GlobalName("torch.nn.modules.module", "Module.requires_grad_")


@dataclass
class NamedClassNetwork:
    """A network of a named class; without tensors it has the weights of its constructor."""

    class_name: str
    init_kwargs: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class _Constructor(StoredObject):
    """Stands for ``functools.partial(CLASS, **init_kwargs)``."""

    def __init__(self, name: GlobalName) -> None:
        self.name = name
        self.kwargs: dict[str, Any] | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 4:
            raise CheckpointError("refused: a partial call of an unknown form")
        name, arguments, kwargs, attributes = state
        if name != self.name or arguments != () or attributes or type(kwargs) is not dict:
            raise CheckpointError("refused: a partial call of an unknown form")
        self.kwargs = kwargs

    def call(self, arguments: tuple[Any, ...]) -> NamedClassNetwork:
        if arguments or self.kwargs is None:
            raise CheckpointError("refused: a network that is not made from named arguments")
        return NamedClassNetwork(CLASSES[self.name], self.kwargs)


def _partial(arguments: tuple[Any, ...]) -> _Constructor:
    (name,) = arguments
    if not isinstance(name, GlobalName) or name not in CLASSES:
        raise CheckpointError(
            f"refused: a partial call of {name if isinstance(name, GlobalName) else describe(name)}"
        )
    return _Constructor(name)


def _load_state_dict(arguments: tuple[Any, ...]) -> None:
    network, tensors = arguments
    if not isinstance(network, NamedClassNetwork) or type(tensors) is not dict or network.tensors:
        raise CheckpointError("refused: tensors that are not those of one network")
    network.tensors = tensors


def _eval(arguments: tuple[Any, ...]) -> NamedClassNetwork:
    (network,) = arguments
    if not isinstance(network, NamedClassNetwork):
        raise CheckpointError("refused: a call of eval on what is not a network")
    return network


def _requires_grad(arguments: tuple[Any, ...]) -> NamedClassNetwork:
    network, value = arguments
    if value is not False:
        raise CheckpointError("refused: networks in such a file have no gradients")
    return _eval((network,))


HANDLERS: dict[GlobalName, Handler] = {
    PARTIAL: _partial,
    LOAD_STATE_DICT: _load_state_dict,
    EVAL: _eval,
    REQUIRES_GRAD: _requires_grad,
}
