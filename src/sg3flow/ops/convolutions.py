"""Convolutions, also with factor-2 resampling (StyleGAN2, discriminator), and matrix products."""

import torch

from sg3flow.ops.backend import has_kernels
from sg3flow.ops.conv_forms import run_conv, run_product
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
    return convolve(x, w, padding=padding, groups=groups)


def convolve(
    x: torch.Tensor, w: torch.Tensor, stride: int = 1, padding: int = 0, groups: int = 1
) -> torch.Tensor:
    """`F.conv2d`: every convolution of the networks that no kernel computes."""
    return run_conv(x, w, stride, (padding, padding), groups, transposed=False)


def convolve_transposed(
    x: torch.Tensor, w: torch.Tensor, padding: tuple[int, int], groups: int = 1
) -> torch.Tensor:
    """`F.conv_transpose2d` with stride 2: every transposed convolution of the networks.

    Args:
        w: [C_in, C_out / groups, k, k].
        padding: (y, x) cropped from the result on each side.
    """
    return run_conv(x, w, 2, padding, groups, transposed=True)


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
        return convolve(downsample2d(x, f, down=2, padding=padding), w, groups=groups)
    filtered = upfirdn2d(x, f, padding=down_padding(f, padding))
    return convolve(filtered, w, stride=2, groups=groups)


def down_padding(f: torch.Tensor | None, padding: int) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) of the filter before a convolution with stride 2 and `padding`."""
    fh, fw = filter_taps(f)
    x0, x1, y0, y1 = (fw - 1) // 2, (fw - 2) // 2, (fh - 1) // 2, (fh - 2) // 2
    return padding + x0, padding + x1, padding + y0, padding + y1


def _conv_up(
    x: torch.Tensor, w: torch.Tensor, f: torch.Tensor | None, padding: int, groups: int
) -> torch.Tensor:
    if w.shape[2:] == (1, 1):
        return upsample2d(convolve(x, w, padding=padding, groups=groups), f, up=2)
    fh, fw = filter_taps(f)
    kh, kw = w.shape[2:]
    x0, x1 = padding + (fw + 1) // 2 - (kw - 1), padding + (fw - 2) // 2 - (kw - 2)
    y0, y1 = padding + (fh + 1) // 2 - (kh - 1), padding + (fh - 2) // 2 - (kh - 2)
    # The transposed convolution skips what the filter would crop on both sides.
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    y = convolve_transposed(x, _exchanged(w, groups), (crop_y, crop_x), groups)
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
        return run_product(a, b)
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
