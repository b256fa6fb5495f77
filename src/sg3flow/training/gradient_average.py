"""The average of gradients over all processes, started bucket by bucket during backward.

torch's DistributedDataParallel does not fit: it expects one backward pass after each forward pass
of a module, and does not work with ``torch.autograd.grad``. Here the main phase of D has two
backward passes, R1 and path lengths differentiate twice, and a phase has several micro-batches.
"""

import math
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
        flat, *totals = torch.split(self.pending.wait(), [sum(sizes), *carried])
        for later, total in zip(self.carried, totals, strict=True):
            later.complete(total)
        if distributed.world_size() > 1:
            flat /= distributed.world_size()
        largest = torch.linalg.vector_norm(flat, math.inf)  # one pass; NaN if one gradient is
        finite = torch.isfinite(largest)
        torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5, out=flat)
        for p, gradient in zip(self.parameters, torch.split(flat, sizes), strict=True):
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
        self._started: dict[int, _Reduction] = {}  # by the number of the bucket
        self._late: set[int] = set()  # buckets that got a gradient after they had started
        self._is_armed = self._has_hooks = False

    def arm(self) -> None:
        """Let buckets start from now on: call it before the last backward pass of the phase.

        The parameters must require gradients.
        """
        if distributed.world_size() == 1:
            return
        if not self._has_hooks:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._on_gradient
                )
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
        buckets = [self._parameters] if distributed.world_size() == 1 else self._buckets
        for number in self._late:
            self._started.pop(number).pending.wait()
        for number, bucket in enumerate(buckets):
            if number not in self._started:
                self._start(number, bucket, carries=number == len(buckets) - 1)
        finite = [self._started[number].take() for number in sorted(self._started)]
        self._started, self._late = {}, set()
        return ~torch.stack(finite).all() if finite else None

    def _on_gradient(self, parameter: torch.nn.Parameter) -> None:
        if not self._is_armed:
            return
        number = self._bucket_of[parameter]
        self._fired.add(parameter)
        if number in self._started:
            self._late.add(number)
        if parameter not in self._silent:
            self._missing[number] -= 1
        # The last bucket ends with the pass; it waits for the sums that it carries.
        for each, missing in enumerate(self._missing[:-1]):
            if missing:
                break
            if each not in self._started:
                self._start(each, self._buckets[each])

    def _start(self, number: int, bucket: _Parameters, carries: bool = False) -> None:
        parameters = [p for p in bucket if p.grad is not None]
        if not parameters:
            return
        carried = distributed.take_later_sums() if carries else []
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        sums = [later.values.flatten().to(gradients[0]) for later in carried]
        pending = distributed.start_all_reduce_sum_(torch.cat([*gradients, *sums]))
        self._started[number] = _Reduction(parameters, carried, pending)


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
