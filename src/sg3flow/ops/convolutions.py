"""Convolutions: with factor-2 resampling (StyleGAN2, discriminator) and modulated by styles."""

import torch
import torch.nn.functional as F

from sg3flow.ops.backend import has_kernels
from sg3flow.ops.fir import filter_taps
from sg3flow.ops.upfirdn2d import check_filter, check_images, downsample2d, upfirdn2d, upsample2d


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """Convolves (no flipping, as torch does) and resamples by 2 with the low-pass filter `f`.

    Zero padding is applied once, before all other steps.

    Args:
        x: [N, C_in, H, W].
        w: [C_out, C_in / groups, k, k] of the same dtype as `x`.
        f: the low-pass filter of `setup_filter`; used only when resampling.
        up, down: 1 or 2, not both 2.
        padding: before the convolution, in input samples.

    Returns:
        [N, C_out, H*up/down, W*up/down] for padding = k // 2 and even sizes.
    """
    check_images("conv2d_resample", x)
    check_filter("conv2d_resample", f)
    if (up, down) not in ((1, 1), (1, 2), (2, 1)):
        raise ValueError(f"conv2d_resample: up and down are 1 or 2, not both 2; not {up}, {down}")
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"conv2d_resample: w {list(w.shape)} with {groups} groups does not fit the "
            f"{x.shape[1]} channels of x"
        )
    if down == 2:
        return _conv_down(x, w, f, padding, groups)
    if up == 2:
        return _conv_up(x, w, f, padding, groups)
    if groups == 1 and has_compiled_conv(x, w, padding):
        return compiled_conv(x, w, padding)
    return F.conv2d(x, w, padding=padding, groups=groups)


def has_compiled_conv(x: torch.Tensor, w: torch.Tensor, padding: int) -> bool:
    """Whether `compiled_conv` supports these inputs and is faster than torch.

    It computes 16 tiles of 4x4 results at a time (8 with AVX2). Milliseconds on one AVX-512 core,
    3x3, compiled and torch: 512 channels at 84x84 195 and 335, 362 to 256 at 148x148 160
    and 351; 8 samples of 128 channels at 36x36 20 and 32, 64 channels 6.6 and 8.5, 16 channels at
    84x84 4.4 and 5.1. Below 16x16 most of the 16 tiles
    are empty.
    """
    return (
        x.device.type == "cpu"
        and w.shape[2:] == (3, 3)
        and 0 <= padding <= 2
        and min(x.shape[2:]) + 2 * padding >= 18
        and min(w.shape[:2]) >= 16
        and x.dtype == w.dtype
        and has_kernels(x)
    )


def compiled_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    padding: int,
    before: torch.Tensor | None = None,
    after: torch.Tensor | None = None,
) -> torch.Tensor:
    """A 3x3 convolution with channel factors before [N, C_in] and after [N, C_out] it."""
    y: torch.Tensor = torch.ops.sg3flow.conv3x3(
        x.contiguous(),
        w.contiguous(),
        None if before is None else before.contiguous(),
        None if after is None else after.contiguous(),
        padding,
    )
    return y


