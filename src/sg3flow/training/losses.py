"""The losses of GAN training: they compute and differentiate, and know nothing of optimisers.

A phase is one backward pass for one optimiser step: the main loss or the lazily applied
regulariser of G or of D (Karras et al. 2020, "Analyzing and Improving", appendix B).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow import processes
from sg3flow.devices import sent
from sg3flow.ops import filter2d
from sg3flow.training.stats import Collector


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms.

    Attributes:
        r1_gamma: weight of the R1 penalty.
        pl_weight: weight of the path length penalty; 0: none.
        pl_decay: share of the new mean path length in its running mean.
        pl_batch_shrink: the path length phase uses 1/n of its batch.
        style_mixing_prob: probability that the later ws come from a second latent.
        blur_init_sigma: blur of what D sees at the start, in pixels; 0: none.
        blur_fade_nimg: images until the blur has faded.
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
    """What one forward pass of a phase sees.

    Attributes:
        real_img: [N, C, H, W] in [-1, 1]; real_c: its labels [N, c_dim].
        z: latents [N, z_dim]; c: labels of the generated images [N, c_dim].
    """

    real_img: torch.Tensor
    real_c: torch.Tensor
    z: torch.Tensor
    c: torch.Tensor


class GanLoss:
    """Logistic loss with lazy R1 and, for StyleGAN2, lazy path length regularisation."""

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
        """Count and sum of the signs of D's logits on real pictures since the last call, [2]."""
        taken, self._real_signs = self._real_signs, torch.zeros_like(self._real_signs)
        return taken

    def backward(self, phase: str, micro: MicroBatch, nimg: int, gain: float) -> None:
        """Add the gradients of one phase: ``Gmain``, ``Greg``, ``Dmain`` or ``Dreg``.

        Args:
            nimg: real images seen before this step.
            gain: factor on the loss, the interval of a lazy regulariser.
        """
        losses = {"Gmain": self._g_main, "Dmain": self._d_main, "Dreg": self._d_reg}
        losses["Greg"] = self._g_reg
        sigma = self.blur_sigma(nimg)
        losses[phase](micro, sigma, gain)

    def blur_sigma(self, nimg: int) -> float:
        """Blur of what D sees, fading linearly to none (Karras et al. 2021, App. F, config R)."""
        s = self.settings
        if s.blur_fade_nimg <= 0:
            return 0.0
        return max(1 - nimg / s.blur_fade_nimg, 0) * s.blur_init_sigma

    def _generate(
        self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, H, W] and the ws [N, num_ws, w_dim] that made them."""
        ws = self.G.mapping(z, c, update_emas=update_emas)
        if self.settings.style_mixing_prob > 0:
            ws = self._mix_styles(ws, c)
        return self.G.synthesis(ws, noise_mode="random", update_emas=update_emas), ws

    def _mix_styles(self, ws: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """The ws from a random layer on are a second latent's (Karras et al. 2019, Sec. 3.1)."""
        num_ws = ws.shape[1]
        crossover = int(torch.randint(1, num_ws, []))
        if float(torch.rand([])) >= self.settings.style_mixing_prob:
            crossover = num_ws
        z = processes.randn([ws.shape[0], self.G.z_dim], device=ws.device)
        other = self.G.mapping(z, c, update_emas=False)
        return torch.cat([ws[:, :crossover], other[:, crossover:]], dim=1)

    def _discriminate(self, img: torch.Tensor, c: torch.Tensor, sigma: float) -> torch.Tensor:
        """Logits [N, 1] of images, blurred and augmented first."""
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
        """Path length regularisation (Karras et al. 2020, "Analyzing and Improving", Sec. 3.2)."""
        shrunk = max(micro.z.shape[0] // self.settings.pl_batch_shrink, 1)
        img, ws = self._generate(micro.z[:shrunk], micro.c[:shrunk])
        noise = processes.randn(img.shape, device=img.device) / (img.shape[2] * img.shape[3]) ** 0.5
        penalty = self.path_length_penalty(img, ws, noise)
        loss = penalty * self.settings.pl_weight
        self.collector.add("Loss/pl_penalty", penalty[:shrunk])
        self.collector.add("Loss/G/reg", loss[:shrunk])
        (loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def path_length_penalty(
        self, img: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """(|J_w^T y| - a)^2 for each image, and the update of the running mean a.

        The images of all processes count, N of each: [N * processes].
        """
        (gradient,) = torch.autograd.grad([(img * noise).sum()], [ws], create_graph=True)
        lengths = processes.gathered(gradient.square().sum(2).mean(1).sqrt())
        # The new mean takes part in the penalty with its gradient; only the stored one is detached.
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
    """Taps 2^-((i/sigma)^2) for |i| <= floor(3 sigma), normalised; None when that is only i = 0."""
    radius = int(sigma * 3)
    if radius == 0:
        return None
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = (offsets / sigma).square().neg().exp2()
    return taps / taps.sum()
