"""Assembly of a training: from settings to networks, optimizers and losses.

``resolve`` and ``build`` take the whole ``TrainConfig``. What they call takes only the settings
that it needs.
"""

import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from sg3flow.config import AUTO, TrainConfig
from sg3flow.errors import ConfigError
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.augment import AUGMENT_PRESETS, AugmentPipe
from sg3flow.precision import Precision
from sg3flow.training.adam import Adam
from sg3flow.training.cuda_graphs import CudaRecorder, EagerSections, GraphSections
from sg3flow.training.gradient_average import GradientAverage
from sg3flow.training.losses import Collector, GanLoss, LossSettings
from sg3flow.training.relativistic_loss import RelativisticLoss

T = TypeVar("T")

D_REG_INTERVAL = 16
G_REG_INTERVAL = 4  # StyleGAN2 only
ADA_INTERVAL = 4
EMA_RAMPUP = 0.05
LOSSES = {"logistic": GanLoss, "relativistic": RelativisticLoss}


@dataclass(frozen=True)
class NetworkSettings:
    """The settings of ``TrainConfig`` that decide the constructor arguments of G and D."""

    cfg: str
    batch: int
    cbase: int
    cmax: int
    map_depth: int
    freezed: int
    mbstd_group: int
    fp32: bool
    bf16: bool


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of ``TrainConfig`` that decide how weights are updated."""

    glr: float
    dlr: float
    optimizer: str


@dataclass(frozen=True)
class Phase:
    """The gradients of one loss and one optimizer update, run every ``interval`` batches."""

    name: str
    module: torch.nn.Module
    optimizer: Adam
    interval: int
    gradients: GradientAverage


@dataclass
class Parts:
    """Everything a training step works on.

    Attributes:
        shares_labels: the generated images of a step have the labels of its real ones; otherwise
            those of random images of the set.
        ema_half_life_nimg, ema_rampup: see ``step.ema_beta``.
        ada_target: D's mean sign on real images that ADA aims at; None: p stays constant.
        ada_nimg: images in which ADA can move p from 0 to 1.
        ada_moments: count and sum of the signs since the last adjustment of p, [2].
    """

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
    ada_target: float | None
    ada_nimg: float
    shares_labels: bool = False
    ada_moments: torch.Tensor = field(default_factory=lambda: torch.zeros(2))

    @property
    def optimizers(self) -> dict[str, Adam]:
        """The optimizers of G and D by network; the main and reg phases share one."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}


def default_glr(cfg: str) -> float:
    """The G learning rate of an architecture preset."""
    return 0.002 if cfg == "stylegan2" else 0.0025


def default_map_depth(cfg: str) -> int:
    """The number of mapping layers of an architecture preset."""
    return 8 if cfg == "stylegan2" else 2


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace every setting that is 0 for "the default" by that default.

    Raises:
        ConfigError: settings contradict each other.
    """
    resolved = replace(
        config,
        batch_gpu=config.batch_gpu or config.batch // config.gpus,
        glr=config.glr or default_glr(config.cfg),
        map_depth=config.map_depth or default_map_depth(config.cfg),
    )
    if config.fp32 and config.bf16:
        raise ConfigError("train.fp32 and train.bf16 exclude each other; choose one")
    if config.fp32 and config.tf32:
        raise ConfigError("train.fp32 is exact float32 and excludes train.tf32; choose one")
    if config.batch_gpu == AUTO:
        smallest = config.mbstd_group
        _check_batch(config.batch, config.gpus, smallest, config.mbstd_group)
    else:
        _check_batch(config.batch, config.gpus, resolved.batch_gpu, config.mbstd_group)
    return resolved


def _check_batch(batch: int, gpus: int, batch_gpu: int, mbstd_group: int) -> None:
    if batch_gpu < 1 or batch % (gpus * batch_gpu) != 0:
        raise ConfigError(
            f"train.batch ({batch}) must be a multiple of gpus * batch_gpu "
            f"({gpus} * {batch_gpu}); change one of them"
        )
    if batch_gpu % mbstd_group != 0:
        raise ConfigError(
            f"train.batch_gpu ({batch_gpu}) must be a multiple of mbstd_group ({mbstd_group}); "
            "change one of them"
        )


def precision_of(config: TrainConfig) -> Precision:
    """How the float32 layers of a training are computed."""
    return Precision(config.tf32, config.cudnn_benchmark)


def select(kind: type[T], config: TrainConfig) -> T:
    """The part of the resolved settings that the dataclass ``kind`` has fields for."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(config, name) for name in names})


def generator_kwargs(
    settings: NetworkSettings, *, resolution: int, channels: int, c_dim: int
) -> dict[str, Any]:
    """Constructor arguments of the generator."""
    kwargs: dict[str, Any] = {
        "z_dim": 512,
        "c_dim": c_dim,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": channels,
        "mapping_kwargs": {"num_layers": settings.map_depth},
        "channel_base": settings.cbase,
        "channel_max": settings.cmax,
    }
    if settings.cfg != "stylegan2":
        kwargs["magnitude_ema_beta"] = 0.5 ** (settings.batch / 20e3)
    if settings.cfg == "stylegan3-r":
        # 1x1 convolutions and radial filters make it rotation equivariant; twice the channels
        # make up for the smaller kernels (Karras et al. 2021, Sec. 4).
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
        kwargs |= {"channel_base": settings.cbase * 2, "channel_max": settings.cmax * 2}
    return kwargs | _precision_kwargs(settings)


def _precision_kwargs(settings: NetworkSettings) -> dict[str, Any]:
    if settings.fp32:
        return {"num_fp16_res": 0, "conv_clamp": None}
    return {"half_dtype": "bfloat16"} if settings.bf16 else {}


