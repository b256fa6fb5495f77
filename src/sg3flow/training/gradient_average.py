"""The average of gradients over all processes, started bucket by bucket during backward.

torch's DistributedDataParallel does not fit: it expects one backward pass after each forward pass
of a module, and does not work with ``torch.autograd.grad``. Here the main phase of D has two
backward passes, R1 and path lengths differentiate twice, and a phase has several micro-batches.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sg3flow import distributed

# As in torch's DistributedDataParallel: large enough for the bandwidth, small enough to overlap.
BUCKET_BYTES = 25 * 2**20

_Parameters = list[torch.nn.Parameter]


@dataclass
class _Reduction:
    """An all-reduce on its way: the gradients of some parameters, then the sums it carries."""

    parameters: _Parameters
    carried: list[distributed.LaterSum]
    pending: distributed.Pending

    def take(self) -> torch.Tensor:
        """Set the gradients to their repaired averages; whether all were finite, bool []."""
        sizes = [p.numel() for p in self.parameters]
        carried = [later.values.numel() for later in self.carried]
        flat, *totals = self.pending.wait().split([sum(sizes), *carried])
        for later, total in zip(self.carried, totals, strict=True):
            later.complete(total)
        if distributed.world_size() > 1:
            flat /= distributed.world_size()
        finite = torch.isfinite(flat).all()
        torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5, out=flat)
        for p, gradient in zip(self.parameters, flat.split(sizes), strict=True):
            p.grad = gradient.view(p.shape)
        return finite


class GradientAverage:
    """Averages and repairs the gradients of the parameters of one phase.

    The parameters are divided into buckets in the reverse of their order, which is roughly the
    order in which backward reaches them. During the last backward pass of a phase, a bucket's
    all-reduce starts when all its gradients are there, and overlaps with the rest of the pass.
    Buckets start in their order, which is the same in all processes, and what they hold does not
    depend on earlier steps: a resumed training sums as an uninterrupted one does.

    Args:
        parameters: all of the same type.
        bucket_bytes: a bucket is closed when it has this size.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._parameters = list(parameters)
        self._buckets = _buckets(self._parameters, bucket_bytes)
        self._bucket_of = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._fired: set[torch.nn.Parameter] = set()
        # Had no gradient in the last pass before: R1, for example, gives none to the last bias.
        # No bucket waits for them.
        self._silent: set[torch.nn.Parameter] = set()
        self._missing: list[int] = []
        self._started: list[_Reduction] = []
        self._next = 0  # the first bucket that has not started
        self._is_armed = self._has_hooks = False

    def arm(self) -> None:
        """Let buckets start from now on: call it before the last backward pass of the phase.

        The parameters must require gradients.
        """
        if distributed.world_size() == 1:
            return
        if not self._has_hooks:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._on_gradient)
            self._has_hooks = True
        self._fired.clear()
        self._missing = [len(set(bucket) - self._silent) for bucket in self._buckets]
        self._is_armed = True

    def finish(self) -> torch.Tensor | None:
        """Replace the gradients by their averages over all processes; NaN -> 0, +-inf -> +-1e5.

        Parameters without gradient keep none. The sums of ``distributed.sum_later`` travel along.

        Returns:
            Whether a value was replaced, bool []; None: no parameter has a gradient.
        """
        if self._is_armed:
            self._silent = set(self._parameters) - self._fired
            self._is_armed = False
        if distributed.world_size() == 1:
            self._start(_with_gradient(self._parameters), [])
        else:
            for bucket in self._buckets[self._next : -1]:
                self._start(_with_gradient(bucket), [])
            last = _with_gradient(self._buckets[-1])
            self._start(last, distributed.take_later_sums() if last else [])
        started, self._started, self._next = self._started, [], 0
        finite = [reduction.take() for reduction in started]
        return ~torch.stack(finite).all() if finite else None

    def _on_gradient(self, parameter: torch.nn.Parameter) -> None:
        if not self._is_armed:
            return
        number = self._bucket_of[parameter]
        if number < self._next:
            raise RuntimeError("a gradient changed after its bucket's all-reduce had started")
        self._fired.add(parameter)
        if parameter not in self._silent:
            self._missing[number] -= 1
        # The last bucket ends with the pass; it waits for the sums that it carries.
        while self._next < len(self._buckets) - 1 and self._missing[self._next] == 0:
            self._start(_with_gradient(self._buckets[self._next]), [])
            self._next += 1

    def _start(self, parameters: _Parameters, carried: list[distributed.LaterSum]) -> None:
        if not parameters:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        if carried:
            flat = torch.cat([flat, *(later.values.flatten().to(flat) for later in carried)])
        pending = distributed.start_all_reduce_sum_(flat)
        self._started.append(_Reduction(parameters, carried, pending))


def _buckets(parameters: _Parameters, bucket_bytes: int) -> list[_Parameters]:
    """The parameters from last to first, in groups of ``bucket_bytes`` or one parameter more."""
    buckets: list[_Parameters] = [[]]
    size = 0
    for parameter in reversed(parameters):
        if size >= bucket_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets


def _with_gradient(parameters: _Parameters) -> _Parameters:
    return [p for p in parameters if p.grad is not None]
