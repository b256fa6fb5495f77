"""DINOv2 without registers (Oquab et al. 2023), for FD-DINOv2 (Stein et al. 2023).

A vision transformer (Dosovitskiy et al. 2021) with LayerScale (Touvron et al. 2021). Parameter
names are those of the public weights. The input follows dgm-eval, the code of Stein et al.
"""

import torch
from torch import nn
from torch.nn import functional

from sg3flow.metrics.features.vision_transformer import Mlp, VisionFeatures, attend
from sg3flow.metrics.features.weight_files import WeightFile, load_network

_ADDRESS = "https://dl.fbaipublicfiles.com/dinov2"
LARGE_WEIGHTS = WeightFile(
    name="dinov2_vitl14_pretrain.pth",
    url=f"{_ADDRESS}/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    num_bytes=1_217_586_395,
    what="DINOv2 ViT-L/14 (1.2 GB)",
)
BASE_WEIGHTS = WeightFile(
    name="dinov2_vitb14_pretrain.pth",
    url=f"{_ADDRESS}/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    num_bytes=346_378_731,
    what="DINOv2 ViT-B/14 (346 MB)",
)

_NORM_EPS = 1e-6
# The public weights were published with a scale of (16 + 0.1) / 37 where 16 / 37 is meant. It kept
# the number of positions from being rounded down, and shifts all of them.
_OFFSET = 0.1


class DinoV2(nn.Module):
    """The network, from normalized images to the class token after the last norm.

    Args:
        width: channels of a token.
        depth: number of blocks.
        heads: number of attention heads.
        patch: side of a patch in pixels.
        side: number of patches along a side that the position embedding was made for.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int = 14, side: int = 37) -> None:
        super().__init__()
        self._side = side
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the training only
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(DinoBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    @classmethod
    def large(cls) -> "DinoV2":
        """ViT-L/14: 304,368,640 parameters."""
        return cls(width=1024, depth=24, heads=16)

    @classmethod
    def base(cls) -> "DinoV2":
        """ViT-B/14: 86,580,480 parameters."""
        return cls(width=768, depth=12, heads=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``[N, width]`` of normalized images ``[N, 3, H, W]`` of whole patches."""
        patches = self.patch_embed(x)  # [N, width, rows, columns]
        positions = self.positions(*patches.shape[-2:])
        tokens = torch.cat(
            [self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = tokens + positions
        for block in self.blocks:
            tokens = block(tokens)
        features: torch.Tensor = self.norm(tokens[:, 0])
        return features

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Position embedding ``[1, 1 + rows * columns, width]`` of a grid of patches, as published.

        Bicubic without antialiasing, with the published offset in the scale.
        """
        if rows == columns == self._side:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2)  # [1, width, side**2]
        grid = grid.reshape(1, -1, self._side, self._side)
        scale = ((rows + _OFFSET) / self._side, (columns + _OFFSET) / self._side)
        grid = functional.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbedding(nn.Module):
    """A linear map of each patch."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.proj(x)
        return patches


class DinoBlock(nn.Module):
    """Attention and two linear layers, each after a norm and scaled by channel, added to x."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = FusedAttention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = Mlp(width, functional.gelu)
        self.ls2 = LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        found: torch.Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return found


class FusedAttention(nn.Module):
    """Self-attention whose queries, keys and values come from one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self._heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        found: torch.Tensor = self.proj(attend(q, k, v, self._heads))
        return found


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, Sec. 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class DinoLargeFeatures(VisionFeatures):
    """The 1024 features of the class token of ViT-L/14, which FD-DINOv2 is defined over."""

    name = "dinov2-vitl14"
    digest = LARGE_WEIGHTS.sha256
    num_features = 1024
    input_size = 224
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = (
        "224x224, Pillow bicubic with antialiasing, rounded to 8 bits, as dgm-eval; ImageNet's "
        "normalization"
    )

    @classmethod
    def load(cls) -> DinoV2:
        """ViT-L/14 with its public weights; see ``VisionFeatures``."""
        return load_network(DinoV2.large, LARGE_WEIGHTS)


class DinoBaseFeatures(DinoLargeFeatures):
    """The 768 features of the class token of ViT-B/14: a smaller network, for quick looks."""

    name = "dinov2-vitb14"
    digest = BASE_WEIGHTS.sha256
    num_features = 768

    @classmethod
    def load(cls) -> DinoV2:
        """ViT-B/14 with its public weights; see ``VisionFeatures``."""
        return load_network(DinoV2.base, BASE_WEIGHTS)
