"""The faults that ``plant.py`` plants: sign flips, swapped operands, wrong factors, axes, periods.

Each line: a fragment that occurs once in the source, its replacement, and what is wrong then.
"""

from plant import Fault

# Imported once: every run of tests is a fork of a process that has them.
LIBRARIES = ("torch", "torch._dynamo", "torch.distributed.tensor", "torch.testing",
             "torch.utils.data", "scipy.signal", "scipy.special", "scipy.stats",
             "scipy.integrate", "hypothesis", "pandas", "PIL.Image", "pytest")  # fmt: skip


def faults(file: str, tests: str, *lines: tuple[str, ...]) -> list[Fault]:
    """The faults of one source and the names of the test files that should catch them."""
    paths = tuple(f"tests/{name}.py" for name in tests.split())
    return [Fault(f"src/sg3flow/{file}.py", paths, *line) for line in lines]


COMBINATIONS = [
    *faults(
        "training/power_averages",
        "training/test_power_averages",
        ("16 - inverse, 12 - inverse", "16 + inverse, 12 + inverse", "exponents: a flipped sign"),
        ("return -math.expm1(", "return math.expm1(", "power averages move away from G"),
        ("(gamma + 1) * math.log1p", "gamma * math.log1p", "power averages of the next exponent"),
        ("math.log1p(-1 / step)", "math.log1p(1 / step)", "power averages: beta above 1"),
        ("weight = step_weight(average.gamma, nimg / self.batch)",
         "weight = step_weight(average.gamma, nimg)", "power averages by images, not by steps"),
    ),
    *faults(
        "latent/posthoc_ema",
        "latent/test_posthoc_ema",
        ("np.where(np.less(t_a, t_b), gamma_b, gamma_a)",
         "np.where(np.less(t_a, t_b), gamma_a, gamma_b)", "profiles: the other exponent"),
        ("height = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)",
         "height = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b)", "profiles: integral"),
        ("solved.T / norms", "solved.T * norms", "post-hoc EMA: scaled twice"),
        ("shift * (1 - free.sum())", "shift * (free.sum() - 1)", "post-hoc EMA: sum of weights"),
        ("weights = free + shift * (1 - free.sum()) / shift.sum()",
         "weights = free / free.sum()", "post-hoc EMA: normalized, not nearest"),
        ("whole - 2 * weights @ target", "whole + 2 * weights @ target", "post-hoc EMA: its error"),
    ),
    *faults(
        "latent/blending",
        "latent/test_blending",
        ("_weighted((first, second), (1 - weight, weight), made_by)",
         "_weighted((first, second), (weight, 1 - weight), made_by)", "blend: wrong shares"),
        ("count = find_layer(first.G_ema, up_to) + 1", "count = find_layer(first.G_ema, up_to)",
         "a blend without its last layer of A"),
        ("last = first if count == len(names) else second", "last = first",
         "a blend with the discriminator of A"),
        ("key=lambda i: -weights[i]", "key=lambda i: weights[i]", "classes of the lesser weight"),
        ("max(known, key=lambda each: each[1])", "min(known, key=lambda each: each[1])",
         "the discriminator of the lesser weight"),
        ("[1 / len(parents)]", "[1 / (len(parents) - 1)]", "a mean with one too few"),
    ),
]  # fmt: skip

LOSSES = [
    *faults(
        "training/relativistic_loss",
        "training/test_relativistic_loss",
        (
            "F.softplus(real_logits - fake_logits)",
            "F.softplus(fake_logits - real_logits)",
            "G learns to be found out, in pairs",
        ),
        (
            "F.softplus(fake_logits - real_logits)",
            "F.softplus(real_logits - fake_logits)",
            "D believes fakes, in pairs",
        ),
        (
            "(real_logits - fake_logits).detach().sign()",
            "(fake_logits - real_logits).detach().sign()",
            "ADA hears the opposite",
        ),
        (
            'self._gradient_penalty("r2", img, micro.c, sigma)',
            'self._gradient_penalty("r2", micro.real_img, micro.c, sigma)',
            "R2 at real images",
        ),
        ("(of_fakes.mean() * gain)", "of_fakes.mean()", "R2 without its interval"),
    ),
    *faults(
        "data/dataset",
        "data/test_sampler",
        (
            "if len(members) == self.batch:",
            "if len(members) == self.batch + 1:",
            "a batch begins with the class of the last",
        ),
        ("if position >= self.start:", "if position > self.start:", "class batches: one too late"),
        (
            "members[self.rank :: self.num_processes]",
            "members[self.rank :]",
            "class batches: every process has all",
        ),
    ),
    *faults(
        "training/losses",
        "training/test_losses",
        ("loss = F.softplus(-logits)", "loss = F.softplus(logits)", "G learns to be found out"),
        (
            "fake_loss = F.softplus(fake_logits)",
            "fake_loss = F.softplus(-fake_logits)",
            "D believes fakes",
        ),
        (
            "real_loss = F.softplus(-real_logits)",
            "real_loss = F.softplus(real_logits)",
            "D doubts reals",
        ),
        ("float(self.nimg), math.inf)", "math.inf, math.inf)", "the first NaN on a GPU is missed"),
        ("torch.arange(3, dtype", "torch.arange(1, 4, dtype", "moments of the next order on a GPU"),
        ("(last.mean() * gain)", "(last.sum() * gain)", "the last loss: sum over the batch"),
        ("(last.mean() * gain)", "(last.mean() / gain)", "a lazy regularizer too weak"),
        ("(fake_loss.mean() * gain)", "(fake_loss.sum() * gain)", "D, fakes: sum over the batch"),
        ("signs = real_logits.detach()", "signs = fake_logits.detach()", "ADA looks at the fakes"),
        ("(self.settings.r1_gamma / 2)", "self.settings.r1_gamma", "R1 without its half"),
        ("gradient.square().sum([1, 2, 3])", "gradient.square().mean([1, 2, 3])", "R1, mean norm"),
        (
            "gradient.square().sum([1, 2, 3])",
            "gradient.abs().sum([1, 2, 3])",
            "R1 of the norm, not of its square",
        ),
        (
            'self._gradient_penalty("r1", micro.real_img, micro.real_c, sigma)',
            'self._gradient_penalty("r1", micro.real_img, micro.c, sigma)',
            "R1 with the labels of the fakes",
        ),
        (
            'self.sections.run("Dmain/D", self._logits, (shown, micro.real_c), self.D)',
            'self.sections.run("Dmain/D", self._logits, (shown, micro.c), self.D)',
            "D sees reals with the labels of fakes",
        ),
        (
            '"Gmain/D", self._logits, (shown, micro.c)',
            '"Gmain/D", self._logits, (shown, micro.real_c)',
            "G is judged with the labels of reals",
        ),
        (
            "img = self.augment_pipe(img)",
            "img = self.augment_pipe(img.detach())",
            "G learns nothing",
        ),
        (
            "if self.augment_pipe is not None:",
            "if self.augment_pipe is not None and img.requires_grad:",
            "D sees reals without augmentation",
        ),
        (
            "own[0] if own else None, update_emas=True)[:1]",
            "own[0] if own else None, update_emas=False)[:1]",
            "the averages of G stand still",
        ),
        (
            "own[0] if own else None)[:1]",
            "own[0] if own else None, update_emas=True)[:1]",
            "the averages of G move twice a step",
        ),
        (
            ">= self.settings.style_mixing_prob",
            "< self.settings.style_mixing_prob",
            "style mixing inverted",
        ),
        (
            "torch.where(own[:, None], ws, other)",
            "torch.where(own[:, None], other, ws)",
            "the second latent comes first",
        ),
        (
            "torch.randint(1, num_ws, [])",
            "torch.randint(0, num_ws, [])",
            "crossover before layer 0",
        ),
        (
            "torch.randint(1, num_ws, [])",
            "torch.randint(1, num_ws - 1, [])",
            "last crossover left out",
        ),
        (
            "other = self.G.mapping(z, c, update_emas=False)",
            "other = self.G.mapping(z, torch.zeros_like(c), update_emas=False)",
            "the second latent loses its label",
        ),
        (
            "other = self.G.mapping(z, c, update_emas=False)",
            "other = self.G.mapping(z, c, update_emas=True)",
            "the second latent enters w_avg",
        ),
        (
            "max(1 - nimg / s.blur_fade_nimg, 0)",
            "max(nimg / s.blur_fade_nimg, 0)",
            "the blur grows",
        ),
        ("radius = int(sigma * 3)", "radius = int(sigma * 2)", "blur cut too early"),
        (".square().neg().exp2()", ".square().neg().exp()", "blur too narrow"),
        ("return taps / taps.sum()", "return taps", "the blur is not normalized"),
        ("img.shape[3]) ** 0.5", "img.shape[3])", "path length: noise divided by the pixels"),
        (
            "gradient.square().sum(2).mean(1).sqrt()",
            "gradient.square().sum(1).mean(1).sqrt()",
            "path length: norm over the layers",
        ),
        (
            "gradient.square().sum(2).mean(1).sqrt()",
            "gradient.square().sum(2).mean(1)",
            "path length squared",
        ),
        (
            "self.pl_mean.lerp(lengths.mean(), self.settings.pl_decay)",
            "lengths.mean().lerp(self.pl_mean, self.settings.pl_decay)",
            "the mean path length jumps to the new one",
        ),
        (
            "return (lengths - pl_mean).square()",
            "return (lengths - pl_mean.detach()).square()",
            "the mean enters the penalty without gradient",
        ),
        ("penalty * self.settings.pl_weight", "penalty", "path length without its weight"),
        (
            "batch_gpu // self.settings.pl_batch_shrink",
            "batch_gpu",
            "path length of the whole batch",
        ),
        (
            "variance = squares / num - mean * mean",
            "variance = squares / num",
            "deviations of statistics around 0",
        ),
    ),
]

STEP = [
    *faults(
        "training/step",
        "training/test_losses training/test_step",
        ("0.5 ** (batch / max", "0.5 ** (2 * batch / max", "half the half-life"),
        ("min(half_life_nimg, nimg * rampup)", "max(half_life_nimg, nimg * rampup)", "EMA rampup"),
        (
            "torch._foreach_lerp(current, averages, beta)",
            "torch._foreach_lerp(averages, current, beta)",
            "EMA with 1 - beta",
        ),
        ("copies, _tensors(module.buffers())", "copies, copies", "G_ema keeps its first buffers"),
    ),
    *faults(
        "training/step",
        "training/test_step",
        ("torch.float32) / 127.5 - 1", "torch.float32) / 255", "real images in [0, 1]"),
        ("items.label(i) for i", "items.label(0) for i", "one label for all generated images"),
        ('f"{seed}/{nimg}/0"', 'f"{seed}/0"', "every step draws the same numbers"),
        (
            "batch_idx % phase.interval == 0",
            "batch_idx % phase.interval == 1",
            "first lazy step late",
        ),
        (
            "batch_idx % phase.interval == 0",
            "batch_idx % 2 == 0",
            "every phase in every second step",
        ),
        (
            "nimg, phase.interval, before_last)",
            "nimg, 1, before_last)",
            "lazy regularization too weak",
        ),
        (
            "ema_beta(batch, nimg, parts.ema_half_life_nimg",
            "ema_beta(batch, nimg + batch, parts.ema_half_life_nimg",
            "EMA a step too old",
        ),
        (
            "update_ema(parts.G_ema, parts.G, beta)",
            "update_ema(parts.G_ema, parts.G_ema, beta)",
            "no EMA",
        ),
        (
            "_set_requires_grad(trainable, False)",
            "_set_requires_grad(trainable, True)",
            "G collects gradients of D's phases",
        ),
        (
            "torch.sign(total / count - parts.ada_target)",
            "torch.sign(parts.ada_target - total / count)",
            "ADA's direction flipped",
        ),
        (
            "torch.sign(total / count - parts.ada_target)",
            "(total / count - parts.ada_target)",
            "ADA in proportion",
        ),
        ("total / count - parts.ada_target", "total - parts.ada_target", "ADA compares a sum"),
        (
            "step = batch * ADA_INTERVAL / parts.ada_nimg",
            "step = batch / parts.ada_nimg",
            "ADA's speed",
        ),
        (".clamp(min=0))", ".clamp(max=1))", "p may fall below 0"),
        (".clamp(min=0))", ".clamp(min=0, max=0.5))", "p ends at a half"),
        (
            "batches_done % ADA_INTERVAL != 0",
            "batches_done % ADA_INTERVAL != 1",
            "ADA's period shifted",
        ),
        (
            "_take_signs(parts, batch_idx + 1)",
            "_take_signs(parts, batch_idx)",
            "ADA a batch late",
        ),
        ("parts.ada_moments.zero_()", "parts.ada_moments.mul_(1)", "ADA never forgets"),
        (
            "parts.ada_moments += parts.loss.take_real_signs()",
            "parts.ada_moments = parts.loss.take_real_signs()",
            "ADA sees one batch of four",
        ),
    ),
]

GRADIENTS = [
    *faults(
        "training/gradient_average",
        "training/test_step",
        ("nan=0.0, posinf=1e5, neginf=-1e5", "nan=1.0, posinf=1e5, neginf=-1e5", "NaN becomes 1"),
        ("nan=0.0, posinf=1e5, neginf=-1e5", "nan=0.0, posinf=-1e5, neginf=1e5", "infinity turned"),
        (
            "nan=0.0, posinf=1e5, neginf=-1e5",
            "nan=0.0, posinf=0.0, neginf=0.0",
            "infinity becomes 0",
        ),
    ),
    *faults(
        "training/gradient_average",
        "training/test_buckets",
        ("flat /= distributed.world_size()", "flat /= 1", "gradients are summed, not averaged"),
        (
            "for parameter in reversed(parameters):",
            "for parameter in parameters:",
            "first ones first",
        ),
        ("self._late.add(number)", "pass", "a late gradient is left out"),
        (
            "self._silent = set(self._parameters) - self._fired",
            "self._silent = set()",
            "buckets wait for parameters without gradient",
        ),
    ),
]

