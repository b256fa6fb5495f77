"""Work split over the processes of torchrun, with the result of one process.

Chunks of work have fixed borders and are dealt out in turn. The first process receives them in
their order and alone does the sums; so the number of processes changes the time and nothing else.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from sg3flow.errors import MetricError

T = TypeVar("T")

# How long a process waits for one that lives and does not answer: the first may compute distances
# for hours. A dead one is noticed at once.
_SILENCE = timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """The processes that share an evaluation.

    Attributes:
        rank: which of them this is.
        size: how many there are.
        group: over which they talk, on the CPU (gloo); None: this process is alone.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def of_group(cls, group: Any) -> "Ranks":
        """Of a gloo group that exists, say one that training made."""
        return cls(distributed.get_rank(group), distributed.get_world_size(group), group)

    @classmethod
    def of_environment(cls) -> "Ranks":
        """Of torchrun, joining its other processes; of this process alone without it.

        Under torchrun every process takes the CUDA device of its local rank, if there are any.
        """
        launched = distributed.is_available() and distributed.is_torchelastic_launched()
        if not launched or int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return cls.of_group(distributed.new_group(backend="gloo", timeout=_SILENCE))

    @property
    def is_first(self) -> bool:
        """Whether this process receives the chunks, and writes what comes out."""
        return self.rank == 0

    def in_order(self, num_chunks: int, compute: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        """Chunks with their numbers, in order, on the first process; on the others nothing.

        Args:
            num_chunks: chunks in all.
            compute: one of them; called on one process, numbers rising.

        Raises:
            MetricError: another process is gone.
        """
        for index in range(num_chunks):
            owner = index % self.size
            if owner == self.rank:
                found = compute(index)
                if self.is_first:
                    yield index, found
                else:
                    with self._others():
                        distributed.send_object_list([found], group=self.group, group_dst=0)
            elif self.is_first:
                received: list[Any] = [None]
                with self._others():
                    distributed.recv_object_list(received, group=self.group, group_src=owner)
                yield index, received[0]

    def agreed(self, compute: Callable[[], T]) -> T:
        """What the first process computes, on all of them.

        Raises:
            MetricError: another process is gone.
        """
        shared: list[Any] = [compute() if self.is_first else None]
        if self.size > 1:
            with self._others():
                distributed.broadcast_object_list(shared, group=self.group, group_src=0)
        found: T = shared[0]
        return found

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Say in words that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).strip() or "no answer").splitlines()[0][:200]
            raise MetricError(
                f"process {self.rank} lost touch with another process of this evaluation "
                f"({reason}); see that one's error, then run the same command again"
            ) from error


ALONE = Ranks()
