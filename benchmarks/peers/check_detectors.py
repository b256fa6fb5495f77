"""DINOv2 beside timm, and CLIP's image tower beside open_clip, with the same made-up weights.

In full size, and in a small size whose features go into `tests/metrics/detector_values.json` for
`tests/metrics/test_vision_detectors.py`. timm resamples positions with antialiasing and without the
offset of the published network, so it is given the positions of its grid, by the published call.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import outside  # noqa: F401
import timm
import torch
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as OpenClipTower
from PIL import Image
from rows import Row, report_rows
from torch.nn import functional
from torchvision import transforms

from sg3flow.metrics.features.clip import ClipFeatures, ClipImageTower
from sg3flow.metrics.features.dinov2 import DinoLargeFeatures, DinoV2

_TESTS = Path(__file__).parents[2] / "tests" / "metrics"
sys.path.insert(0, str(_TESTS))  # the tests and the peers get the same case

import detector_cases as cases  # noqa: E402
from fixed_cases import IMAGE_SIZES, formula_image  # noqa: E402

State = dict[str, torch.Tensor]
_LIMIT = 1e-5
# Parts of the names of Hugging Face's CLIP, and what open_clip calls them.
_OF_OPEN_CLIP = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.": "ln_pre.",
    "vision_model.post_layernorm.": "ln_post.",
    "vision_model.encoder.layers.": "transformer.resblocks.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm": ".ln_",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


def published_positions(embedding: torch.Tensor, side: int) -> torch.Tensor:
    """Positions for a grid of ``side`` patches, by the call of the published code.

    See https://github.com/facebookresearch/dinov2/pull/378, which keeps it for these weights.
    """
    old = math.isqrt(embedding.shape[1] - 1)
    if side == old:
        return embedding
    grid = embedding[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = float(side + 0.1) / math.sqrt(old * old)
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert grid.shape[2:] == (side, side)
    return torch.cat([embedding[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def timm_network(name: str, state: State, size: int, **sizes: int) -> torch.nn.Module:
    """timm's network of a name with weights in the names of DINOv2, which it shares."""
    network = timm.create_model(name, num_classes=0, img_size=size, **sizes)
    positions = published_positions(state["pos_embed"], size // 14)
    given = {key: value for key, value in state.items() if key != "mask_token"}
    network.load_state_dict(given | {"pos_embed": positions})
    return network.eval()


def open_clip_network(
    state: State, size: int, width: int, depth: int, heads: int, embedding: int
) -> torch.nn.Module:
    """open_clip's image tower with weights in the names of Hugging Face."""
    network = OpenClipTower(
        size, 14, width, depth, heads, 4.0, output_dim=embedding, act_layer=QuickGELU
    )
    network.load_state_dict(open_clip_state(state))
    return network.eval()


def open_clip_state(state: State) -> State:
    """The weights in the names of open_clip, which has queries, keys and values in one tensor."""
    found = {"proj": state["visual_projection.weight"].T.contiguous()}
    for name, value in state.items():
        if ".q_proj." in name:
            block, _, end = name.partition(".self_attn.q_proj.")
            parts = [value, *(state[name.replace("q_proj", key)] for key in ("k_proj", "v_proj"))]
            found[f"{_renamed(block)}.attn.in_proj_{end}"] = torch.cat(parts)
        elif not any(key in name for key in ("k_proj", "v_proj", "visual_projection")):
            found[_renamed(name)] = value
    return found


def _renamed(name: str) -> str:
    for ours, theirs in _OF_OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name


def check() -> Iterator[Row]:
    """Rows of the input, of the small networks, and of the published sizes."""
    yield from _input_rows()
    kept: dict[str, list[list[float]]] = {}
    yield from _small_rows(kept)
    versions = {tool: version(tool) for tool in ("timm", "open_clip_torch")}
    content = {"versions": versions, "features": kept}
    (_TESTS / "detector_values.json").write_text(json.dumps(content, indent=1) + "\n")
    yield from _full_dino_rows()
    yield from _full_clip_row()


def _input_rows() -> Iterator[Row]:
    """The transforms that dgm-eval and CMMD are made of, on images of many sizes."""
    for name, extractor in (
        ("DINOv2 (dgm-eval)", DinoLargeFeatures("cpu", torch.nn.Identity())),
        ("CLIP (CMMD)", ClipFeatures("cpu", torch.nn.Identity())),
    ):
        size = extractor.input_size
        prepare = transforms.Compose(
            [
                transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(extractor.mean, extractor.deviation),
            ]
        )
        apart, most, found = 0.0, 0.0, 0.0
        for number in range(len(IMAGE_SIZES)):
            pixels = formula_image(number)
            given = _cropped(pixels) if name.startswith("CLIP") else pixels
            theirs = prepare(Image.fromarray(given))
            ours = extractor.prepared(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
            apart = max(apart, float((ours - theirs).abs().max()))
            most = max(most, float(theirs.abs().max()))
            found = max(found, float(ours.abs().max()))
        case = f"input of {name}, {len(IMAGE_SIZES)} images of 1 to 1,024 px"
        yield Row(case, "torchvision", most, found, 1e-6, apart / most)


def _cropped(pixels: np.ndarray) -> np.ndarray:
    side = min(pixels.shape[:2])
    top, left = ((extent - side) // 2 for extent in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _small_rows(kept: dict[str, list[list[float]]]) -> Iterator[Row]:
    dino, tower = cases.tiny_dino(), cases.tiny_clip()
    small = {"embed_dim": cases.WIDTH, "depth": cases.DEPTH, "num_heads": cases.HEADS}
    for size in cases.SIZES:
        theirs = timm_network("vit_base_patch14_dinov2", dino.state_dict(), size, **small)
        name, images = f"dinov2-{size}", cases.images(size)
        yield _compared(f"small DINOv2 at {size} px", "timm", theirs, dino, images, kept, name)
    size = cases.SIZES[-1]
    shape = (cases.WIDTH, cases.DEPTH, cases.HEADS, cases.EMBEDDING)
    theirs = open_clip_network(tower.state_dict(), size, *shape)
    case = f"small CLIP at {size} px"
    yield _compared(
        case, "open_clip_torch", _Unit(theirs), tower, cases.images(size), kept, f"clip-{size}"
    )


class _Unit(torch.nn.Module):
    """CMMD's and our embeddings have unit length; open_clip's tower leaves that to its caller."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.network(x), dim=-1)


def _full_dino_rows() -> Iterator[Row]:
    for name, make, size in (
        ("base", DinoV2.base, 224),
        ("base", DinoV2.base, 518),
        ("large", DinoV2.large, 224),
    ):
        ours = _made_up(make)
        theirs = timm_network(f"vit_{name}_patch14_dinov2", ours.state_dict(), size)
        case = f"DINOv2 ViT-{name[0].upper()}/14 at {size} px"
        yield _compared(case, "timm", theirs, ours, cases.images(size))


def _full_clip_row() -> Iterator[Row]:
    ours = _made_up(ClipImageTower)
    theirs = _Unit(open_clip_network(ours.state_dict(), 336, 1024, 24, 16, 768))
    case = "CLIP ViT-L/14 at 336 px, image tower"
    yield _compared(case, "open_clip_torch", theirs, ours, cases.images(336))


def _made_up(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.device("meta"):
        network = make()
    return cases.fill(network)


def _compared(
    case: str,
    tool: str,
    theirs: torch.nn.Module,
    ours: torch.nn.Module,
    images: torch.Tensor,
    kept: dict[str, list[list[float]]] | None = None,
    name: str = "",
) -> Row:
    """The features of both, and their largest difference relative to the largest feature."""
    with torch.inference_mode():
        a, b = theirs(images), ours(images)
    if kept is not None:
        kept[name] = a.tolist()
    most = float(a.abs().max())
    apart = float((a - b).abs().max()) / most
    return Row(f"features of {case}", tool, most, float(b.abs().max()), _LIMIT, apart)


if __name__ == "__main__":
    report_rows(check)
