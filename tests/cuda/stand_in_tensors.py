"""Tensors that stand in for those of GPUs: torch and the product see "cuda", the memory is a CPU's.

What torch itself computes on them, it computes on the CPU. The ops of the product run their
implementation for CUDA, as on a GPU, with pointers that the stand-in driver can follow. As on a
GPU, tensors of different devices do not mix.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
_LEAVES_GPU = (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)  # with values for Python
_MOVES = (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu)


class StandInTensor(torch.Tensor):
    """A tensor of a GPU; ``content`` has its values on the CPU."""

    content: torch.Tensor
    index: int

    @staticmethod
    def __new__(cls, content: torch.Tensor, index: int) -> "StandInTensor":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device="cpu",
        )
        self.content, self.index = content, index
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: torch.device("cuda", self.index))
    is_cuda = property(lambda self: True)

    def data_ptr(self) -> int:
        """The address, which the stand-in driver takes for one of a tensor from now on."""
        place = self.content.data_ptr()
        for tell in tellers:
            tell(place, self.content.numel() * self.content.itemsize, self.index)
        return place

    def __repr__(self) -> str:
        return f"StandInTensor({self.content!r}, device='cuda:{self.index}')"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "sg3flow":
            with StandInMode():  # torch leaves it around the functions that it was entered for
                return func.redispatch(_CUDA, *args, **kwargs)
        index = _common_index(func, (args, kwargs))
        givers = {id(each.content): each for each in _tensors((args, kwargs), StandInTensor)}
        args, kwargs = tree_map_only(StandInTensor, lambda t: t.content, (args, kwargs))
        found = func(*args, **kwargs)
        if func.overloadpacket in _LEAVES_GPU:
            return found

        # what an op changed in place is returned as it was given
        def give(t: torch.Tensor) -> torch.Tensor:
            return givers[id(t)] if id(t) in givers else StandInTensor(t, index)

        return tree_map_only(torch.Tensor, give, found)


tellers: list[Callable[[int, int, int], None]] = []


def _tensors(arguments: Any, kind: type) -> list[Any]:
    return [each for each in tree_leaves(arguments) if isinstance(each, kind)]


def _common_index(func: Any, arguments: Any) -> int:
    tensors = _tensors(arguments, torch.Tensor)
    indices = {each.index for each in tensors if isinstance(each, StandInTensor)}
    mixes = any(not isinstance(each, StandInTensor) and each.ndim for each in tensors)
    if len(indices) != 1 or (mixes and func.overloadpacket != torch.ops.aten.copy_):
        names = [f"cuda:{index}" for index in sorted(indices)] + ["cpu"] * mixes
        raise RuntimeError(f"{func}: all tensors must be on one device, not {' and '.join(names)}")
    return indices.pop()


class _Move(torch.autograd.Function):
    """To a device; the gradient goes back to where the tensor came from."""

    @staticmethod
    def forward(ctx, x, device):
        ctx.source = x.device
        content = (x.content if isinstance(x, StandInTensor) else x.detach()).clone()
        return StandInTensor(content, device.index) if device.type == "cuda" else content

    @staticmethod
    def backward(ctx, grad):
        return _moved(grad, ctx.source), None


def _moved(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    return x if x.device == device else _Move.apply(x, device)


class StandInMode(TorchFunctionMode):
    """While it is entered, "cuda" devices are there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = _device_of(kwargs.get("device"))
        if func in _MOVES:
            return _run_move(func, args, kwargs)
        if device is None or device.type != "cuda" or func is torch.device:
            return func(*args, **kwargs)
        kwargs["device"] = None if _tensors((args, kwargs), StandInTensor) else "cpu"
        needs_grad = kwargs.pop("requires_grad", False)
        found = func(*args, **kwargs)
        if not isinstance(found, StandInTensor):
            found = StandInTensor(found, device.index)
        return found.requires_grad_(needs_grad)


def _device_of(named: Any) -> torch.device | None:
    if not isinstance(named, str | torch.device):
        return None
    device = torch.device(named)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _run_move(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Tensor.to, .cuda and .cpu: first the dtype, then the device."""
    x, *others = args
    named = {torch.Tensor.cuda: "cuda", torch.Tensor.cpu: "cpu"}.get(
        func, kwargs.pop("device", None)
    )
    found = [each for each in others if _device_of(each) is not None]
    if others and isinstance(others[0], torch.Tensor):
        found, others = [others[0].device], [others[0].dtype, *others[1:]]
    device = _device_of(found[0] if found else named)
    rest = [each for each in others if _device_of(each) is None]
    if func is torch.Tensor.to and (rest or kwargs):
        x = torch.Tensor.to(x, *rest, **kwargs)
    return x if device is None else _moved(x, device)