CONV_FORMS = [
    *faults(
        "ops/conv_forms",
        "ops/test_conv_forms",
        ("-tensor.shape[dim] % CHANNEL", "tensor.shape[dim] % CHANNEL", "padded by too much"),
        ("[:, :, :outputs]", "[:, :, -outputs:]", "the padding is kept"),
        ("memory_format=torch.channels_last)", "memory_format=torch.contiguous_format)", "NCHW"),
        ("y[:, : a.shape[1]]", "y[:, -a.shape[1] :]", "rows of zeros of a product"),
        ("if isinstance(choice, bool):", "if choice is True:", "shared is never chosen"),
    ),
    *faults(
        "training/conv_choice",
        "training/test_conv_choice",
        ("* MARGIN <= times[usual]", "<= times[usual]", "chance decides"),
        ("min(times, key", "max(times, key", "the slowest form"),
        ("per_sample=setting == GROUPED", "per_sample=setting == SHARED", "settings exchanged"),
        ("per_sample=form == GROUPED", "per_sample=form == SHARED", "the other form is timed"),
        ("_read_rows(kept) or _measured_rows", "_measured_rows", "a resumed training measures"),
    ),
    *faults(
        "runs/reproduce",
        "training/test_conv_choice",
        ("worktree.state / fingerprint", "worktree.state", "a reproduction measures"),
    ),
    *faults(
        "training/training_run",
        "training/test_conv_choice",
        ("folder.root / job.key / CONV", "folder.work.parent / CONV", "a shorter run measures"),
    ),
]

GRAPHS = [
    *faults(
        "training/cuda_graphs",
        "training/test_cuda_graphs",
        (
            "                static.copy_(given)",
            "                pass",
            "the first inputs for ever",
        ),
        ("            self._tape.draw_again()", "            pass", "the first noise for ever"),
        ("                buffer.copy_(content)", "                pass", "averages move twice"),
        (
            "torch.split(flat.clone(), sizes)",
            "torch.split(flat, sizes)",
            "gradients share memory with a graph",
        ),
        (
            "torch._foreach_add_(sums, parts)",
            "torch._foreach_copy_(sums, parts)",
            "one pass counts",
        ),
    ),
]

ASSEMBLY = [
    *faults(
        "training/adam",
        "training/test_adam",
        ("beta1=self.betas[0]", "beta1=self.betas[1]", "Adam's betas exchanged"),
        ('[state["exp_avg"] for state', '[state["exp_avg_sq"] for state', "Adam's moments mixed"),
        ("return torch.clone(tensor)", "return tensor", "a loaded state of Adam is shared"),
    ),
    *faults(
        "training/assembly",
        "training/test_step",
        ("D_REG_INTERVAL = 16", "D_REG_INTERVAL = 8", "R1 twice as often"),
        ("G_REG_INTERVAL = 4 ", "G_REG_INTERVAL = 8 ", "path length half as often"),
        ("ADA_INTERVAL = 4", "ADA_INTERVAL = 8", "ADA's interval"),
        ("EMA_RAMPUP = 0.05", "EMA_RAMPUP = 0.5", "EMA rampup"),
        (
            "ratio = interval / (interval + 1)",
            "ratio = (interval + 1) / interval",
            "lazy Adam's ratio inverted",
        ),
        ("ratio = interval / (interval + 1)", "ratio = 1.0", "lazy Adam uncorrected"),
        ("lr=lr * ratio", "lr=lr", "lazy Adam's learning rate"),
        ("(beta1**ratio, beta2**ratio)", "(beta1, beta2)", "lazy Adam's betas"),
        (
            "(beta1**ratio, beta2**ratio)",
            "(beta1 * ratio, beta2 * ratio)",
            "lazy Adam's betas scaled",
        ),
        (
            "beta1, beta2, ratio = 0.0, 0.99, 1.0",
            "beta1, beta2, ratio = 0.9, 0.99, 1.0",
            "Adam's momentum",
        ),
        (
            "beta1, beta2, ratio = 0.0, 0.99, 1.0",
            "beta1, beta2, ratio = 0.0, 0.999, 1.0",
            "Adam's beta2",
        ),
        ("eps=1e-8,", "eps=1e-4,", "Adam's epsilon"),
        (
            "lazy_adam(D, settings.dlr, D_REG",
            "lazy_adam(D, settings.glr, D_REG",
            "D with G's learning rate",
        ),
        (
            "g_interval = G_REG_INTERVAL if has_path_length else None",
            "g_interval = G_REG_INTERVAL",
            "G corrected without a regularizer",
        ),
        (
            'phases.append(phase("Dmain"',
            'phases.insert(0, phase("Dmain"',
            "D learns before G",
        ),
        (
            'phases.append(phase("Greg"',
            'phases.insert(0, phase("Greg"',
            "path length before the loss of G",
        ),
        (
            'return 0.002 if cfg == "stylegan2" else 0.0025',
            'return 0.0025 if cfg == "stylegan2" else 0.002',
            "learning rates of G",
        ),
        (
            'return 8 if cfg == "stylegan2" else 2',
            'return 2 if cfg == "stylegan2" else 8',
            "mapping layers",
        ),
        ("config.batch * 10e3 / 32", "config.batch * 20e3 / 32", "half-life of the EMA"),
        (
            "ema_rampup=None if transfer else EMA_RAMPUP",
            "ema_rampup=EMA_RAMPUP if transfer else None",
            "EMA rampup of transfers",
        ),
        (
            "ada_nimg=100e3 if transfer else 500e3",
            "ada_nimg=500e3 if transfer else 100e3",
            "ADA's speed of transfers",
        ),
        (
            "pl_weight=2.0, style_mixing_prob=0.9",
            "pl_weight=2.0, style_mixing_prob=0.1",
            "style mixing",
        ),
        (
            "pl_weight=2.0, style_mixing_prob=0.9",
            "pl_weight=1.0, style_mixing_prob=0.9",
            "path length weight",
        ),
        (
            "blur_init_sigma=10.0, blur_fade_nimg=batch * 200e3 / 32",
            "blur_init_sigma=10.0, blur_fade_nimg=200e3",
            "blur fades by images, not batches",
        ),
        (
            'cfg == "stylegan3-r" and from_scratch',
            'cfg == "stylegan3-r"',
            "transfers begin blurred",
        ),
        (
            "0.5 ** (settings.batch / 20e3)",
            "0.5 ** (settings.batch / 2e3)",
            "magnitude EMA's half-life",
        ),
        ("settings.cbase * 2, ", "settings.cbase, ", "R without its doubled channels"),
        (
            '"epilogue_kwargs": {"mbstd_group_size": settings.mbstd_group}',
            '"epilogue_kwargs": {"mbstd_group_size": 1}',
            "minibatch deviation of single images",
        ),
        ('p if aug == "fixed" else 0.0', 'p if aug == "ada" else 0.0', "ADA starts at p"),
        ('config.target if config.aug == "ada" else None', "config.target", "fixed p is adjusted"),
    ),
]


AUGMENTATION = [
    *faults(
        "networks/augment",
        "training/test_augment",
        ("product(_shift(amount), matrix)", "product(_shift(-amount), matrix)", "brightness"),
        (
            "matrix[:, [0, 1, 2], [0, 1, 2]] = gain",
            "matrix[:, [0, 1], [0, 1]] = gain",
            "contrast without blue",
        ),
        ("_EYE - 2 * _LUMA_PART", "_EYE - _LUMA_PART", "luma flip by half"),
        ("1, 1, 0]) / math.sqrt(3)  #", "1, 1, 0]) / 3  #", "the luma axis is too short"),
        (
            "[[0, -n, n], [n, 0, -n], [-n, n, 0]]",
            "[[0, n, -n], [-n, 0, n], [n, -n, 0]]",
            "hue turns the other way",
        ),
        ("(1 - cos)[:", "(1 + cos)[:", "hue rotation"),
        ("-math.pi * s.hue_max, math.pi * s.hue_max", "0, math.pi * s.hue_max", "hue one way only"),
        ("gain[:, None, None] - 1)", "gain[:, None, None])", "saturation without its identity"),
        ("lumaflip), draws.choice(2)", "lumaflip), draws.choice(3)", "luma flip"),
        (
            "np.diag([1.0, 1, 1, 0]) - _LUMA_PART",
            "np.diag([1.0, 1, 1, 0])",
            "saturation scales gray, too",
        ),
        (
            "rows = rows.mean(dim=1, keepdim=True)",
            "rows = rows[:, :1]",
            "gray images get the red row",
            "every color transform maps gray to gray, so that the rows agree but for rounding",
        ),
        (
            "rows[..., :-1] @ flat + rows[..., -1:]",
            "rows[..., :-1] @ flat - rows[..., -1:]",
            "the offset of colors",
        ),
        ("_BAND_POWER = (10 / 13,", "_BAND_POWER = (1 / 13,", "power of the lowest band"),
        (
            "lowpass.new_tensor([1, -1, 1, -1])",
            "lowpass.new_tensor([1, 1, 1, -1])",
            "highpass of the filter bank",
        ),
        ("f.flip(0))[0] / 2 for f", "f)[0] / 2 for f", "the bands have a phase"),
        (
            "(power * factors.square()).sum(dim=1",
            "(power * factors).sum(dim=1",
            "filter gains change the power",
        ),
        (
            "F.conv2d(flat, taps[:, None, :, None], groups=len(taps))",
            "flat[..., margin:-margin, :]",
            "filter along one axis only",
        ),
        (
            "applied = draws.applied(strengths.imgfilter * band_multiplier)",
            "applied = draws.applied(strengths.imgfilter)",
            "bands are not chosen",
        ),
        (
            "torch.from_numpy(_exp2(exponents))",
            "torch.from_numpy(np.exp(exponents))",
            "filter gains in powers of e",
        ),
        (
            "images + noise * _to_images(sigma, images)",
            "images + noise * _to_images(sigma, images).square()",
            "noise variance for deviation",
        ),
        (
            "half = _to_images(size / 2, images)",
            "half = _to_images(size, images)",
            "cutout twice as large",
        ),
        ("(keep_x | keep_y)", "(keep_x & keep_y)", "cutout of a cross"),
        (
            "keep_y = (y - _to_images(center_y, images))",
            "keep_y = (y - _to_images(center_x, images))",
            "cutout on the diagonal only",
        ),
        (
            "device=images.device) + 0.5) / width",
            "device=images.device) + 0.0) / width",
            "cutout half a pixel off",
        ),
    ),
    *faults(
        "networks/augment_random",
        "training/test_augment",
        (
            "self._uniform() < probability",
            "self._uniform() > probability",
            "the gate of probabilities inverted",
        ),
        ("min(self.p * multiplier, 1.0)", "min(self.p, 1.0)", "the gate ignores multipliers"),
        ("min(self.p * multiplier, 1.0)", "min(multiplier, 1.0)", "the gate ignores p"),
        (
            "low + (high - low) * self._uniform()",
            "low + high * self._uniform()",
            "range of uniform values",
        ),
        (
            "np.floor(self._uniform() * count)",
            "np.round(self._uniform() * count)",
            "choices of unequal probability",
        ),
        (
            "return np.abs(self.normal(std))",
            "return self.normal(std)",
            "noise of negative deviation",
            "noise times -1 has the same distribution",
        ),
        (
            'return self._next("n") * std',
            'return self._next("n") * std**2',
            "variance for deviation",
        ),
        (
            "self._drawn.popleft() if self._drawn",
            "self._drawn[0] if self._drawn",
            "one random number for all transforms",
        ),
        ("result = result + term", "result = result - term", "matrix products with minus"),
    ),
    *faults(
        "networks/augment_geometry",
        "training/test_augment",
        ("product(matrix, factor)", "product(factor, matrix)", "order of the transforms"),
        ("_scaling(1 - 2 * flip, 1)", "_scaling(1, 1 - 2 * flip)", "flips upside down"),
        (
            "draws.applied(s.xflip), draws.choice(2)",
            "draws.applied(s.xflip), 1.0 + 0 * draws.choice(2)",
            "flips always",
        ),
        (
            "draws.applied(s.rotate90), draws.choice(4)",
            "draws.applied(s.rotate90), draws.choice(3)",
            "three of four quarter turns",
        ),
        (
            "sin = np.array([0.0, 1, 0, -1])",
            "sin = np.array([0.0, -1, 0, 1])",
            "quarter turns the other way",
        ),
        (
            "np.round(x * width), np.round(y * height)",
            "x * width, y * height",
            "whole shifts by fractions",
        ),
        (
            "_translation(-where(applied, x), -where(applied, y))",
            "_translation(where(applied, x), where(applied, y))",
            "whole shifts the other way",
        ),
        ("inverse = _exp2(-where", "inverse = _exp2(where", "scales inverted"),
        ("draws.normal(s.scale_std)", "draws.normal(s.aniso_std)", "deviation of the scale"),
        (
            "_scaling(_exp2(-exponent), _exp2(exponent))",
            "_scaling(_exp2(-exponent), _exp2(-exponent))",
            "anisotropic scale is isotropic",
        ),
        (
            "_scaling(_exp2(-exponent), _exp2(exponent))",
            "_scaling(_exp2(exponent), _exp2(-exponent))",
            "anisotropic scale inverted",
        ),
        (
            "_translation(-x * width, -y * height)",
            "_translation(x * width, y * height)",
            "fractional shifts the other way",
        ),
        (
            "_translation(-x * width, -y * height)",
            "_translation(-x, -y)",
            "fractional shifts in pixels",
        ),
        (
            "1 - math.sqrt(1 - min(draws.p * s.rotate, 1))",
            "min(draws.p * s.rotate, 1)",
            "two rotations of probability p each",
        ),
        (
            "return _turns(*cos_sin(angle))",
            "return _turns(*cos_sin(-angle))",
            "rotation the other way",
        ),
        (
            "-math.pi * s.rotate_max, math.pi * s.rotate_max",
            "-math.pi * s.rotate_max, 0",
            "rotation one way only",
        ),
        (
            "product(_translation(-0.5, -0.5), matrix, _translation(0.5, 0.5))",
            "product(_translation(0.5, 0.5), matrix, _translation(-0.5, -0.5))",
            "centers of the doubled pixels",
        ),
        ('mode="reflect")', 'mode="replicate")', "edges repeat"),
        ("padding=-_MARGIN, flip_filter=True)", "padding=-_MARGIN)", "one wavelet twice"),
        (
            "images = upsample2d(images, lowpass, up=2)",
            "images = upsample2d(images, lowpass, up=2, gain=2)",
            "doubled values",
        ),
        (
            "_translation((left - right) / 2, (top - bottom) / 2)",
            "_translation((right - left) / 2, (bottom - top) / 2)",
            "uneven margins",
        ),
    ),
]

