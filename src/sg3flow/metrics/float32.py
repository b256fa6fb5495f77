"""Float32 that is float32 on every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep GPUs from rounding the factors of convolutions and products to TF32's 10 bits."""
    cudnn: Any = torch.backends.cudnn  # its members are missing from torch's own types
    settings = (cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
