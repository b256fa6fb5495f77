"""The processes of one training or evaluation: shards, collectives, random numbers.

A batch is sharded: process k of m has every m-th item, from item k on. All processes draw the
random numbers of the whole batch and keep their shard, and means are over the whole batch, so m
processes compute what one does, up to rounding. Without a process group every function acts as in
a single process, at no cost.

Built on torch.distributed, with gloo for CPU tensors and NCCL for GPU tensors. The file is longer
than others because it is the only one that calls torch.distributed.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from sg3flow.errors import ConfigError, MetricError, ProcessLostError

T = TypeVar("T")

# How long a process waits for one that does not answer; it notices an ended one at once.
_TRAINING_TIMEOUT = timedelta(minutes=10)
# The main process may compute distances for hours.
_EVALUATION_TIMEOUT = timedelta(days=2)
_POLL_SEC = 0.05

_store: Any = None


def is_launched() -> bool:
    """Whether torchrun started this process as one of several."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return launched and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_grouped() -> bool:
    """Whether this process has joined its group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_grouped() else 0


def world_size() -> int:
    """Number of processes in the group."""
    return dist.get_world_size() if is_grouped() else 1


def is_main_process() -> bool:
    """Whether this is process 0, which writes and tracks."""
    return rank() == 0


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of torchrun's environment while the block runs.

    Raises:
        ProcessLostError: the other processes do not join.
    """
    global _store
    if not is_launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _peer_loss_named():
        rendezvous: Any = dist.rendezvous("env://", timeout=_TRAINING_TIMEOUT)  # type: ignore[attr-defined]
        store, number, count = next(rendezvous)
        _store = _fresh_store(store, number, count)
        dist.init_process_group(
            backend, store=_store, rank=number, world_size=count, timeout=_TRAINING_TIMEOUT
        )
    try:
        yield
    finally:
        _store = None
        dist.destroy_process_group()


