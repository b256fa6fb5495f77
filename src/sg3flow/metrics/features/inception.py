"""The Inception-v3 of the Frechet Inception distance, as TensorFlow published it in 2015.

It differs from torchvision's: 1008 outputs, average pools that exclude the padding, and a max pool
in the last block. Parameter names are those of the public weights. ``input_rules.py`` has the rules
for its input.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, mean_estimate
from sg3flow.metrics.features import as_rgb, load_weights
from sg3flow.metrics.features.convolutions import arranged, in_parts, placed
from sg3flow.metrics.features.input_rules import OFFICIAL, InputRule

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_WEIGHTS_BYTES = 95_628_359
_ROWS = 4096  # features at a time whose probabilities are computed
_SPLITS = 10
_EPS = 1e-3  # of the batch norms


class InceptionFeatures:
    """The 2048 pooled features that FID is defined over (Heusel et al. 2017)."""

    name = "inception-v3-2015-12-05"
    digest = WEIGHTS_SHA256
    num_features = 2048

    def __init__(self, device: torch.device | str = "cpu", rule: InputRule = OFFICIAL) -> None:
        """Load the public weights, from the cache or by download.

        Args:
            rule: how images become the input of the network.

        Raises:
            MetricError: they are not available, or the file has another digest.
        """
        self.resize, self._prepare = rule.resize, rule.prepare
        self._device = torch.device(device)
        self._network = placed(with_folded_norms(load_inception()), self._device)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, 2048]`` of images uint8 ``[N, 1 or 3, H, W]``."""
        return in_parts(images, self._device, self._features)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        x = self._prepare(as_rgb(images.to(self._device)))
        return self._network.layers(arranged(x))["f2048"]

    @torch.inference_mode()
    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities of the 1008 classes, without the output bias, ``[N, 1008]``, on the CPU."""
        weight = self._network.fc.weight
        parts = [
            (part.to(self._device) @ weight.T).softmax(dim=1).cpu()
            for part in torch.split(features, _ROWS)
        ]
        return torch.cat(parts)


def load_inception() -> "Inception":
    """The network with its public weights, for evaluation on a CPU.

    Raises:
        MetricError: the weights are not available; the message says where to put them by hand.
    """
    tensors = load_weights(
        WEIGHTS_URL, WEIGHTS_NAME, WEIGHTS_SHA256, _WEIGHTS_BYTES, "Inception (95.6 MB)"
    )
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def with_folded_norms(network: "Inception") -> "Inception":
    """The network with each batch norm as part of the convolution before it; changes it.

    The products are rounded to float32 once: features differ by 2e-7 of the largest.
    """
    for block in network.modules():
        if isinstance(block, ConvBlock):
            block.fold_norm()
    return network


class FixedBatchNorm(nn.Module):
    """Batch norm with the statistics of the public weights, which have no batch counter."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=_EPS
        )

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as ``x * scale + shift``, float64 ``[C]`` each."""
        scale = self.weight.double() / (self.running_var.double() + _EPS).sqrt()
        return scale, self.bias.double() - self.running_mean.double() * scale


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU."""

    bn: nn.Module

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = FixedBatchNorm(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x)))

    def fold_norm(self) -> None:
        """Make the batch norm part of the convolution."""
        assert isinstance(self.bn, FixedBatchNorm)
        scale, shift = self.bn.scale_and_shift()
        weight = self.conv.weight.double() * scale[:, None, None, None]
        self.conv.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.conv.bias = nn.Parameter(shift.float(), requires_grad=False)
        self.bn = nn.Identity()