MODULATION_FORMS = [
    *faults(
        "ops/modulation",
        "ops/test_conv_forms",
        ("shared = w if scale == 1 else w * scale", "shared = w", "sums beyond float16"),
        ("after = after if scale == 1 else after / scale", "after = after * 1", "scale kept"),
    ),
]

NETWORKS = [
    *faults(
        "networks/conv_layer",
        "networks/test_layers networks/test_discriminator networks/test_equalized",
        (
            "1 / math.sqrt(in_channels * kernel_size**2)",
            "1 / math.sqrt(in_channels * kernel_size)",
            "equalized convolutions",
        ),
        (
            'math.sqrt(2) if activation == "lrelu" else 1.0',
            "math.sqrt(2)",
            "gain of linear convolutions",
        ),
        ("self.conv_clamp * gain", "self.conv_clamp", "the clamp without the gain"),
        ("gain=self.act_gain * gain", "gain=self.act_gain", "convolutions ignore the gain"),
        (
            "self.padding = kernel_size // 2",
            "self.padding = kernel_size - 1",
            "padding of convolutions",
        ),
        (
            "layer.weight_gain * gain if layer.is_linear",
            "layer.weight_gain if layer.is_linear",
            "prepared weights without the gain",
        ),
        (
            "else layer.weight_gain)",
            "else layer.weight_gain * gain)",
            "prepared weights with the gain of the activation",
        ),
    ),
    *faults(
        "networks/stylegan3",
        "networks/test_equalized",
        ("beta=turn, alpha=turn)", "beta=1, alpha=turn)", "phases in radians on a GPU"),
    ),
    *faults(
        "networks/equalized",
        "networks/test_equalized",
        ("beta=bias_gain, alpha=gain)", "beta=gain, alpha=bias_gain)", "gains exchanged"),
        ("return _product(x, w.t(), gain)", "return _product(x, w.t(), 1)", "unequalized weights"),
        ("_scaled_product(grad, w, gain)", "_scaled_product(grad, w, 1)", "unscaled gradient"),
        ("_scaled_product(a.t(), grad, ctx.scale)", "a.t() @ grad", "unscaled second gradient"),
        ("grad.sum(dim=0) * bias_gain", "grad.sum(dim=0)", "gradient of the bias"),
        ("max(t.dtype, d, key=_size)", "min(t.dtype, d, key=_size)", "scaled in half precision"),
        ("[ctx.scales[i] for i in having]", "[1.0 for i in having]", "unscaled gradients"),
    ),
    *faults(
        "networks/layers",
        "networks/test_layers networks/test_discriminator networks/test_to_uint8",
        (
            "scale = weight_init / lr_multiplier",
            "scale = weight_init",
            "initial weights without the multiplier",
        ),
        (
            "nn.Parameter(start / lr_multiplier)",
            "nn.Parameter(start)",
            "initial bias without the multiplier",
        ),
        (
            "self.weight_gain = lr_multiplier / math.sqrt(in_features)",
            "self.weight_gain = 1 / math.sqrt(in_features)",
            "weights without the learning rate multiplier",
        ),
        (
            "self.weight_gain = lr_multiplier / math.sqrt(in_features)",
            "self.weight_gain = lr_multiplier / math.sqrt(out_features)",
            "equalized by the outputs",
        ),
        (
            "self.bias_gain = lr_multiplier",
            "self.bias_gain = 1",
            "bias without the learning rate multiplier",
        ),
        ("x.to(dtype).square().mean()", "x.to(dtype).abs().mean()", "magnitude of |x|"),
        ("norm.square() / x.numel()", "norm / x.numel()", "magnitude of the norm on a GPU"),
        (
            "x * (x.square().mean(dim=dim",
            "x * (x.square().sum(dim=dim",
            "latents of unit norm, not variance",
        ),
        (
            "x.square().mean(dim=dim, keepdim=True) + 1e-8).rsqrt()",
            "x.square().mean() + 1e-8).rsqrt()",
            "latents normalized over the batch",
        ),
        (
            "x.reshape(group, n // group, num_channels, c // num_channels, h, w)",
            "x.reshape(-1, group, num_channels, c // num_channels, h, w).transpose(0, 1)",
            "groups of neighbors",
        ),
        ("y.var(dim=0, unbiased=False)", "y.var(dim=0, unbiased=True)", "unbiased deviation"),
        (
            "(y.var(dim=0, unbiased=False) + 1e-8).sqrt()",
            "(y.var(dim=0, unbiased=False) + 1e-8)",
            "variance for deviation",
        ),
        ("std = std.mean(dim=(2, 3, 4))", "std = std.amax(dim=(2, 3, 4))", "largest deviation"),
        (
            ".repeat(group, 1, h, w)",
            ".repeat_interleave(group, 0).repeat(1, 1, h, w)",
            "deviations of other groups",
        ),
        ("lr_multiplier: float = 0.01", "lr_multiplier: float = 1", "mapping learns too fast"),
        ("w_avg_beta: float = 0.998", "w_avg_beta: float = 0.995", "w_avg's half-life"),
        (
            "mean.lerp(self.w_avg, self.w_avg_beta)",
            "self.w_avg.lerp(mean, self.w_avg_beta)",
            "w_avg with 1 - beta",
        ),
        ("x.detach().mean(dim=0)", "x.detach()[0]", "w_avg of the first sample"),
        (
            "self.w_avg.lerp(ws[:, :cutoff], truncation_psi)",
            "self.w_avg.lerp(ws[:, :cutoff], truncation_psi**2)",
            "psi squared",
        ),
        (
            "self.w_avg.lerp(ws[:, :cutoff], truncation_psi)",
            "self.w_avg.lerp(ws[:, :cutoff], 1 - truncation_psi)",
            "psi inverted",
        ),
        (
            "self.w_avg.lerp(ws[:, :cutoff], truncation_psi)",
            "ws[:, :cutoff] * truncation_psi",
            "truncation towards 0",
        ),
        (
            "torch.cat([near, ws[:, cutoff:]], dim=1)",
            "torch.cat([near[:, :1], ws[:, 1:]], dim=1)",
            "truncation of one layer",
        ),
        (
            'parts.append(normalize_2nd_moment(self._checked("z"',
            'parts.append(1 * (self._checked("z"',
            "z is not normalized",
        ),
        (
            'normalize_2nd_moment(self.embed(self._checked("c", c, self.c_dim)))',
            'self.embed(self._checked("c", c, self.c_dim))',
            "the embedding is not normalized",
        ),
        (
            "ws = self.mapping(z, c, truncation_psi, truncation_cutoff",
            "ws = self.mapping(z, c, 1, truncation_cutoff",
            "G ignores psi",
        ),
        ("img.float() * 127.5 + 128", "img.float() * 127.5 + 127", "pixels a step too dark"),
    ),
    *faults(
        "networks/discriminator",
        "networks/test_discriminator",
        (
            "y = self.skip(x, _HALF_POWER,",
            "y = self.skip(x, 1,",
            "residual branch without its gain",
        ),
        (
            "x = self.conv1(x, gain=_HALF_POWER,",
            "x = self.conv1(x,",
            "main branch without its gain",
        ),
        ("return x + y  #", "return x - y  #", "residual branch subtracted"),
        (
            "x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)",
            "x = minibatch_std(x, 1, self.mbstd_num_channels)",
            "no minibatch deviation",
        ),
        (
            "(x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)",
            "(x * cmap).sum(dim=1, keepdim=True)",
            "label projection without its scale",
        ),
        (
            "(x * cmap).sum(dim=1, keepdim=True)",
            "(x + cmap).sum(dim=1, keepdim=True)",
            "label projection is no product",
        ),
        (
            "cmap = self.mapping(None, c) if self.c_dim else None",
            "cmap = self.mapping(None, c * 0) if self.c_dim else None",
            "D ignores labels",
        ),
        (
            '{"num_layers": 8, **(mapping_kwargs or {})}',
            '{"num_layers": 2, **(mapping_kwargs or {})}',
            "layers of D's mapping",
        ),
        (
            'FullyConnectedLayer(channels * 16, channels, activation="lrelu")',
            "FullyConnectedLayer(channels * 16, channels)",
            "last layers of D are linear",
        ),
        (
            "channels(4) if cmap_dim is None else cmap_dim",
            "channels(8) if cmap_dim is None else cmap_dim",
            "width of the projection",
        ),
    ),
    *faults(
        "networks/layer_schedule",
        "networks/test_filters",
        (
            "(np.arange(taps) - (taps - 1) / 2) / sampling_rate",
            "(np.arange(taps) - taps / 2) / sampling_rate",
            "radial filter half a tap off",
        ),
        ("scipy.special.j1(", "scipy.special.j0(", "radial filter: another Bessel function"),
        ("np.where(center, cutoff,", "np.where(center, 2 * cutoff,", "center of the radial filter"),
        ("width / (sampling_rate / 2)", "width / sampling_rate", "Kaiser attenuation"),
        ("np.outer(window, window)", "window[:, None]", "radial window on one axis"),
        (
            "relative = cutoff / (sampling_rate / 2)",
            "relative = cutoff / sampling_rate",
            "half the cutoff",
        ),
        ("np.sqrt(1 - (x / x[-1]) ** 2)", "(1 - (x / x[-1]) ** 2)", "shape of the Kaiser window"),
        (
            "relative * np.sinc(relative * x)",
            "relative * np.sinc(relative * x / 2)",
            "width of the sinc",
        ),
        ("np.asarray(f / f.sum(), dtype", "np.asarray(f, dtype", "filters without sum 1"),
        (
            "0.1102 * (attenuation - 8.7)",
            "0.1102 * attenuation",
            "Kaiser window of strong attenuation",
        ),
        ("0.5842 * excess**0.4", "0.5842 * excess**0.5", "Kaiser window of weak attenuation"),
        ("2.285 * (taps - 1)", "2.285 * taps", "attenuation of another length"),
        ("np.asarray(f / f.sum())", "np.asarray(f / f.max())", "radial filter without sum 1"),
    ),
    *faults(
        "networks/layer_schedule",
        "networks/test_schedule",
        (
            "exponent = min(i / (a.num_layers - a.num_critical), 1)",
            "exponent = min(i / a.num_layers, 1)",
            "critical layers are not",
        ),
        (
            "last_cutoff = a.img_resolution / 2",
            "last_cutoff = a.img_resolution / 4",
            "cutoff of the last layer",
        ),
        (
            "a.first_stopband * (last_stopband / a.first_stopband)",
            "a.first_cutoff * (last_stopband / a.first_cutoff)",
            "stopbands begin at the cutoff",
        ),
        (
            "min(stopband * 2, a.img_resolution)",
            "min(stopband, a.img_resolution)",
            "half the sampling rate",
        ),
        ("math.ceil(math.log2", "math.floor(math.log2", "sampling rates rounded down"),
        (
            "max(stopband, sampling_rate / 2) - cutoff",
            "stopband - cutoff",
            "half-width of the transition band",
        ),
        (
            "int(sampling_rate) + 2 * a.margin_size",
            "int(sampling_rate) + a.margin_size",
            "half the margin",
        ),
        ("a.channel_base / 2 / cutoff", "a.channel_base / cutoff", "twice the channels"),
        (
            "tmp_rate *= 1 if is_torgb else a.lrelu_upsampling",
            "tmp_rate *= 1",
            "no upsampling for the nonlinearity",
        ),
        ("low = (total + up) // 2", "low = total // 2", "padding half a sample off"),
        ("a.filter_size * up if up > 1", "a.filter_size * 2 if up > 1", "taps of upsampling by 4"),
        (
            "a.use_radial_filters and not is_critical",
            "a.use_radial_filters",
            "radial filters in critical layers",
        ),
        (
            "is_critical = i >= a.num_layers - a.num_critical",
            "is_critical = i > a.num_layers - a.num_critical",
            "one critical layer too few",
        ),
        ("last_stopband_rel: float = 2**0.3", "last_stopband_rel: float = 2**0.5", "last stopband"),
    ),
    *faults(
        "networks/stylegan3",
        "networks/test_layers networks/test_input_transform networks/test_generators",
        (
            "radii.square().exp().pow(0.25)",
            "radii.square().exp().pow(0.5)",
            "frequencies crowd in the middle",
        ),
        (
            "phases = torch.rand(channels) - 0.5",
            "phases = torch.rand(channels) * 0",
            "phases are all 0",
        ),
        (
            "weight_init=0, bias_init=[1, 0, 0, 0]",
            "weight_init=1, bias_init=[1, 0, 0, 0]",
            "the input moves at the start",
        ),
        (
            "self.phases + (self.freqs @ m[:, :2, 2:])",
            "self.phases - (self.freqs @ m[:, :2, 2:])",
            "translation the other way",
        ),
        (
            "freqs = self.freqs @ m[:, :2, :2]",
            "freqs = self.freqs @ m[:, :2, :2].mT",
            "rotation the other way",
        ),
        (
            "room = self.sampling_rate / 2 - self.bandwidth",
            "room = self.sampling_rate - self.bandwidth",
            "no fade at Nyquist",
        ),
        (
            "scale = 0.5 * self.size / self.sampling_rate",
            "scale = self.size / self.sampling_rate",
            "scale of the grid",
        ),
        ("torch.sin(angles)", "torch.cos(angles)", "cosine for sine"),
        ("* amplitudes[:, None]", "* 1", "frequencies do not fade out"),
        (
            "(self.weight / math.sqrt(self.weight.shape[1])).t()",
            "(self.weight / math.sqrt(self.weight.shape[1]))",
            "weights of the input transposed",
        ),
        (
            "x @ (self.weight / math.sqrt(self.weight.shape[1]))",
            "x @ (self.weight / self.weight.shape[1])",
            "scale of the input weights",
        ),
        (
            "t = t / t[:, :2].norm(dim=1, keepdim=True)",
            "t = t / t.norm(dim=1, keepdim=True)",
            "rotation is not normalized",
        ),
        (
            "[one, zero, -tx, zero, one, -ty,",
            "[one, zero, tx, zero, one, ty,",
            "translation of w the other way",
        ),
        (
            "[rc, -rs, zero, rs, rc, zero,",
            "[rc, rs, zero, -rs, rc, zero,",
            "rotation of w the other way",
        ),
        (
            "rotation.view(-1, 3, 3) @ translation.view(-1, 3, 3) @ self.transform",
            "translation.view(-1, 3, 3) @ rotation.view(-1, 3, 3) @ self.transform",
            "order of the transforms of w",
        ),
        (
            "rotation.view(-1, 3, 3) @ translation.view(-1, 3, 3) @ self.transform",
            "self.transform @ rotation.view(-1, 3, 3) @ translation.view(-1, 3, 3)",
            "the user's transform comes last",
        ),
        (
            "[[c, s, shift[0]], [-s, c, shift[1]]",
            "[[c, -s, shift[0]], [s, c, shift[1]]",
            "motions turn the other way",
        ),
        (
            "self.affine = FullyConnectedLayer(w_dim, plan.in_channels, bias_init=1)",
            "self.affine = FullyConnectedLayer(w_dim, plan.in_channels, bias_init=0)",
            "styles start at 0",
        ),
        (
            "torch.lerp(distributed.all_reduce_mean(square), ema,",
            "torch.lerp(ema, distributed.all_reduce_mean(square),",
            "magnitude EMA with 1 - beta",
        ),
        (
            "self.magnitude_ema.rsqrt())",
            "self.magnitude_ema.reciprocal())",
            "input divided by the variance",
        ),
        (
            "plan.up_taps, plan.in_cutoff, plan.in_half_width * 2",
            "plan.up_taps, plan.out_cutoff, plan.in_half_width * 2",
            "cutoff of the upsampling filter",
        ),
        ("plan.out_half_width * 2", "plan.out_half_width", "width of the downsampling filter"),
        ('"gain": 1 if is_torgb else math.sqrt(2)', '"gain": 1', "layers lose power"),
        ('"slope": 1 if is_torgb else 0.2', '"slope": 0.2', "ToRGB is not linear"),
        (
            "styles = styles / math.sqrt(weight.shape[1] * k * k)",
            "styles = styles / weight.shape[1]",
            "scale of ToRGB",
        ),
        ("padding=k - 1, input_gain=input_gain,", "padding=k - 1,", "layers ignore the magnitude"),
        ("output_scale: float = 0.25", "output_scale: float = 1", "output scale"),
        ("mapping_layers = 2", "mapping_layers = 8", "mapping layers"),
    ),
    *faults(
        "networks/stylegan2",
        "networks/test_layers networks/test_generators",
        (
            "self.noise_const * self.noise_strength",
            "self.noise_const",
            "constant noise without strength",
        ),
        (
            "noise.to(self.noise_const.dtype) * self.noise_strength",
            "noise.to(self.noise_const.dtype)",
            "random noise without strength",
        ),
        (
            "shape = (batch, 1, self.resolution, self.resolution)",
            "shape = (1, 1, self.resolution, self.resolution)",
            "one random noise for all samples",
        ),
        (
            'act="lrelu", clamp=self.conv_clamp)',
            'act="linear", clamp=self.conv_clamp)',
            "layers without activation",
        ),
        (
            "self.affine(w) / math.sqrt(self.weight.shape[1])",
            "self.affine(w) / self.weight.shape[1]",
            "scale of ToRGB",
        ),
        (
            "modulated_conv2d(x, self.weight, styles, demodulate=False)",
            "modulated_conv2d(x, self.weight, styles)",
            "ToRGB demodulates",
        ),
        (
            "rgb = rgb + upsample2d(img, self.resample_filter)",
            "rgb = rgb + upsample2d(img, self.resample_filter, gain=2)",
            "skip connection doubled",
        ),
        (
            "rgb = rgb + upsample2d(img, self.resample_filter)",
            "rgb = 1 * rgb",
            "no skip connection",
        ),
        (
            "start += count",
            "start += count + 1 - 1 if res > 4 else count + 1",
            "layers take the w of others",
        ),
        ("mapping_layers = 8", "mapping_layers = 2", "mapping layers"),
        (
            "noise_strength = nn.Parameter(torch.zeros([]))",
            "noise_strength = nn.Parameter(torch.ones([]))",
            "noise from the start",
        ),
    ),
    *faults(
        "ops/modulation",
        "ops/test_convolutions",
        (
            "energy = s.square() @ w.square().sum(dim=(2, 3)).t()",
            "energy = s.abs() @ w.square().sum(dim=(2, 3)).t()",
            "demodulation by |s|",
        ),
        ("(energy + _EPS).rsqrt()", "(energy + _EPS).reciprocal()", "demodulation by the energy"),
        (
            "s = s * s.square().mean().rsqrt()",
            "s = s * s.square().mean(dim=1, keepdim=True).rsqrt()",
            "styles normalized one by one",
            "the demodulation divides by the norm of each sample: only its 1e-8 differs",
        ),
        (
            "weights.square().sum(dim=(2, 3, 4), keepdim=True)",
            "weights.square().sum(dim=(1, 3, 4), keepdim=True)",
            "demodulation of the inputs",
        ),
        (
            "weights = w[None] * s[:, None, :, None, None]",
            "weights = w[None] / s[:, None, :, None, None]",
            "divided by styles",
        ),
        ("before = s if input_gain is None else s * input_gain", "before = s", "no input gain"),
    ),
    *faults(
        "ops/modulation",
        "ops/test_modulation",
        ('_EPS, normalize == "rms")', "_EPS, False)", "the epsilon of unnormalized weights"),
        ("b = s if input_gain is None else s * input_gain", "b = s", "no input gain in one pass"),
    ),
    *faults(
        "ops/modulation_registration",
        "ops/test_modulation",
        ("energy = s.square() @ w.square()", "energy = s.abs() @ w.square()", "energy of |s|"),
        ("a.pow(3) * -0.5", "a.pow(2) * -0.5", "gradient of the demodulation"),
        ("@ w.square().sum(dim=(2, 3)) * s * 2", "@ w.square().sum(dim=(2, 3)) * s", "half of ds"),
        ("[:, :, None, None] * w * 2", "[:, :, None, None] * w * -2", "sign of dw"),
        ("{1: (tw, a, b), 2: (w, ta, b)", "{1: (w, a, b), 2: (w, ta, b)", "second order of w"),
        ("3: (w, a, tb)}", "3: (w, a, b)}", "second order of the styles"),
        ("if other != place:", "if other == place:", "second-order gradients of the wrong factor"),
    ),
    *faults(
        "ops/convolutions",
        "ops/test_convolutions",
        ("y1 + crop_y), gain=4)", "y1 + crop_y), gain=2)", "upsampling loses power"),
        (
            "return padding + x0, padding + x1, padding + y0",
            "return padding * x0, padding * x1, padding * y0",
            "downsampling without its padding",
        ),
    ),
    *faults(
        "ops/op_registration",
        "ops/test_upfirdn2d",
        ("gain)) + base", "gain)) - base", "one of two gradients subtracted"),
    ),
    *faults(
        "ops/act_filter_registration",
        "ops/test_act_filter",
        (
            "y.clone() if base is None else y + base",
            "y.clone() if base is None else y - base",
            "a branch subtracted",
        ),
        ("codes = (~(y > 0))", "codes = (~(y < 0))", "slopes on the wrong side"),
        ("[gain, slope * gain, 0.0, 0.0]", "[gain, slope, 0.0, 0.0]", "no gain below 0"),
        (
            "[gain, slope * gain, 0.0, 0.0]",
            "[gain, slope * gain, gain, gain]",
            "gradient of clamped samples",
        ),
        ("[1, 4, 16, 64]", "[64, 16, 4, 1]", "flags of a byte in the other order"),
        (
            "adjoint = _spec(padding).adjoint(",
            "adjoint = _spec((*padding[2:], *padding[:2])).adjoint(",
            "padding of the gradient: rows for columns",
        ),
        ("(y.abs() >= clamp)", "(y >= clamp)", "gradient of clamped negatives"),
    ),
    *faults(
        "ops/sum_registration",
        "ops/test_act_filter",
        ("else tangent + spread", "else tangent - spread", "the second order of a bias, negated"),
    ),
    *faults(
        "ops/act_filter",
        "ops/test_act_filter networks/test_equalized",
        ("_SLOPE = 0.2", "_SLOPE = 0.1", "slope of the joined activation"),
        ("-1.0 if clamp is None else float(clamp)", "-1.0", "no clamp in the joined activation"),
    ),
    *faults(
        "networks/discriminator",
        "networks/test_equalized",
        (
            "x, _HALF_POWER, weights.get(self.conv1), fusion",
            "x, 1.0, weights.get(self.conv1), fusion",
            "a branch of twice the power on a GPU",
        ),
        ("is_filtered=True, base=y", "is_filtered=True, base=-y", "a branch subtracted on a GPU"),
    ),
    *faults(
        "networks/conv_layer",
        "networks/test_equalized",
        (
            "self.act_gain * gain, self._clamp(gain), f,",
            "self.act_gain, self._clamp(gain), f,",
            "the gain of a branch on a GPU",
        ),
    ),
    *faults(
        "networks/stylegan3",
        "networks/test_equalized",
        (
            "squares.to(ema.dtype) / y.numel()",
            "squares.to(ema.dtype) / len(y)",
            "sum for mean square",
        ),
        (
            "x, square = layer.updating(x, w, force_fp32, square)",
            "square = layer.updating(x, w, force_fp32, square)[1]",
            "the input of the first layer for all",
        ),
    ),
    *faults(
        "ops/downsample_branch",
        "ops/test_upfirdn2d",
        ("return of_image + fir(", "return of_image - fir(", "the same before a second order"),
    ),
    *faults(
        "ops/filtered_lrelu",
        "ops/test_filtered_lrelu",
        ("flip_filter, float(ux * uy))", "flip_filter, float(ux))", "upsampling loses power"),
        (
            "limit = None if clamp is None else clamp / gain",
            "limit = clamp",
            "clamp before the gain",
        ),
        (
            "op.limit / op.slope if op.slope",
            "op.limit if op.slope",
            "gradient of clamped negatives",
        ),
    ),
    *faults(
        "ops/fir",
        "ops/test_upfirdn2d",
        ("math.sqrt(spec.gain)", "spec.gain", "gain on both axes"),
        ("if spec.flip == upsamples:", "if spec.flip != upsamples:", "correlation for convolution"),
        ("return taps - before - 1, size", "return taps - before, size", "gradient a sample off"),
    ),
    *faults(
        "ops/bias_act",
        "ops/test_bias_act",
        ("_SLOPE = 0.2", "_SLOPE = 0.1", "slope of the leaky ReLU"),
        ("dx = dx.mul_(gain)", "dx = dx.mul_(1)", "gradient without the gain"),
        (
            "masked_fill_(y.abs() >= clamp, 0)",
            "masked_fill_(y >= clamp, 0)",
            "gradient of clamped negatives",
        ),
    ),
    *faults(
        "ops/upfirdn2d",
        "ops/test_upfirdn2d",
        ("return f / f.sum()", "return f / f.abs().max()", "filters without sum 1"),
        (
            "own = (fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2)",
            "own = ((fw - 1) // 2, fw // 2, fh // 2, (fh - 1) // 2)",
            "filters shift by a pixel",
        ),
    ),
]

