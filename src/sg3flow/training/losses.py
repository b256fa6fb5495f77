"""The losses of G and D, and the statistics of training steps between two reports."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow import distributed
from sg3flow.device import sent
from sg3flow.ops import filter2d
from sg3flow.ops.backend import has_fused_forms
from sg3flow.runs.run_folder import Stat
from sg3flow.training.cuda_graphs import EagerSections, Sections, Tensors


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
        if not self._moments:
            return {}
        names = sorted(self._moments)
        moments = distributed.all_reduce_sum(torch.stack([self._moments[name] for name in names]))
        first = distributed.all_reduce_min(torch.stack([self._first_bad[name] for name in names]))
        rows = torch.cat([moments, first[:, None]], dim=1).cpu()
        return dict(zip(names, rows.unbind(), strict=True))

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
        sections: Sections | None = None,
    ) -> None:
        self.G, self.D, self.augment_pipe = G, D, augment_pipe
        self.settings, self.collector = settings, collector
        self.sections = sections or EagerSections()
        self.pl_mean = torch.zeros([], device=device)
        self._real_signs = torch.zeros(2, device=device)  # [count, sum], for ADA

    def take_real_signs(self) -> torch.Tensor:
        """Count and sum of the signs of D's logits on real images since the last call, [2]."""
        taken, self._real_signs = self._real_signs, torch.zeros_like(self._real_signs)
        return taken

    def backward(
        self,
        phase: str,
        micro: MicroBatch,
        nimg: int,
        gain: float,
        before_last: Callable[[], None] | None = None,
    ) -> None:
        """Add the gradients of one phase: ``Gmain``, ``Greg``, ``Dmain`` or ``Dreg``.

        Args:
            nimg: real images seen before this step.
            gain: factor on the loss, the interval of a lazy regularizer.
            before_last: called before the last backward pass over the weights.
        """
        losses = {"Gmain": self._g_main, "Dmain": self._d_main, "Dreg": self._d_reg}
        losses["Greg"] = self._g_reg
        last = losses[phase](micro, self.blur_sigma(nimg), gain)
        if before_last is not None:
            before_last()
        (last.mean() * gain).backward()  # type: ignore[no-untyped-call]

    def blur_sigma(self, nimg: int) -> float:
        """Blur of D's images, linearly fading to 0 (Karras et al. 2021, App. F, config R)."""
        s = self.settings
        if s.blur_fade_nimg <= 0:
            return 0.0
        return max(1 - nimg / s.blur_fade_nimg, 0) * s.blur_init_sigma

    def _generate(
        self, z: torch.Tensor, c: torch.Tensor, own: torch.Tensor | None, update_emas: bool = False
    ) -> Tensors:
        """Images [N, C, H, W] and their ws [N, num_ws, w_dim].

        Args:
            own: which layers have the w of z, bool [num_ws]; the others mix in that of a second
                latent (Karras et al. 2019, Sec. 3.1). None: all.
        """
        ws = self.G.mapping(z, c, update_emas=update_emas)
        if own is not None:
            z = distributed.randn([ws.shape[0], self.G.z_dim], device=ws.device)
            other = self.G.mapping(z, c, update_emas=False)
            ws = torch.where(own[:, None], ws, other)
        return self.G.synthesis(ws, noise_mode="random", update_emas=update_emas), ws

    def _generate_moving(self, z: torch.Tensor, c: torch.Tensor, *own: torch.Tensor) -> Tensors:
        """Images, and the update of the moving averages of G."""
        return self._generate(z, c, own[0] if own else None, update_emas=True)[:1]

    def _images(self, z: torch.Tensor, c: torch.Tensor, *own: torch.Tensor) -> Tensors:
        return self._generate(z, c, own[0] if own else None)[:1]

    def _style_lengths(self, z: torch.Tensor, c: torch.Tensor, *own: torch.Tensor) -> Tensors:
        """Path lengths [N] of random directions in the images."""
        img, ws = self._generate(z, c, own[0] if own else None)
        noise = (
            distributed.randn(img.shape, device=img.device) / (img.shape[2] * img.shape[3]) ** 0.5
        )
        return (self.path_lengths(img, ws, noise),)

    def _own_layers(self, device: torch.device) -> Tensors:
        """Random layers that keep their w, bool [num_ws]: those before a crossover; or nothing."""
        if not self.settings.style_mixing_prob > 0:
            return ()
        num_ws = self.G.num_ws
        crossover = int(torch.randint(1, num_ws, []))
        if float(torch.rand([])) >= self.settings.style_mixing_prob:
            crossover = num_ws
        return (sent(torch.arange(num_ws) < crossover, device),)

    def _shown(self, img: torch.Tensor, sigma: float) -> torch.Tensor:
        """The images as D sees them: blurred and augmented."""
        taps = blur_taps(sigma)
        if taps is not None:
            img = filter2d(img, sent(taps, img.device))
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        return img

    def _logits(self, img: torch.Tensor, c: torch.Tensor) -> Tensors:
        return (torch.as_tensor(self.D(img, c)),)

    def _logit_slopes(self, img: torch.Tensor, c: torch.Tensor) -> Tensors:
        """The gradients of the logits with respect to the images D sees: [N, C, H, W]."""
        img = img.detach().requires_grad_(True)
        logits = self.D(img, c)
        return torch.autograd.grad([logits.sum()], [img], create_graph=True)

    # Each phase returns the loss [N] of its last backward pass.

    def _g_main(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        inputs = (micro.z, micro.c, *self._own_layers(micro.z.device))
        (img,) = self.sections.run("Gmain/G", self._images, inputs, self.G)
        shown = self._shown(img, sigma)
        (logits,) = self.sections.run("Gmain/D", self._logits, (shown, micro.c), self.D)
        loss = F.softplus(-logits)
        self._report_scores("fake", logits)
        self.collector.add("Loss/G/loss", loss)
        return loss

    def _g_reg(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        """Path length regularization (Karras et al. 2020, "Analyzing and Improving", Sec. 3.2)."""
        shrunk = self.num_lengths(micro.z.shape[0])
        z, c = micro.z[:shrunk], micro.c[:shrunk]
        inputs = (z, c, *self._own_layers(z.device))
        (lengths,) = self.sections.run("Greg/G", self._style_lengths, inputs, self.G)
        penalty = self.path_length_penalty(lengths)
        loss = penalty * self.settings.pl_weight
        self.collector.add("Loss/pl_penalty", penalty[:shrunk])
        self.collector.add("Loss/G/reg", loss[:shrunk])
        return loss

    def num_lengths(self, batch_gpu: int) -> int:
        """How many images of a pass of the path length phase computes."""
        return max(batch_gpu // self.settings.pl_batch_shrink, 1)

    def path_lengths(
        self, img: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """|J_w^T y| of each image for directions y ``noise``, [N]."""
        (gradient,) = torch.autograd.grad([(img * noise).sum()], [ws], create_graph=True)
        return gradient.square().sum(2).mean(1).sqrt()

    def path_length_penalty(self, lengths: torch.Tensor) -> torch.Tensor:
        """(|J_w^T y| - a)^2 for each image, and the update of the running mean a.

        It covers the images of all processes, N of each: [N * processes].
        """
        lengths = distributed.all_gather(lengths)
        # The new mean enters the penalty with its gradient; only the stored one is detached.
        pl_mean = self.pl_mean.lerp(lengths.mean(), self.settings.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        return (lengths - pl_mean).square()

    def _d_main(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        # G has no gradient in this phase, so its graph is not built.
        inputs = (micro.z, micro.c, *self._own_layers(micro.z.device))
        (img,) = self.sections.run(
            "Dmain/G", self._generate_moving, inputs, self.G, is_collective=True
        )
        shown = self._shown(img, sigma)
        (fake_logits,) = self.sections.run("Dmain/D", self._logits, (shown, micro.c), self.D)
        fake_loss = F.softplus(fake_logits)
        self._report_scores("fake", fake_logits)
        (fake_loss.mean() * gain).backward()  # type: ignore[no-untyped-call]

        shown = self._shown(micro.real_img, sigma)
        (real_logits,) = self.sections.run("Dmain/D", self._logits, (shown, micro.real_c), self.D)
        real_loss = F.softplus(-real_logits)
        self._report_scores("real", real_logits)
        signs = real_logits.detach().sign()
        self._real_signs += torch.stack([torch.ones_like(signs).sum(), signs.sum()])
        self.collector.add("Loss/D/loss", fake_loss.detach() + real_loss.detach())
        return real_loss

    def _d_reg(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        """R1: gamma/2 |grad D(real)|^2 (Mescheder et al. 2018)."""
        loss = self._gradient_penalty("r1", micro.real_img, micro.real_c, sigma)
        self.collector.add("Loss/D/reg", loss)
        return loss

    def _gradient_penalty(
        self, name: str, img: torch.Tensor, c: torch.Tensor, sigma: float
    ) -> torch.Tensor:
        """gamma/2 |grad D|^2 at each image, [N].

        Args:
            name: of the penalty in the statistics.
        """
        img = img.detach().requires_grad_(True)
        shown = self._shown(img, sigma)
        inputs = (shown.detach(), c)
        (slopes,) = self.sections.run("Dreg/D", self._logit_slopes, inputs, self.D)
        gradient = slopes
        if shown is not img:  # through blur and augmentations
            (gradient,) = torch.autograd.grad([shown], [img], [slopes], create_graph=True)
        penalty = gradient.square().sum([1, 2, 3])  # [N]
        self.collector.add(f"Loss/{name}_penalty", penalty)
        return penalty * (self.settings.r1_gamma / 2)

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
