"""Convolutions modulated by styles: with weights of each sample, or with scaled activations."""

import math
from typing import Literal

import torch

from sg3flow.ops.backend import has_kernels
from sg3flow.ops.conv_forms import chosen_per_sample
from sg3flow.ops.convolutions import (
    compiled_conv,
    conv2d_resample,
    has_compiled_conv,
    matrix_product,
)

_EPS = 1e-8  # added to squared norms
Normalization = Literal["none", "rms", "max"]


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
    f: torch.Tensor | None = None,
    up: int = 1,
    per_sample: bool | None = None,
    normalize: Normalization = "none",
) -> torch.Tensor:
    """Convolves each sample with ``w`` scaled by that sample's style.

    (1) W = w * s for each sample; (2) with demodulation, W is divided by the L2 norm of the weights
    of each output channel, so that unit variance is preserved; (3) W is
    multiplied by `input_gain`; (4) the convolution, upsampled by 2 on request.

    Each gradient, of any order, is that of these steps.

    Args:
        x: [N, C_in, H, W].
        w: [C_out, C_in, k, k], float32.
        s: [N, C_in], float32.
        input_gain: a scalar or [C_in], not undone by the demodulation; None for 1.
        f, up: low-pass filter and factor of `conv2d_resample`.
        per_sample: True builds the weights of each sample, for one grouped convolution or, if k is
            1, for batched matrix products. False scales the activations before and after one
            shared convolution, with equal results. None: the form that `is_per_sample` chooses.
        normalize: how `w` and `s` are scaled before all steps, so that their products fit half
            precision; the demodulation undoes it. "rms": to unit mean square of each output's
            weights and of all styles; "max": in float16, by the largest magnitudes.
    """
    if s.shape != (x.shape[0], w.shape[1]) or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"modulated_conv2d: x {list(x.shape)}, w {list(w.shape)} and s {list(s.shape)} "
            "do not fit; s is [N, C_in]"
        )
    if per_sample is None:
        per_sample = is_per_sample(x, w, padding, up)
    if per_sample and has_scaled_weights(x, w):
        weights = _in_one_pass(w, s, demodulate, input_gain, normalize, x.dtype)
        return _with_weights(x, weights, padding, f, up)
    w, s = _normalized(w, s, normalize, x.dtype)
    if per_sample and len(x):
        weights = _sample_weights(w, s, demodulate, input_gain)
        return _with_weights(x, weights.to(x.dtype), padding, f, up)
    # Of unit mean square, the weights would add up beyond the range of float16.
    fits = normalize != "rms" or not demodulate or x.dtype != torch.float16
    scale = 1.0 if fits else 1 / math.sqrt(w[0].numel())
    return _shared(x, w, s, demodulate, padding, input_gain, f, up, scale)


def has_scaled_weights(x: torch.Tensor, w: torch.Tensor) -> bool:
    """Whether kernels make the weights of each sample: on a GPU, for kernels of 1x1 and 3x3."""
    sizes = ((1, 1), (3, 3))
    is_float = w.dtype == torch.float32 and w.shape[2:] in sizes
    return x.device.type != "cpu" and is_float and len(x) > 0 and has_kernels(x, "modulation")


def _in_one_pass(
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool,
    input_gain: torch.Tensor | None,
    normalize: Normalization,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weights of each sample [N, C_out, C_in, k, k] by compiled kernels."""
    w, s = w.contiguous(), s.contiguous()
    a = None
    if demodulate:
        a = torch.ops.sg3flow.demodulation(w, s, _EPS, normalize == "rms")
    b = s if input_gain is None else s * input_gain
    weights: torch.Tensor = torch.ops.sg3flow.scaled_weights(w, a, b, dtype)
    return weights


def _normalized(
    w: torch.Tensor, s: torch.Tensor, kind: Normalization, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "rms":
        w = w * w.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
    elif kind == "max" and dtype == torch.float16:
        largest = w.abs().amax(dim=(1, 2, 3), keepdim=True)
        w = w / (largest * math.sqrt(w[0].numel()))
        s = s / s.abs().amax(dim=1, keepdim=True)
    return w, s


def is_per_sample(x: torch.Tensor, w: torch.Tensor, padding: int, up: int) -> bool:
    """The form of a modulated convolution: whether each sample gets its own weights.

    On a GPU it does, unless another form was chosen (`conv_forms.py`). On a CPU the faster form is
    used. Measured on one AVX-512 core. 1x1: batched matrix products do
    27 to 44 billion products per second, a shared convolution 24 to 35 with extra passes over the
    activations. 3x3: the compiled shared convolution is the fastest where it is supported. Without
    it, 8 samples forward and backward, grouped and shared: 64 channels at 84x84 141 and 161 ms, 32
    channels 39 and 44; but 45 channels at 36x36 29 and 17, 91 channels at 52x52 180 and 122, 512
    channels at 36x36 2.1 and 1.5 s.
    """
    chosen = chosen_per_sample(x, w, padding, up)
    if chosen is not None:
        return chosen
    if x.device.type != "cpu":
        return True
    c_out, c_in, k, _ = w.shape
    if up == 1 and (k == 1 or has_compiled_conv(x, w, padding)):
        return k == 1
    return c_out % 16 == 0 and c_in % 16 == 0 and c_out * c_in <= 64 * 64


def _shared(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool,
    padding: int,
    input_gain: torch.Tensor | None,
    f: torch.Tensor | None,
    up: int,
    scale: float,
) -> torch.Tensor:
    """One convolution of scaled activations.

    Args:
        scale: on the weights of the convolution; the demodulation undoes it.
    """
    before = s if input_gain is None else s * input_gain
    if up == 1 and has_compiled_conv(x, w, padding):
        return compiled_conv(x, w, padding, before, _demodulation(w, s) if demodulate else None)
    x = x * before.to(x.dtype)[:, :, None, None]
    shared = w if scale == 1 else w * scale
    y = conv2d_resample(x, shared.to(x.dtype), f, up=up, padding=padding)
    if not demodulate:
        return y
    after = _demodulation(w, s)
    after = after if scale == 1 else after / scale
    return y * after.to(y.dtype)[:, :, None, None]


def _demodulation(w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """[N, C_out]: one over the L2 norm of each output's weights."""
    energy = s.square() @ w.square().sum(dim=(2, 3)).t()
    return (energy + _EPS).rsqrt()


def _sample_weights(
    w: torch.Tensor, s: torch.Tensor, demodulate: bool, input_gain: torch.Tensor | None
) -> torch.Tensor:
    """[N, C_out, C_in, k, k], one step after the other."""
    weights = w[None] * s[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + _EPS).rsqrt()
    if input_gain is not None:
        weights = weights * input_gain.expand(w.shape[1])[:, None, None]
    return weights


def _with_weights(
    x: torch.Tensor, weights: torch.Tensor, padding: int, f: torch.Tensor | None, up: int
) -> torch.Tensor:
    """The convolution of each sample with its own weights."""
    n, c_out, c_in, *size = weights.shape
    if size == [1, 1] and up == 1 and padding == 0:
        flat = matrix_product(weights.reshape(n, c_out, c_in), x.flatten(2))
        return flat.reshape(n, c_out, *x.shape[2:])
    grouped = weights.reshape(n * c_out, c_in, *size)
    x = x.reshape(1, n * c_in, *x.shape[2:])
    y = conv2d_resample(x, grouped, f, up=up, padding=padding, groups=n)
    return y.reshape(n, c_out, *y.shape[2:])