def discriminator_kwargs(
    settings: NetworkSettings, *, resolution: int, channels: int, c_dim: int
) -> dict[str, Any]:
    """Constructor arguments of the discriminator."""
    kwargs: dict[str, Any] = {
        "c_dim": c_dim,
        "img_resolution": resolution,
        "img_channels": channels,
        "channel_base": settings.cbase,
        "channel_max": settings.cmax,
        "block_kwargs": {"freeze_layers": settings.freezed},
        "mapping_kwargs": {},
        "epilogue_kwargs": {"mbstd_group_size": settings.mbstd_group},
    }
    return kwargs | _precision_kwargs(settings)


def loss_settings(cfg: str, gamma: float, batch: int, *, from_scratch: bool) -> LossSettings:
    """Weights of the loss terms of an architecture preset.

    Args:
        from_scratch: whether the networks start with random weights.
    """
    if cfg == "stylegan2":
        return LossSettings(gamma, pl_weight=2.0, style_mixing_prob=0.9)
    if cfg == "stylegan3-r" and from_scratch:
        return LossSettings(gamma, blur_init_sigma=10.0, blur_fade_nimg=batch * 200e3 / 32)
    return LossSettings(gamma)


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

    Initial weights depend on ``config.seed`` only.

    Args:
        config: resolved settings.
        architecture: constructor arguments of G and D; None: those of the settings.
    """
    sizes = {"resolution": resolution, "channels": channels, "c_dim": c_dim}
    G_kwargs, D_kwargs = architecture or (
        generator_kwargs(select(NetworkSettings, config), **sizes),
        discriminator_kwargs(select(NetworkSettings, config), **sizes),
    )
    torch.manual_seed(config.seed)
    generator_type = StyleGAN2Generator if config.cfg == "stylegan2" else StyleGAN3Generator
    G = generator_type(**G_kwargs).train().requires_grad_(False).to(device)
    D = Discriminator(**D_kwargs).train().requires_grad_(False)
    D = D.to(device)
    G_ema = copy.deepcopy(G).eval()
    augment_pipe = build_augment(config.aug, config.p, device)
    collector = Collector(device)
    transfer = bool(config.resume)
    weights = loss_settings(config.cfg, config.gamma, config.batch, from_scratch=not transfer)
    sections = GraphSections(CudaRecorder()) if config.cuda_graphs else EagerSections()
    loss_type = LOSSES[config.loss]
    loss = loss_type(G, D, augment_pipe, weights, collector, device, sections)
    has_path_length = weights.pl_weight > 0
    return Parts(
        G=G,
        D=D,
        G_ema=G_ema,
        augment_pipe=augment_pipe,
        loss=loss,
        phases=build_phases(G, D, select(OptimizerSettings, config), has_path_length),
        collector=collector,
        device=device,
        shares_labels=config.class_batches or config.loss == "relativistic",
        ema_half_life_nimg=config.batch * 10e3 / 32,
        ema_rampup=None if transfer else EMA_RAMPUP,
        ada_target=config.target if config.aug == "ada" else None,
        ada_nimg=100e3 if transfer else 500e3,
        ada_moments=torch.zeros(2, device=device),
    )


def build_augment(aug: str, p: float, device: torch.device) -> AugmentPipe | None:
    """The augmentation pipe with its initial probability, or None without augmentation.

    Args:
        aug: ``noaug``, ``ada`` or ``fixed``.
        p: the probability with ``fixed``.
    """
    if aug == "noaug":
        return None
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"]).train().requires_grad_(False).to(device)
    pipe.p.copy_(torch.as_tensor(p if aug == "fixed" else 0.0))
    return pipe


def build_phases(G: Any, D: Any, settings: OptimizerSettings, has_path_length: bool) -> list[Phase]:
    """The phases of a step in their order: G main, G reg (path length), D main, D reg."""
    g_interval = G_REG_INTERVAL if has_path_length else None
    g_optimizer = lazy_adam(G, settings.glr, g_interval, settings.optimizer)
    d_optimizer = lazy_adam(D, settings.dlr, D_REG_INTERVAL, settings.optimizer)

    def phase(name: str, module: Any, optimizer: Adam, interval: int) -> Phase:
        return Phase(name, module, optimizer, interval, GradientAverage(module.parameters()))

    phases = [phase("Gmain", G, g_optimizer, 1)]
    if g_interval is not None:
        phases.append(phase("Greg", G, g_optimizer, g_interval))
    phases.append(phase("Dmain", D, d_optimizer, 1))
    phases.append(phase("Dreg", D, d_optimizer, D_REG_INTERVAL))
    return phases


def lazy_adam(
    module: torch.nn.Module, lr: float, interval: int | None, form: str = "fused"
) -> Adam:
    """Adam, corrected for a regularizer that adds an update every ``interval`` updates.

    (Karras et al. 2020, "Analyzing and Improving", appendix B.)

    Args:
        interval: None without such a regularizer.
        form: the implementation, see ``TrainConfig.optimizer``. Milliseconds per update of fused,
            foreach and plain on one AVX-512 core: 0.9 million weights 2.2, 6.1, 6.5; 3.2 million
            3.5, 17.7, 11.5; 28.5 million 21, 112, 68.
    """
    beta1, beta2, ratio = 0.0, 0.99, 1.0
    if interval is not None:
        ratio = interval / (interval + 1)
    betas = (beta1**ratio, beta2**ratio)
    parameters = module.parameters()
    return Adam(parameters, lr=lr * ratio, betas=betas, eps=1e-8, form=form)
