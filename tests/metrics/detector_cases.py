"""Small vision transformers with weights of a rule; the tests keep the peers' numbers of them.

`benchmarks/peers/check_detectors.py` computes them with timm and open_clip and keeps them in
`detector_values.json`; `test_vision_detectors.py` compares. It takes only what both sides can
import.
"""

import math
import re
import zlib

import numpy as np
import torch

from sg3flow.metrics.features.clip import ClipImageTower
from sg3flow.metrics.features.dinov2 import DinoV2

# The same modules as the published networks. Patches of 14 pixels, as there.
WIDTH, DEPTH, HEADS, SIDE, EMBEDDING = 32, 2, 2, 5, 24
SIZES = (42, 70)  # 3x3 patches, so that positions are interpolated; 5x5, as they are
_GAINS = re.compile(r"(norm\d?|layrnorm)\.weight|gamma")
_ADDED = re.compile(r"pos_embed|(cls|mask)_token|class_embedding|position_embedding\.weight")


def tiny_dino() -> DinoV2:
    """DINOv2 of width 32 with weights of the rule."""
    network = DinoV2(WIDTH, DEPTH, HEADS, side=SIDE)
    return fill(network)


def tiny_clip() -> ClipImageTower:
    """CLIP's image tower of width 32 with weights of the rule."""
    return fill(ClipImageTower(WIDTH, DEPTH, HEADS, EMBEDDING, side=SIDE))


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """Give a network, on any device, the weights of the rule, for evaluation on a CPU."""
    state = {name: weight(name, tuple(t.shape)) for name, t in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that depend on name and shape only, large enough for every part to matter.

    Factors of channels differ from one another and from 1. Queries and keys are large, so that
    attention is not even.
    """
    t = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if _GAINS.search(name):
        t = 1 + 0.3 * t
    elif name.endswith("bias"):
        t *= 0.3
    elif not _ADDED.search(name):
        t *= (2 if "attn" in name else 1) / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(t.astype(np.float32))


def images(size: int, count: int = 2) -> torch.Tensor:
    """Waves of several directions as normalized images, float32 ``[count, 3, size, size]``."""
    n, c, y, x = np.mgrid[:count, :3, :size, :size].astype(np.float64)
    waves = np.sin(0.11 * (n + 1) * x + 0.07 * (c + 2) * y + n) + np.cos(0.013 * x * y + c)
    return torch.from_numpy(waves.astype(np.float32))
