"""2-D convolution with an optional factor-2 resampling (StyleGAN2 blocks, discriminator)."""

import torch
import torch.nn.functional as F

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

    Padding happens once, before everything, and zeros lie outside the image.

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
    return F.conv2d(x, w, padding=padding, groups=groups)


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
    # what the filter would crop on both sides, the transposed convolution need not compute
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    y = F.conv_transpose2d(
        x, _exchanged(w, groups), stride=2, padding=(crop_y, crop_x), groups=groups
    )
    return upfirdn2d(y, f, padding=(x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y), gain=4)


def _exchanged(w: torch.Tensor, groups: int) -> torch.Tensor:
    """In and out axes exchanged within each group, as conv_transpose2d wants them."""
    if groups == 1:
        return w.transpose(0, 1)
    c_out, c_in, kh, kw = w.shape
    w = w.reshape(groups, c_out // groups, c_in, kh, kw).transpose(1, 2)
    return w.reshape(groups * c_in, c_out // groups, kh, kw)
