"""Assembly of a training: from settings to networks, optimizers and losses."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sg3flow.config import AUTO, TrainConfig
from sg3flow.errors import ConfigError
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.augment import AUGMENT_PRESETS, AugmentPipe
from sg3flow.networks.layers import use_bfloat16
from sg3flow.training.losses import Collector, GanLoss, LossSettings

D_REG_INTERVAL = 16
G_REG_INTERVAL = 4  # StyleGAN2 only
ADA_INTERVAL = 4
EMA_RAMPUP = 0.05


@dataclass(frozen=True)
class Phase:
    """One backward pass and optimizer step, every ``interval`` batches."""

    name: str
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    interval: int


@dataclass
class Parts:
    """Everything a training step works on."""

    G: Any
    D: Any
    G_ema: Any
    augment_pipe: AugmentPipe | None
    loss: GanLoss
    phases: list[Phase]
    collector: Collector
    device: torch.device
    ema_half_life_nimg: float
    ema_rampup: float | None
    ada_target: float | None  # None: p stays as it is
    ada_nimg: float
    ada_moments: torch.Tensor = field(default_factory=lambda: torch.zeros(2))  # [count, sum]

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The two optimizers by the network they move; main and reg phases share one."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}


def resolve(config: TrainConfig) -> TrainConfig:
    """Settings with every "0 means the default" replaced by the default.

    Raises:
        ConfigError: settings that do not go together.
    """
    is_stylegan2 = config.cfg == "stylegan2"
    resolved = replace(
        config,
        batch_gpu=config.batch_gpu or config.batch // config.gpus,
        glr=config.glr or (0.002 if is_stylegan2 else 0.0025),
        map_depth=config.map_depth or (8 if is_stylegan2 else 2),
    )
    if config.fp32 and config.bf16:
        raise ConfigError("train.fp32 and train.bf16 exclude each other; choose one")
    if config.batch_gpu == AUTO:
        _check_batch(replace(resolved, batch_gpu=config.mbstd_group))  # the least it can become
    else:
        _check_batch(resolved)
    return resolved


def _check_batch(resolved: TrainConfig) -> None:
    if resolved.batch_gpu < 1 or resolved.batch % (resolved.gpus * resolved.batch_gpu) != 0:
        raise ConfigError(
            f"train.batch ({resolved.batch}) must be a multiple of gpus * batch_gpu "
            f"({resolved.gpus} * {resolved.batch_gpu}); change one of them"
        )
    if resolved.batch_gpu % resolved.mbstd_group != 0:
        raise ConfigError(
            f"train.batch_gpu ({resolved.batch_gpu}) must be a multiple of mbstd_group "
            f"({resolved.mbstd_group}); change one of them"
        )


def generator_kwargs(
    config: TrainConfig, *, resolution: int, channels: int, c_dim: int
) -> dict[str, Any]:
    """Constructor arguments of the generator for resolved settings."""
    kwargs: dict[str, Any] = {
        "z_dim": 512,
        "c_dim": c_dim,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": channels,
        "mapping_kwargs": {"num_layers": config.map_depth},
        "channel_base": config.cbase,
        "channel_max": config.cmax,
    }
    if config.cfg != "stylegan2":
        kwargs["magnitude_ema_beta"] = 0.5 ** (config.batch / 20e3)
    if config.cfg == "stylegan3-r":
        # 1x1 convolutions and radial filters make it rotation equivariant; twice the channels
        # make up for the smaller kernels (Karras et al. 2021, Sec. 4).
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
        kwargs |= {"channel_base": config.cbase * 2, "channel_max": config.cmax * 2}
    if config.fp32:
        kwargs |= {"num_fp16_res": 0, "conv_clamp": None}
    return kwargs


def discriminator_kwargs(
    config: TrainConfig, *, resolution: int, channels: int, c_dim: int
) -> dict[str, Any]:
    """Constructor arguments of the discriminator for resolved settings."""
    kwargs: dict[str, Any] = {
        "c_dim": c_dim,
        "img_resolution": resolution,
        "img_channels": channels,
        "channel_base": config.cbase,
        "channel_max": config.cmax,
        "block_kwargs": {"freeze_layers": config.freezed},
        "mapping_kwargs": {},
        "epilogue_kwargs": {"mbstd_group_size": config.mbstd_group},
    }
    if config.fp32:
        kwargs |= {"num_fp16_res": 0, "conv_clamp": None}
    return kwargs


def loss_settings(config: TrainConfig) -> LossSettings:
    """Weights of the loss terms for resolved settings."""
    if config.cfg == "stylegan2":
        return LossSettings(config.gamma, pl_weight=2.0, style_mixing_prob=0.9)
    if config.cfg == "stylegan3-r" and not config.resume:
        return LossSettings(
            config.gamma, blur_init_sigma=10.0, blur_fade_nimg=config.batch * 200e3 / 32
        )
    return LossSettings(config.gamma)


def build(
    config: TrainConfig,
    *,
    resolution: int,
    channels: int,
    c_dim: int,
    device: torch.device,
    architecture: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> Parts:
    """Networks, optimizers and losses at the start of a training.

    Initial weights follow from ``config.seed`` alone.

    Args:
        architecture: constructor arguments of G and D; None: as the settings say.
    """
    sizes = {"resolution": resolution, "channels": channels, "c_dim": c_dim}
    G_kwargs, D_kwargs = architecture or (
        generator_kwargs(config, **sizes),
        discriminator_kwargs(config, **sizes),
    )
    torch.manual_seed(config.seed)
    generator_type = StyleGAN2Generator if config.cfg == "stylegan2" else StyleGAN3Generator
    G = generator_type(**G_kwargs).train().requires_grad_(False).to(device)
    D = Discriminator(**D_kwargs).train().requires_grad_(False)
    D = D.to(device)
    if config.bf16:
        use_bfloat16(G)
        use_bfloat16(D)
    G_ema = copy.deepcopy(G).eval()
    augment_pipe = build_augment(config, device)
    collector = Collector(device)
    loss = GanLoss(G, D, augment_pipe, loss_settings(config), collector, device)
    transfer = bool(config.resume)
    return Parts(
        G=G,
        D=D,
        G_ema=G_ema,
        augment_pipe=augment_pipe,
        loss=loss,
        phases=build_phases(config, G, D, loss.settings),
        collector=collector,
        device=device,
        ema_half_life_nimg=config.batch * 10e3 / 32,
        ema_rampup=None if transfer else EMA_RAMPUP,
        ada_target=config.target if config.aug == "ada" else None,
        ada_nimg=100e3 if transfer else 500e3,
        ada_moments=torch.zeros(2, device=device),
    )


def build_augment(config: TrainConfig, device: torch.device) -> AugmentPipe | None:
    """The augmentation pipe with its probability set, or None without augmentation."""
    if config.aug == "noaug":
        return None
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"]).train().requires_grad_(False).to(device)
    pipe.p.copy_(torch.as_tensor(config.p if config.aug == "fixed" else 0.0))
    return pipe


def build_phases(config: TrainConfig, G: Any, D: Any, settings: LossSettings) -> list[Phase]:
    """The phases of a step in their order: G main, G reg, D main, D reg."""
    g_interval = G_REG_INTERVAL if settings.pl_weight > 0 else None
    g_optimizer = lazy_adam(G, config.glr, g_interval, config.optimizer)
    d_optimizer = lazy_adam(D, config.dlr, D_REG_INTERVAL, config.optimizer)
    phases = [Phase("Gmain", G, g_optimizer, 1)]
    if g_interval is not None:
        phases.append(Phase("Greg", G, g_optimizer, g_interval))
    phases.append(Phase("Dmain", D, d_optimizer, 1))
    phases.append(Phase("Dreg", D, d_optimizer, D_REG_INTERVAL))
    return phases


def lazy_adam(
    module: torch.nn.Module, lr: float, interval: int | None, form: str = "fused"
) -> torch.optim.Adam:
    """Adam, corrected for a regularizer that adds a step every ``interval`` steps.

    (Karras et al. 2020, "Analyzing and Improving", appendix B.)

    Args:
        form: how weights are updated, see ``TrainConfig.optimizer``. Milliseconds of fused, foreach
            and plain on one AVX-512 core: 0.9 million weights 2.2, 6.1, 6.5; 3.2 million 3.5, 17.7,
            11.5; 28.5 million 21, 112, 68.
    """
    beta1, beta2, ratio = 0.0, 0.99, 1.0
    if interval is not None:
        ratio = interval / (interval + 1)
    betas = (beta1**ratio, beta2**ratio)
    return torch.optim.Adam(
        module.parameters(),
        lr=lr * ratio,
        betas=betas,
        eps=1e-8,
        fused=form == "fused",
        foreach=form == "foreach",
    )
