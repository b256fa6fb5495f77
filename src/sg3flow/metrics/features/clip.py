"""The image tower of CLIP ViT-L/14 at 336 pixels (Radford et al. 2021), for CMMD.

Parameter names are those of OpenAI's weights as published on Hugging Face, which are readable
without running code; the file of the first release is a program. The input follows the code of
Jayasumana et al. 2024.
"""

import torch
from torch import nn
from torch.nn import functional

from sg3flow.metrics.features.vision_transformer import (
    Mlp,
    VisionFeatures,
    attend,
    center_square,
)
from sg3flow.metrics.features.weight_files import WeightFile, load_network

# The revision is part of the address: the file behind it does not change.
WEIGHTS = WeightFile(
    name="clip-vit-large-patch14-336.bin",
    url=(
        "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/"
        "ce19dc912ca5cd21c8a653c79e251e808ccabcd1/pytorch_model.bin"
    ),
    sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    num_bytes=1_711_974_081,
    what="CLIP ViT-L/14@336 (1.7 GB)",
)

_GELU = 1.702  # QuickGELU: x sigmoid(1.702 x), which the weights were trained with


class ClipImageTower(nn.Module):
    """The network, from normalized images to embeddings of unit length.

    Args:
        width: channels of a token.
        depth: number of blocks.
        heads: number of attention heads.
        embedding: length of the embedding that images share with texts.
        patch: side of a patch in pixels.
        side: number of patches along a side of the image.
    """

    def __init__(
        self,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        embedding: int = 768,
        patch: int = 14,
        side: int = 24,
    ) -> None:
        super().__init__()
        self.vision_model = ClipTransformer(width, depth, heads, patch, side)
        self.visual_projection = nn.Linear(width, embedding, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[N, embedding]`` of normalized images ``[N, 3, side * patch, ...]``."""
        return functional.normalize(self.visual_projection(self.vision_model(x)), dim=-1)


class ClipTransformer(nn.Module):
    """Tokens with a norm before the blocks, and one after them over the class token."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, side: int) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(width, patch, side)
        self.pre_layrnorm = nn.LayerNorm(width)  # spelled so in the public weights
        self.encoder = ClipEncoder(width, depth, heads)
        self.post_layernorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(self.pre_layrnorm(self.embeddings(x)))
        found: torch.Tensor = self.post_layernorm(tokens[:, 0])
        return found


class ClipEmbeddings(nn.Module):
    """Tokens: the class token and a linear map of each patch without bias, plus positions."""

    def __init__(self, width: int, patch: int, side: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        # Not nn.Embedding: drawing its weights on the meta device takes a second of imports.
        positions = nn.Parameter(torch.zeros(1 + side * side, width))
        self.position_embedding = nn.ParameterDict({"weight": positions})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)  # [N, side**2, width]
        first = self.class_embedding.expand(len(x), 1, -1)
        tokens: torch.Tensor = torch.cat([first, patches], dim=1)
        return tokens.add(self.position_embedding["weight"])


class ClipEncoder(nn.Module):
    """The blocks."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipBlock(width, heads) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ClipBlock(nn.Module):
    """Attention and two linear layers, each after a norm, added to x."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width)
        self.self_attn = SplitAttention(width, heads)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, quick_gelu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        found: torch.Tensor = x + self.mlp(self.layer_norm2(x))
        return found


class SplitAttention(nn.Module):
    """Self-attention with a linear layer each for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self._heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self._heads)
        projected: torch.Tensor = self.out_proj(found)
        return projected


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """``x sigmoid(1.702 x)``, an approximation of GELU (Hendrycks and Gimpel 2016)."""
    return x * torch.sigmoid(_GELU * x)


class ClipFeatures(VisionFeatures):
    """The 768 numbers of the image embedding, of unit length, which CMMD is defined over."""

    name = "clip-vitl14-336"
    digest = WEIGHTS.sha256
    num_features = 768
    input_size = 336
    mean = (0.48145466, 0.4578275, 0.40821073)
    deviation = (0.26862954, 0.26130258, 0.27577711)
    resize = (
        "central square, 336x336, Pillow bicubic with antialiasing, rounded to 8 bits, as CMMD; "
        "CLIP's normalization"
    )

    @classmethod
    def load(cls) -> ClipImageTower:
        """The image tower with its public weights; see ``VisionFeatures``."""
        return load_network(ClipImageTower, WEIGHTS)

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """Input of the network, float32 ``[N, 3, 336, 336]``, of images uint8 ``[N, 3, H, W]``."""
        return super().prepared(center_square(images))
