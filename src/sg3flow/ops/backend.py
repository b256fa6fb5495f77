"""The choice of implementation of the ops.

The environment variable ``SG3FLOW_OPS`` is ``auto`` (the default: kernels, or plain PyTorch where
they cannot be built), ``torch`` (plain PyTorch), ``cpu`` or ``cuda`` (kernels, or an error). It is
read at the first use of an op on each kind of device.

The kernels of a CPU are one library. Those of a GPU are compiled in parts, each for a dtype, when
an op needs them first; each part is checked before it serves.
"""

import functools
import logging
from pathlib import Path

import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels.watchdog import refuse_in_workers
from sg3flow.ops.self_check import CPU_PART, TOLERANCES, check_part
from sg3flow.settings import OPS, TENSOR_CORES

_log = logging.getLogger(__name__)


def backend_name(device: torch.device | str) -> str:
    """The implementation that serves tensors on ``device``: 'torch', 'cpu' or 'cuda'.

    The first call for a kind of device may build kernels; for a GPU a few, which shows that others
    can be. It logs the choice once; a fallback to plain PyTorch is a warning.

    Raises:
        ConfigError: the value of ``SG3FLOW_OPS`` or ``SG3FLOW_TENSOR_CORES`` is unknown, or the
            kernels cannot be built.
    """
    return _served(torch.device(device).type)


def has_kernels(x: torch.Tensor, part: str = "") -> bool:
    """Whether compiled kernels serve ``x``: float32 on a CPU; also half precision on a GPU.

    Args:
        part: what the op needs, as in ``self_check``; it is compiled now if it was not.
    """
    if x.device.type == "cpu":
        return x.dtype == torch.float32 and _served("cpu") == "cpu"
    if x.device.type != "cuda" or x.dtype not in TOLERANCES:
        return False
    return _served("cuda") == "cuda" and (not part or _has_part(part, x.dtype, x.device.index))


def has_fused_forms(device: torch.device) -> bool:
    """Whether to use the forms with fewer passes and launches: on all devices but the CPU.

    They round differently; numbers on a CPU stay those of earlier versions.
    """
    return device.type != "cpu"


def _served(device_type: str) -> str:
    return _chosen(device_type, OPS.text())


def _has_part(part: str, dtype: torch.dtype, index: int) -> bool:
    return _checked_part(part, dtype, index, OPS.text())


# The effect of torch.compiler.assume_constant_result, which would import the whole compiler.
_served._dynamo_marked_constant = True  # type: ignore[attr-defined]
_has_part._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _chosen(device_type: str, wanted: str) -> str:
    for variable in (OPS, TENSOR_CORES):
        variable.choice()
    if wanted in (device_type, "auto") and device_type in ("cpu", "cuda"):
        try:
            described = load_kernels("cpu") if device_type == "cpu" else load_cuda_kernels()
        except ConfigError as error:
            _refuse_or_warn(device_type, wanted, error)
            return "torch"
        _log.info("ops on %s: compiled kernels, %s", device_type, described)
        return device_type
    _log.info("ops on %s: plain PyTorch", device_type)
    return "torch"


@functools.cache
def _checked_part(part: str, dtype: torch.dtype, index: int, wanted: str) -> bool:
    from sg3flow.ops.cuda_device import refuse_capture

    refuse_capture(f"those of {part} in {dtype}")
    try:
        check_part(torch.device("cuda", index), part, dtype)
    except ConfigError as error:
        _refuse_or_warn(f"cuda for {part}", wanted, error)
        return False
    return True


def _refuse_or_warn(where: str, wanted: str, error: ConfigError) -> None:
    if wanted != "auto":
        raise ConfigError(f"SG3FLOW_OPS={wanted}: {error}") from None
    _log.warning(
        "no compiled kernels on %s, so training and rendering are several times slower: "
        "%s (SG3FLOW_OPS=torch selects plain PyTorch without this warning)",
        where,
        error,
    )


@functools.cache
def load_kernels(name: str) -> Path:
    """Load the library of kernels for ``cpu`` tensors, built first if needed; its file.

    Raises:
        ConfigError: no build exists and building fails; the message gives the reason.
    """
    from sg3flow.kernels.build import find_build, make_build
    from sg3flow.ops import op_registration, product_registration  # noqa: F401 - declares the ops

    path = find_build()
    if path is None:
        refuse_in_workers()
        path = make_build()
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{path} does not load ({str(error).splitlines()[0][:200]}); "
            "'sg3flow doctor --rebuild' builds it again"
        ) from None
    check_kernels(name)
    return path


def check_kernels(name: str) -> None:
    """Compare the kernels for ``cpu`` tensors with plain PyTorch.

    Raises:
        ConfigError: they do not run, or their results differ.
    """
    check_part(name, CPU_PART, torch.float32)


def load_cuda_kernels() -> str:
    """Show that kernels compile, load and compute on the current GPU; what compiles them.

    Raises:
        ConfigError: they do not; the message gives the reason and the next step.
    """
    from sg3flow.ops import cuda_device, cuda_launch

    register_cuda_ops()
    cuda_device.refuse_capture("the first kernels")
    check_part(torch.device("cuda", cuda_device.access.current()), "bias_act", torch.float32)
    return cuda_launch.cuda_compiler()


@functools.cache
def register_cuda_ops() -> torch.library.Library:
    """Register the CUDA implementations of the ops with torch, once."""
    from sg3flow.ops import (  # noqa: F401 - declare the ops
        act_filter_registration,
        cuda_act_filter,
        cuda_bias_act,
        cuda_filtered_lrelu,
        cuda_modulation,
        cuda_upfirdn2d,
        modulation_registration,
        op_registration,
        sum_registration,
    )

    library = torch.library.Library("sg3flow", "IMPL", "CUDA")  # type: ignore[no-untyped-call]
    for op in (
        *(cuda_upfirdn2d.upfirdn2d, cuda_upfirdn2d.upfirdn2d_add),
        *(cuda_bias_act.bias_act, cuda_bias_act.bias_act_grad),
        *(cuda_filtered_lrelu.filtered_lrelu, cuda_filtered_lrelu.filtered_lrelu_flagged),
        cuda_filtered_lrelu.filtered_lrelu_squares,
        cuda_filtered_lrelu.filtered_lrelu_flagged_sum,
        *(cuda_act_filter.act_filter, cuda_act_filter.act_filter_grad),
        cuda_act_filter.act_filter_flagged,
        *(cuda_modulation.scaled_weights, cuda_modulation.scaled_weights_grad),
        *(cuda_modulation.demodulation, cuda_modulation.demodulation_grad),
    ):
        library.impl(op.__name__, op)  # type: ignore[no-untyped-call]
    return library