DATA = [
    *faults(
        "data/dataset",
        "data/test_sampler training/test_readers",
        (
            "window = max(round(self.num_items / 2), 1)",
            "window = max(self.num_items, 1)",
            "window of all items",
        ),
        (
            "window = max(round(self.num_items / 2), 1)",
            "window = max(round(self.num_items / 4), 1)",
            "half the window",
        ),
        (
            "other = position - distance",
            "other = position - distance // 2",
            "swaps reach half as far",
        ),
        (
            "position % self.num_processes == self.rank",
            "position // self.num_processes % self.num_processes == self.rank",
            "processes take blocks",
        ),
        ("position >= self.start and", "position > self.start and", "resume skips an image"),
        ("np.random.PCG64(self.seed)", "np.random.PCG64(0)", "one order for every seed"),
        (
            "return self.packed.num_images * (2 if self.mirror else 1)",
            "return self.packed.num_images * (1 if self.mirror else 1)",
            "mirrored images are left out",
        ),
        ("image = image[:, ::-1]", "image = image[::-1]", "mirrored upside down"),
        (
            "index >= self.packed.num_images",
            "index < self.packed.num_images",
            "the others are mirrored",
        ),
        (
            "self.packed.label(index % self.packed.num_images)",
            "self.packed.label(0)",
            "one label for all",
        ),
        ("image.transpose(2, 0, 1)", "image.transpose(2, 1, 0)", "rows and columns swapped"),
        (
            "batch // count, workers=workers",
            "batch, workers=workers",
            "every process reads a whole batch",
        ),
    ),
]

MACHINE = [
    *faults(
        "resources",
        "test_workers",
        ("return min(asked, max(", "return max(asked, max(", "more readers than CPUs"),
        ("available_cpus() // processes, 1))", "available_cpus() // processes, 0))", "no reader"),
        ("available_cpus() // processes", "available_cpus()", "CPUs that others use are counted"),
    ),
]


