"""The losses of G and D, and the statistics of training steps between two reports."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow import distributed
from sg3flow.device import sent
from sg3flow.ops import filter2d
from sg3flow.ops.backend import has_fused_forms
from sg3flow.runs.run_folder import Stat


class Collector:
    """Counts, sums and sums of squares by name since the last report.

    Adding does not synchronize with the device. Reading does, and is a collective call.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nimg = 0  # of the current step
        self._moments: dict[str, torch.Tensor] = {}  # name -> float64 [3]
        self._first_bad: dict[str, torch.Tensor] = {}  # name -> float64 [], inf without one
        self._exponents: torch.Tensor | None = None

    def add(self, name: str, values: torch.Tensor, bad: torch.Tensor | None = None) -> None:
        """Add every element of ``values``.

        Args:
            bad: whether the values are bad, bool []; None: bad if one is not finite.
        """
        # MPS has no float64; CUDA and CPU do, and these numbers cost nothing.
        flat = values.detach().flatten().to(torch.float64)
        is_fused = has_fused_forms(values.device)
        moments = self._powers(flat).sum(dim=1) if is_fused else _moments(flat)
        known = self._moments.get(name)
        self._moments[name] = moments if known is None else known + moments
        if is_fused and bad is None:  # a finite sum minus itself is 0, others are NaN
            now = torch.nan_to_num(moments[1] - moments[1] + math.inf, float(self.nimg), math.inf)
        else:
            bad = ~torch.isfinite(moments[1]) if bad is None else bad
            # Not torch.where with two numbers: that would copy them to the device and wait.
            never = torch.full([], math.inf, dtype=torch.float64, device=values.device)
            now = never.masked_fill(bad, float(self.nimg))
        earlier = self._first_bad.get(name)
        self._first_bad[name] = now if earlier is None else torch.minimum(earlier, now)

    def _powers(self, flat: torch.Tensor) -> torch.Tensor:
        """The powers 0 to 2 of numbers [n] in one launch: [3, n]."""
        if self._exponents is None:
            self._exponents = torch.arange(3, dtype=torch.float64, device=flat.device)[:, None]
        return flat.pow(self._exponents)

    def read(self) -> dict[str, Stat]:
        """All statistics by name, without resetting them."""
        if not self._moments:
            return {}
        names = sorted(self._moments)
        moments = distributed.all_reduce_sum(torch.stack([self._moments[name] for name in names]))
        return {name: _stat(row) for name, row in zip(names, moments.tolist(), strict=True)}

    def first_bad(self) -> dict[str, int]:
        """For each name with a bad value, the images seen before the step of the first one."""
        if not self._first_bad:
            return {}
        names = sorted(self._first_bad)
        first = distributed.all_reduce_min(torch.stack([self._first_bad[name] for name in names]))
        found = zip(names, first.tolist(), strict=True)
        return {name: int(nimg) for name, nimg in found if nimg < math.inf}

    def clear(self) -> None:
        """Remove all statistics."""
        self._moments.clear()
        self._first_bad.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """The statistics for a saved state: name -> [4], over all processes."""
        return {
            name: torch.cat(
                [
                    distributed.all_reduce_sum(moments),
                    distributed.all_reduce_min(self._first_bad[name])[None],
                ]
            ).cpu()
            for name, moments in sorted(self._moments.items())
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a ``state()``."""
        for name, saved in state.items():
            moments = saved[:3].to(self.device)
            # The saved sums are over all processes: the main one starts from them.
            self._moments[name] = (
                moments if distributed.is_main_process() else torch.zeros_like(moments)
            )
            self._first_bad[name] = saved[3].to(self.device)


def _moments(flat: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.ones_like(flat).sum(), flat.sum(), flat.square().sum()])


def _stat(moments: list[float]) -> Stat:
    num, total, squares = moments
    mean = total / num
    variance = squares / num - mean * mean
    return Stat(int(num), mean, math.sqrt(max(variance, 0.0)) if variance == variance else variance)


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms.

    Attributes:
        r1_gamma: weight of the R1 penalty.
        pl_weight: weight of the path length penalty; 0: none.
        pl_decay: weight of the new mean path length in its running mean.
        pl_batch_shrink: the path length phase uses 1/n of its batch.
        style_mixing_prob: probability that the later ws come from a second latent.
        blur_init_sigma: initial blur of the images that D sees, in pixels; 0: none.
        blur_fade_nimg: images until the blur is 0.
    """

    r1_gamma: float
    pl_weight: float = 0.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    style_mixing_prob: float = 0.0
    blur_init_sigma: float = 0.0
    blur_fade_nimg: float = 0.0


@dataclass(frozen=True)
class MicroBatch:
    """The inputs of one forward pass of a phase.

    Attributes:
        real_img: [N, C, H, W] in [-1, 1]; real_c: its labels [N, c_dim].
        z: latents [N, z_dim]; c: labels of the generated images [N, c_dim].
    """

    real_img: torch.Tensor
    real_c: torch.Tensor
    z: torch.Tensor
    c: torch.Tensor


class GanLoss:
    """Logistic loss with lazy R1 and, for StyleGAN2, lazy path length regularization."""

    def __init__(
        self,
        G: Any,
        D: Any,
        augment_pipe: torch.nn.Module | None,
        settings: LossSettings,
        collector: Collector,
        device: torch.device,
    ) -> None:
        self.G, self.D, self.augment_pipe = G, D, augment_pipe
        self.settings, self.collector = settings, collector
        self.pl_mean = torch.zeros([], device=device)
        self._real_signs = torch.zeros(2, device=device)  # [count, sum], for ADA

    def take_real_signs(self) -> torch.Tensor:
        """Count and sum of the signs of D's logits on real images since the last call, [2]."""
        taken, self._real_signs = self._real_signs, torch.zeros_like(self._real_signs)
        return taken

    def backward(self, phase: str, micro: MicroBatch, nimg: int, gain: float) -> None:
        """Add the gradients of one phase: ``Gmain``, ``Greg``, ``Dmain`` or ``Dreg``.

        Args:
            nimg: real images seen before this step.
            gain: factor on the loss, the interval of a lazy regularizer.
        """
        losses = {"Gmain": self._g_main, "Dmain": self._d_main, "Dreg": self._d_reg}
        losses["Greg"] = self._g_reg
        sigma = self.blur_sigma(nimg)
        losses[phase](micro, sigma, gain)

    def blur_sigma(self, nimg: int) -> float:
        """Blur of D's images, linearly fading to 0 (Karras et al. 2021, App. F, config R)."""
        s = self.settings
        if s.blur_fade_nimg <= 0:
            return 0.0
        return max(1 - nimg / s.blur_fade_nimg, 0) * s.blur_init_sigma

    def _generate(
        self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, H, W] and their ws [N, num_ws, w_dim]."""
        ws = self.G.mapping(z, c, update_emas=update_emas)
        if self.settings.style_mixing_prob > 0:
            ws = self._mix_styles(ws, c)
        return self.G.synthesis(ws, noise_mode="random", update_emas=update_emas), ws

    def _mix_styles(self, ws: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Mix in ws of a second latent from a random layer on (Karras et al. 2019, Sec. 3.1)."""
        num_ws = ws.shape[1]
        crossover = int(torch.randint(1, num_ws, []))
        if float(torch.rand([])) >= self.settings.style_mixing_prob:
            crossover = num_ws
        z = distributed.randn([ws.shape[0], self.G.z_dim], device=ws.device)
        other = self.G.mapping(z, c, update_emas=False)
        return torch.cat([ws[:, :crossover], other[:, crossover:]], dim=1)

    def _discriminate(self, img: torch.Tensor, c: torch.Tensor, sigma: float) -> torch.Tensor:
        """Logits [N, 1] of the blurred and augmented images."""
        taps = blur_taps(sigma)
        if taps is not None:
            img = filter2d(img, sent(taps, img.device))
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        return torch.as_tensor(self.D(img, c))

    def _g_main(self, micro: MicroBatch, sigma: float, gain: float) -> None:
        img, _ = self._generate(micro.z, micro.c)
        logits = self._discriminate(img, micro.c, sigma)
        loss = F.softplus(-logits)
        self._report_scores("fake", logits)
        self.collector.add("Loss/G/loss", loss)
        (loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def _g_reg(self, micro: MicroBatch, sigma: float, gain: float) -> None:
        """Path length regularization (Karras et al. 2020, "Analyzing and Improving", Sec. 3.2)."""
        shrunk = max(micro.z.shape[0] // self.settings.pl_batch_shrink, 1)
        img, ws = self._generate(micro.z[:shrunk], micro.c[:shrunk])
        noise = (
            distributed.randn(img.shape, device=img.device) / (img.shape[2] * img.shape[3]) ** 0.5
        )
        penalty = self.path_length_penalty(img, ws, noise)
        loss = penalty * self.settings.pl_weight
        self.collector.add("Loss/pl_penalty", penalty[:shrunk])
        self.collector.add("Loss/G/reg", loss[:shrunk])
        (loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def path_length_penalty(
        self, img: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """(|J_w^T y| - a)^2 for each image, and the update of the running mean a.

        It covers the images of all processes, N of each: [N * processes].
        """
        (gradient,) = torch.autograd.grad([(img * noise).sum()], [ws], create_graph=True)
        lengths = distributed.all_gather(gradient.square().sum(2).mean(1).sqrt())
        # The new mean enters the penalty with its gradient; only the stored one is detached.
        pl_mean = self.pl_mean.lerp(lengths.mean(), self.settings.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        return (lengths - pl_mean).square()

    def _d_main(self, micro: MicroBatch, sigma: float, gain: float) -> None:
        # G has no gradient in this phase, so its graph is not built.
        img, _ = self._generate(micro.z, micro.c, update_emas=True)
        fake_logits = self._discriminate(img, micro.c, sigma)
        fake_loss = F.softplus(fake_logits)
        self._report_scores("fake", fake_logits)
        (fake_loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

        real_logits = self._discriminate(micro.real_img, micro.real_c, sigma)
        real_loss = F.softplus(-real_logits)
        self._report_scores("real", real_logits)
        signs = real_logits.detach().sign()
        self._real_signs += torch.stack([torch.ones_like(signs).sum(), signs.sum()])
        self.collector.add("Loss/D/loss", fake_loss.detach() + real_loss.detach())
        (real_loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def _d_reg(self, micro: MicroBatch, sigma: float, gain: float) -> None:
        """R1: gamma/2 |grad D(real)|^2 (Mescheder et al. 2018)."""
        real = micro.real_img.detach().requires_grad_(True)
        logits = self._discriminate(real, micro.real_c, sigma)
        (gradient,) = torch.autograd.grad([logits.sum()], [real], create_graph=True)
        penalty = gradient.square().sum([1, 2, 3])  # [N]
        loss = penalty * (self.settings.r1_gamma / 2)
        self.collector.add("Loss/r1_penalty", penalty)
        self.collector.add("Loss/D/reg", loss)
        (loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def _report_scores(self, kind: str, logits: torch.Tensor) -> None:
        self.collector.add(f"Loss/scores/{kind}", logits)
        self.collector.add(f"Loss/signs/{kind}", logits.detach().sign())


def blur_taps(sigma: float) -> torch.Tensor | None:
    """Taps 2^-((i/sigma)^2) for |i| <= floor(3 sigma), normalized; None when that is only i = 0."""
    radius = int(sigma * 3)
    if radius == 0:
        return None
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = (offsets / sigma).square().neg().exp2()
    return taps / taps.sum()