def _conv_down(
    x: torch.Tensor, w: torch.Tensor, f: torch.Tensor | None, padding: int, groups: int
) -> torch.Tensor:
    if w.shape[2:] == (1, 1):
        return F.conv2d(downsample2d(x, f, down=2, padding=padding), w, groups=groups)
    fh, fw = filter_taps(f)
    pads = [padding + p for p in ((fw - 1) // 2, (fw - 2) // 2, (fh - 1) // 2, (fh - 2) // 2)]
    return F.conv2d(upfirdn2d(x, f, padding=pads), w, stride=2, groups=groups)


def _conv_up(
    x: torch.Tensor, w: torch.Tensor, f: torch.Tensor | None, padding: int, groups: int
) -> torch.Tensor:
    if w.shape[2:] == (1, 1):
        return upsample2d(F.conv2d(x, w, padding=padding, groups=groups), f, up=2)
    fh, fw = filter_taps(f)
    kh, kw = w.shape[2:]
    x0, x1 = padding + (fw + 1) // 2 - (kw - 1), padding + (fw - 2) // 2 - (kw - 2)
    y0, y1 = padding + (fh + 1) // 2 - (kh - 1), padding + (fh - 2) // 2 - (kh - 2)
    # The transposed convolution skips what the filter would crop on both sides.
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    y = F.conv_transpose2d(
        x, _exchanged(w, groups), stride=2, padding=(crop_y, crop_x), groups=groups
    )
    return upfirdn2d(y, f, padding=(x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y), gain=4)


def _exchanged(w: torch.Tensor, groups: int) -> torch.Tensor:
    """Swap input and output channels within each group, for conv_transpose2d."""
    if groups == 1:
        return w.transpose(0, 1)
    c_out, c_in, kh, kw = w.shape
    w = w.reshape(groups, c_out // groups, c_in, kh, kw).transpose(1, 2)
    return w.reshape(groups * c_in, c_out // groups, kh, kw)


def matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` for [N, M, K] and [N, K, P], by Strassen's recursion where that is faster.

    With it, a non-finite number also makes other results of the same sample non-finite.
    """
    if not _is_faster_compiled(a, b):
        return a @ b
    y: torch.Tensor = torch.ops.sg3flow.matrix_product(a, b.contiguous())
    return y


def _is_faster_compiled(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether Strassen's recursion is faster (docs/cpu-kernels.md)."""
    return (
        b.device.type == "cpu"
        and min(a.shape[1:]) >= 256
        and b.shape[2] >= 2048
        and a.dtype == b.dtype
        and torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2")
        and has_kernels(b)
    )


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
) -> torch.Tensor:
    """Convolves each sample with ``w`` scaled by that sample's style.

    (1) W = w * s for each sample; (2) with demodulation, W is divided by the L2 norm of the weights
    of each output channel, so that unit variance is preserved; (3) W is
    multiplied by `input_gain`; (4) the convolution, upsampled by 2 on request.

    Args:
        x: [N, C_in, H, W].
        w: [C_out, C_in, k, k], float32.
        s: [N, C_in], float32.
        input_gain: a scalar or [C_in], not undone by the demodulation; None for 1.
        f, up: low-pass filter and factor of `conv2d_resample`.
        per_sample: True builds the weights of each sample, for one grouped convolution or, if k is
            1, for batched matrix products. False scales the activations before and after one
            shared convolution, with equal results. None: per sample on a GPU (no overflow in half
            precision), on a CPU the faster form (see `_is_faster_per_sample`).
    """
    if s.shape != (x.shape[0], w.shape[1]) or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"modulated_conv2d: x {list(x.shape)}, w {list(w.shape)} and s {list(s.shape)} "
            "do not fit; s is [N, C_in]"
        )
    if per_sample is None:
        per_sample = x.device.type != "cpu" or _is_faster_per_sample(x, w, padding, up)
    run = _per_sample if per_sample and len(x) else _shared
    return run(x, w, s, demodulate, padding, input_gain, f, up)


def _is_faster_per_sample(x: torch.Tensor, w: torch.Tensor, padding: int, up: int) -> bool:
    """Whether per-sample weights are the faster form on a CPU.

    Measured on one AVX-512 core. 1x1: batched matrix products do 27 to 44 billion products per
    second, a shared convolution 24 to 35 with extra passes over the activations. 3x3: the compiled
    shared convolution is the fastest where it is supported. Without it, 8 samples forward and
    backward, grouped and shared: 64 channels at 84x84 141 and 161 ms, 32 channels 39 and 44; but 45
    channels at 36x36 29 and 17, 91 channels at 52x52 180 and 122, 512 channels at 36x36 2.1 and
    1.5 s.
    """
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
) -> torch.Tensor:
    before = s if input_gain is None else s * input_gain
    if up == 1 and has_compiled_conv(x, w, padding):
        return compiled_conv(x, w, padding, before, _demodulation(w, s) if demodulate else None)
    x = x * before.to(x.dtype)[:, :, None, None]
    y = conv2d_resample(x, w.to(x.dtype), f, up=up, padding=padding)
    if not demodulate:
        return y
    return y * _demodulation(w, s).to(y.dtype)[:, :, None, None]


def _demodulation(w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """[N, C_out]: one over the L2 norm of each output's weights."""
    energy = s.square() @ w.square().sum(dim=(2, 3)).t()
    return (energy + 1e-8).rsqrt()


def _per_sample(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool,
    padding: int,
    input_gain: torch.Tensor | None,
    f: torch.Tensor | None,
    up: int,
) -> torch.Tensor:
    n, c_out = x.shape[0], w.shape[0]
    weights = w[None] * s[:, None, :, None, None]  # [N, C_out, C_in, k, k]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        weights = weights * input_gain.expand(w.shape[1])[:, None, None]
    if w.shape[2:] == (1, 1) and up == 1 and padding == 0:
        flat = matrix_product(weights.reshape(n, c_out, -1).to(x.dtype), x.flatten(2))
        return flat.reshape(n, c_out, *x.shape[2:])
    grouped = weights.reshape(n * c_out, *w.shape[1:]).to(x.dtype)
    x = x.reshape(1, n * x.shape[1], *x.shape[2:])
    y = conv2d_resample(x, grouped, f, up=up, padding=padding, groups=n)
    return y.reshape(n, c_out, *y.shape[2:])