METRICS = [
    *faults(
        "metrics/report",
        "metrics/test_report",
        (
            "results if row.snapshot == best.snapshot}",
            "results}",
            "the summary has the last snapshot's values",
        ),
        ("sign = -1 if chosen[0].higher", "sign = 1 if chosen[0].higher", "the worst is the best"),
    ),
    *faults(
        "runs/loss_curves",
        "training/test_loss_table",
        (
            'sum(stat["num"] * stat["mean"] for stat in found)',
            'sum(count / len(found) * stat["mean"] for stat in found)',
            "the mean of means",
        ),
        ("len(ticks) / MOST_ROWS)", "len(ticks) / MOST_ROWS / 2)", "too many rows"),
        ("group[-1]['nimg'] / 1000", "group[0]['nimg'] / 1000", "curves shifted by a group"),
    ),
    *faults(
        "runs/best_snapshot",
        "metrics/test_best",
        ("return values == summary", "return True", "a summary of another evaluation passes"),
    ),
    *faults(
        "metrics/distances",
        "metrics/test_frechet metrics/test_estimates",
        (
            "np.trace(b.cov) - 2 * root_trace",
            "np.trace(b.cov) - root_trace",
            "FID: root once",
        ),
        (
            "distance = offset @ offset +",
            "distance = np.sqrt(offset @ offset) +",
            "FID: distance of means not squared",
        ),
        (
            "factor_a.T @ _factor(b.cov)",
            "factor_a.T @ factor_a",
            "FID: root of one covariance",
        ),
        (
            "self._scatter / self.count)",
            "self._scatter / max(self.count - 1, 1))",
            "covariance divided by N - 1",
        ),
        (
            "between *= self.count * count / total",
            "between *= count / total",
            "merge of covariances",
        ),
        ("self._mean += offset * (count / total)", "self._mean += offset / 2", "merge of means"),
    ),
    *faults(
        "metrics/frechet_error",
        "metrics/test_estimates",
        (
            "weight = count * part.count / whole.count",
            "weight = part.count / whole.count",
            "covariance without a block",
        ),
        (
            "against.trace - 2 * root_trace",
            "against.trace - root_trace",
            "FID's error",
        ),
        (
            "- float(offset @ offset) * weight",
            "+ float(offset @ offset) * weight",
            "FID's error: spread",
        ),
        ("divisor = sums.count - against.ddof", "divisor = sums.count", "FID's error: divisor"),
    ),
    *faults(
        "metrics/polynomial_mmd",
        "metrics/test_kernel metrics/test_estimates",
        ("kernel = base * base", "kernel = base.copy()", "KID: degree of the kernel"),
        ("base /= x.shape[1]", "base /= 1", "KID: kernel not divided by F"),
        ("base += 1", "base += 0", "KID: kernel without + 1"),
        (
            "kernel.sum(axis=1) - kernel.diagonal()",
            "kernel.sum(axis=1)",
            "KID: the diagonal counts",
        ),
        ("np.fill_diagonal(kernel, 0)", "kernel.sum()", "KID of all pairs: the diagonal counts"),
        ("within / (size * (size - 1)) - 2", "within / size**2 - 2", "KID is biased"),
        (
            "- 2 * self.across_a.mean() / size",
            "- self.across_a.mean() / size",
            "KID: cross term once",
        ),
        ("- 2 * self.across_a.mean() / size", "+ 2 * self.across_a.mean() / size", "KID: a sign"),
        (
            "of_a = random.choice(count_a, size, replace=False)",
            "of_a = random.choice(count_a, size)",
            "KID: subsets repeat items",
        ),
        (
            "return of_a, random.choice(count_b, size, replace=False)",
            "return of_a, np.arange(size)",
            "KID: always the first generated images",
        ),
        (
            "sums[columns] += kernel.T @ members[rows]",
            "sums[columns] += 0",
            "KID of all pairs: half of the kernels",
        ),
        ("kernel @ members_b[columns]", "kernel @ members_a[columns]", "KID: the other's subsets"),
        (
            "value, variance_a, variance_b = found.mean(axis=0)",
            "value, variance_a, variance_b = found[0]",
            "KID of the first subset",
        ),
        ("terms: Array = 2 * (within", "terms: Array = (within", "KID's error halved"),
        (
            "variance_b / count_b + drawing / num_subsets",
            "variance_b + drawing / num_subsets",
            "KID's error of one image",
        ),
    ),
    *faults(
        "metrics/power_spectra",
        "metrics/test_power_spectra",
        (
            "10 * np.log10(np.maximum(self.power",
            "20 * np.log10(np.maximum(self.power",
            "dB of amplitudes",
        ),
        ("- self._stats.mean)", "+ self._stats.mean)", "spectrum: sign of the mean"),
        (
            "kaiser_window(side, beta) / stats.std",
            "kaiser_window(side, beta)",
            "spectrum not normalized",
        ),
        (
            "window / math.sqrt(np.square(window).sum())",
            "window / window.sum()",
            "window sums to 1",
        ),
        (
            "spectrum.real.square() + spectrum.imag",
            "spectrum.real.square() - spectrum.imag",
            "power: a sign",
        ),
        ("np.maximum(variance, 0) / (count - 1)", "np.maximum(variance, 0)", "deviation for error"),
        (
            "np.square(a.decibels - b.decibels)",
            "np.square(a.decibels + b.decibels)",
            "spectra added",
        ),
        (
            "np.square(a.error_decibels) + np.square",
            "np.square(a.error_decibels) - np.square",
            "noise: a sign",
        ),
        ("weights[0] = 1", "weights[0] = 2", "half plane: a column twice"),
        ("weights[-1] = 1", "weights[-1] = 2", "half plane: the last column twice"),
        (
            "frequencies * math.sqrt(2), diagonal",
            "frequencies, diagonal",
            "diagonal slice: frequencies",
        ),
        ("-np.arange(size) % size", "np.arange(size)", "half plane mirrored by one axis"),
        ("squares / count - mean**2", "squares / count", "deviation without the mean"),
    ),
    *faults(
        "metrics/vendi",
        "metrics/test_vendi metrics/test_held_out",
        ("entropy = -float(", "entropy = float(", "Vendi: a sign"),
        ("score = math.exp(entropy)", "score = entropy", "Vendi: the entropy itself"),
        ("rows /= lengths", "rows /= 1.0", "Vendi: features keep their lengths"),
        ("score * (surprise - surprise.mean())", "surprise - surprise.mean()", "Vendi's error"),
        (
            "surprise[start : start + len(part)] = -part",
            "surprise[start : start + len(part)] = part",
            "Vendi: sign of the terms",
        ),
        ("-count * np.square(vectors) @", "-np.square(vectors) @", "Vendi: terms by images"),
    ),
    *faults(
        "metrics/gaussian_mmd",
        "metrics/test_cmmd",
        ("- 2 * float(across.mean())", "- float(across.mean())", "CMMD: cross term once"),
        ("- 2 * float(across.mean())", "+ 2 * float(across.mean())", "CMMD: a sign"),
        ("/ (-2 * sigma**2)", "/ (-(sigma**2))", "CMMD: half of the bandwidth"),
        ("/ (-2 * sigma**2)", "/ (2 * sigma**2)", "CMMD: the kernel grows"),
        ("torch.expm1(", "torch.exp(", "CMMD: kernels near 1 lose digits"),
        ("2 * scale * (within - across)", "scale * (within - across)", "CMMD's error halved"),
        ("2 * scale * (within - across)", "2 * scale * (within + across)", "CMMD's error"),
    ),
    *faults(
        "metrics/feature_likelihood",
        "metrics/test_feature_likelihood metrics/test_held_out",
        ("divergence = -_SCALE", "divergence = _SCALE", "FLD: a sign"),
        ("(of_test - baseline)", "of_test", "FLD: without the baseline"),
        (
            "gap = -_SCALE * (of_train - of_test)",
            "gap = -_SCALE * (of_test - of_train)",
            "FLD: sign of the gap",
        ),
        (
            "Mixture.fitted(gen, train, device)",
            "Mixture.fitted(gen, test, device)",
            "FLD: variances of the held-out images",
        ),
        (
            "width * torch.log(2 * math.pi * variances)",
            "torch.log(2 * math.pi * variances)",
            "FLD: norm of one feature",
        ),
        (
            "items - mean) / deviation for items in sets",
            "items - mean) * deviation for items in sets",
            "FLD: features not scaled",
        ),
        (
            "found < np.quantile(honest, _CLOSEST)",
            "found > np.quantile(honest, _CLOSEST)",
            "FLD: far images are memorized",
        ),
        (
            "found = self._squares / (self._shares * self._width)",
            "found = self._squares / self._shares",
            "FLD: variances of all features",
        ),
        (
            "densities -= math.log(len(self._variances))",
            "densities -= 0",
            "FLD: weights of the centers in the fit",
        ),
        (
            "math.log(len(mixture.centers) / (len(mixture.centers) - (b - a)))",
            "0.0",
            "FLD: weights without a block",
        ),
    ),
    *faults(
        "metrics/estimates",
        "metrics/test_estimates",
        (
            "values.std(ddof=1) / math.sqrt(len(values))",
            "values.std(ddof=1)",
            "deviation for standard error",
        ),
        (
            "values.std(ddof=1) / math.sqrt(len(values))",
            "values.std() / math.sqrt(len(values))",
            "biased deviation",
        ),
        ("deviations = top - ratio * bottom", "deviations = top - ratio", "error of a ratio"),
        ("squares * groups / (groups - 1)", "squares / (groups - 1)", "error of a ratio, groups"),
        ("(len(values) - 1) * values.var()", "values.var()", "jackknife without its factor"),
        ("count >= 2 * BLOCKS else 1", "count >= 1 else 1", "blocks of no images"),
    ),
    *faults(
        "metrics/estimates",
        "metrics/test_comparison_result",
        ("ERRORS_APART = 2.0", "ERRORS_APART = 1.0", "noise counts as a difference"),
        (
            'new - old if result["higher_is_better"] else old - new',
            'old - new if result["higher_is_better"] else new - old',
            "better is worse",
        ),
        (
            "math.hypot(standard_error(result) or 0,",
            "max(standard_error(result) or 0,",
            "errors do not add up",
        ),
    ),
    *faults(
        "metrics/estimates",
        "metrics/test_paired",
        (
            "difference = new.astype(np.float64) - old",
            "difference = new.astype(np.float64) + old",
            "paired: what is common counts twice",
        ),
        (
            "np.sqrt(np.square(difference).sum())), PAIRED",
            "np.square(difference).sum()), PAIRED",
            "paired: a variance for an error",
        ),
        (
            "values.mean() - values",
            "values - values.mean()",
            "jackknife terms with another sign",
            "only the same rule is paired: a common sign cancels",
        ),
        (
            "deviations * (math.sqrt(groups / (groups - 1)) / total)",
            "deviations * (-math.sqrt(groups / (groups - 1)) / total)",
            "terms of a ratio: sign",
        ),
        (
            "scale = math.sqrt(len(values) * (len(values) - 1))",
            "scale = len(values)",
            "terms of a mean: scale",
        ),
        (
            "wanted = count * ratio * ratio",
            "wanted = count * ratio",
            "images needed: the error falls with their number",
        ),
        (
            "math.ceil(wanted / step) * step",
            "math.floor(wanted / step) * step",
            "images needed: rounded down",
        ),
    ),
    *faults(
        "metrics/frechet_error",
        "metrics/test_paired",
        ("d @ offset + spread", "-d @ offset + spread", "FID's terms: sign of the mean"),
        ("spread * scale", "spread", "FID's terms: divided by N"),
        (".sum(axis=1) - mapped", ".sum(axis=1) + mapped", "FID's terms: sign of the map"),
        ("variances[seen] ** 0.25", "variances[seen] ** 0.5", "FID's terms: power of the map"),
        (
            "offset = 2 * (whole.mean - against.mean)",
            "offset = whole.mean - against.mean",
            "FID's terms: the mean once",
        ),
        ("seen = variances > bound", "seen = variances > -np.inf", "FID's terms: axes of rounding"),
    ),
    *faults(
        "metrics/polynomial_mmd",
        "metrics/test_paired",
        (
            "terms[of_b] += part.terms_b - part.terms_b.mean()",
            "terms[of_b] -= part.terms_b - part.terms_b.mean()",
            "KID's terms: sign",
        ),
        ("/ (size * num_subsets)", "/ size", "KID's terms: subsets add up"),
    ),
    *faults(
        "metrics/equivariance",
        "metrics/test_paired",
        ("mean.terms * -slope", "mean.terms * slope", "terms of equivariance: sign"),
    ),
    *faults(
        "metrics/feature_collector",
        "metrics/test_paired",
        (
            "mean_estimate(values[kept], kept)",
            "mean_estimate(values[kept])",
            "terms of path lengths at other pairs",
        ),
    ),
    *faults(
        "registry/gate",
        "registry/test_gate_rules",
        (
            "outcome.word == BETTER if wanted == BETTER else outcome.word != WORSE",
            "outcome.word == BETTER if wanted == BETTER else outcome.word == BETTER",
            "gate: not worse asks for better",
        ),
        (
            "outcome.word == BETTER if wanted == BETTER else outcome.word != WORSE",
            "outcome.word != WORSE if wanted == BETTER else outcome.word != WORSE",
            "gate: better passes within noise",
        ),
        (
            "if not failed:",
            "if len(failed) < 2:",
            "gate: one metric may fail",
        ),
    ),
    *faults(
        "metrics/features/inception",
        "metrics/test_estimates",
        (
            "divergence.sum(dim=1).mean().exp()",
            "divergence.sum(dim=1).mean()",
            "inception score without exp",
        ),
        (
            "p.mean(dim=0, keepdim=True)",
            "p.mean(dim=1, keepdim=True)",
            "inception score: mean over classes",
        ),
        (
            "torch.xlogy(p, p) - torch.xlogy(p,",
            "torch.xlogy(p, p) + torch.xlogy(p,",
            "inception score: sign",
        ),
        ("_SPLITS = 10", "_SPLITS = 5", "splits of the inception score"),
    ),
    *faults(
        "metrics/features/inception",
        "metrics/test_inception",
        (
            "self.bias.double() - self.running_mean",
            "self.bias.double() + self.running_mean",
            "folded norm: sign of the mean",
        ),
        (
            "weight = self.conv.weight.double() * scale",
            "weight = self.conv.weight.double() / scale",
            "folded norm: divided by the scale",
        ),
        ("count_include_pad=False", "count_include_pad=True", "the padding counts in averages"),
        (
            "(part.to(self._device) @ weight.T).softmax(dim=1)",
            "(part.to(self._device) @ weight.T).softmax(dim=0)",
            "probabilities over images",
        ),
        (
            "self.pool = _maximum if max_pool else _average",
            "self.pool = _average",
            "pool of the last block",
        ),
    ),
    *faults(
        "metrics/features/input_rules",
        "metrics/test_inception",
        (
            "torch.arange(size_out, device=device) * (",
            "(torch.arange(size_out, device=device) + 0.5) * (",
            "half a pixel off",
        ),
        (
            "rows[..., left], rows[..., right], fraction",
            "rows[..., left], rows[..., right], 0 * fraction",
            "resize without interpolation",
        ),
    ),
    *faults(
        "metrics/features/input_rules",
        "metrics/test_protocols",
        ("_BICUBIC = -0.5", "_BICUBIC = -0.75", "bicubic as of OpenCV"),
        ("stretch = max(scale, 1.0)", "stretch = 1.0", "clean-fid's resizing aliases"),
        ("((np.arange(size_out) + 0.5) * scale)", "(np.arange(size_out) * scale)", "half a pixel"),
        ("far = ((x - 5) * x + 8) * x * a - 4 * a", "far = 0 * x", "bilinear tails"),
        ("SIDE, SIDE).clamp(0, 255))", "SIDE, SIDE))", "clean-fid's input is not cut"),
        ("2 * functional.interpolate", "-2 * functional.interpolate", "pytorch-fid's sign"),
        ('mode="bilinear", antialias=True', 'mode="bilinear"', "torchmetrics' resizing aliases"),
    ),
    *faults(
        "metrics/distances",
        "metrics/test_protocols",
        ("self.count / (self.count - ddof)", "self.count / (self.count + ddof)", "divisor N + 1"),
        (
            "_stats(features), reference.unbiased(ddof)",
            "_stats(features), reference",
            "one divisor",
        ),
    ),
    *faults(
        "metrics/polynomial_mmd",
        "metrics/test_protocols",
        (
            "return random.choice(count_a, size, replace=False), of_b",
            "return of_b, random.choice(count_a, size, replace=False)",
            "KID: sides change places",
        ),
        ("if b_first:", "if not b_first:", "KID: order of the draws"),
    ),
    *faults(
        "metrics/image_metrics",
        "metrics/test_protocols",
        ("seed=_TORCH_FIDELITY_SEED", "seed=inputs.seed", "torch-fidelity's KID by our seed"),
        ("KINDS[metric.kind].ddof)])", "0)])", "protocols divide by N"),
    ),
    *faults(
        "metrics/neighborhoods",
        "metrics/test_precision_recall metrics/test_neighbors",
        (
            "precise = balls_around(gen, real, real_radii, device) > 0",
            "precise = balls_around(gen, real, real_radii, device) > 1",
            "precision in two balls",
        ),
        (
            "gen_radii = neighbor_radii(gen, k, device)",
            "gen_radii = neighbor_radii(gen, k, device) * 0.5",
            "recall with half the radii",
        ),
        (
            "return precision.value, recall.value",
            "return recall.value, precision.value",
            "precision and recall swapped",
        ),
        (
            "found.fill_diagonal_(torch.inf)",
            "found.fill_diagonal_(0.0)",
            "an item is its own neighbor",
        ),
        (
            "return closest.amax(dim=1).cpu()",
            "return closest.amin(dim=1).cpu()",
            "nearest for k-th nearest",
        ),
        ("counts.numpy() / k", "counts.numpy()", "density not divided by k"),
        (
            "return nearest(centers, points, device)[0] <= radii",
            "return nearest(centers, points, device)[0] >= radii",
            "coverage inverted",
        ),
        ("(found > real_radii[index])", "(found < real_radii[index])", "authenticity inverted"),
        ("found.double().numpy() / unit", "found.double().numpy()", "distance without its unit"),
        ("(times > block.long())", "(times > 0)", "recall's error is 0"),
        (
            "order = found.argsort(stable=True)",
            "order = (-found).argsort(stable=True)",
            "farthest pairs",
        ),
    ),
    *faults(
        "metrics/equivariance",
        "metrics/test_equivariance metrics/test_motions",
        ("_PEAK_TO_PEAK = 2.0", "_PEAK_TO_PEAK = 1.0", "PSNR of images in [0, 1]"),
        (
            "10 * math.log10(_PEAK_TO_PEAK**2 / mean)",
            "20 * math.log10(_PEAK_TO_PEAK**2 / mean)",
            "decibels of amplitudes",
        ),
        ("mean = max(squared_error / count,", "mean = max(squared_error,", "PSNR of a sum"),
        (
            "(min(max(by, 0), size) for by in (-shift, shift))",
            "(min(max(by, 0), size) for by in (shift, -shift))",
            "shifts the other way",
        ),
        (
            "distance = offsets - (pixels - whole)",
            "distance = offsets + (pixels - whole)",
            "Lanczos taps mirrored",
        ),
        (
            "weights: list[float] = (taps / taps.sum()).tolist()",
            "weights: list[float] = taps.tolist()",
            "Lanczos taps without sum 1",
        ),
        (
            "torch.tensor([[cos, sin], [-sin, cos]]",
            "torch.tensor([[cos, -sin], [sin, cos]]",
            "rotation the other way",
        ),
        (
            "_sampling_grid(images, torch.linalg.inv(motion), pad)",
            "_sampling_grid(images, motion, pad)",
            "rotation is not inverted",
        ),
        (
            "torch.cat([inverse.float(), 1 / dense], dim=1)",
            "torch.cat([inverse.float(), 0 / dense], dim=1)",
            "rotation half a sample off",
        ),
        ("_rotation(-angle), 1)", "_rotation(0.0), 1)", "pseudo-rotation ignores the angle"),
        ("_rotation(-angle), 1)", "_rotation(angle), 1)", "pseudo-rotation the other way"),
        (
            "_convolved(_lanczos(xi) * _lanczos(yi), _lanczos(xo) * _lanczos(yo))",
            "_convolved(_lanczos(xi) * _lanczos(yi), _lanczos(xi) * _lanczos(yi))",
            "window of one grid",
        ),
        ("_MAX_SHIFT = 1 / 8", "_MAX_SHIFT = 1 / 4", "shifts twice as far"),
        (
            "tx, ty = round(tx * width) / width, round(ty * height) / height",
            "tx, ty = 1 * tx, 1 * ty",
            "EQ-T with fractions",
        ),
        (
            "random.uniform(-math.pi, math.pi)",
            "random.uniform(0, math.pi / 8)",
            "EQ-R of small angles",
        ),
        (
            "_squared_error(filtered, ideal, ideal_mask * filtered_mask)",
            "_squared_error(filtered, ideal, ideal_mask)",
            "EQ-R: the mask of one side",
        ),
        (
            "squares = (a - b).double().square() * mask",
            "squares = (a - b).double().square()",
            "EQ counts what is out of view",
        ),
        ("slope = 10 / math.log(10)", "slope = 20 / math.log(10)", "error in decibels"),
    ),
    *faults(
        "metrics/feature_collector",
        "metrics/test_vgg metrics/test_estimates",
        ("/ _EPSILON**2", "/ _EPSILON", "PPL: step not squared"),
        (
            "torch.lerp(begin, end, _EPSILON)",
            "torch.lerp(begin, end, 2 * _EPSILON)",
            "PPL: twice the step",
        ),
        (
            "G.mapping(z_from, c), G.mapping(z_to, c)",
            "G.mapping(z_from, c), G.mapping(z_to, torch.zeros_like(c))",
            "PPL loses the label",
        ),
        (
            "np.percentile(values, 99, ",
            "np.percentile(values, 100, ",
            "PPL keeps the longest paths",
        ),
        ("np.percentile(values, 1, ", "np.percentile(values, 0, ", "PPL keeps the shortest paths"),
    ),
    *faults(
        "metrics/features/vgg",
        "metrics/test_vgg",
        ("(x - y).square() * head", "(x - y).abs() * head", "LPIPS: differences not squared"),
        (
            "x.square().sum(dim=1, keepdim=True).sqrt()",
            "x.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()",
            "LPIPS: unit images, not pixels",
        ),
    ),
    *faults(
        "metrics/features/vision_transformer",
        "metrics/test_vision_detectors",
        (
            "for part in (query, key, value)",
            "for part in (key, query, value)",
            "attention: queries and keys swapped",
        ),
        (
            "(size, size), Image.Resampling.BICUBIC)",
            "(size, size), Image.Resampling.BILINEAR)",
            "DINOv2, CLIP: bilinear input",
        ),
        (
            "(x - self._mean) / self._deviation",
            "(x - self._mean) * self._deviation",
            "DINOv2, CLIP: normalization",
        ),
        ("(height - side) // 2, (width - side) // 2", "0, 0", "CLIP: a corner, not the middle"),
    ),
    *faults(
        "metrics/features/dinov2",
        "metrics/test_vision_detectors",
        ("_OFFSET = 0.1", "_OFFSET = 0.0", "DINOv2: positions without the published offset"),
        ("_NORM_EPS = 1e-6", "_NORM_EPS = 1e-2", "DINOv2: epsilon of the norms"),
        ('mode="bicubic"', 'mode="bilinear"', "DINOv2: positions interpolated linearly"),
        ("return x * self.gamma", "return x", "DINOv2 without LayerScale"),
        ("Mlp(width, functional.gelu)", "Mlp(width, functional.relu)", "DINOv2: activation"),
        (
            "x = x + self.ls1(self.attn(self.norm1(x)))",
            "x = self.norm1(x + self.ls1(self.attn(x)))",
            "DINOv2: norm after attention",
        ),
        (
            "x + self.ls2(self.mlp(self.norm2(x)))",
            "x - self.ls2(self.mlp(self.norm2(x)))",
            "DINOv2: a flipped sign",
        ),
        ("self.norm(tokens[:, 0])", "self.norm(tokens.mean(dim=1))", "DINOv2: mean of the tokens"),
    ),
    *faults(
        "metrics/features/clip",
        "metrics/test_vision_detectors",
        ("Mlp(width, quick_gelu)", "Mlp(width, functional.gelu)", "CLIP: exact GELU"),
        ("_GELU = 1.702", "_GELU = 1.0", "CLIP: SiLU"),
        (
            "self.encoder(self.pre_layrnorm(self.embeddings(x)))",
            "self.encoder(self.embeddings(x))",
            "CLIP without the norm before the blocks",
        ),
        ("self.post_layernorm(tokens[:, 0])", "tokens[:, 0]", "CLIP without the last norm"),
        (
            "x = x + self.self_attn(self.layer_norm1(x))",
            "x = self.layer_norm1(x + self.self_attn(x))",
            "CLIP: norm after attention",
        ),
        (
            "self.q_proj(x), self.k_proj(x), self.v_proj(x)",
            "self.q_proj(x), self.v_proj(x), self.k_proj(x)",
            "CLIP: keys and values swapped",
        ),
        (
            "functional.normalize(self.visual_projection(self.vision_model(x)), dim=-1)",
            "self.visual_projection(self.vision_model(x))",
            "CLIP: embeddings of any length",
        ),
    ),
    *faults(
        "metrics/sliced_wasserstein",
        "metrics/test_sliced_wasserstein",
        (
            "return (a - b).abs().mean(dim=0)",
            "return (a - b).square().mean(dim=0)",
            "squared differences",
        ),
        (
            "a, b = a.sort(dim=0).values, b.sort(dim=0).values",
            "a, b = a.sort(dim=0).values, 1 * b",
            "unsorted projections",
        ),
        (
            "_SCALE * total / (num_levels * num_directions)",
            "_SCALE * total / num_directions",
            "sum over the levels",
        ),
        (
            "directions / directions.norm(dim=0)",
            "directions / directions.norm()",
            "directions are not unit vectors",
        ),
        ("return 4 * _filtered(spread)", "return 2 * _filtered(spread)", "pyramid loses power"),
        (
            "mean = x.mean(dim=(0, 2), keepdim=True)",
            "mean = x.mean(dim=(0, 1, 2), keepdim=True)",
            "one mean for all channels",
        ),
        ("((x - mean) / deviation", "((x - mean) * deviation", "patches are not normalized"),
        ("(len(x) / count) - 0.5", "(len(x) / count)", "quantiles half a place off"),
        (
            "detail = x if smaller is None else x - _doubled(smaller)",
            "detail = 1 * x",
            "no Laplacian pyramid",
        ),
    ),
    *faults(
        "metrics/generation",
        "metrics/test_generation",
        (
            "truncation_psi=1, noise_mode",
            "truncation_psi=0.7, noise_mode",
            "metrics of truncated images",
        ),
        (
            "training_set.label(i) for i in items",
            "training_set.label(0) for i in items",
            "one label for all images",
        ),
        (
            "torch.Generator().manual_seed(seed)",
            "torch.Generator().manual_seed(0)",
            "one set of latents for every seed",
        ),
    ),
]

