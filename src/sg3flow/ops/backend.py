"""Which implementation of the ops runs: compiled kernels, or plain PyTorch.

The environment variable ``SG3FLOW_OPS`` is ``auto`` (the default: the fastest one that is built),
``torch``, ``cpu`` or ``cuda``. It is read at the first use of an op on each kind of device.
"""

import functools
import logging
import os

import torch

from sg3flow.errors import ConfigError, nearest

_CHOICES = ("auto", "torch", "cpu", "cuda")
_log = logging.getLogger(__name__)


def backend_name(device: torch.device | str) -> str:
    """The implementation that serves tensors on ``device``; told once in the log.

    Raises:
        ConfigError: ``SG3FLOW_OPS`` is unknown, or names kernels that are not built.
    """
    return _chosen(torch.device(device).type, os.environ.get("SG3FLOW_OPS", "auto"))


@functools.cache
def _chosen(device_type: str, wanted: str) -> str:
    if wanted not in _CHOICES:
        raise ConfigError(
            f"SG3FLOW_OPS is '{wanted}'{nearest(wanted, _CHOICES)}; it must be one of "
            f"{', '.join(_CHOICES)}"
        )
    if wanted in ("cpu", "cuda"):
        raise ConfigError(
            f"SG3FLOW_OPS={wanted}: the {wanted} kernels are not built in this version; "
            "set SG3FLOW_OPS=torch or auto"
        )
    _log.info("ops on %s: plain PyTorch", device_type)
    return "torch"
