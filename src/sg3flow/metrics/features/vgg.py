"""VGG16 (Simonyan and Zisserman 2015): features for precision and recall, and LPIPS v0.1.

The weights are torchvision's. Published StyleGAN values come from another file, a compiled program;
loading it would run code from a download. Our values are therefore comparable only with each other,
and the name of the detector says so.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from sg3flow.files import sha256_file
from sg3flow.metrics.features import as_rgb, load_weights
from sg3flow.metrics.features.convolutions import arranged, in_parts, placed

VGG_NAME = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG_NAME}"
VGG_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
_VGG_BYTES = 600 << 20
HEADS_NAME = "lpips-v0.1-vgg.pth"
HEADS_URL = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/vgg.pth"
)
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
_HEADS_BYTES = 1 << 20

_SIZE = 224
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# LPIPS has its own normalization, of images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_TINY = 1e-10
_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = (2, 2, 3, 3, 3)


class VGG16(nn.Module):
    """The network up to its second fully connected layer, under torchvision's names."""

    def __init__(self, fully_connected: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(*_convolutions())
        if fully_connected:
            layers = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096)]
            self.classifier = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """fc2 after its ReLU, ``[N, 4096]``, of normalized images ``[N, 3, 224, 224]``."""
        fc2: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return functional.relu(fc2)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Output of each of the five stages before pooling: relu1_2 to relu5_3."""
        found = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return found


def _convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    width_in = 3
    for width, depth in zip(_WIDTHS, _DEPTHS, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
            width_in = width
        layers.append(nn.MaxPool2d(2))
    return layers


class VGGFeatures:
    """The 4096 features of fc2 (Kynkaanniemi et al. 2019, Sec. 3), after the ReLU."""

    name = "vgg16-torchvision-fc2"
    digest = VGG_SHA256
    num_features = 4096
    resize = "224x224, bilinear with antialiasing, half-pixel centres; ImageNet's normalisation"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Load torchvision's weights, from the cache or by download.

        Raises:
            MetricError: they are not available, or the file has another digest.
        """
        self._device = torch.device(device)
        self._network = placed(load_vgg(fully_connected=True), self._device)
        self._mean = torch.tensor(_MEAN, device=self._device)[:, None, None]
        self._deviation = torch.tensor(_DEVIATION, device=self._device)[:, None, None]

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, 4096]`` of images uint8 ``[N, 1 or 3, H, W]``."""
        return in_parts(images, self._device, self._features)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        x = as_rgb(images.to(self._device)).float() / 255
        if x.shape[-2:] != (_SIZE, _SIZE):
            x = functional.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        features: torch.Tensor = self._network(arranged((x - self._mean) / self._deviation))
        return features


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018), summed over the five stages of VGG16."""

    name = "lpips-0.1-vgg16-torchvision"
    digest = hashlib.sha256(f"{VGG_SHA256} {HEADS_SHA256}".encode()).hexdigest()
    resize = "averaged down to 256 pixels where larger"

    def __init__(self, network: VGG16, heads: list[torch.Tensor], device: torch.device) -> None:
        self._device = device
        self._network = placed(network, device)
        self._heads = [head.to(device) for head in heads]
        self._shift = torch.tensor(_SHIFT, device=device)[:, None, None]
        self._scale = torch.tensor(_SCALE, device=device)[:, None, None]

    @classmethod
    def load(cls, device: torch.device) -> "Lpips":
        """Load the public weights, from the cache or by download.

        Raises:
            MetricError: they are not available; the message says where to put them by hand.
        """
        heads = load_heads()  # the small file first
        return cls(load_vgg(fully_connected=False), heads, device)

    @torch.no_grad()
    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances float32 ``[N]`` of images float32 ``[N, 3, H, W]`` in [-1, 1]."""
        return self.between(self.features(a), self.features(b))

    def between(self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> torch.Tensor:
        """Distances float32 ``[N]`` of the features of images; differentiable."""
        stages = zip(a, b, self._heads, strict=True)
        found = [((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in stages]
        return torch.stack(found).sum(dim=0)

    def features(self, img: torch.Tensor) -> list[torch.Tensor]:
        """The five stages of images float32 ``[N, 1 or 3, H, W]`` in [-1, 1], of unit length."""
        x = (img.to(self._device).expand(-1, 3, -1, -1) - self._shift) / self._scale
        return [_unit(stage) for stage in self._network.stages(arranged(x))]


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + _TINY)


def load_vgg(*, fully_connected: bool) -> VGG16:
    """The network with torchvision's weights, for evaluation on a CPU.

    Raises:
        MetricError: the weights are not available; the message says where to put them by hand.
    """
    tensors = load_weights(VGG_URL, VGG_NAME, VGG_SHA256, _VGG_BYTES, "VGG16 (553 MB)")
    with torch.device("meta"):
        network = VGG16(fully_connected)
    wanted = {name: tensors[name] for name in network.state_dict()}
    network.load_state_dict(wanted, assign=True)
    return network.eval().requires_grad_(False)


def load_heads() -> list[torch.Tensor]:
    """The five linear heads of LPIPS v0.1 for VGG16, each ``[1, C, 1, 1]``.

    They come from the pip package lpips, if that is installed, else as other weights do.

    Raises:
        MetricError: they are not available; the message says where to put them by hand.
    """
    packaged = _packaged_heads()
    if packaged is not None:
        tensors = torch.load(packaged, map_location="cpu", weights_only=True)
    else:
        tensors = load_weights(HEADS_URL, HEADS_NAME, HEADS_SHA256, _HEADS_BYTES, "LPIPS heads")
    return [tensors[f"lin{stage}.model.1.weight"] for stage in range(len(_WIDTHS))]


def _packaged_heads() -> Path | None:
    """The file in the package lpips; None: that is not installed, or has other heads.

    The package is not imported: it needs torchvision, which we do not.
    """
    package = find_spec("lpips")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "weights/v0.1/vgg.pth"
    return path if path.is_file() and sha256_file(path) == HEADS_SHA256 else None
