"""filtered_lrelu with a sum that its kernels give beside their results, declared to torch.

For GPUs alone, where another pass over the result would cost as much as reading it:

- `filtered_lrelu_squares` also gives the sum of the squares of the result, float32 (of float64
  tensors float64) []; it has no gradient.
- `filtered_lrelu_flagged_sum` also gives the sum of its result over each channel, [C]: the gradient
  of a bias. Both results are linear in `g`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from sg3flow.ops.op_registration import (
    LIBRARY,
    filtered_lrelu_backward,
    filtered_lrelu_fake,
    filtered_lrelu_setup,
    flagged_backward,
    flagged_setup,
)

_GEOMETRY = "Tensor? fu, Tensor? fd, {}int[2] up, int[2] down, int[4] padding, {}bool flip"
_SCHEMAS = (
    f"filtered_lrelu_squares(Tensor x, {_GEOMETRY.format('Tensor? b, ', '')}, float gain,"
    " float slope, float clamp, bool write_flags) -> (Tensor y, Tensor flags, Tensor squares)",
    "filtered_lrelu_flagged_sum(Tensor g, Tensor flags,"
    f" {_GEOMETRY.format('', 'int[2] offset, int flags_width, ')}, float gain, float slope)"
    " -> (Tensor y, Tensor sums)",
)
for _schema in _SCHEMAS:
    LIBRARY.define(_schema)  # type: ignore[no-untyped-call]

_Ints = Sequence[int]


def _squares_fake(x: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return *filtered_lrelu_fake(x, *others), x.new_empty((), dtype=wide)


torch.library.register_fake("sg3flow::filtered_lrelu_squares", _squares_fake, lib=LIBRARY)
torch.library.register_autograd(
    "sg3flow::filtered_lrelu_squares",
    filtered_lrelu_backward,
    setup_context=filtered_lrelu_setup,
    lib=LIBRARY,
)


def _sum_fake(
    g: torch.Tensor,
    flags: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: _Ints,
    down: _Ints,
    padding: _Ints,
    offset: _Ints,
    flags_width: int,
    flip: bool,
    gain: float,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    y, _ = filtered_lrelu_fake(g, fu, fd, None, up, down, padding, flip, gain, slope, -1.0, False)
    return y, g.new_empty(g.shape[1])


torch.library.register_fake("sg3flow::filtered_lrelu_flagged_sum", _sum_fake, lib=LIBRARY)


def _sum_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    flagged_setup(ctx, inputs, output)
    ctx.set_materialize_grads(False)
    ctx.shape = output[0].shape


def _sum_backward(
    ctx: Any, tangent: torch.Tensor | None, of_sums: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    """A change of a channel's sum is that of each of its elements."""
    tangent = with_sums(tangent, of_sums, ctx.shape)
    return (None,) * 12 if tangent is None else flagged_backward(ctx, tangent)


def with_sums(
    tangent: torch.Tensor | None, of_sums: torch.Tensor | None, shape: tuple[int, ...]
) -> torch.Tensor | None:
    """What the gradients of a tensor [N, C, H, W] and of its channels' sums [C] add up to."""
    if of_sums is None:
        return tangent
    spread = of_sums[:, None, None].expand(shape)
    return spread.contiguous() if tangent is None else tangent + spread


torch.library.register_autograd(
    "sg3flow::filtered_lrelu_flagged_sum",
    _sum_backward,
    setup_context=_sum_setup,
    lib=LIBRARY,
)
