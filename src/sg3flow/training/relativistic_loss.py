"""The relativistic pairing loss with R1 and R2 (Huang et al. 2024, "The GAN is dead; long live the
GAN!", Sec. 2).

D scores a real image against a generated one: only the difference of two logits counts. With one
logit for each, a generator that draws few pictures can be the best answer to D. With pairs it is
not, and the two zero-centered penalties together make the training converge.
"""

import torch
import torch.nn.functional as F

from sg3flow.training.losses import GanLoss, MicroBatch


class RelativisticLoss(GanLoss):
    """f(D(fake) - D(real)) for D and f(D(real) - D(fake)) for G, f = softplus, with lazy R1 and R2.

    The two images of a pair must have the same label (``Parts.shares_labels``). ADA and
    ``Loss/signs/real`` use the sign of D(real) - D(fake): that of one logit means nothing here.
    """

    def _g_main(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        inputs = (micro.z, micro.c, *self._own_layers(micro.z.device))
        (img,) = self.sections.run("Gmain/G", self._images, inputs, self.G)
        fake_logits = self._scores("Gmain/D", img, micro.c, sigma)
        real_logits = self._scores("Gmain/D reals", micro.real_img, micro.real_c, sigma)
        loss = F.softplus(real_logits - fake_logits)
        self._report_scores("fake", fake_logits)
        self.collector.add("Loss/G/loss", loss)
        return loss

    def _d_main(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        inputs = (micro.z, micro.c, *self._own_layers(micro.z.device))
        (img,) = self.sections.run(
            "Dmain/G", self._generate_moving, inputs, self.G, is_collective=True
        )
        fake_logits = self._scores("Dmain/D", img, micro.c, sigma)
        real_logits = self._scores("Dmain/D reals", micro.real_img, micro.real_c, sigma)
        loss = F.softplus(fake_logits - real_logits)
        self._report_scores("fake", fake_logits)
        self.collector.add("Loss/scores/real", real_logits)
        signs = (real_logits - fake_logits).detach().sign()
        self.collector.add("Loss/signs/real", signs)
        self._real_signs += torch.stack([torch.ones_like(signs).sum(), signs.sum()])
        self.collector.add("Loss/D/loss", loss)
        return loss

    def _d_reg(self, micro: MicroBatch, sigma: float, gain: float) -> torch.Tensor:
        """R2 and R1: gamma/2 |grad D|^2 at generated and at real images."""
        inputs = (micro.z, micro.c, *self._own_layers(micro.z.device))
        (img,) = self.sections.run("Dreg/G", self._images, inputs, self.G)
        of_fakes = self._gradient_penalty("r2", img, micro.c, sigma)
        (of_fakes.mean() * gain).backward()  # type: ignore[no-untyped-call]
        of_reals = self._gradient_penalty("r1", micro.real_img, micro.real_c, sigma)
        self.collector.add("Loss/D/reg", of_fakes.detach() + of_reals.detach())
        return of_reals

    def _scores(
        self, section: str, img: torch.Tensor, c: torch.Tensor, sigma: float
    ) -> torch.Tensor:
        """The logits of images as D sees them."""
        shown = self._shown(img, sigma)
        (logits,) = self.sections.run(section, self._logits, (shown, c), self.D)
        return logits
