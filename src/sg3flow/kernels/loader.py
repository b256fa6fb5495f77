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
    _require_right(name)
    return path


def _require_right(name: str) -> None:
    """Try the kernels on this very device: a compiler or a card may do what nobody has seen yet.

    Raises:
        ConfigError: they do not run, or compute something else than plain PyTorch.
    """
    from sg3flow.kernels.trial import TOLERANCES, largest_error

    dtypes = TOLERANCES if name == "cuda" else (torch.float32,)
    for dtype in dtypes:
        try:
            error = largest_error(name, dtype)
        except RuntimeError as problem:
            reason = (str(problem).strip().splitlines() or ["no message"])[0][:200]
            raise ConfigError(f"the {name} kernels do not run here: {reason}") from None
        if not error <= TOLERANCES[dtype]:
            raise ConfigError(
                f"the {name} kernels differ from plain PyTorch by {error:.1e} of the largest value "
                f"in {dtype}; please report this machine and compiler"
            )


def _refuse_in_workers() -> None:
    """Each of many data loading processes would wait for a build that it hardly profits from."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise ConfigError("kernels are not built in a data loading process")
