"""Settings of the stages: one frozen dataclass a stage, and strict reading of params files.

A field's default, range, choices and help stand here once. ``command.py`` makes the command-line
options from them and ``load_settings`` reads the section of the same name from ``params.yaml``.
There are no nulls: 0 or the empty string stand for "not set", and the help says what that means.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
DEVICES = ("auto", "cpu", "cuda")
AUTO = -1  # `batch_gpu: auto`


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    ge: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    words: Mapping[str, int] | None = None,
    former: str = "",
) -> Any:
    """A dataclass field with the metadata that checks its values and describes its option.

    Args:
        words: words accepted instead of a whole number, each with the number it means.
        former: the setting's earlier name, still accepted in params files; empty: none.
    """
    metadata = {
        "help": help,
        "ge": ge,
        "le": le,
        "choices": choices,
        "words": words,
        "former": former,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class FetchConfig:
    """Where the raw pictures come from."""

    dataset: str = setting(
        help="starter, afhq, afhqv2, or a folder, a zip, tar or Parquet file, or the URL of one"
    )
    mirrors: tuple[str, ...] = setting((), help="other addresses of the same file, tried in turn")
    sha256: str = setting("", help="expected SHA-256 of the file; empty: the known one, if any")
    images: int = setting(600, ge=3, le=1_000_000, help="starter: how many pictures to draw")
    resolution: int = setting(128, ge=16, le=1024, help="starter: their side in pixels")
    seed: int = setting(0, ge=0, help="starter: seed of the drawings")


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """What of the raw pictures goes into the packed set, and in which form."""

    subset: str = setting("", help="folder below the source to pack; empty: everything")
    resolution: str = setting("", help="WIDTHxHEIGHT, say 256x256; empty: as the pictures are")
    transform: str = setting(
        "none",
        choices=("none", "center-crop", "center-crop-wide"),
        help="what to do with the aspect before scaling",
    )
    aspect: str = setting(
        "any", choices=("any", "square"), help="square: leave out pictures that are not square"
    )
    min_side: int = setting(0, ge=0, help="leave out pictures with a side of fewer pixels")
    mode: str = setting(
        "keep", choices=("keep", "rgb", "grey"), help="colour of the packed pictures; keep: theirs"
    )
    background: str = setting("white", help="colour behind transparent parts: a name or #RRGGBB")
    max_images: int = setting(0, ge=0, help="pack at most this many; 0: all")
    labels: str = setting(
        "json",
        choices=("json", "folders", "csv", "none"),
        help="labels from the source's own (dataset.json, a Parquet column), its folders, a CSV "
        "file, or none",
    )
    labels_csv: str = setting(
        "labels.csv", help="with labels csv: file in the source (or absolute path): path,label"
    )
    label_column: str = setting("", help="label column of Parquet files; empty: label or labels")
    duplicates: str = setting(
        "keep",
        choices=("keep", "leave-out"),
        help="pictures that stand twice: keep (validation judges) or leave the copies out",
    )
    max_rejects: int = setting(
        0,
        ge=0,
        help="unreadable, not square (by aspect) or too small pictures to leave out before it is "
        "an error",
    )


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """Thresholds of the data validation."""

    min_images: int = setting(1, ge=1, help="fewest pictures in the packed set")
    min_class_images: int = setting(1, ge=1, help="fewest pictures a class, in a labelled set")
    classes: int = setting(0, ge=0, help="exact number of classes; 0: any")
    source_counts: tuple[str, ...] = setting(
        (), help="pictures that folders of the source must hold: FOLDER=NUMBER"
    )
    min_contrast: float = setting(
        2.0, ge=0, help="a picture whose grey values deviate less (of 255) counts as blank"
    )
    max_rejects: int = setting(
        0, ge=0, help="most pictures that packing may have left out as unreadable or unfit"
    )
    duplicates: str = setting(
        "fail",
        choices=("fail", "warn"),
        help="equal pictures in the packed set, or there and in another split: fail, or only list",
    )
    near_duplicates: str = setting(
        "warn", choices=("fail", "warn", "off"), help="the same for pictures that look the same"
    )
    near_distance: int = setting(
        12, ge=0, le=32, help="bits (of 256) in which the hashes of such pictures may differ"
    )
    min_sharpness: float = setting(
        4.0, ge=0, help="warn of pictures below this as blurred (edges, in grey values of 255)"
    )
    max_bars: float = setting(
        0.1, ge=0, le=1, help="warn of uniform bars at the borders above this share of the picture"
    )
    max_one_color: float = setting(
        0.9,
        ge=0,
        le=1,
        help="warn about images where a single color covers more than this fraction",
        former="max_one_colour",
    )
    reference: str = setting(
        "", help="validation.json of an earlier set to compare with; empty: none"
    )
    max_drift: float = setting(
        0.1, ge=0, le=1, help="most that brightness, contrast or sharpness may shift (see docs)"
    )
    max_class_drift: float = setting(
        0.05, ge=0, le=1, help="most of the class mix that may differ from the reference"
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training settings; names, ranges and defaults are those that StyleGAN users know."""

    cfg: str = setting(choices=CONFIGS, help="architecture and its settings")
    gpus: int = setting(ge=1, help="number of processes, a GPU (or a share of the CPU) each")
    batch: int = setting(ge=1, help="images a step, over all GPUs")
    gamma: float = setting(
        ge=0, help="R1 weight; for batch 32: 0.5 at 128 px, 2 at 256, 8 at 512, 32 at 1024"
    )
    cond: bool = setting(False, help="train a conditional model; needs labels")
    mirror: bool = setting(False, help="double the set by x-flips")
    aug: str = setting("ada", choices=("noaug", "ada", "fixed"), help="augmentation mode")
    resume: str = setting("", help="start from this network: a file or a URL; empty: from scratch")
    resume_partial: bool = setting(
        False, help="take what fits of --resume and leave the rest as initialised"
    )
    resume_arch: bool = setting(
        False, help="take the architecture from --resume, not from cbase, cmax and map-depth"
    )
    freezed: int = setting(0, ge=0, help="freeze the first layers of D")
    p: float = setting(0.2, ge=0, le=1, help="augmentation probability with --aug fixed")
    target: float = setting(0.6, ge=0, le=1, help="target value of --aug ada")
    batch_gpu: int = setting(
        0,
        ge=0,
        words={"auto": AUTO},
        help="images a forward pass on a GPU; 0: batch / gpus; auto: the most that fit",
    )
    cbase: int = setting(32768, ge=1, help="capacity multiplier")
    cmax: int = setting(512, ge=1, help="most feature maps of a layer")
    glr: float = setting(0.0, ge=0, help="G learning rate; 0: 0.0025 (stylegan2: 0.002)")
    dlr: float = setting(0.002, ge=0, help="D learning rate")
    map_depth: int = setting(0, ge=0, help="layers of the mapping network; 0: 2 (stylegan2: 8)")
    mbstd_group: int = setting(4, ge=1, help="group size of the minibatch standard deviation")
    desc: str = setting("", help="text to put into the run's name")
    kimg: int = setting(25000, ge=1, help="length of the training in thousands of real images")
    tick: int = setting(4, ge=1, help="thousands of images between two reports")
    snap: int = setting(50, ge=1, help="ticks between two snapshots")
    seed: int = setting(0, ge=0, help="seed of everything random")
    fp32: bool = setting(False, help="no half precision on a GPU")
    bf16: bool = setting(False, help="half precision in bfloat16 in place of float16")
    optimizer: str = setting(
        "fused",
        choices=("fused", "foreach", "plain"),
        help="how Adam updates weights: in one pass over them, an operation at a time over all, or "
        "one weight after the other; the same but for rounding",
    )
    max_nonfinite_updates: int = setting(
        1000,
        ge=0,
        help="updates with non-finite gradients between two reports that end the training; "
        "0: no limit",
        former="max_repairs",
    )
    metrics: tuple[str, ...] = setting(
        ("none",), help="metrics of every snapshot at once, fid50k_full for one; none: later"
    )
    workers: int = setting(3, ge=0, help="processes that read pictures; 0: none of their own")
    grid: str = setting("", help="COLUMNSxROWS of the sample grid; empty: as many as fit 8K")
    device: str = setting("auto", choices=DEVICES, help="where to train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateNetworkConfig:
    """What is measured of a network, and how."""

    metrics: tuple[str, ...] = setting(
        ("fid50k_full",),
        help="names with any count: fid50k_full, kid10k_full, pr50k3_full, dc10k5_full, is50k, "
        "ppl2_wend, swd8k_full, mem1k_full, eqt1k_int, eqt1k_frac, eqr1k; without trained "
        "weights fd_random1k_full, kid_random1k_full, pr_random1k3_full…",
    )
    seed: int = setting(
        0, ge=0, le=2**32 - 1, help="seed of the generated pictures and of their motions"
    )
    batch: int = setting(32, ge=1, help="pictures at a time; changes speed and memory only")
    device: str = setting("auto", choices=DEVICES, help="where to compute")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateImagesConfig:
    """What is measured between two sets of pictures, and how."""

    metrics: tuple[str, ...] = setting(
        ("fid",),
        help="fid, kid, pr3, dc5, is, mem, swd; without trained weights fd_random, kid_random…",
    )
    seed: int = setting(0, ge=0, le=2**32 - 1, help="seed of what is drawn")
    batch: int = setting(32, ge=1, help="pictures at a time; changes speed and memory only")
    device: str = setting("auto", choices=DEVICES, help="where to compute")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluateNetworkConfig):
    """Which snapshots of a run are measured, and what makes one the best."""

    snapshots: str = setting("all", choices=("all", "last"), help="which snapshots")
    best_by: str = setting("", help="metric that picks the best snapshot; empty: the first")


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """What the pipeline renders from the best snapshot."""

    seeds: str = setting("0-23", help="pictures of the grid, like 0,3-7")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi of grid, pictures and video")
    class_index: int = setting(
        -1, ge=-1, help="class of a labelled network; -1: its classes in turn"
    )
    sweep_seeds: str = setting("0-5", help="rows of the truncation sweep")
    sweep_truncs: str = setting("0,0.3,0.5,0.7,1", help="its columns: values of psi")
    video_seeds: str = setting("0-3", help="keyframes of the interpolation, over all its tiles")
    video_grid: str = setting("1x1", help="tiles of the video, across x down")
    video_frames: int = setting(60, ge=1, le=10000, help="frames from keyframe to keyframe")
    video_fps: int = setting(30, ge=1, le=240, help="frames a second")
    device: str = setting("auto", choices=DEVICES, help="where to render")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderOptionsConfig:
    """How seeds become pictures, besides truncation: what all render commands share."""

    noise_mode: str = setting(
        "const", choices=("const", "random", "none"), help="noise of StyleGAN2; 3 has none"
    )
    translate: str = setting("0,0", help="shift x,y in image widths; StyleGAN3 only")
    rotate: float = setting(0.0, help="angle in degrees; StyleGAN3 only")
    device: str = setting("auto", choices=DEVICES, help="where to render")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderImagesConfig(RenderOptionsConfig):
    """One PNG a seed."""

    seeds: str = setting(help="like 0,3-7,2")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderGridConfig(RenderOptionsConfig):
    """A labeled grid of seeds."""

    seeds: str = setting("0-23", help="like 0,3-7,2")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")
    columns: int = setting(0, ge=0, le=1000, help="pictures a row; 0: somewhat wider than high")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSweepConfig(RenderOptionsConfig):
    """Seeds against truncation strengths."""

    seeds: str = setting("0-5", help="rows, like 0,3-7,2")
    truncs: str = setting("0,0.3,0.5,0.7,1", help="columns: values of psi")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderVideoConfig(RenderOptionsConfig):
    """A looping walk through the latent space."""

    seeds: str = setting("0-3", help="keyframes over all tiles, like 0,3-7,2")
    trunc: float = setting(1.0, ge=-2, le=2, help="truncation psi; 1: off")
    grid: str = setting("1x1", help="tiles, across x down")
    w_frames: int = setting(60, ge=1, le=10000, help="frames from keyframe to keyframe")
    fps: int = setting(30, ge=1, le=240, help="frames a second")


@dataclasses.dataclass(frozen=True)
class RegisterConfig:
    """Which model of the registry gets the best snapshot, and by which metric."""

    name: str = setting("sg3flow-generator", help="name of the registered model")
    metric: str = setting("", help="metric that names the best; empty: as evaluate chose")
