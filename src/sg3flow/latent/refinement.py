"""The end of a minimization: L-BFGS, counted by evaluations and never worse than its start."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

Found = TypeVar("Found")

_LINE_SEARCH = 20  # evaluations
_HISTORY = 30  # pairs of steps and gradient changes


class _Spent(Exception):
    """No evaluation is left, in the middle of a line search."""


class _Evaluations(Generic[Found]):
    """Evaluates, remembers the best, and knows the last point without a new evaluation."""

    def __init__(
        self,
        variable: torch.Tensor,
        evaluate: Callable[[], tuple[torch.Tensor, torch.Tensor, Found]],
        count: int,
    ) -> None:
        self.variable, self.evaluate, self.left = variable, evaluate, count
        self.results: list[Found] = []  # the best after each evaluation since they were taken
        self.best: Found | None = None
        self._least = torch.inf
        self._unit: torch.Tensor | None = None  # the first loss
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def __call__(self) -> torch.Tensor:
        if self._last is None or not torch.equal(self._last[0], self.variable):
            self._evaluate()
        assert self._last is not None
        _, loss, self.variable.grad = self._last
        return loss

    def _evaluate(self) -> None:
        if self.left == 0:
            raise _Spent
        self.left -= 1
        loss, gradient, found = self.evaluate()
        # torch's L-BFGS ignores curvatures below 1e-10: it must not see how small a loss is.
        unit = self._unit = loss.detach() if self._unit is None else self._unit
        factor = 1 / unit.clamp_min(torch.finfo(unit.dtype).tiny)
        self._last = (self.variable.detach().clone(), loss.detach() * factor, gradient * factor)
        if self.best is None or float(loss) < self._least:
            self.best, self._least = found, float(loss)
        self.results.append(self.best)

    def take(self) -> list[Found]:
        """The results since the last call."""
        taken, self.results = self.results, []
        return taken


def refine(
    variable: torch.Tensor,
    evaluate: Callable[[], tuple[torch.Tensor, torch.Tensor, Found]],
    count: int,
) -> Iterator[Found]:
    """Minimize by L-BFGS with a line search; yields ``count`` times the best that was found.

    When nothing improves any more, the best is yielded again without an evaluation.

    Args:
        variable: where to start; it is changed in place.
        evaluate: the loss [], its gradient with respect to ``variable``, and what to yield.
        count: number of evaluations, each a forward and a backward pass.
    """
    evaluations = _Evaluations(variable, evaluate, count)
    optimizer = torch.optim.LBFGS(
        [variable],
        max_iter=1,
        max_eval=_LINE_SEARCH,  # the default of a single iteration would be one
        history_size=_HISTORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    yielded = 0
    while yielded < count:
        try:
            optimizer.step(evaluations)  # type: ignore[no-untyped-call]
        except _Spent:
            pass
        found = evaluations.take()
        if not found:
            break
        yield from found
        yielded += len(found)
    if evaluations.best is not None:
        for _ in range(count - yielded):
            yield evaluations.best
