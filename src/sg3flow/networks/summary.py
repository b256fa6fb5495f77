"""A table of a network's layers, shown when training starts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer: its output, and the numbers it holds itself (not its children's)."""

    name: str
    num_parameters: int
    num_buffers: int
    output_shape: tuple[int, ...]
    dtype: str


def summarize(module: nn.Module, *inputs: Any) -> list[LayerRow]:
    """Runs `module` on `inputs` without gradients and returns a row for each layer that ran.

    Layers that hold nothing themselves and wrap others are left out, but for the module itself,
    which comes last under its class name. Training mode and buffers stay as they were.
    """
    outputs: list[tuple[str, nn.Module, torch.Tensor]] = []

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, _args: Any, output: Any) -> None:
            tensor = next((t for t in _flat(output) if isinstance(t, torch.Tensor)), None)
            if tensor is not None:
                outputs.append((name, layer, tensor))

        return hook

    hooks = [m.register_forward_hook(remember(n)) for n, m in module.named_modules()]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [_row(n or type(m).__name__, m, t) for n, m, t in outputs if not n or _own(m) != (0, 0)]


def format_summary(rows: Sequence[LayerRow]) -> str:
    """The rows as aligned text with a header and totals."""
    header = ("layer", "parameters", "buffers", "output", "dtype")
    total = ("total", _count(rows, "num_parameters"), _count(rows, "num_buffers"), "", "")
    table = [header, *(_cells(r) for r in rows), total]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in table]
    rule = "  ".join("-" * w for w in widths)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(name: str, module: nn.Module, output: torch.Tensor) -> LayerRow:
    parameters, buffers = _own(module)
    dtype = str(output.dtype).removeprefix("torch.")
    return LayerRow(name, parameters, buffers, tuple(output.shape), dtype)


def _own(module: nn.Module) -> tuple[int, int]:
    """Numbers in the parameters and buffers that belong to the module itself."""
    parameters = sum(p.numel() for p in module.parameters(recurse=False))
    return parameters, sum(b.numel() for b in module.buffers(recurse=False))


def _flat(output: Any) -> Sequence[Any]:
    return output if isinstance(output, (list, tuple)) else [output]


def _cells(row: LayerRow) -> tuple[str, ...]:
    shape = str(list(row.output_shape))
    return row.name, str(row.num_parameters), str(row.num_buffers), shape, row.dtype


def _count(rows: Sequence[LayerRow], field: str) -> str:
    return str(sum(getattr(r, field) for r in rows))
