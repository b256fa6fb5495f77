"""Pictures of several waiting requests computed in one pass, where that keeps every bit.

In a batch the last bits of a picture depend on the batch's size, and now and then a pixel with
them. So a pass always has the same size: what waits is gathered, and a pass with places left is
filled up with its first picture. Then a picture depends neither on how many wait nor on which,
and `is_independent` makes sure of it before such passes are used.

``SG3FLOW_SERVE_BATCH`` is the size of a pass; 1, the default, makes pictures one at a time. On a
CPU that is the faster way (docs/registry-and-serving.md has the figures). Another size gives other
last bits: servers that shall agree must have the same.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from sg3flow.errors import ConfigError

MAX_PASS = 64

# What a picture is computed from, w's [num_ws, w_dim] and a transform [3, 3], and the picture,
# float [C, H, W].
Job = tuple[torch.Tensor, torch.Tensor]
Compute = Callable[[Sequence[Job]], torch.Tensor]


def pass_size() -> int:
    """The size of a pass that the environment names.

    Raises:
        ConfigError: no whole number from 1 to 64.
    """
    text = os.environ.get("SG3FLOW_SERVE_BATCH", "1")
    if not (text.isdecimal() and 1 <= int(text) <= MAX_PASS):
        raise ConfigError(
            f"SG3FLOW_SERVE_BATCH must be a whole number from 1 to {MAX_PASS}, not '{text[:40]}'"
        )
    return int(text)


def computed(compute: Compute, jobs: Sequence[Job], size: int) -> torch.Tensor:
    """The pictures of at most ``size`` jobs, [len(jobs), C, H, W], in a pass of exactly that."""
    filled = [*jobs, *[jobs[0]] * (size - len(jobs))]
    return compute(filled)[: len(jobs)]


def is_independent(compute: Compute, jobs: Sequence[Job], size: int) -> bool:
    """Whether a picture has the same bits at every place of a pass and beside any neighbours.

    Every job is computed alone (beside itself) and at each place among the others. How sums are
    ordered does not depend on the numbers: where some pictures agree, all do.

    Args:
        jobs: at least two different ones.
    """
    alone = [computed(compute, [job], size)[0] for job in jobs]
    for shift in range(size):
        indices = [(place + shift) % len(jobs) for place in range(size)]
        together = compute([jobs[i] for i in indices])
        if not all(torch.equal(together[k], alone[i]) for k, i in enumerate(indices)):
            return False
    return True


class Gatherer:
    """One thread that computes what waits, a pass at a time."""

    def __init__(self, compute: Compute, size: int) -> None:
        self._compute, self.size = compute, size
        self._waiting: queue.SimpleQueue[tuple[Job, Future[torch.Tensor]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="sg3flow-passes", daemon=True).start()

    def submit(self, job: Job) -> Future[torch.Tensor]:
        """Put a job into the queue; its picture [C, H, W] comes when its pass is done."""
        future: Future[torch.Tensor] = Future()
        self._waiting.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            gathered = self._gather()
            futures = [future for _, future in gathered]
            try:
                pictures = computed(self._compute, [job for job, _ in gathered], self.size)
            except Exception as error:  # whatever it is, those who wait must hear of it
                for future in futures:
                    future.set_exception(error)
                continue
            for future, picture in zip(futures, pictures, strict=True):
                future.set_result(picture)

    def _gather(self) -> list[tuple[Job, Future[torch.Tensor]]]:
        """The first that comes and what waits behind it, up to a pass."""
        gathered = [self._waiting.get()]
        while len(gathered) < self.size:
            try:
                gathered.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return gathered
