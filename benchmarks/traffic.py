"""Bytes, launches and host operations of a training step on a GPU, counted without one.

python benchmarks/traffic.py [--json FILE] [--cfg stylegan3-t] [--resolution 256] [--batch 32]
    [--batch-gpu 32] [--p 0.2] [--plain] [--where]

One step after the first runs on torch's `meta` device, where operations have shapes and types but
no values. Counted are, for each operation, the bytes of its inputs and outputs, as if each was read
and written once and no cache kept any, and those of partial sums that an op writes and adds up
itself; its kernel launches, one unless it works on a list of tensors (so a backward pass of a
convolution is one, too); and operations of torch on CPU tensors (those of NumPy are not seen). The
steps of a training differ by the regularizers that are due: the numbers are means over them. These
are counts, not times.

`--plain` counts pure PyTorch instead of the kernels, `--where` the operations by the function of
the package that called them (for gradients: that called the forward pass).
"""

import argparse
import json
import math
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from measure import show
from partial_sums import partial_sum_bytes
from sg3flow.config import CONFIGS, TrainConfig
from sg3flow.errors import ConfigError, cut
from sg3flow.ops import (  # noqa: F401 - declares the ops
    act_filter,
    downsample_branch,
    modulation_registration,
    op_registration,
    product_registration,
    sum_registration,
)
from sg3flow.training.assembly import Parts, build, resolve
from sg3flow.training.step import RealBatch, run_step

