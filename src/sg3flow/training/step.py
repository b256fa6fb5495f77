"""One training step: the phases of a batch, the EMA of G, and ADA."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sg3flow import distributed
from sg3flow.data.dataset import Batch, TrainingSet
from sg3flow.device import sent
from sg3flow.training.assembly import ADA_INTERVAL, Parts, Phase
from sg3flow.training.losses import MicroBatch


def ema_beta(batch: int, nimg: int, half_life_nimg: float, rampup: float | None) -> float:
    """Weight of the old average in the new one.

    Args:
        batch: images per step.
        nimg: real images seen before this step.
        half_life_nimg: images after which half of the old average is left.
        rampup: the half-life is at most this share of ``nimg``; None: no limit.
    """
    if rampup is not None:
        half_life_nimg = min(half_life_nimg, nimg * rampup)
    return float(0.5 ** (batch / max(half_life_nimg, 1e-8)))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, module: torch.nn.Module, beta: float) -> None:
    """Update the average ``ema`` of the parameters of ``module``; buffers are copied."""
    for average, current in zip(ema.parameters(), module.parameters(), strict=True):
        average.copy_(current.lerp(average, beta))
    for copy, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        copy.copy_(buffer)


# From the name of a phase: latents and labels of its generated images, [N, z_dim] and [N, c_dim].
Draw = Callable[[str], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class RealBatch:
    """A batch of real images: img [N, C, H, W] in [-1, 1], c [N, c_dim]."""

    img: torch.Tensor
    c: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "RealBatch":
        """From uint8 images [N, C, H, W] and their labels."""
        img, c = (sent(part, device) for part in batch)
        return cls(img.to(torch.float32) / 127.5 - 1, c)


def random_draw(items: TrainingSet, z_dim: int, batch: int, device: torch.device) -> Draw:
    """Latents from a normal distribution, labels of random training items.

    Args:
        batch: images of the whole batch; this process gets its shard of them.
    """

    def draw(phase: str) -> tuple[torch.Tensor, torch.Tensor]:
        z = torch.randn([batch, z_dim], device=device)
        picks = distributed.shard(torch.randint(len(items), [batch])).tolist()
        c = torch.stack([items.label(i) for i in picks])
        return distributed.shard(z), sent(c, device)

    return draw


def seed_step(seed: int, nimg: int) -> None:
    """Seed torch for one step: its random numbers do not depend on earlier steps."""
    digest = hashlib.sha256(f"{seed}/{nimg}/0".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def training_step(
    parts: Parts,
    items: TrainingSet,
    batches: Iterator[Batch],
    nimg: int,
    *,
    seed: int,
    batch: int,
    batch_gpu: int,
) -> int:
    """The step after ``nimg`` images, on the next batch; returns the images seen after it.

    Args:
        seed: of the training; with ``nimg`` it decides the random numbers of the step.
        batch: images per step over all processes.
        batch_gpu: images per pass of this process.
    """
    real = RealBatch.of(next(batches), parts.device)
    seed_step(seed, nimg)
    draw = random_draw(items, parts.G.z_dim, batch, parts.device)
    run_step(parts, real, draw, nimg, batch_gpu)
    return nimg + batch


def run_step(parts: Parts, real: RealBatch, draw: Draw, nimg: int, batch_gpu: int) -> None:
    """One iteration on this process's shard of a batch, ``batch_gpu`` images at a time.

    Args:
        nimg: real images seen before this step; it decides which phases are due.
    """
    batch = real.img.shape[0] * distributed.world_size()
    parts.collector.nimg = nimg
    batch_idx = nimg // batch
    due = [phase for phase in parts.phases if batch_idx % phase.interval == 0]
    # All latents first: a phase must not shift the random numbers of another.
    latents = {phase.name: draw(phase.name) for phase in due}
    for phase in due:
        _run_phase(parts, phase, real, *latents[phase.name], nimg, batch_gpu)
    beta = ema_beta(batch, nimg, parts.ema_half_life_nimg, parts.ema_rampup)
    update_ema(parts.G_ema, parts.G, beta)
    if parts.ada_target is not None:
        _adjust_augmentation(parts, batch, batch_idx + 1)


def _run_phase(
    parts: Parts,
    phase: Phase,
    real: RealBatch,
    z: torch.Tensor,
    c: torch.Tensor,
    nimg: int,
    batch_gpu: int,
) -> None:
    phase.optimizer.zero_grad()
    trainable = list(phase.module.parameters())
    _set_requires_grad(trainable, True)
    for i in range(0, real.img.shape[0], batch_gpu):
        part = slice(i, i + batch_gpu)
        micro = MicroBatch(real.img[part], real.c[part], z[part], c[part])
        # Gradients of micro-batches add up: Adam makes a common factor immaterial.
        parts.loss.backward(phase.name, micro, nimg, gain=phase.interval)
    _set_requires_grad(trainable, False)
    having = [p for p in trainable if p.grad is not None]
    if having:
        repaired = _average_and_repair(having)
        # After averaging it is equal in all processes, so only the main one counts it.
        counted = repaired.to(torch.float32)[None][: int(distributed.is_main_process())]
        parts.collector.add(f"Repairs/{phase.name}", counted, bad=repaired)
        phase.optimizer.step()


def _average_and_repair(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """Average gradients over processes; NaN -> 0, +-inf -> +-1e5; whether any was replaced, []."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce_mean_(flat)
    repaired = ~torch.isfinite(flat).all()
    torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5, out=flat)
    for p, gradient in zip(
        parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True
    ):
        p.grad = gradient.view(p.shape)
    return repaired


def _set_requires_grad(parameters: list[torch.nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _adjust_augmentation(parts: Parts, batch: int, batches_done: int) -> None:
    """ADA: adjust p so that D's mean sign on real images approaches the target.

    (Karras et al. 2020, "Training GANs with Limited Data", Sec. 3.)
    """
    assert parts.augment_pipe is not None and parts.ada_target is not None
    parts.ada_moments += parts.loss.take_real_signs()
    if batches_done % ADA_INTERVAL == 0:
        count, total = distributed.all_reduce_sum(parts.ada_moments).unbind()
        direction = torch.sign(total / count - parts.ada_target)
        step = batch * ADA_INTERVAL / parts.ada_nimg
        p = parts.augment_pipe.p
        p.copy_((p + direction * step).clamp(min=0))
        parts.ada_moments.zero_()
