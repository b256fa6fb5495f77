"""The choice of implementation of the ops, and the self-check of compiled kernels.

The environment variable ``SG3FLOW_OPS`` is ``auto`` (the default: kernels, or plain PyTorch where
they cannot be built), ``torch`` (plain PyTorch), ``cpu`` or ``cuda`` (kernels, or an error). It is
read at the first use of an op on each kind of device.
"""

import functools
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3flow.errors import ConfigError, nearest
from sg3flow.ops.fir import FirSpec, filter_taps, run_fir
from sg3flow.settings import OPS

_CHOICES = ("auto", "torch", "cpu", "cuda")
_log = logging.getLogger(__name__)


def backend_name(device: torch.device | str) -> str:
    """The implementation that serves tensors on ``device``: 'torch', 'cpu' or 'cuda'.

    The first call for a kind of device may build kernels. It logs the choice once; a fallback to
    plain PyTorch is a warning.

    Raises:
        ConfigError: the value of ``SG3FLOW_OPS`` is unknown, or its kernels cannot be built.
    """
    return _served(torch.device(device).type)


def has_kernels(x: torch.Tensor) -> bool:
    """Whether compiled kernels serve ``x``: float32 on a CPU; also half precision on a GPU."""
    if x.device.type == "cpu":
        return x.dtype == torch.float32 and _served("cpu") == "cpu"
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return False
    return _served("cuda") == "cuda"


def has_fused_forms(device: torch.device) -> bool:
    """Whether to use the forms with fewer passes and launches: on all devices but the CPU.

    They round differently; numbers on a CPU stay those of earlier versions.
    """
    return device.type != "cpu"


def _served(device_type: str) -> str:
    return _chosen(device_type, OPS.text())


# The effect of torch.compiler.assume_constant_result, which would import the whole compiler.
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
            path = load_kernels(device_type)
        except ConfigError as error:
            if wanted != "auto":
                raise ConfigError(f"SG3FLOW_OPS={wanted}: {error}") from None
            _log.warning(
                "no compiled kernels on %s, so training and rendering are several times slower: "
                "%s (SG3FLOW_OPS=torch selects plain PyTorch without this warning)",
                device_type,
                error,
            )
            return "torch"
        _log.info("ops on %s: compiled kernels, %s", device_type, path)
        return device_type
    _log.info("ops on %s: plain PyTorch", device_type)
    return "torch"


@functools.cache
def load_kernels(name: str) -> Path:
    """Load the kernels for ``cpu`` or ``cuda`` tensors, built first if needed; the library's file.

    Raises:
        ConfigError: no build exists and building fails; the message gives the reason.
    """
    from sg3flow.kernels.build import find_build, make_build
    from sg3flow.ops import op_registration, product_registration  # noqa: F401 - declares the ops

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
    check_kernels(name)
    return path


def _refuse_in_workers() -> None:
    """Data loading processes do not build: each would wait, and they use few ops."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise ConfigError("kernels are not built in a data loading process")


# Largest relative error of a forward and a backward pass, as a root mean square; plain PyTorch has
# 2e-7, 3e-3 and 6.4e-3 on the CPU. Single values are not compared: rounding can change the sign of
# a sample near 0, and then its gradient differs by 2e-2 of the largest one.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_GAIN, _SLOPE, _CLAMP = math.sqrt(2), 0.2, 0.9


@dataclass(frozen=True)
class _Case:
    """One geometry of StyleGAN3: factors, filters and padding."""

    up: int
    down: int
    radial: bool
    padding: tuple[int, int, int, int]


_CASES = (
    _Case(2, 2, False, (9, 8, 9, 8)),
    _Case(4, 2, False, (21, 20, 21, 20)),
    _Case(2, 2, True, (9, 8, 9, 8)),
)


def check_kernels(name: str) -> None:
    """The self-check: compare the kernels with plain PyTorch on the devices of this machine.

    Raises:
        ConfigError: they do not run, or their results differ.
    """
    dtypes = TOLERANCES if name == "cuda" else (torch.float32,)
    for dtype in dtypes:
        try:
            error = largest_error(name, dtype)
        except RuntimeError as problem:
            reason = (str(problem).strip().splitlines() or ["no message"])[0][:200]
            raise ConfigError(f"the {name} kernels do not run here: {reason}") from None
        if not error <= TOLERANCES[dtype]:
            raise ConfigError(
                f"the {name} kernels differ from plain PyTorch by {error:.1e} in {dtype}; please "
                "report this machine and compiler"
            )


def largest_error(device: str, dtype: torch.dtype) -> float:
    """The error of filtered_lrelu and its gradient in the kernels, relative to float64 PyTorch."""
    # The first use of an op may happen in inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        return max(error for case in _CASES for error in _errors(case, device, dtype))


def _errors(case: _Case, device: str, dtype: torch.dtype) -> Iterator[float]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 24, 20, generator=random).to(dtype)
    fu, fd = _taps(6 * case.up), _taps(12)
    if case.radial:
        fd = _radial(fd)
    wanted, wanted_dx = _defined(x.double(), fu, fd, case)
    inputs = (x.to(device).requires_grad_(), fu.to(device), fd.to(device))
    up, down = (case.up, case.up), (case.down, case.down)
    y, _ = torch.ops.sg3flow.filtered_lrelu(
        *inputs, None, up, down, case.padding, False, _GAIN, _SLOPE, _CLAMP, True
    )
    (dx,) = torch.autograd.grad(y.sum(), inputs[0])
    for found, expected in ((y.detach(), wanted), (dx, wanted_dx)):
        yield float((found.cpu().double() - expected).norm() / expected.norm())


def _taps(count: int) -> torch.Tensor:
    """Symmetric to the last bit, as the filters of the layers are: kernels depend on it."""
    taps = torch.hann_window(count + 2, periodic=False)[1:-1]
    return (taps + taps.flip(0)) / (2 * taps.sum())


def _radial(taps: torch.Tensor) -> torch.Tensor:
    """Not an outer product: kernels run those as separable filters."""
    cross = torch.eye(len(taps))
    return taps.outer(taps) + 1e-3 * (cross + cross.flip(0))


def _defined(
    x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op and the gradient of its sum in plain PyTorch, on the CPU."""
    x = x.requires_grad_()
    first = FirSpec((case.up, case.up), (1, 1), case.padding, gain=float(case.up**2))
    second = FirSpec((1, 1), (case.down, case.down), gain=_GAIN)
    assert filter_taps(fu)[0] == 6 * case.up
    v = torch.nn.functional.leaky_relu(run_fir(x, fu, first), _SLOPE)
    y = run_fir(v.clamp(-_CLAMP / _GAIN, _CLAMP / _GAIN), fd, second)
    (dx,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), dx


def self_check(name: str, path: str) -> None:
    """Check the library at ``path`` and end this process: ``kernels.build`` starts one for that."""
    from sg3flow.ops import op_registration  # noqa: F401 - declares the ops

    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        check_kernels(name)
    except (OSError, ConfigError) as error:
        sys.exit(str(error))