def _average(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def _shrink(x: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(x, 3, stride=2)


class BlockA(nn.Module):
    """35x35: 1x1, 5x5 and double 3x3 convolutions beside an average pool."""

    def __init__(self, channels_in: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBlock(channels_in, 64, 1)
        self.branch5x5_1 = ConvBlock(channels_in, 48, 1)
        self.branch5x5_2 = ConvBlock(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBlock(channels_in, 64, 1)
        self.branch3x3dbl_2 = ConvBlock(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBlock(96, 96, 3, padding=1)
        self.branch_pool = ConvBlock(channels_in, pool_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double]
        return torch.cat([*branches, self.branch_pool(_average(x))], dim=1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBlock(channels_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvBlock(channels_in, 64, 1)
        self.branch3x3dbl_2 = ConvBlock(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBlock(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _shrink(x)], dim=1)


class BlockC(nn.Module):
    """17x17: 7x7 convolutions split into 1x7 and 7x1, beside an average pool."""

    def __init__(self, channels_in: int, inner: int) -> None:
        super().__init__()
        wide = partial(ConvBlock, kernel=(1, 7), padding=(0, 3))
        tall = partial(ConvBlock, kernel=(7, 1), padding=(3, 0))
        self.branch1x1 = ConvBlock(channels_in, 192, 1)
        self.branch7x7_1 = ConvBlock(channels_in, inner, 1)
        self.branch7x7_2 = wide(inner, inner)
        self.branch7x7_3 = tall(inner, 192)
        self.branch7x7dbl_1 = ConvBlock(channels_in, inner, 1)
        self.branch7x7dbl_2 = tall(inner, inner)
        self.branch7x7dbl_3 = wide(inner, inner)
        self.branch7x7dbl_4 = tall(inner, inner)
        self.branch7x7dbl_5 = wide(inner, 192)
        self.branch_pool = ConvBlock(channels_in, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBlock(channels_in, 192, 1)
        self.branch3x3_2 = ConvBlock(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvBlock(channels_in, 192, 1)
        self.branch7x7x3_2 = ConvBlock(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvBlock(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvBlock(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        short = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([short, self.branch7x7x3_4(long), _shrink(x)], dim=1)


class BlockE(nn.Module):
    """8x8: convolutions that fan out into 1x3 and 3x1, beside a pool.

    The pool is an average in the first such block and a maximum in the last: a mistake of the 2015
    release that became part of the definition.
    """

    def __init__(self, channels_in: int, max_pool: bool) -> None:
        super().__init__()
        self.pool = _maximum if max_pool else _average
        self.branch1x1 = ConvBlock(channels_in, 320, 1)
        self.branch3x3_1 = ConvBlock(channels_in, 384, 1)
        self.branch3x3_2a = ConvBlock(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvBlock(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvBlock(channels_in, 448, 1)
        self.branch3x3dbl_2 = ConvBlock(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvBlock(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvBlock(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvBlock(channels_in, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        fans = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        fans += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *fans, self.branch_pool(self.pool(x))], dim=1)


class Inception(nn.Module):
    """Inception-v3 (Szegedy et al. 2016) in the FID variant, from images to features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBlock(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBlock(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBlock(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvBlock(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBlock(80, 192, 3)
        self.Mixed_5b = BlockA(192, pool_channels=32)
        self.Mixed_5c = BlockA(256, pool_channels=64)
        self.Mixed_5d = BlockA(288, pool_channels=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, inner=128)
        self.Mixed_6c = BlockC(768, inner=160)
        self.Mixed_6d = BlockC(768, inner=160)
        self.Mixed_6e = BlockC(768, inner=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, max_pool=False)
        self.Mixed_7c = BlockE(2048, max_pool=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of images uint8 ``[N, 1 or 3, H, W]`` by the official rule; see ``layers``."""
        return self.layers(OFFICIAL.prepare(as_rgb(images)))

    def layers(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of prepared images, float32 ``[N, 3, 299, 299]`` in about -1..1.

        Returns:
            float32: ``f64``, ``f192``, ``f768``, ``f2048`` (means over the image at four depths),
            ``logits_unbiased`` and ``logits``, both ``[N, 1008]``.
        """
        x = _shrink(
            self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        )  # [N, 64, 73, 73]
        features = {"f64": x.mean(dim=(2, 3))}
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))  # [N, 192, 35, 35]
        features["f192"] = x.mean(dim=(2, 3))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [N, 288, 35, 35]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features["f768"] = x.mean(dim=(2, 3))  # of [N, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [N, 2048, 8, 8]
        features["f2048"] = x.mean(dim=(2, 3))
        features["logits_unbiased"] = features["f2048"] @ self.fc.weight.T
        features["logits"] = features["logits_unbiased"] + self.fc.bias
        return features


def inception_score(probabilities: torch.Tensor) -> Estimate:
    """Mean over 10 consecutive splits of ``exp(E KL(p(y|x) || p(y)))``.

    Papers report the deviation over the splits; the error here is the standard error of the mean.

    Args:
        probabilities: class probabilities, ``[N, classes]``.

    Raises:
        MetricError: fewer items than splits.
    """
    if probabilities.ndim != 2 or len(probabilities) < _SPLITS:
        raise MetricError(
            f"the inception score needs probabilities of at least {_SPLITS} images, not "
            f"{list(probabilities.shape)}"
        )
    edges = [len(probabilities) * split // _SPLITS for split in range(_SPLITS + 1)]
    scores = [_score(probabilities[start:end].double()) for start, end in pairwise(edges)]
    return mean_estimate(np.array(scores))


def _score(p: torch.Tensor) -> float:
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0, keepdim=True))
    return float(divergence.sum(dim=1).mean().exp())