PRECISION = [
    *faults(
        "precision",
        "training/test_precision",
        ('"tf32" if precision.tf32 else "ieee"', '"tf32"', "float32 layers in TF32"),
        ("_uses[-1].flags if _uses else", "_uses[0].flags if _uses else", "the outermost counts"),
        (
            "return name, name, precision",
            'return "none", name, precision',
            "products as torch likes",
        ),
    ),
    *faults(
        "device",
        "test_device",
        ("version % 10 <= minor", "version % 10 >= minor", "code for newer cards of a generation"),
        ("version <= 10 * major + minor", "version >= 10 * major + minor", "newer portable code"),
        ('code[3] == "a"', 'code[3] == "b"', "code of one architecture counts for others"),
    ),
    *faults(
        "training/assembly",
        "training/test_precision",
        (
            "Precision(config.tf32, config.cudnn_benchmark)",
            "Precision(config.tf32, False)",
            "no cuDNN benchmark",
        ),
        ('{"half_dtype": "bfloat16"} if settings.bf16', "{} if settings.bf16", "bf16 is float16"),
    ),
]

# The launches of the CUDA kernels: what decides which samples a kernel reads and writes.
CUDA = [
    *faults(
        "ops/cuda_filtered_lrelu",
        "cuda/test_launches",
        ("else clamp / gain", "else clamp * gain", "the limit after the gain, not before it"),
        (
            "op.mid_h, (op.mid_w + 3) // 4",
            "op.mid_h, op.mid_w // 4",
            "rows of flags without their last byte",
        ),
        ("plan.warps * 32, planes", "plan.warps * 16, planes", "half of the threads"),
        (
            "capability(index) >= _OLDEST_TENSOR_CORES",
            "capability(index) >= (7, 0)",
            "tensor cores of cards that cannot multiply bfloat16",
        ),
        (
            '"WRITE_FLAGS" if writes_flags else "NO_FLAGS"',
            '"NO_FLAGS" if writes_flags else "WRITE_FLAGS"',
            "flags written where none are wanted",
        ),
        ("op.flags_h = checked", "op.flags_w = checked", "height of flags"),
    ),
    *faults(
        "ops/cuda_filtered_generic",
        "cuda/test_launches",
        (
            "first * op.out_h * op.out_w * element_bytes",
            "first * op.mid_h * op.mid_w * element_bytes",
            "planes of the second step at wrong places",
        ),
        (
            "count = planes * op.mid_h * ((op.mid_w + 3) // 4)",
            "count = planes * op.mid_h * (op.mid_w // 4)",
            "the last samples of rows are left out",
        ),
        ("min(op.planes - first, some)", "min(op.planes, some)", "planes beyond the last one"),
        ("op.down_x, op.down_y, op.gain", "op.down_x, op.down_y, 1.0", "no gain"),
    ),
    *faults(
        "ops/cuda_filtered_lrelu",
        "cuda/test_sum_launches",
        ("* max(plan.warps, 1)", "* 1", "the sums of the warps of a tile in one place"),
        ("op.sums_x = -(-op.out_w", "op.sums_x = -(-op.out_h", "rows of tiles for columns"),
    ),
    *faults(
        "ops/cuda_act_filter",
        "cuda/test_sum_launches",
        ("return -(-max(sizes) // TILE)", "return max(sizes) // TILE", "no tile for the edge"),
        (
            "op.pad_x, op.pad_y = padding[0], padding[2]",
            "op.pad_x, op.pad_y = padding[1], padding[3]",
            "padding after for padding before",
        ),
        ("blocks = op.planes * tiles", "blocks = tiles", "the first plane alone"),
    ),
    *faults(
        "ops/cuda_tiles",
        "cuda/test_sources cuda/test_launches",
        ("return -(-a // b)", "return a // b", "the last tile of a row is left out"),
        (
            "_round_up(_even_share(out_w, shape.width), 4)",
            "_even_share(out_w, shape.width)",
            "a byte of flags of two tiles",
        ),
        ("n * kind.down + kind.down_taps - 1", "n * kind.down", "no halo"),
        ("kind.up if kind.up_radial else 1", "1", "phases of a radial filter share warps"),
        ("// 4096, 1)", "// 2048, 1)", "blocks of twice as many planes"),
        ("end = min(op.planes, first + most)", "end = first + most", "planes beyond the last one"),
    ),
    *faults(
        "ops/cuda_upfirdn2d",
        "cuda/test_launches",
        ("for i in (0, 2))", "for i in (0, 1))", "padding after for padding before"),
        ("(ux, 1), (dx, 1)", "(ux, uy), (dx, dy)", "both axes in the first pass"),
        ("(0, 0, *padding[2:]), flip, gain)", "(0, 0, *padding[2:]), flip, 1.0)", "no gain"),
    ),
    *faults(
        "ops/cuda_bias_act",
        "cuda/test_launches",
        ("op.inner % many == 0 and", "", "a pack with the biases of two channels"),
        ("op.count // many", "op.count", "packs beyond the end"),
    ),
    *faults(
        "ops/self_check",
        "ops/test_backend kernels/test_library",
        ("if not error <= TOLERANCES", "if error > TOLERANCES", "NaN passes the check"),
    ),
    *faults(
        "ops/cuda_structs",
        "cuda/test_stand_in_driver",
        ("tiles_x tiles_y planes", "tiles_y tiles_x planes", "tiles across and along exchanged"),
        ('"slope", "gain", "clamp"', '"gain", "slope", "clamp"', "the slope for the gain"),
        ("flags_w flags_h flags_stride", "flags_w flags_stride flags_h", "rows for bytes"),
    ),
    *faults(
        "ops/cuda_launch",
        "cuda/test_stand_in_driver",
        ("-(-count // THREADS)", "count // THREADS", "no block for the last elements"),
        (
            "parameters, access.stream(index)",
            "parameters, access.stream(0)",
            "another GPU's stream",
        ),
        ("THREADS = 256", "THREADS = 128", "half of the elements of each block"),
    ),
    *faults(
        "kernels/cuda_driver",
        "cuda/test_stand_in_driver",
        ("blocks, 1, 1, threads, 1, 1", "threads, 1, 1, blocks, 1, 1", "blocks for threads"),
        ("_SHARED_BYTES = 1, 8", "_SHARED_BYTES = 1, 9", "another attribute than shared memory"),
        (
            "static.value + dynamic_bytes > _FREELY",
            "static.value > _FREELY",
            "more than 48 KiB of shared memory are not asked for",
        ),
    ),
    *faults(
        "kernels/cuda_compile",
        "kernels/test_cuda_compile",
        ("OLDEST <= each <= wanted", "OLDEST <= each", "code for newer GPUs than the one there"),
        ("waiting += _INCLUDE", "waiting = _INCLUDE", "headers that headers include"),
    ),
]

