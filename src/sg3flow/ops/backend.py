"""Which implementation of the ops runs: compiled kernels, or plain PyTorch.

The environment variable ``SG3FLOW_OPS`` is ``auto`` (the default: kernels, or plain PyTorch where
they cannot be had), ``torch``, ``cpu`` or ``cuda`` (kernels, or an error). It is read at the first
use of an op on each kind of device.
"""

import functools
import logging
import os

import torch

from sg3flow.errors import ConfigError, nearest

_CHOICES = ("auto", "torch", "cpu", "cuda")
_log = logging.getLogger(__name__)


def backend_name(device: torch.device | str) -> str:
    """The implementation that serves tensors on ``device``: 'torch', 'cpu' or 'cuda'.

    The first call for a kind of device may build kernels. It says once in the log what it chose; a
    fallback is a warning.

    Raises:
        ConfigError: ``SG3FLOW_OPS`` is unknown, or names kernels that cannot be had.
    """
    return _served(torch.device(device).type)


def has_kernels(x: torch.Tensor) -> bool:
    """Whether compiled kernels compute on ``x``: float32 on a CPU, half precision too on a GPU."""
    if x.device.type == "cpu":
        return x.dtype == torch.float32 and _served("cpu") == "cpu"
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return False
    return _served("cuda") == "cuda"


def _served(device_type: str) -> str:
    return _chosen(device_type, os.environ.get("SG3FLOW_OPS", "auto"))


# What torch.compiler.assume_constant_result sets; that function loads the whole compiler.
_served._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _chosen(device_type: str, wanted: str) -> str:
    if wanted not in _CHOICES:
        raise ConfigError(
            f"SG3FLOW_OPS is '{wanted}'{nearest(wanted, _CHOICES)}; it must be one of "
            f"{', '.join(_CHOICES)}"
        )
    if wanted in (device_type, "auto") and device_type in ("cpu", "cuda"):
        try:
            path = _load(device_type)
        except ConfigError as error:
            if wanted != "auto":
                raise ConfigError(f"SG3FLOW_OPS={wanted}: {error}") from None
            _log.warning(
                "no compiled kernels on %s, so training and pictures take several times as long: "
                "%s (SG3FLOW_OPS=torch chooses plain PyTorch without this warning)",
                device_type,
                error,
            )
            return "torch"
        _log.info("ops on %s: compiled kernels, %s", device_type, path)
        return device_type
    _log.info("ops on %s: plain PyTorch", device_type)
    return "torch"


def _load(device_type: str) -> str:
    from sg3flow.kernels.loader import load_kernels

    return str(load_kernels(device_type))
