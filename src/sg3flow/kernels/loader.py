"""Brings compiled kernels into the process: finds them, builds them if need be, registers them."""

import functools
from pathlib import Path

import torch

from sg3flow.errors import ConfigError


@functools.cache
def load_kernels(name: str) -> Path:
    """Make the ops of ``kernels.library`` work on ``cpu`` or ``cuda`` tensors; the library used.

    Raises:
        ConfigError: there is no build, and none can be made; the message says why.
    """
    from sg3flow.kernels import library  # noqa: F401 - declares the ops
    from sg3flow.kernels.build import find_build, make_build
    from sg3flow.kernels.trial import require_right

    path = find_build(name)
    if path is None:
        _refuse_in_workers()
        path = make_build(name)
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{path} does not load ({str(error).splitlines()[0][:200]}); "
            "'sg3flow doctor --rebuild' builds it again"
        ) from None
    require_right(name)
    return path


def _refuse_in_workers() -> None:
    """Each of many data loading processes would wait for a build that it hardly profits from."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise ConfigError("kernels are not built in a data loading process")