WATCHING = [
    *faults(
        "training/diversity",
        "training/test_diversity",
        (
            "/ math.sqrt(points.shape[1])",
            "/ points.shape[1]",
            "a sum over pixels instead of a mean",
        ),
        ("img.clamp(-1, 1), LOW_PASS_SIDE", "img, LOW_PASS_SIDE", "what is not shown counts"),
        ("LOW_PASS_SIDE = 16", "LOW_PASS_SIDE = 32", "a weaker filter"),
        (
            "value / self.diversity_of_reals,",
            "self.diversity_of_reals / value,",
            "the ratio upside down",
        ),
        ("dict.fromkeys(chosen)", "chosen", "repeated reals lower the reference"),
        ("self._was_diverse and ratio <", "ratio <", "a low start is a collapse"),
        ("ratio < COLLAPSED_BELOW", "ratio > COLLAPSED_BELOW", "a collapse upside down"),
        ("self._was_diverse = False  # until", "pass  # until", "told at every tick"),
        ("if nimg == 0:", "if nimg < 0:", "the untrained network counts"),
    ),
    *faults(
        "training/diversity",
        "training/test_early_warning",
        ("enumerate(of_fakes) if c == label", "enumerate(of_fakes)", "classes are not apart"),
        ("= diversity(ours) / real", "= real / diversity(ours)", "a class upside down"),
        ("min(within.values())", "max(within.values())", "the best class for the worst"),
        ("for res in D.resolutions:", "for res in D.resolutions[:0]:", "pixels for features"),
    ),
    *faults(
        "training/early_warning",
        "training/test_early_warning",
        (
            "seen[:, None] - unseen[None, :]",
            "unseen[None, :] - seen[:, None]",
            "an overfitted D looks healthy",
        ),
        ("seen >= OVERFIT_FROM", "seen <= OVERFIT_FROM", "the overfit alarm upside down"),
        ("(nearest < COPY_BELOW)", "(nearest > COPY_BELOW)", "far images are copies"),
        ("min(1).values / self.between_reals", "min(1).values", "distances without their scale"),
        ("/ self.searched_share if", "if", "copies outside of the searched part are missed"),
        ("] = torch.inf", "] += 0", "an image is its own neighbor"),
        ("flip(3).flatten(1)", "flip(2).flatten(1)", "upside down for mirrored"),
        ("max(COLLAPSED_BELOW, 2 * worst)", "0", "an untrained network is a collapse"),
        ("or self._was_diverse_within", "or False", "a fall within classes is missed"),
        ("self._bad + 1 if is_bad else 0", "self._bad + 1", "good reports count as bad"),
        ("self._is_raised = True", "pass", "told at every tick"),
        ("whole = -(-len(chosen) // size) * size", "whole = len(chosen)", "a pass is not full"),
    ),
    *faults(
        "training/time_estimate",
        "training/test_time_estimate",
        ("self._has_run and kind <= self._warm", "self._has_run", "a first phase builds kernels"),
        ("index % n == 0)", "index % n == 1)", "the kinds of steps are shifted"),
        ("self._mean(kind) * n for", "self._mean(kind) for", "kinds without their weights"),
        ("len(kind - nearest) *", "len(kind) *", "known phases count twice"),
        ("+ self.snapshots * self", "- self.snapshots * self", "snapshots save time"),
        ("self.step_sec * 1000 / self.batch", "self.step_sec * 1000", "steps for images"),
    ),
    *faults(
        "durations",
        "test_progress",
        ("(active - self._start) / 4", "0 / 4", "a window of a minute, however long it runs"),
        ("self._paused += gap", "pass", "a pause counts"),
        ("_MAX_WINDOW_SEC = 60.0, 600.0", "_MAX_WINDOW_SEC = 60.0, 6e9", "nothing is forgotten"),
        ("per_second * 60 >= 1", "per_second >= 1", "no rate per minute"),
    ),
    *faults(
        "progress",
        "test_progress",
        ("(self._total - self._done) / rate", "self._total / rate", "time left of the whole"),
        ("(self._done - self._before) /", "self._done /", "work of an earlier start counts"),
        ("_LAST_SEC, _SHARE = 10.0, 300.0", "_LAST_SEC, _SHARE = 5.0, 300.0", "more lines"),
    ),
]


DISK = [
    *faults(
        "runs/snapshot_retention",
        "test_snapshot_retention",
        ("sign = -1 if higher", "sign = 1 if higher", "the worst snapshots count as the best"),
        ("names[-rule.count :]", "names[: rule.count]", "the oldest snapshots stay"),
        ("ranking[: rule.count]", "ranking[-rule.count :]", "the worst snapshots stay"),
        ("needed | {names[-1]", "{names[-1]", "registered snapshots are removed"),
        ("| (set(names) - set(ranking))", "", "snapshots that were never measured are removed"),
        ("{names[-1], *ranking[:1]}", "{names[-1]}", "the best snapshot is removed"),
    ),
    *faults(
        "runs/removal",
        "test_removal",
        ("== status.st_nlink", "== 1", "a link that frees nothing counts"),
        ("size += status.st_blocks * _BLOCK", "size += status.st_size", "parts of blocks"),
        ("newest < limit", "newest > limit", "young files count as old"),
        ("max((status.st_mtime", "min((status.st_mtime", "a used folder is as old as its start"),
    ),
]
PYTHON_API = [
    *faults(
        "rendering/loaded_generator",
        "rendering/test_loaded_generator",
        ("zip(seeds, conditions, strict=True)", "zip(seeds, conditions[::-1], strict=True)",
         "images with the classes of others"),
    ),
    *faults(
        "rendering/latent_drawing",
        "rendering/test_loaded_generator",
        ("options_of(psi, truncation_cutoff=", "options_of(1, truncation_cutoff=",
         "w without truncation"),
    ),
    *faults(
        "rendering/call_arguments",
        "rendering/test_loaded_generator",
        ("noise_mode, (x, y), angle", "noise_mode, (y, x), angle", "shifts along the other axis"),
        ("noise_mode, (x, y), angle", "noise_mode, (x, y), -angle", "turns the other way"),
    ),
    *faults(
        "checkpoints/bundled_network",
        "checkpoints/test_bundled_network",
        ("half = tensor.half()", "half = tensor.bfloat16()", "weights of fewer bits"),
    ),
    *faults(
        "metrics/names",
        "metrics/test_computed",
        ('f"{num_images}_{found[1]}"', 'f"{found[1]}_{num_images}"', "neighbor and count swapped"),
    ),
    *faults(
        "metrics/computed",
        "metrics/test_computed",
        ("compare_sets(a, b, [metric]", "compare_sets(b, a, [metric]", "the two sets swapped"),
    ),
]  # fmt: skip

DIRECTIONS = [
    *faults(
        "latent/directions",
        "latent/test_directions",
        ("weights.T @ weights", "weights @ weights.T", "the Gram matrix of the rows"),
        ("columns.T[::-1][:num]", "columns.T[:num]", "the weakest directions"),
        ("columns.T[::-1][:num]", "columns[::-1][:num]", "rows for eigenvectors"),
        ("vectors * signs[:, None]", "vectors", "the sign of LAPACK"),
        ("vectors * signs[:, None]", "-vectors * signs[:, None]", "the opposite sign"),
        (".numpy() * each.weight_gain", ".numpy()", "weights without the equalized gain"),
        ("products / count - np.outer", "products / count + np.outer", "the mean is added"),
        ("np.sqrt(variances.clip(min=0))", "variances.clip(min=0)", "steps of the variance"),
        ("readers[start + i]", "readers[start]", "StyleGAN2: layers share all affine transforms"),
        ("for layer in layers for affine in readers[layer]",
         "for layer in layers for affine in readers[layer][:1]", "StyleGAN2 without ToRGB"),
        ("table[numbers % len(table)]", "table[numbers * 0]", "one class instead of all in turn"),
    ),
    *faults(
        "rendering/edits",
        "rendering/test_edits",
        ("ws + ws.new_tensor(edit)", "ws - ws.new_tensor(edit)", "an edit the other way"),
        ("return ws + edit", "return ws - edit", "an edit of arrays the other way"),
        ("= _strength(name, strength)", "= abs(_strength(name, strength))", "no negative edits"),
    ),
    *faults(
        "serving/pyfunc_model",
        "serving/test_request_edits",
        ("edited(_vector_ws(G, request), request.options.edit)", "_vector_ws(G, request)",
         "no edits of z and w"),
    ),
]  # fmt: skip