def _fresh_store(store: Any, number: int, count: int) -> Any:
    """A part of torchrun's store that only this start of the processes uses.

    After a restart torch 2.13 gives them the same store, with the addresses of ended processes. So
    process 0 chooses a new prefix, and answers each process that says hello with a new mark.
    """
    mark = uuid.uuid4().hex
    store.set_timeout(_TRAINING_TIMEOUT)
    if number > 0:
        store.set(f"hello/{number}", mark)
        name = store.get(f"answer/{mark}").decode()
        store.set(f"ready/{name}/{number}", b"here")
        return PrefixStore(name, store)
    answered: dict[int, bytes] = {}
    waiting = set(range(1, count))
    deadline = time.monotonic() + _TRAINING_TIMEOUT.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"ready/{mark}/{other}"]):
                waiting.discard(other)
            elif store.check([f"hello/{other}"]):  # may be from the last start: check again
                hello = store.get(f"hello/{other}")
                if answered.get(other) != hello:
                    answered[other] = hello
                    store.set(f"answer/{hello.decode()}", mark)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(waiting)} did not join")
        time.sleep(_POLL_SEC)
    return PrefixStore(mark, store)


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def shard(whole: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole batch [N, ...]; ``whole`` itself with one process."""
    return whole[rank() :: world_size()] if world_size() > 1 else whole


def rand(size: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Uniform numbers for this process's shard of a batch; ``size[0]`` is the size of the shard."""
    return shard(torch.rand(_whole(size), device=device))


def rand_rows(count: int, size: int) -> torch.Tensor:
    """[count, size]: the numbers on the CPU of as many calls of ``rand([size])``."""
    whole = torch.rand([count, size * world_size()], device="cpu")
    return whole[:, rank() :: world_size()] if world_size() > 1 else whole


def randn(size: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Normal numbers for this process's shard of a batch; ``size[0]`` is the size of the shard."""
    return (_noise_source or drawn_randn)(size, device)


def drawn_randn(size: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """As ``randn``, also within ``noise_from``."""
    return shard(torch.randn(_whole(size), device=device))


_NoiseSource = Callable[[Sequence[int], torch.device | str], torch.Tensor]
_noise_source: _NoiseSource | None = None


@contextlib.contextmanager
def noise_from(source: _NoiseSource) -> Iterator[None]:
    """Let ``randn`` return numbers of ``source`` while the block runs: drawn before, for example.

    Args:
        source: gets the arguments of ``randn``.
    """
    global _noise_source
    before, _noise_source = _noise_source, source
    try:
        yield
    finally:
        _noise_source = before


def _whole(size: Sequence[int]) -> list[int]:
    return [size[0] * world_size(), *size[1:]]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes; a new tensor."""
    return _reduced(values, dist.ReduceOp.SUM)


def all_reduce_min(values: torch.Tensor) -> torch.Tensor:
    """Minimum over all processes; a new tensor."""
    return _reduced(values, dist.ReduceOp.MIN)


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over all processes; ``values`` itself with one process, else a new tensor."""
    return all_reduce_sum(values) / world_size() if world_size() > 1 else values


@dataclass(frozen=True)
class Pending:
    """A sum over all processes that is on its way; ``values`` holds it after ``wait``."""

    values: torch.Tensor
    work: Any

    def wait(self) -> torch.Tensor:
        """The sum; on a GPU its stream waits, not the process."""
        if self.work is not None:
            with _peer_loss_named():
                self.work.wait()
        return self.values


def start_all_reduce_sum_(values: torch.Tensor) -> Pending:
    """Start to replace ``values`` by their sum over all processes; the caller goes on."""
    if world_size() == 1:
        return Pending(values, None)
    with _peer_loss_named():
        return Pending(values, dist.all_reduce(values, async_op=True))


@dataclass
class LaterSum:
    """A sum over all processes that nothing needs at once: it travels with another one.

    Attributes:
        values: those of this process; their sum once ``is_complete``.
        then: called with the sum when it is there.
    """

    values: torch.Tensor
    then: Callable[[torch.Tensor], None] = lambda total: None
    is_complete: bool = field(default=False, init=False)

    def complete(self, total: torch.Tensor) -> None:
        """Take the sum, of any shape and type."""
        self.values = total.reshape(self.values.shape).to(self.values.dtype)
        self.is_complete = True
        self.then(self.values)


_later: list[LaterSum] = []


def sum_later(
    values: torch.Tensor, then: Callable[[torch.Tensor], None] = lambda total: None
) -> LaterSum:
    """A sum that the next all-reduce of gradients carries along; complete with one process.

    All processes must ask for the same sums in the same order. ``complete_later_sums`` ends the
    waiting where no gradients follow.
    """
    later = LaterSum(values.detach(), then)
    if world_size() == 1:
        later.complete(later.values)
    else:
        _later.append(later)
    return later


def take_later_sums() -> list[LaterSum]:
    """The sums that wait for an all-reduce; the caller must complete them."""
    taken, _later[:] = list(_later), []
    return taken


def complete_later_sums() -> None:
    """Complete the sums that no other all-reduce has carried, one all-reduce each."""
    for later in take_later_sums():
        later.complete(all_reduce_sum(later.values))


def all_gather(values: torch.Tensor) -> torch.Tensor:
    """The items [N] of all processes, this process's first; differentiable.

    For a mean over the result, the gradients summed over processes are those of a single process
    with the whole batch times the number of processes; averaging the gradients divides by it.
    """
    if world_size() == 1:
        return values
    gathered: torch.Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return gathered


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
        # Every process has gradients for the items of all: sum them and keep those of its own.
        own = grad.shape[0] // world_size()
        parts = list(torch.split(grad, own))
        mine = parts.pop(0)
        parts.insert(rank(), mine)
        whole = torch.cat(parts).contiguous()
        with _peer_loss_named():
            dist.all_reduce(whole)
        return whole[rank() * own : (rank() + 1) * own]


def any_true(*flags: bool) -> list[bool]:
    """For each flag, whether it is true in any process."""
    if world_size() == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    with _peer_loss_named():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def broadcast(content: bytes) -> bytes:
    """The ``content`` of the main process, in all processes."""
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
    """Check that all processes have the same value.

    Args:
        what: names the value in the message.

    Raises:
        ConfigError: they do not.
    """
    first = broadcast(value.encode()).decode()
    if any_true(first != value)[0]:
        raise ConfigError(
            f"process {rank()} has {what} {value}, process 0 has {first}; use the same command, "
            "code and data on all nodes"
        )


def barrier(name: str) -> None:
    """Wait, without a time limit, until the main process gets here.

    Args:
        name: of this call; each name can be used once.
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
    """Turn an error of torch.distributed into one that says that another process is lost."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(
            f"process {rank()} lost the connection to another process of this training "
            f"({_reason(error)}); see that one's error, then run the same command again: it "
            "resumes from the saved state"
        ) from error


def _reason(error: RuntimeError) -> str:
    return (str(error).strip() or "no answer").splitlines()[0][:200]


def _reduced(values: torch.Tensor, operation: "dist.ReduceOp.RedOpType") -> torch.Tensor:
    result = values.clone()
    if world_size() > 1:
        with _peer_loss_named():
            dist.all_reduce(result, operation)
    return result


@dataclass(frozen=True)
class Ranks:
    """The processes of an evaluation.

    Attributes:
        rank: number of this process.
        size: number of processes.
        group: their gloo process group (CPU); None: a single process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def of_group(cls, group: Any) -> "Ranks":
        """From an existing gloo group, for example that of a training."""
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    @classmethod
    def of_training(cls) -> "Ranks":
        """A new group of the processes that train together; a single process if there is none."""
        if not is_grouped():
            return cls()
        return cls.of_group(dist.new_group(backend="gloo", timeout=_EVALUATION_TIMEOUT))

    @classmethod
    def of_environment(cls) -> "Ranks":
        """From torchrun's environment, joining its processes; without torchrun, a single process.

        Under torchrun each process uses the CUDA device of its local rank, if there is one.
        """
        if not is_launched():
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return cls.of_group(dist.new_group(backend="gloo", timeout=_EVALUATION_TIMEOUT))

    @property
    def is_main_process(self) -> bool:
        """Whether this process receives the chunks and writes the results."""
        return self.rank == 0

    def in_order(self, num_chunks: int, compute: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        """The chunks with their numbers, in order, in the main process; nothing in the others.

        Args:
            num_chunks: total number of chunks.
            compute: computes one chunk; each is computed in one process, in ascending order.

        Raises:
            MetricError: another process is lost.
        """
        for index in range(num_chunks):
            owner = index % self.size
            if owner == self.rank:
                found = compute(index)
                if self.is_main_process:
                    yield index, found
                else:
                    with self._peer_loss_named():
                        dist.send_object_list([found], group=self.group, group_dst=0)
            elif self.is_main_process:
                received: list[Any] = [None]
                with self._peer_loss_named():
                    dist.recv_object_list(received, group=self.group, group_src=owner)
                yield index, received[0]

    def broadcast(self, compute: Callable[[], T]) -> T:
        """The result of ``compute`` in the main process, in all processes.

        Raises:
            MetricError: another process is lost.
        """
        shared: list[Any] = [compute() if self.is_main_process else None]
        if self.size > 1:
            with self._peer_loss_named():
                dist.broadcast_object_list(shared, group=self.group, group_src=0)
        found: T = shared[0]
        return found

    @contextlib.contextmanager
    def _peer_loss_named(self) -> Iterator[None]:
        """As the function of this name, for an evaluation."""
        try:
            yield
        except RuntimeError as error:
            raise MetricError(
                f"process {self.rank} lost the connection to another process of this evaluation "
                f"({_reason(error)}); see that one's error, then run the same command again"
            ) from error


ALONE = Ranks()
