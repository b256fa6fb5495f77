"""What the processes of one training share: random numbers, averages, news.

A batch is dealt out to the processes: the k-th of m has every m-th item. The functions here make
that split invisible: all processes draw the random numbers of the whole batch and keep their own,
and averages go over the whole batch. So m processes compute what one would, up to rounding.
Outside of such a group every function is that of a single process, and costs nothing.

Built on torch.distributed; tensors on a CPU travel by gloo, those on a GPU by NCCL.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore

from sg3flow.errors import ConfigError, MetricError, ProcessLostError

# How long a process waits for one that lives and does not answer; a dead one is noticed at once.
_SILENCE = timedelta(minutes=10)
_POLL_SEC = 0.05

_store: Any = None


def is_launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_grouped() -> bool:
    """Whether this process has joined its group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_grouped() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_grouped() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes and tracks."""
    return rank() == 0


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun's environment names while the block runs.

    Raises:
        ProcessLost: the others do not come.
    """
    global _store
    if not is_launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _peer_loss_named():
        meetings: Any = dist.rendezvous("env://", timeout=_SILENCE)  # type: ignore[attr-defined]
        store, number, count = next(meetings)
        _store = _fresh_corner(store, number, count)
        dist.init_process_group(
            backend, store=_store, rank=number, world_size=count, timeout=_SILENCE
        )
    try:
        yield
    finally:
        _store = None
        dist.destroy_process_group()


def _fresh_corner(store: Any, number: int, count: int) -> Any:
    """A part of torchrun's store that belongs to this start of the processes alone.

    After a restart torch 2.13 gives them the same store, with the addresses of the dead in it. The
    first process names the part; whoever says hello with a new mark gets the name as an answer.
    """
    mark = uuid.uuid4().hex
    store.set_timeout(_SILENCE)
    if number > 0:
        store.set(f"hello/{number}", mark)
        name = store.get(f"answer/{mark}").decode()
        store.set(f"ready/{name}/{number}", b"here")
        return PrefixStore(name, store)
    answered: dict[int, bytes] = {}
    waiting = set(range(1, count))
    deadline = time.monotonic() + _SILENCE.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"ready/{mark}/{other}"]):
                waiting.discard(other)
            elif store.check([f"hello/{other}"]):  # perhaps of the last start: look again
                hello = store.get(f"hello/{other}")
                if answered.get(other) != hello:
                    answered[other] = hello
                    store.set(f"answer/{hello.decode()}", mark)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(waiting)} did not come")
        time.sleep(_POLL_SEC)
    return PrefixStore(mark, store)


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def shard(whole: torch.Tensor) -> torch.Tensor:
    """This process's items of a whole batch [N, ...]."""
    return whole[rank() :: world_size()]


def rand(size: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Uniform numbers for this process's share of a batch; ``size[0]`` is the share."""
    return shard(torch.rand(_whole(size), device=device))


def randn(size: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Normal numbers for this process's share of a batch; ``size[0]`` is the share."""
    return shard(torch.randn(_whole(size), device=device))


def _whole(size: Sequence[int]) -> list[int]:
    return [size[0] * world_size(), *size[1:]]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, a new tensor."""
    return _reduced(values, dist.ReduceOp.SUM)


def all_reduce_min(values: torch.Tensor) -> torch.Tensor:
    """Minimum over all processes, a new tensor."""
    return _reduced(values, dist.ReduceOp.MIN)


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over all processes; ``values`` itself with one process, else a new tensor."""
    return all_reduce_sum(values) / world_size() if world_size() > 1 else values


def all_reduce_mean_(values: torch.Tensor) -> torch.Tensor:
    """Replace ``values`` by their mean over all processes."""
    if world_size() > 1:
        with _peer_loss_named():
            dist.all_reduce(values)
        values /= world_size()
    return values


def all_gather(values: torch.Tensor) -> torch.Tensor:
    """The items [N] of all processes, differentiable: this process's in front.

    The sum over processes of the gradients of a mean over the result is that of one process with
    the whole batch, times the number of processes, which averaging the gradients takes back.
    """
    if world_size() == 1:
        return values
    all_gather: torch.Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return all_gather


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(values) for _ in range(world_size())]
        with _peer_loss_named():
            dist.all_gather(parts, values.contiguous())
        mine = parts.pop(rank())
        return torch.cat([mine, *parts])

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        # Each process holds the others' gradients for this one's items: bring them home.
        own = grad.shape[0] // world_size()
        parts = list(torch.split(grad, own))
        mine = parts.pop(0)
        parts.insert(rank(), mine)
        whole = torch.cat(parts).contiguous()
        with _peer_loss_named():
            dist.all_reduce(whole)
        return whole[rank() * own : (rank() + 1) * own]


def any_true(*flags: bool) -> list[bool]:
    """For each flag, whether any process has raised it."""
    if world_size() == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    with _peer_loss_named():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def broadcast(content: bytes) -> bytes:
    """What the first process says; the others' ``content`` does not count."""
    if world_size() == 1:
        return content
    length = torch.tensor([len(content)])
    with _peer_loss_named():
        dist.broadcast(length, src=0)
        if not int(length):
            return b""
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if is_main_process():
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


def check_same(value: str, what: str) -> None:
    """Make sure that all processes hold the same value.

    Raises:
        ConfigError: they do not; ``what`` says what it is.
    """
    first = broadcast(value.encode()).decode()
    if any_true(first != value)[0]:
        raise ConfigError(
            f"process {rank()} has {what} {value}, the first one {first}: give all nodes the same "
            "command, code and data"
        )


def barrier(name: str) -> None:
    """Wait until the first process comes here too, however long that takes.

    Args:
        name: of this very meeting; each name serves once.
    """
    if _store is None:
        return
    with _peer_loss_named():
        if is_main_process():
            _store.set(name, b"here")
        while not _store.check([name]):
            time.sleep(_POLL_SEC)


@contextlib.contextmanager
def _peer_loss_named() -> Iterator[None]:
    """Say in words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no answer"
        raise ProcessLostError(
            f"process {rank()} lost touch with another process of this training ({reason}); see "
            "that one's error, then run the same command again: it goes on from the saved state"
        ) from error


def _reduced(values: torch.Tensor, operation: "dist.ReduceOp.RedOpType") -> torch.Tensor:
    result = values.clone()
    if world_size() > 1:
        with _peer_loss_named():
            dist.all_reduce(result, operation)
    return result


T = TypeVar("T")

# How long a process waits for one that lives and does not answer: the first may compute distances
# for hours. A dead one is noticed at once.
_EVALUATION_TIMEOUT = timedelta(days=2)


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
        return cls.of_group(distributed.new_group(backend="gloo", timeout=_EVALUATION_TIMEOUT))

    @property
    def is_main_process(self) -> bool:
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
                if self.is_main_process:
                    yield index, found
                else:
                    with self._peer_loss_named():
                        distributed.send_object_list([found], group=self.group, group_dst=0)
            elif self.is_main_process:
                received: list[Any] = [None]
                with self._peer_loss_named():
                    distributed.recv_object_list(received, group=self.group, group_src=owner)
                yield index, received[0]

    def broadcast(self, compute: Callable[[], T]) -> T:
        """What the first process computes, on all of them.

        Raises:
            MetricError: another process is gone.
        """
        shared: list[Any] = [compute() if self.is_main_process else None]
        if self.size > 1:
            with self._peer_loss_named():
                distributed.broadcast_object_list(shared, group=self.group, group_src=0)
        found: T = shared[0]
        return found

    @contextmanager
    def _peer_loss_named(self) -> Iterator[None]:
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