LATENT_RENDERS = [
    *faults(
        "rendering/mixing",
        "rendering/test_mixing",
        ("mixed[:, :, chosen] = columns[None, :, chosen]",
         "mixed[:, :, chosen] = columns[None, ::-1, chosen]", "styles of another column"),
        ("range(first, last + 1)", "range(first, last)", "a range without its end"),
        ("np.repeat(rows[:, None], len(columns), axis=1)",
         "np.repeat(columns[None], len(rows), axis=0)", "the base of the columns"),
    ),
    *faults(
        "rendering/images",
        "rendering/test_own_w",
        ("truncation_psi=options.psi, truncation_cutoff=cutoff",
         "truncation_psi=options.psi, truncation_cutoff=None", "psi applies to all layers"),
    ),
    *faults(
        "rendering/mix_outputs",
        "rendering/test_mix_outputs",
        ("mix_styles(row[None], columns.ws, layers)", "mix_styles(columns.ws, row[None], layers)",
         "rows and columns swapped"),
        ("rows.seeds[i])", "i)", "noise of the number, not of the seed"),
    ),
    *faults(
        "rendering/paths",
        "rendering/test_paths",
        ("self.spline(keyframe + rest / self.steps)", "self.spline(keyframe - rest / self.steps)",
         "backwards from each keyframe"),
        ("len(values) if is_closed else len(values) - 1", "len(values) - 1",
         "a closed path that jumps at its end"),
        ("if is_closed else max(frames - 1, 1)", "if is_closed else max(frames, 1)",
         "the last keyframe is not reached"),
        ('bc_type="natural"', 'bc_type="clamped"', "the path halts at its ends"),
        ("if rest == 0:", "if False:", "keyframes rounded by the spline"),
        ("value * scale.get(name, 1)", "value + scale.get(name, 1)", "curves add to strengths"),
        ("psi = options.psi if keyframe.psi is None else keyframe.psi", "psi = options.psi",
         "psi of keyframes has no effect"),
        ("translate=(x, y), rotate=angle, edit=None", "translate=(y, x), rotate=angle, edit=None",
         "the other axis"),
        ("translate=(x, y), rotate=angle, edit=None", "translate=(x, y), rotate=-angle, edit=None",
         "the other way"),
        ("((k.x, k.y, k.angle) for k in keyframes)", "((k.y, k.x, k.angle) for k in keyframes)",
         "x and y of keyframes swapped"),
        ("ws[index or 0]", "ws[0]", "the first w of a file, whatever its index"),
        ("moved, seed=i)", "moved, seed=0)", "equal noise in all frames"),
        ("own if own is not None else default", "own or default", "a 0 of a keyframe is none"),
        ("values[i] for name, values in (factors", "values[0] for name, values in (factors",
         "a curve that stands still"),
    ),
    *faults(
        "rendering/path_outputs",
        "rendering/test_paths",
        ("+ (not self.is_closed)", "", "an open path ends before its last keyframe"),
        ("seconds * self.fps", "seconds / self.fps", "frames of a curve"),
    ),
    *faults(
        "rendering/envelopes",
        "rendering/test_envelopes",
        ("** 2).mean(axis=1)", "** 2).max(axis=1)", "the peak, not the mean square"),
        ("np.sqrt(np.convolve(energies, kernel)", "(np.convolve(energies, kernel)",
         "energy for loudness"),
        ("after=0.0)", "after=1.0)", "full strength after the sound"),
        ("_WINDOW_HOPS // 2, _WINDOW_HOPS // 2 + count", "0, count", "a window of the past"),
        ("energies)) + 0.5)", "energies)))", "half a part too early"),
        ("np.asarray(loudness / greatest if", "np.asarray(loudness if", "not divided by the peak"),
    ),
]  # fmt: skip


EXPORT = [
    *faults(
        "export/plain_filters",
        "export/test_plain_generator",
        ("head, tail = taps - 1 - before", "head, tail = taps - before", "upsampled, one too far"),
        ("else kernel.flip((0, 1))", "else kernel", "a filter that correlates"),
        ("up, 1, padding, up * up)", "up, 1, padding, up)", "upsampled with half its gain"),
        ("taps = f * math.sqrt(gain)", "taps = f * gain", "the gain once per axis"),
        ("else clamp / gain", "else clamp * gain", "the clamp after the gain"),
    ),
    *faults(
        "export/plain_layers",
        "export/test_plain_generator",
        ("* (layer.weight_gain * gain)", "* layer.weight_gain", "styles of ToRGB without gain"),
        ("F.leaky_relu(x, 0.2) * math.sqrt(2)", "F.leaky_relu(x, 0.2)", "mapping without gain"),
        ("energy = styles.square() @", "energy = styles @", "demodulated by a sum"),
        ("x = x * (styles * self.input_gain)", "x = x * (styles)", "no gain of the input"),
        ("self.w_avg + (w - self.w_avg)", "self.w_avg - (w - self.w_avg)", "truncation mirrored"),
        ("norms if self.transposed else norms.t()", "norms", "norms of the other channels"),
    ),
    *faults(
        "export/plain_stylegan3",
        "export/test_plain_generator",
        ("-s * x - c * y]", "-s * x + c * y]", "the shift of w mirrored"),
        ("(1 - (radii - self", "(1 + (radii - self", "high frequencies are amplified"),
        ("self.phases + (self.freqs", "self.phases - (self.freqs", "shifted the other way"),
        ("source.magnitude_ema.rsqrt()", "source.magnitude_ema.sqrt()", "magnitude inverted"),
        ("0.5 * source.size / source.sampling_rate", "0.5 * source.size", "a grid of samples"),
        ("gain=1 if plan.is_torgb else math.sqrt(2)", "gain=math.sqrt(2)", "gain of ToRGB"),
        ("x * self.output_scale", "x / self.output_scale", "the output scale inverted"),
        (
            "source.sampling_rate / 2 - source.bandwidth",
            "source.sampling_rate / 2 + source.bandwidth",
            "what is beyond the bandwidth stays",
        ),
        ("s * y - c * x", "s * y + c * x", "the shift along x mirrored"),
    ),
    *faults(
        "export/plain_stylegan2",
        "export/test_plain_generator",
        (
            "((taps + 1) // 2 - 1, (taps - 2) // 2)",
            "((taps - 2) // 2, (taps + 1) // 2 - 1)",
            "upsampled half a sample to the side",
        ),
        (
            "((taps + 1) // 2, (taps - 2) // 2)",
            "((taps - 2) // 2, (taps + 1) // 2)",
            "the image upsampled to the side",
        ),
        ("source.noise_const * source", "source.noise_const + source", "noise of any strength"),
        ("img = larger + ", "img = larger - ", "the smaller image subtracted"),
        ("1 / math.sqrt(source.weight", "1 / (source.weight", "styles of ToRGB too small"),
    ),
]

PROJECTION = [
    *faults(
        "latent/w_space",
        "latent/test_w_space",
        ("away = samples - mean", "away = samples + mean", "spread around minus the mean"),
        ("self.mean + u @ self.basis.T", "self.mean + u @ self.basis", "directions transposed"),
        ("c[places % len(c)]", "c[places * 0]", "statistics of the first class only"),
        ("variances.clamp_min(0).sqrt()", "variances.clamp_min(0)", "variances for deviations"),
        ("_LEAST_STD * stds.max()", "_LEAST_STD * stds.min()", "directions of length 0"),
    ),
    *faults(
        "latent/refinement",
        "latent/test_refinement",
        ("float(loss) < self._least", "float(loss) > self._least", "the worst is kept"),
        ("loss.detach() * factor, gradient * factor", "loss.detach(), gradient",
         "L-BFGS takes a small loss for a flat one"),
        ("max_eval=_LINE_SEARCH", "max_eval=1", "a line search of one evaluation"),
    ),
    *faults(
        "latent/projection",
        "latent/test_projection",
        ("(1 - t) / _RAMP_DOWN", "t / _RAMP_DOWN", "the learning rate never falls"),
        ("0.5 - 0.5 * math.cos", "0.5 + 0.5 * math.cos", "the cosine upside down"),
        ("min(1.0, t / _RAMP_UP)", "min(1.0, t * _RAMP_UP)", "the learning rate hardly grows"),
        ("1 - t / _NOISE_PART) ** 2", "1 - t / _NOISE_PART)", "the noise fades linearly"),
        ("1 - t / _NOISE_PART", "1 + t / _NOISE_PART", "the noise grows"),
        ("= lr * learning_rate_factor(t)", "= lr", "a learning rate that never changes"),
        ("t = (step + 0.5) / count", "t = step / count", "the first step without a learning rate"),
        (
            'self._synthesis(ws, noise_mode="const"',
            'self._synthesis(ws, noise_mode="none"',
            "optimized without noise maps",
        ),
        ("self._space.at(self.u + noise)", "self._space.at(self.u - noise)",
         "the noise of other seeds"),
        ("loss + self._noise_reg *", "loss - self._noise_reg *", "pictures are rewarded"),
    ),
    *faults(
        "latent/noise_maps",
        "latent/test_projection",
        ("noise.roll(1, dim)", "noise.roll(2, dim)", "autocorrelation at two pixels"),
        (".mean().square()", ".mean().abs()", "its absolute value"),
        ("[0, 0] * 2", "[0, 0]", "coarse levels of a smaller variance"),
        ("for dim in (0, 1):", "for dim in (0, 0):", "only one axis"),
        ("noise -= noise.mean()", "noise += noise.mean()", "twice the mean"),
        (".mean().rsqrt()", ".mean().sqrt()", "the variance squared"),
    ),
    *faults(
        "latent/image_distances",
        "latent/test_projection",
        (">= 2 * _COARSEST", "> 2 * _COARSEST", "without the coarsest level"),
        ("(x - y).square().mean() for", "(x + y).square().mean() for", "distance to the negative"),
        ("peak * peak / error", "peak / error", "the peak is not squared"),
        ("10 * math.log10", "20 * math.log10", "decibels of an amplitude"),
        (".clamp(-1, 1) - b.float()", " - b.float()", "values beyond white count"),
        ("torch.stack(errors).mean()", "torch.stack(errors).sum()", "a sum over the pyramid"),
    ),
    *faults(
        "latent/image_distances",
        "latent/test_perceptual_distances",
        ("img.shape[-1] // _LARGEST", "2", "images of 1024 pixels averaged to 512"),
    ),
    *faults(
        "latent/pivotal_tuning",
        "latent/test_pivotal_tuning",
        ("loss + settings.locality *", "loss - settings.locality *", "change is rewarded"),
        ("+ (img - target).square()", "- (img - target).square()", "error is rewarded"),
        ("away = other - pivot", "away = pivot - other", "away from the other w"),
        ("radius / length.", "radius * length.", "farther where it should be nearer"),
        (".clamp_max(1)", ".clamp_min(1)", "always beyond the other w"),
        ("= pivot + away", "= pivot - away", "away from the other w by its distance"),
        ("dim=-1, keepdim", "dim=(1, 2), keepdim", "a radius over all layers"),
        ("before = G.synthesis(near", "before = synthesis(near", "nothing has changed, ever"),
    ),
    *faults(
        "latent/targets",
        "latent/test_targets",
        ("/ 127.5 - 1", "/ 128 - 1", "no whole number comes back"),
        (".permute(2, 0, 1)", ".permute(2, 1, 0)", "mirrored at the diagonal"),
        ("while name.lower() in taken", "while name in taken", "one folder on some disks"),
    ),
]  # fmt: skip


EXPLORER = [
    *faults(
        "explorer/picture_renderer",
        "explorer/test_pictures_of_a_page",
        ("edited(torch.from_numpy(w), self._edit(picture))", "torch.from_numpy(w)", "edits lost"),
        ("self._seed_w(picture.mix.seed, picture)", "w", "mixed with itself"),
        ("0 < side < image.shape[0]", "0 < side", "small images are enlarged"),
        ("w_picture(self.w(picture)[0], picture.options)", "w_picture(self.w(picture)[0], "
         "replace(picture.options, rotate=0.0))", "mixed pictures are not turned"),
    ),
    *faults(
        "explorer/films",
        "explorer/test_jobs_of_a_page",
        ("film.frames * len(film.pictures)", "film.frames * (len(film.pictures) - 1)", "no loop"),
        ("is_closed=True", "is_closed=False", "an open path"),
    ),
    *faults(
        "explorer/access",
        "explorer/test_access",
        ("name not in self.names", "name in self.names", "other names only"),
        ('site in ("same-origin", "none")', "True", "any site may call"),
        ('self._is_own(origin, headers.get("host", ""))', "True", "any origin may call"),
    ),
    *faults(
        "explorer/drawing_thread",
        "explorer/test_drawing_thread",
        ("self._waiting[s].rank,", "-self._waiting[s].rank,", "the wall goes first"),
    ),
]  # fmt: skip


FAULTS = [
    *LOSSES,
    *COMBINATIONS,
    *PROJECTION,
    *STEP,
    *GRADIENTS,
    *CONV_FORMS,
    *MODULATION_FORMS,
    *GRAPHS,
    *ASSEMBLY,
    *AUGMENTATION,
    *NETWORKS,
    *DATA,
    *MACHINE,
    *METRICS,
    *PRECISION,
    *CUDA,
    *WATCHING,
    *DISK,
    *PYTHON_API,
    *EXPORT,
    *DIRECTIONS,
    *LATENT_RENDERS,
    *EXPLORER,
]
