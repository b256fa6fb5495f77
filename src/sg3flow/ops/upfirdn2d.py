"""Pad, upsample, filter and downsample images (Karras et al. 2021, App. C)."""

from collections.abc import Sequence
from typing import Any

import torch

from sg3flow.ops.backend import has_kernels
from sg3flow.ops.fir import FirSpec, filter_taps, run_fir

Factor = int | Sequence[int]


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | torch.Tensor | None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """A filter for the ops: float32 with sum 1.

    A 1-D list of fewer than 8 taps becomes its outer product (2-D); 8 or more stay separable.

    Args:
        taps: [taps] or [height, width]; None for the identity, [[1]].
    """
    f = torch.as_tensor([[1.0]] if taps is None else taps, dtype=torch.float32, device=device)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"a filter has 1 or 2 dimensions and taps, not the shape {list(f.shape)}")
    if f.ndim == 1 and f.numel() < 8:
        f = f.outer(f)
    return f / f.sum()


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Resamples every channel with a FIR filter.

    On both axes: (1) insert ``up - 1`` zeros after each sample; (2) pad with zeros, or crop where
    the padding is negative; (3) convolve with ``f * gain``, the valid region only; (4) keep every
    ``down``-th sample, beginning with the first. Differentiable in ``x`` to any order.

    Args:
        x: [N, C, H, W], any floating dtype.
        f: float32 [height, width], [taps] (separable, the same on both axes) or None (identity).
        up, down: an int, or (x, y).
        padding: an int, (x, y) or (x0, x1, y0, y1), in samples of the upsampled image.
        flip_filter: True correlates instead of convolving.
        gain: scales the result; 0 or more.

    Returns:
        [N, C, (H*up_y + y0 + y1 - taps) // down_y + 1, the same for x].
    """
    check_images("upfirdn2d", x)
    check_filter("upfirdn2d", f)
    if not gain >= 0:  # a separable filter gets its square root on each axis
        raise ValueError(f"upfirdn2d: gain must be 0 or more, not {gain}")
    spec = FirSpec(
        parse_factor("up", up),
        parse_factor("down", down),
        parse_padding(padding),
        flip_filter,
        float(gain),
    )
    check_fits("upfirdn2d", x, f, spec)
    return fir(x, f, spec)


def fir(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    """`upfirdn2d` for parameters that are already checked."""
    if f is None and spec.is_identity:
        return x
    if has_kernels(x, "upfirdn2d"):
        return _compiled(x, f, spec)
    y: torch.Tensor = _Upfirdn2d.apply(x, f, spec)  # type: ignore[no-untyped-call]
    return y


def _compiled(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    taps = torch.ones(1, 1, device=x.device) if f is None else kernel_taps(f)
    y: torch.Tensor = torch.ops.sg3flow.upfirdn2d(
        x.contiguous(), taps, spec.up, spec.down, spec.padding, spec.flip, spec.gain
    )
    return y


def kernel_taps(f: torch.Tensor) -> torch.Tensor:
    """A filter in the form of the kernels: contiguous float32."""
    return f.to(torch.float32).contiguous()


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Filters without resampling; the size does not change (but for `padding`), zeros outside."""
    fh, fw = filter_taps(f)
    own = (fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2)
    return upfirdn2d(x, f, padding=_added(padding, own), flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsamples by `up` and keeps the scale of values; `padding` counts output samples."""
    (up_x, up_y), (fh, fw) = parse_factor("up", up), filter_taps(f)
    own = ((fw + up_x - 1) // 2, (fw - up_x) // 2, (fh + up_y - 1) // 2, (fh - up_y) // 2)
    return upfirdn2d(
        x,
        f,
        up=(up_x, up_y),
        padding=_added(padding, own),
        flip_filter=flip_filter,
        gain=gain * up_x * up_y,
    )


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Downsamples by `down`; `padding` counts input samples."""
    spec = downsample_spec(f, down, padding)
    return upfirdn2d(x, f, down=spec.down, padding=spec.padding, flip_filter=flip_filter, gain=gain)


def downsample_spec(f: torch.Tensor | None, down: Factor, padding: Factor) -> FirSpec:
    """The step of `downsample2d`."""
    (dx, dy), (fh, fw) = parse_factor("down", down), filter_taps(f)
    own = ((fw - dx + 1) // 2, (fw - dx) // 2, (fh - dy + 1) // 2, (fh - dy) // 2)
    return FirSpec((1, 1), (dx, dy), parse_padding(_added(padding, own)))


class _Upfirdn2d(torch.autograd.Function):
    """One resampling step; its backward is the adjoint step, so every order has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
        ctx.save_for_backward(f)
        ctx.adjoint = spec.adjoint((x.shape[2], x.shape[3]), filter_taps(f))
        return run_fir(x, f, spec)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (f,) = ctx.saved_tensors
        return fir(grad, f, ctx.adjoint), None, None


def check_images(op: str, x: torch.Tensor) -> None:
    """Raises ValueError unless `x` is [N, C, H, W] of a floating dtype."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{op}: x must be floating [N, C, H, W], not {x.dtype} {list(x.shape)}")


def check_filter(op: str, f: torch.Tensor | None, name: str = "f") -> None:
    """Raises ValueError unless `f` is None or a constant float32 filter with taps."""
    if f is None:
        return
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} must be [taps] or [height, width], not {list(f.shape)}")
    if f.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{op}: {name} must be float32 (see setup_filter), not {f.dtype}")
    if f.requires_grad:
        raise ValueError(f"{op}: {name} is a constant without a gradient; detach it")


def check_fits(op: str, x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> None:
    """Raises ValueError if the padded image is smaller than the filter."""
    height, width = spec.output_size((x.shape[2], x.shape[3]), filter_taps(f))
    if height < 1 or width < 1:
        raise ValueError(
            f"{op}: {x.shape[2]}x{x.shape[3]} upsampled by {spec.up} and padded by {spec.padding} "
            f"is smaller than the filter, {filter_taps(f)}; pad more"
        )


def parse_factor(name: str, value: Factor) -> tuple[int, int]:
    """An int or a pair as (x, y), each at least 1."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"{name} must be an int of at least 1, or such a pair (x, y), not {value}")
    return pair[0], pair[1]


def parse_padding(value: Factor) -> tuple[int, int, int, int]:
    """An int, (x, y) or (x0, x1, y0, y1) as (x0, x1, y0, y1)."""
    pads = (value, value) if isinstance(value, int) else tuple(value)
    if len(pads) == 2:
        pads = (pads[0], pads[0], pads[1], pads[1])
    if len(pads) != 4 or not all(isinstance(p, int) for p in pads):
        raise ValueError(f"padding must be an int, (x, y) or (x0, x1, y0, y1), not {value}")
    return pads[0], pads[1], pads[2], pads[3]


def _added(padding: Factor, own: tuple[int, int, int, int]) -> list[int]:
    return [a + b for a, b in zip(parse_padding(padding), own, strict=True)]
