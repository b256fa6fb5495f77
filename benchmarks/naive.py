"""The baseline of the benchmarks: each op by its definition, not optimized.

Zero insertion, one convolution with the full 2-D filter, decimation; weights of each sample, in a
grouped convolution. The results are those of the optimized ops.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from sg3flow.ops.fir import FirSpec
from sg3flow.ops.upfirdn2d import parse_factor, parse_padding

VARIANTS = ("naive", "plain", "kernels")


@contextlib.contextmanager
def running(variant: str) -> Iterator[None]:
    """Run the networks in one of three ways: `naive`, `plain` PyTorch, compiled `kernels`."""
    setting = {"SG3FLOW_OPS": "cpu" if variant == "kernels" else "torch"}
    with mock.patch.dict(os.environ, setting), contextlib.ExitStack() as stack:
        if variant == "naive":
            for name, replacement in _REPLACED.items():
                stack.enter_context(mock.patch(f"sg3flow.{name}", replacement))
        yield


def fir(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    """upfirdn2d."""
    (ux, uy), (dx, dy), (n, c, h, w) = spec.up, spec.down, x.shape
    f = torch.ones(1, 1) if f is None else f
    f = (f.outer(f) if f.ndim == 1 else f) * spec.gain
    x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1))
    x = F.pad(x.reshape(n, c, h * uy, w * ux), spec.padding)
    kernel = (f if spec.flip else f.flip((0, 1)))[None, None].to(x.dtype)
    x = F.conv2d(x, kernel.expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::dy, ::dx]


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor,
    up: int,
    down: int,
    padding: Any,
    gain: float,
    slope: float,
    clamp: float | None,
) -> torch.Tensor:
    """Bias, upsampling, activation, downsampling, one after the other."""
    factors = parse_factor("up", up), parse_factor("down", down)
    x = x + b[:, None, None]
    x = fir(x, fu, FirSpec(up=factors[0], padding=parse_padding(padding), gain=up * up))
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return fir(x, fd, FirSpec(down=factors[1]))


def filtered_lrelu_squares(*arguments: Any, **options: Any) -> tuple[torch.Tensor, None]:
    """The caller sums the squares itself."""
    return filtered_lrelu(*arguments, **options), None


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
    normalize: str = "none",
) -> torch.Tensor:
    """The weights of each sample, in a grouped convolution.

    Args:
        normalize: "rms": weights and styles have root mean squares of 1 first.
    """
    n = len(x)
    if normalize == "rms":
        w = w * w.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
    weights = w[None] * s[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        weights = weights * input_gain
    x = x.reshape(1, -1, *x.shape[2:])
    x = F.conv2d(x, weights.flatten(0, 1), padding=padding, groups=n)
    return x.reshape(n, -1, *x.shape[2:])


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """Bias, activation, gain and clamp as four steps."""
    if b is not None:
        x = x + b.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    x = F.leaky_relu(x, 0.2) if act == "lrelu" else x
    x = x * ((2**0.5 if act == "lrelu" else 1.0) if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)


_REPLACED = {
    "ops.upfirdn2d.fir": fir,
    "networks.layers.bias_act": bias_act,
    "networks.stylegan3.filtered_lrelu": filtered_lrelu,
    "networks.stylegan3.filtered_lrelu_squares": filtered_lrelu_squares,
    "networks.stylegan3.modulated_conv2d": modulated_conv2d,
}