META = torch.device("meta")
# Operations that only make another view of a tensor, or allocate.
VIEWS = frozenset(
    "view _unsafe_view t transpose permute expand slice select unsqueeze squeeze alias detach "
    "as_strided split split_with_sizes unbind unfold diagonal _reshape_alias lift_fresh sym_size "
    "empty empty_strided empty_like new_empty is_pinned".split()
)
GROUPS = {
    "convolution": "convolutions",
    "convolution_backward": "convolutions",
    **dict.fromkeys(("mm", "bmm", "addmm"), "matrix products"),
    **dict.fromkeys(("filtered_lrelu", "filtered_lrelu_flagged"), "filtered_lrelu"),
    **dict.fromkeys(("filtered_lrelu_squares", "filtered_lrelu_flagged_sum"), "filtered_lrelu"),
    **dict.fromkeys(("act_filter", "act_filter_grad", "act_filter_flagged"), "act_filter"),
    **dict.fromkeys(("upfirdn2d", "upfirdn2d_add"), "upfirdn2d"),
    **dict.fromkeys(("bias_act", "bias_act_grad"), "bias_act"),
    **dict.fromkeys(("scaled_weights", "scaled_weights_grad"), "sample weights"),
    **dict.fromkeys(("demodulation", "demodulation_grad"), "sample weights"),
}
# Ops of more than one kernel.
_LAUNCHES = {
    "scaled_weights_grad": 3,
    "demodulation_grad": 2,
    "filtered_lrelu_squares": 2,
    "filtered_lrelu_flagged_sum": 3,
    "act_filter_grad": 3,
}
# One launch of a list operation: so many tensors by the number of lists, and so many chunks.
_TENSORS_PER_LAUNCH, _CHUNKS_PER_LAUNCH, _CHUNK = (110, 64, 48, 36, 30), 320, 65536


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def num_bytes(tensors: list[torch.Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def launches(name: str, args: tuple[Any, ...]) -> int:
    """Kernel launches of one operation: lists of tensors are worked on in parts."""
    lists = [arg for arg in args if isinstance(arg, list | tuple) and list(_tensors(arg))]
    if not name.startswith(("_foreach", "_fused")):
        return _LAUNCHES.get(name, 1)
    chunks = sum(math.ceil(tensor.numel() / _CHUNK) for tensor in _tensors(args[0]))
    per_launch = _TENSORS_PER_LAUNCH[min(len(lists), len(_TENSORS_PER_LAUNCH)) - 1]
    return max(math.ceil(len(args[0]) / per_launch), math.ceil(chunks / _CHUNKS_PER_LAUNCH))


def group_of(name: str, tensors: list[torch.Tensor]) -> str:
    """The row of the table that an operation counts for."""
    if name in GROUPS:
        return GROUPS[name]
    if name.startswith(("_fused_adam", "_foreach")):
        return "updates of all weights"
    if any(tensor.ndim == 5 and tensor.numel() > 100_000 for tensor in tensors):
        return "sample weights"
    return "elementwise, reductions"


class Count(TorchDispatchMode):
    """Counts what runs on the device and on the CPU.

    Attributes:
        bytes, launches: by (group, dtype), or with `where` by (caller, operation).
        flops: of convolutions and matrix products by dtype.
        host_ops: operations on CPU tensors, by name or caller.
    """

    def __init__(self, where: bool = False) -> None:
        super().__init__()
        self.where = where
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.flops: Counter[str] = Counter()
        self.host_ops: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given, made = list(_tensors(args)), list(_tensors([out]))
        if name == "_fused_adam_":  # returns nothing; writes the weights and both averages
            made += _tensors([args[0], args[2], args[3]])
        if not any(tensor.device == META for tensor in (*given, *made)):
            self.host_ops[caller() if self.where else name] += 1
        elif name not in VIEWS:
            self._add(func, name, args, kwargs or {}, given, made, out)
        return out

    def _add(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        made: list[torch.Tensor],
        out: Any,
    ) -> None:
        dtype = str((made or given)[0].dtype).removeprefix("torch.")
        key = (caller(), name) if self.where else (group_of(name, given + made), dtype)
        self.bytes[key] += num_bytes(given + made) + partial_sum_bytes(name, args, out)
        self.launches[key] += launches(name, args)
        if name == "convolution_backward":
            self.flops[dtype] += _backward_flops(args)
        elif func.overloadpacket in flop_registry:
            self.flops[dtype] += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)


def _backward_flops(args: tuple[Any, ...]) -> int:
    """As many multiply-adds for each of the gradients asked for as forward, with groups."""
    grad, x, w, *_ = args
    is_transposed, wanted = args[7], args[10]
    positions = x.numel() if is_transposed else grad.numel()
    return int(2 * positions * w[0].numel() * sum(map(int, wanted[:2])))


def caller() -> str:
    """The function of the package that called the running operation, or its forward pass."""
    node = torch._C._current_autograd_node()
    if node is not None:
        lines = node.metadata.get("traceback_") or []
        ours = [line for line in lines if "/sg3flow/" in line]
        return f"backward of {_place(ours[-1])}" if ours else f"backward of {node.name()}"
    frames = [f for f in traceback.extract_stack() if "/sg3flow/" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def _place(line: str) -> str:
    """The file and line of a line of a formatted stack."""
    path, number, *_ = line.strip().removeprefix("File ").split(", ")
    return f"{Path(path.strip(chr(34))).name}:{number.removeprefix('line ')}"


def like_a_gpu(plain: bool = False) -> ExitStack:
    """While entered, the meta device has half precision and, unless `plain`, the kernels."""

    def served(x: torch.Tensor, part: str = "") -> bool:
        return not plain and x.device == META and x.dtype != torch.float64

    stack = ExitStack()
    stack.enter_context(mock.patch("sg3flow.networks.layers._HALF_DEVICES", ("cuda", "meta")))
    for module in list(sys.modules.values()):
        if module.__name__.startswith("sg3flow.ops.") and hasattr(module, "has_kernels"):
            stack.enter_context(mock.patch.object(module, "has_kernels", served))
    return stack


def make_parts(cfg: str, resolution: int, batch: int, batch_gpu: int, p: float) -> Parts:
    """A training on the meta device, augmented with probability `p`.

    Raises:
        ConfigError: there is no such training.
    """
    config = TrainConfig(cfg=cfg, gpus=1, batch=batch, gamma=2.0, batch_gpu=batch_gpu, aug="ada")
    try:
        parts = build(resolve(config), resolution=resolution, channels=3, c_dim=0, device=META)
    except ValueError as error:  # of the networks
        raise ConfigError(str(error)) from None
    assert parts.augment_pipe is not None
    parts.augment_pipe.p.fill_(p)
    # Its draws on the CPU would decide what is computed.
    object.__setattr__(parts.loss.settings, "style_mixing_prob", 0.0)
    parts.ada_target = None  # reads one number from the device, every four batches
    return parts


def count_step(parts: Parts, resolution: int, batch: int, batch_gpu: int, idx: int, where: bool):
    """What step number `idx` does."""
    labels = torch.zeros(batch, 0, device=META)
    real = RealBatch(torch.zeros(batch, 3, resolution, resolution, device=META), labels)

    def draw(phase: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(batch, parts.G.z_dim, device=META), labels

    with torch.autograd.set_detect_anomaly(where, check_nan=False), Count(where) as count:
        run_step(parts, real, draw, idx * batch, batch_gpu)
    return count


def kinds_of_steps(intervals: list[int]) -> dict[int, Fraction]:
    """For each combination of due phases, a step number above 0 that has it, and its share."""
    period = math.lcm(*intervals)
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for idx in range(1, period + 1):
        kinds.setdefault(tuple(idx % interval == 0 for interval in intervals), []).append(idx)
    return {steps[0]: Fraction(len(steps), period) for steps in kinds.values()}


def mean_step(options: argparse.Namespace) -> tuple[Count, dict[str, float]]:
    """The mean over the kinds of steps, and its totals."""
    mean = Count(options.where)
    sizes = (options.resolution, options.batch, options.batch_gpu or options.batch)
    with like_a_gpu(options.plain):
        parts = make_parts(options.cfg, *sizes, options.p)
        count_step(parts, *sizes, 0, False)  # the state of Adam is made in the first step
        for idx, share in kinds_of_steps([phase.interval for phase in parts.phases]).items():
            count = count_step(parts, *sizes, idx, options.where)
            for total, part in zip(_counters(mean), _counters(count), strict=True):
                for key, value in part.items():
                    total[key] += value * float(share)
    totals = {
        "GB": sum(mean.bytes.values()) / 1e9,
        "launches": sum(mean.launches.values()),
        "host operations": sum(mean.host_ops.values()),
    }
    return mean, totals | {f"TFLOP {name}": n / 1e12 for name, n in sorted(mean.flops.items())}


def _counters(count: Count) -> tuple[Counter[Any], ...]:
    return count.bytes, count.launches, count.flops, count.host_ops


def whole(most: int) -> Callable[[str], int]:
    """A type of arguments: whole numbers from 1."""

    def parsed(text: str) -> int:
        if not (re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to {most}, not '{cut(text, 40)}'"
            )
        return int(text)

    return parsed


def probability(text: str) -> float:
    """A type of arguments: from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not '{cut(text, 40)}'")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows and totals there too")
    parser.add_argument("--cfg", choices=CONFIGS, default="stylegan3-t")
    parser.add_argument("--resolution", type=whole(8192), default=256)
    parser.add_argument("--batch", type=whole(65536), default=32)
    parser.add_argument(
        "--batch-gpu", type=whole(65536), help="images per pass; default: the batch"
    )
    parser.add_argument("--p", type=probability, default=0.2, help="probability of augmentations")
    parser.add_argument("--plain", action="store_true", help="pure PyTorch, no kernels")
    parser.add_argument("--where", action="store_true", help="by calling function")
    options = parser.parse_args()
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json: {options.json.parent} is no folder")
    if options.json is not None and options.json.is_dir():
        parser.error(f"--json: {options.json} is a folder; name a file")
    try:
        mean, totals = mean_step(options)
    except ConfigError as error:
        parser.error(str(error))
    names = ("caller", "operation") if options.where else ("group", "dtype")
    rows = [
        {names[0]: key[0], names[1]: key[1], "GB": n / 1e9, "launches": mean.launches[key]}
        for key, n in sorted(mean.bytes.items(), key=lambda item: -item[1])
    ]
    show(rows)
    print("\n" + ", ".join(f"{value:.6g} {name}" for name, value in totals.items()))
    for name, number in mean.host_ops.most_common() if options.where else ():
        print(f"{number:8.1f} host operations: {name}")
    if options.json is not None:
        content = {"totals": totals, "rows": rows, "torch": torch.__version__}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
