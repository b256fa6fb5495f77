"""Generated images for metrics: the same for a seed, independent of the batch size."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch

from sg3flow.errors import MetricError
from sg3flow.networks.layers import to_uint8

CHUNK = 1024  # latents per draw; another value would change the images of a seed
R = TypeVar("R")
_AHEAD = 2  # batches that may wait for ``work``


class MeasuredGenerator(Protocol):
    """The parts of a generator network that the metrics use."""

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int
    mapping: Callable[..., torch.Tensor]
    synthesis: Callable[..., torch.Tensor]

    def __call__(
        self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float, noise_mode: str
    ) -> torch.Tensor:
        """Images float32 ``[N, C, H, W]`` in [-1, 1]."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The weights."""
        ...


class LabelSource(Protocol):
    """The labels of a training set, ``label(i)`` float32 ``[label_dim]``."""

    num_images: int
    label_dim: int

    def label(self, index: int) -> np.ndarray:
        """The label of one item."""
        ...


class Latents:
    """Inputs of generated images: ``z`` from the seed, ``c`` of random training items.

    They are drawn in chunks of a fixed size, so that image ``i`` depends neither on the batch size
    nor on the number of images. An unconditional network gets ``c`` of ``[N, 0]``. The random
    number generator is separate from torch's global one.

    Raises:
        MetricError: the network needs labels of another length than the training set has.
    """

    def __init__(self, G: MeasuredGenerator, training_set: LabelSource, seed: int) -> None:
        if G.c_dim not in (0, training_set.label_dim):
            raise MetricError(
                f"the network needs labels of length {G.c_dim}, the data has "
                f"{training_set.label_dim}; use the set that it was trained on"
            )
        self._training_set = training_set
        self._z_dim, self._c_dim = G.z_dim, G.c_dim
        self._device = next(G.parameters()).device
        self._random = torch.Generator().manual_seed(seed)
        self._next = 0

    def chunk(self, index: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first ``count`` inputs of a chunk: ``z [count, z_dim]`` and ``c [count, c_dim]``.

        Call it with increasing indices; some may be skipped.
        """
        assert index >= self._next
        for _ in range(self._next, index + 1):
            z = torch.randn(CHUNK, self._z_dim, generator=self._random)
            items = torch.randint(self._training_set.num_images, (CHUNK,), generator=self._random)
        self._next = index + 1
        c = _labels(self._training_set, items[:count], self._c_dim)
        return z[:count].to(self._device), c.to(self._device)


def num_chunks(num_images: int) -> int:
    """Number of chunks for the inputs of ``num_images`` images."""
    return -(-num_images // CHUNK)


def _labels(training_set: LabelSource, items: torch.Tensor, c_dim: int) -> torch.Tensor:
    if c_dim == 0:
        return torch.zeros(len(items), 0)
    return torch.from_numpy(np.stack([training_set.label(i) for i in items.tolist()]))


@torch.no_grad()
def generate_images(G: MeasuredGenerator, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Images uint8 ``[N, C, H, W]``, without truncation and with constant noise.

    Raises:
        MetricError: a pixel is not finite.
    """
    img = G(z, c, truncation_psi=1, noise_mode="const")
    if not torch.isfinite(img).all():
        raise MetricError("the network generates values that are not finite")
    return to_uint8(img)


def overlapped(
    batches: Iterator[torch.Tensor],
    work: Callable[[torch.Tensor], R],
    device: torch.device,
    threaded: bool | None = None,
) -> Iterator[R]:
    """``work(batch)`` of each batch, in order, overlapped with the making of the next batches.

    On a CUDA device a thread with its own stream does the work. On a CPU both would compete for
    the same cores, so they alternate.

    Args:
        threaded: whether to use the thread; None: only on CUDA.
    """
    if not (device.type == "cuda" if threaded is None else threaded):
        yield from map(work, batches)
        return
    side = _new_stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        pending: deque[Future[R]] = deque()
        for batch in batches:
            ready = torch.cuda.current_stream(device).record_event() if side else None
            pending.append(pool.submit(_work_aside, work, batch, side, ready))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _work_aside(
    work: Callable[[torch.Tensor], R],
    batch: torch.Tensor,
    side: torch.cuda.Stream | None,
    ready: torch.cuda.Event | None,
) -> R:
    if side is None or ready is None:
        return work(batch)
    with torch.cuda.stream(side):
        side.wait_event(ready)
        if batch.is_cuda:
            batch.record_stream(side)  # its memory must not be reused while it is read
        return work(batch)


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
