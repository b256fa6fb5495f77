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
    averages, current = _tensors(ema.parameters()), _tensors(module.parameters())
    torch._foreach_copy_(averages, torch._foreach_lerp(current, averages, beta))
    if copies := _tensors(ema.buffers()):
        torch._foreach_copy_(copies, _tensors(module.buffers()))


def _tensors(values: Iterator[torch.Tensor]) -> list[torch.Tensor]:
    return list(values)


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


def with_labels(draw: Draw, c: torch.Tensor) -> Draw:
    """The latents of ``draw`` with the labels ``c`` [N, c_dim]."""
    return lambda phase: (draw(phase)[0], c)


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
    if parts.shares_labels:
        draw = with_labels(draw, real.c)
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
    signs = None
    for phase in due:
        _add_gradients(parts, phase, real, *latents[phase.name], nimg, batch_gpu)
        if phase.name == "Dmain":
            signs = _take_signs(parts, batch_idx + 1)  # they travel with the gradients
        _update_weights(parts, phase)
    distributed.complete_later_sums()
    beta = ema_beta(batch, nimg, parts.ema_half_life_nimg, parts.ema_rampup)
    update_ema(parts.G_ema, parts.G, beta)
    if signs is not None:
        _adjust_augmentation(parts, batch, signs.values)


def _add_gradients(
    parts: Parts,
    phase: Phase,
    real: RealBatch,
    z: torch.Tensor,
    c: torch.Tensor,
    nimg: int,
    batch_gpu: int,
) -> None:
    """The gradients of a phase, which may be on their way to the other processes afterwards."""
    phase.optimizer.zero_grad()
    trainable = list(phase.module.parameters())
    _set_requires_grad(trainable, True)
    count = real.img.shape[0]
    for i in range(0, count, batch_gpu):
        part = slice(i, i + batch_gpu)
        micro = MicroBatch(real.img[part], real.c[part], z[part], c[part])
        before_last = phase.gradients.arm if i + batch_gpu >= count else None
        # Gradients of micro-batches add up: Adam makes a common factor immaterial.
        parts.loss.backward(phase.name, micro, nimg, phase.interval, before_last)
    _set_requires_grad(trainable, False)


def _update_weights(parts: Parts, phase: Phase) -> None:
    repaired = phase.gradients.finish()
    if repaired is not None:
        # After averaging it is equal in all processes, so only the main one counts it.
        counted = repaired.to(torch.float32)[None][: int(distributed.is_main_process())]
        parts.collector.add(f"Repairs/{phase.name}", counted, bad=repaired)
        phase.optimizer.step()


def _set_requires_grad(parameters: list[torch.nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _take_signs(parts: Parts, batches_done: int) -> distributed.LaterSum | None:
    """Count and sum of D's signs since the last adjustment of p, over all processes, if it is due.

    The signs of this step's real images are among them.
    """
    if parts.ada_target is None:
        return None
    parts.ada_moments += parts.loss.take_real_signs()
    if batches_done % ADA_INTERVAL != 0:
        return None
    signs = distributed.sum_later(parts.ada_moments.clone())
    parts.ada_moments.zero_()
    return signs


def _adjust_augmentation(parts: Parts, batch: int, signs: torch.Tensor) -> None:
    """ADA: adjust p so that D's mean sign on real images approaches the target.

    (Karras et al. 2020, "Training GANs with Limited Data", Sec. 3.)

    Args:
        signs: their count and sum over ``ADA_INTERVAL`` batches, [2].
    """
    assert parts.augment_pipe is not None and parts.ada_target is not None
    count, total = signs.unbind()
    direction = torch.sign(total / count - parts.ada_target)
    step = batch * ADA_INTERVAL / parts.ada_nimg
    p = parts.augment_pipe.p
    p.copy_((p + direction * step).clamp(min=0))
